"""Naive Bayes and nearest centroids where their sums are short of digits, or decline."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_digits, load_iris
from sklearn.naive_bayes import BernoulliNB, CategoricalNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.neighbors import NearestCentroid

from skdvl import ShapleyValuator
from skdvl.metrics import resolve_scorer
from skdvl.utilities.base import prefix_coalitions
from skdvl.utilities.dispatch import make_utility
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.class_scores import (
    best_class,
    has_rounded_ranks,
    predict_from_difference,
)
from skdvl.utilities.incremental.moments import column_centres
from skdvl.utilities.quiet import quiet_warnings
from skdvl.utilities.refit import RefitUtility
from skdvl.utilities.supervised import FallbackRule


def utilities(estimator, X, y, X_val, y_val, scoring=None):
    """Return the engine's utility, refitting's, and why engines declined."""
    fold = Fold(0, X, y, X_val, y_val, np.unique(y))
    judge = Judge(fold, resolve_scorer(scoring, estimator), own_score=False)
    fallback = FallbackRule(judge)
    engine, reasons = make_utility(estimator, fold, judge, fallback)
    return engine, RefitUtility(estimator, fold, judge, fallback), reasons


def count_refits(engine, monkeypatch):
    """Return a list that grows by one for each coalition that the engine has refitted."""
    refitted = []
    score = engine._refitting._score

    def counted(rows):
        refitted.extend(rows)
        return score(rows)

    monkeypatch.setattr(engine._refitting, "_score", counted)
    return refitted


def iris():
    X, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(150)
    return X[order[:60]], y[order[:60]], X[order[60:]], y[order[60:]]


def digits():
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return X[order[:500]], y[order[:500]], X[order[500:700]], y[order[500:700]]


def is_tied(estimator, fold, rows, tie):
    """Tell whether for some validation row the two best class scores agree to within the tie."""
    if len(np.unique(fold.y[rows])) < 2:
        return False
    model = estimator.fit(fold.X[rows], fold.y[rows])
    if isinstance(model, NearestCentroid):
        scores = -((fold.X_val[:, np.newaxis] - model.centroids_) ** 2).sum(axis=2)
    else:
        scores = model.predict_joint_log_proba(fold.X_val)
    best = np.sort(scores, axis=1)[:, -2:]
    return bool((best[:, 1] - best[:, 0] <= tie * np.maximum(np.abs(best[:, 1]), 1)).any())


@pytest.mark.parametrize(
    "estimator",
    [
        GaussianNB(),
        MultinomialNB(),
        BernoulliNB(binarize=8),
        ComplementNB(),
        CategoricalNB(min_categories=17),
        NearestCentroid(),
    ],
)
def test_500_digits_with_dead_pixels(estimator):
    engine, refit, _ = utilities(estimator, *digits())
    assert engine.engine != "refit"
    fold = engine.fold
    order = np.random.default_rng(1).permutation(500)
    sizes = np.array([1, 2, 5, 12, 30, 63, 64, 65, 130, 255, 256, 257, 499, 500])
    prefixes = prefix_coalitions(order, sizes)
    expected = refit(prefixes)
    with quiet_warnings():
        tied = np.array([is_tied(estimator, fold, rows, engine.tie) for rows in prefixes])
    assert sum(tied) <= len(sizes) / 2
    for found in (engine.prefixes(order[np.newaxis], sizes)[0], engine(prefixes)):
        assert_array_equal(found[~tied], expected[~tied])


@pytest.mark.parametrize("estimator", [GaussianNB(), NearestCentroid()])
@pytest.mark.parametrize("scoring", [None, "neg_log_loss"])
def test_ordinary_data_are_hardly_ever_refitted(estimator, scoring, monkeypatch):
    engine, _, _ = utilities(estimator, *iris(), scoring)
    refitted = count_refits(engine, monkeypatch)
    rng = np.random.default_rng(2)
    engine.prefixes(np.stack([rng.permutation(60) for _ in range(20)]))
    # some of the smallest: tenths of centimetres are often equal, which sums cannot tell for sure
    assert len(refitted) <= 0.1 * 20 * 60


@pytest.mark.parametrize("estimator", [GaussianNB(), GaussianNB(var_smoothing=1e-14)])
@pytest.mark.parametrize("shift", [0.0, 1e4, 1e8])
@pytest.mark.parametrize("width", [1e-3, 1e-6, 1e-10])
def test_columns_that_hardly_vary_inside_a_class(estimator, shift, width):
    rng = np.random.default_rng(3)
    y, y_val = np.arange(30) % 2, np.arange(40) % 2
    X, X_val = rng.normal(size=(30, 3)), rng.normal(size=(40, 3))
    X[:, 1], X_val[:, 1] = 0.7 * y, 0.7 * y_val
    X[:, 1:] += width * rng.normal(size=(30, 2))
    X_val[:, 1:] += 3 * width * rng.normal(size=(40, 2))
    engine, refit, _ = utilities(estimator, X + shift, y, X_val + shift, y_val)
    assert engine.engine == "Gaussian naive Bayes"
    order = rng.permutation(30)
    expected = refit(prefix_coalitions(order, np.arange(1, 31)))
    assert_array_equal(engine.prefixes(order[np.newaxis])[0, 1:], expected)
    assert_array_equal(engine(prefix_coalitions(order, np.arange(1, 31))), expected)


def test_coalitions_of_equal_rows_are_refitted():
    """Variances of 0 make NaN, or whatever rounding makes of them; both are scikit-learn's."""
    X = np.repeat([[0.1, 0.3], [1.1, 0.7]], 6, axis=0)
    y = np.arange(12) % 2
    X_val = np.array([[0.1, 0.3], [1.0, 1.0], [0.5, 0.2]])
    coalitions = np.tril(np.ones((12, 12), dtype=bool))
    for scoring in (None, "neg_log_loss", "true_class_probability"):
        engine, refit, _ = utilities(GaussianNB(), X, y, X_val, np.array([0, 1, 1]), scoring)
        assert engine.engine == "Gaussian naive Bayes"
        assert_allclose(engine(coalitions), refit(coalitions), rtol=engine.closeness(X))
    engine, refit, _ = utilities(NearestCentroid(), X, y, X_val, np.array([0, 1, 1]))
    assert_array_equal(engine(coalitions[:6]), refit(coalitions[:6]))


def test_ranks_among_saturated_probabilities_are_those_of_refitting():
    X, y, X_val, y_val = iris()
    few, few_val = y > 0, y_val > 0
    data = (X[few], y[few] - 1, X_val[few_val], y_val[few_val] - 1)
    coalitions = np.random.default_rng(4).random((30, few.sum())) < 0.3
    engine, refit, _ = utilities(GaussianNB(var_smoothing=1e-4), *data, "roc_auc")
    assert_allclose(engine(coalitions), refit(coalitions), rtol=0, atol=1e-12)


def test_a_category_that_no_row_has_refuses_the_coalition():
    X = np.array([[0, 1], [1, 0], [2, 1], [0, 0], [1, 1], [2, 0]])
    y = np.array([0, 0, 1, 1, 0, 1])
    engine, refit, _ = utilities(CategoricalNB(), X, y, X[:3], y[:3], "neg_log_loss")
    assert engine.engine == "categorical naive Bayes"
    coalitions = np.random.default_rng(5).random((40, 6)) < 0.6
    assert_allclose(engine(coalitions), refit(coalitions), rtol=1e-9)
    with quiet_warnings():
        _, failed = engine._score(np.array([[True, True, False, False, True, False]]))
    assert failed[0].startswith("IndexError")


X = np.array([[1.0, 2.0], [2.0, 0.5], [0.5, 1.5], [3.0, 1.0], [2.5, 0.0], [0.0, 2.0]])
Y = np.array([0, 1, 0, 1, 1, 0])


@pytest.mark.parametrize(
    ("estimator", "data", "reason"),
    [
        (GaussianNB(priors=[0.2, 0.3, 0.5]), X, "priors"),
        (MultinomialNB(), -X, "negative"),
        (MultinomialNB(alpha=[1, 2, 3]), X, "alpha"),
        (ComplementNB(), -X, "negative"),
        (BernoulliNB(alpha=[1.0, 2.0]), X, "alpha"),
        (BernoulliNB(binarize=None), X, "zeros and ones"),
        (CategoricalNB(), X, "whole numbers"),
        (CategoricalNB(min_categories=[9, 9, 9]), np.rint(X), "min_categories"),
        (NearestCentroid(metric="manhattan"), X, "Euclidean"),
        (NearestCentroid(priors=[0.2, 0.3, 0.5]), X, "priors"),
        (NearestCentroid(), X + 1e5, "far from zero"),
        (NearestCentroid(), X > 1, "truth values"),
    ],
)
def test_what_is_declined_and_why(estimator, data, reason):
    engine, _, reasons = utilities(estimator, data, Y, data, Y)
    assert engine.engine == "refit"
    assert reason in reasons[0]


def test_unknown_categories_and_decision_functions_of_many_classes_are_declined():
    whole = np.rint(X).astype(int)
    _, _, reasons = utilities(CategoricalNB(), whole, Y, whole + 5, Y)
    assert "no training row" in reasons[0]
    data = iris()
    fold = Fold(0, *data, np.arange(3))
    scorer = resolve_scorer("roc_auc", NearestCentroid())
    judge = Judge(fold, scorer, own_score=False)
    _, reasons = make_utility(NearestCentroid(), fold, judge, FallbackRule(judge))
    assert "more than two classes" in reasons[0]


def test_the_first_of_equal_scores_wins():
    scores = iter(
        [np.array([[1.0, 2.0, 0.0]]), np.array([[1.0, 3.0, 0.0]]), np.array([[1.0, 3, 1]])]
    )
    assert_array_equal(best_class(scores, 3), [[0, 1, 2]])


def test_probabilities_of_two_classes_keep_their_digits():
    difference = np.array([[-800.0, -40.0, 0.0, 40.0, 800.0], [-np.inf] * 5, [np.inf] * 5])
    proba = predict_from_difference(difference, "predict_proba")
    assert_allclose(proba[0, 1], [1, np.exp(-40.0)], rtol=1e-15)
    assert_allclose(proba[0, 3], [np.exp(-40.0), 1], rtol=1e-15)
    assert_allclose(proba.sum(axis=2), 1, rtol=1e-15)
    assert_array_equal(proba[1:, 0], [[1, 0], [0, 1]])


def test_ranks_that_hang_on_rounding_are_noticed():
    apart, close = np.array([0.1, 0.4, 0.3]), np.array([0.1, 0.3, 0.3 * (1 + 1e-15)])
    proba = np.stack([np.stack([1 - p, p], axis=1) for p in (apart, close)])
    assert_array_equal(has_rounded_ranks(proba), [False, True])
    assert_array_equal(has_rounded_ranks(np.stack([apart, close])), [False, True])


def test_centres_are_common_values_and_stay_whole():
    columns = np.array([[0, 3, 0.1], [0, 4, 0.7], [0, 6, 0.3], [5, 0, 0.5]])
    assert_allclose(column_centres(columns), [0, 3, 0.4])


@pytest.mark.parametrize("scoring", ["roc_auc_ovr", "roc_auc_ovo", "neg_log_loss"])
def test_probabilities_that_underflow_rank_as_scikit_learns(scoring):
    """Class "c" has one row, so that nearly all its probabilities are 0: ties of scikit-learn."""
    rng = np.random.default_rng(0)
    y = np.array(list("aaaabbbc"))
    X, X_val = rng.normal(size=(8, 3)), rng.normal(size=(60, 3))
    y_val = np.array(list("abc" * 20))
    found, expected = (
        ShapleyValuator(GaussianNB(), scoring=scoring, engine=engine, method="exact").fit(
            X, y, X_val=X_val, y_val=y_val
        )
        for engine in ("auto", "refit")
    )
    assert found.engine_ == "Gaussian naive Bayes"
    assert np.mean(GaussianNB().fit(X, y).predict_proba(X_val)[:, 2] == 0) > 0.9
    assert found.score_ == pytest.approx(expected.score_, rel=1e-9)
    assert_allclose(found.values_, expected.values_, atol=1e-12)
