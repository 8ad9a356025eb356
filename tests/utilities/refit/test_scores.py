"""Every scorer's value is scikit-learn's own, also where coalitions or y_val lack a class."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import metrics
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skdvl.utilities.fold import Fold
from skdvl.utilities.quiet import quiet_warnings
from skdvl.utilities.record import recording

# --- the numbers are scikit-learn's -----------------------------------------------------------

CLASSIFIERS = [
    GaussianNB(),
    LogisticRegression(),
    DecisionTreeClassifier(random_state=0),
    KNeighborsClassifier(3),
    SVC(),
    RidgeClassifier(),
    make_pipeline(StandardScaler(), LogisticRegression()),
]
REGRESSORS = [Ridge(), DecisionTreeRegressor(random_state=0), KNeighborsRegressor(3), SVR()]
BINARY = ["f1", "average_precision", "roc_auc"]
OF_LABELS = [None, "accuracy", "balanced_accuracy", "f1"]
OF_PROBABILITIES = ["roc_auc_ovr", "neg_log_loss", "neg_brier_score", "true_class_probability"]
OF_RANKS = ["average_precision", "roc_auc"]
OF_TARGETS = [None, "r2", "neg_mean_squared_error", "neg_mean_absolute_error", "squashed_r2"]


def combinations():
    for kind in ("two", "words"):
        for estimator in CLASSIFIERS:
            scorings = [*OF_LABELS, *OF_RANKS]
            scorings += OF_PROBABILITIES if hasattr(estimator, "predict_proba") else []
            for scoring in scorings:
                if kind == "two" or scoring not in BINARY:
                    yield kind, estimator, scoring
    for estimator in REGRESSORS:
        for scoring in OF_TARGETS:
            yield "numbers", estimator, scoring


def test_utilities_are_the_scores_of_plain_clones_to_the_bit(
    make_fold, make_utility, random_coalitions, by_hand
):
    n_compared = 0
    for kind, estimator, scoring in combinations():
        fold = make_fold(kind)
        utility = make_utility(estimator, fold, scoring)
        coalitions = random_coalitions(4)
        found = utility(coalitions)
        for coalition, value in zip(coalitions, found, strict=True):
            if kind != "numbers" and len(np.unique(fold.y[coalition])) < len(fold.classes):
                continue  # where the view has columns that the model lacks
            expected = by_hand(estimator, fold, scoring, coalition)
            if expected is not None:
                assert value == expected, (kind, estimator, scoring)
                n_compared += 1
    assert n_compared > 150


def test_a_score_of_the_estimators_own_is_taken(make_fold, make_utility, random_coalitions, N_ROWS):
    class Own(GaussianNB):
        def score(self, X, y):
            return 100.0 + super().score(X, y)

    fold = make_fold("two")
    utility = make_utility(Own(), fold)
    plain = make_utility(GaussianNB(), fold)
    coalitions = random_coalitions(5)
    assert_array_equal(utility(coalitions), 100 + plain(coalitions))
    # of a dummy it is the accuracy
    assert utility(np.zeros((1, N_ROWS), bool)) == plain(np.zeros((1, N_ROWS), bool))


def test_a_callable_scorer_gets_the_view_and_the_users_labels(
    make_fold, make_utility, coalition_of
):
    seen = []

    def scorer(estimator, X, y):
        seen.append((estimator.classes_.tolist(), set(y), estimator.predict_proba(X).shape))
        return estimator.predict_proba(X)[:, 2].mean()

    fold = make_fold("words")
    utility = make_utility(GaussianNB(), fold, scorer)
    rows = np.flatnonzero(fold.y != "dog")
    assert utility(coalition_of(rows)) == 0.0
    assert seen == [(["bird", "cat", "dog"], {"bird", "cat", "dog"}, (40, 3))]


# --- one class, a class missing ---------------------------------------------------------------


def judged(scoring, fold, labels, proba, margins=None):
    """Judge predictions by scikit-learn's functions."""
    y, classes = fold.y_val, fold.classes
    positive = y == classes[-1]
    ranks = margins if margins is not None else proba[:, -1]
    return {
        "accuracy": lambda: metrics.accuracy_score(y, labels),
        "balanced_accuracy": lambda: metrics.balanced_accuracy_score(y, labels),
        "f1": lambda: metrics.f1_score(y, labels),
        "average_precision": lambda: metrics.average_precision_score(positive, ranks),
        "roc_auc": lambda: metrics.roc_auc_score(positive, ranks),
        "roc_auc_ovr": lambda: (
            metrics.roc_auc_score(positive, proba[:, -1])
            if len(classes) == 2
            else metrics.roc_auc_score(y, proba, multi_class="ovr", labels=classes)
        ),
        "neg_log_loss": lambda: -metrics.log_loss(y, proba, labels=classes),
        "neg_brier_score": lambda: (
            -np.mean((proba[:, -1] - positive) ** 2)
            if len(classes) == 2
            else -metrics.brier_score_loss(y, proba, labels=classes)
        ),
        "true_class_probability": lambda: np.mean(
            proba[np.arange(len(y)), np.searchsorted(classes, y)]
        ),
    }[scoring]()


def predictions_of(model, fold):
    """Return labels, probabilities for all classes, and margins of a fitted model."""
    labels = model.predict(fold.X_val)
    proba = margins = None
    n_classes, seen = len(fold.classes), np.searchsorted(fold.classes, model.classes_)
    if hasattr(model, "predict_proba"):
        proba = np.zeros((len(labels), n_classes))
        proba[:, seen] = model.predict_proba(fold.X_val)
    if hasattr(model, "decision_function"):
        margins = model.decision_function(fold.X_val)
        if len(seen) == 1:
            margins = np.zeros(len(labels))
    return labels, proba, margins


def predictions_of_dummy(fold, counts):
    """Return what stands for a model that fails on a coalition with so many rows of each class."""
    prior = np.bincount(np.searchsorted(fold.classes, fold.y)) / len(fold.y)
    proba = (counts + prior) / (sum(counts) + 1)
    labels = np.full(len(fold.y_val), fold.classes[np.argmax(proba)])
    return labels, np.tile(proba, (len(labels), 1)), np.zeros(len(labels))


SCORINGS = ["accuracy", "balanced_accuracy", *BINARY, *OF_PROBABILITIES]
CASES = [{0}, {-1}, {1, 2}, {0, 1, 2}]  # the classes of a coalition


@pytest.mark.parametrize(
    ("kind", "scoring"),
    [("two", scoring) for scoring in SCORINGS]
    + [(kind, s) for kind in ("three", "words") for s in SCORINGS if s not in BINARY],
)
@pytest.mark.parametrize("estimator", CLASSIFIERS[:3], ids=lambda e: type(e).__name__)
def test_every_scorer_has_a_value_for_every_set_of_classes(
    make_fold, make_utility, coalition_of, kind, scoring, estimator
):
    fold = make_fold(kind)
    codes = np.searchsorted(fold.classes, fold.y)
    for wanted in CASES:
        wanted = {code % len(fold.classes) for code in wanted}
        rows = np.flatnonzero(np.isin(codes, list(wanted)))
        value = make_utility(estimator, fold, scoring)(coalition_of(rows))[0]
        with quiet_warnings():
            try:
                model = clone(estimator).fit(fold.X[rows], fold.y[rows])
            except ValueError:
                counts = np.bincount(codes[rows], minlength=len(fold.classes))
                expected = judged(scoring, fold, *predictions_of_dummy(fold, counts))
            else:
                expected = judged(scoring, fold, *predictions_of(model, fold))
        assert_allclose(value, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["two", "three"])
@pytest.mark.parametrize("scoring", SCORINGS)
def test_every_scorer_has_a_value_or_an_error_where_y_val_lacks_a_class(
    make_fold, make_utility, random_coalitions, by_hand, N_ROWS, kind, scoring
):
    fold = make_fold(kind, missing_in_val=1)
    assert len(np.unique(fold.y_val)) == len(fold.classes) - 1
    undefined = {"roc_auc", "roc_auc_ovr", "neg_log_loss", "neg_brier_score"}
    if kind == "three":
        undefined |= {"average_precision", "f1"}
    coalitions = np.concatenate([np.zeros((1, N_ROWS), bool), random_coalitions(8)])
    utility = make_utility(GaussianNB(), fold, scoring)
    if scoring in undefined and not (kind == "two" and scoring == "neg_brier_score"):
        with pytest.raises(ValueError, match=r"Fold 0: the scorer fails .*Give \w+ a number"):
            utility(coalitions)
        return
    found = utility(coalitions)
    assert np.isfinite(found).all()
    for coalition, value in zip(coalitions[1:], found[1:], strict=True):
        expected = by_hand(GaussianNB(), fold, scoring, coalition)
        if len(np.unique(fold.y[coalition])) == len(fold.classes):
            assert value == expected


@pytest.mark.parametrize("scoring", OF_TARGETS)
@pytest.mark.parametrize("n_rows", [0, 1, 2])
def test_regressors_have_a_value_for_the_smallest_coalitions(
    make_fold, make_utility, coalition_of, by_hand, scoring, n_rows
):
    fold = make_fold("numbers")
    rows = np.arange(n_rows)
    for estimator in (Ridge(), KNeighborsRegressor(3)):
        value = make_utility(estimator, fold, scoring)(coalition_of(rows))[0]
        expected = by_hand(estimator, fold, scoring, coalition_of(rows)[0])
        if expected is None:  # the coalition's mean; of no rows, the mean of all
            mean = fold.y[rows].mean() if n_rows else fold.y.mean()
            constant = np.full(len(fold.y_val), mean)
            r2 = metrics.r2_score(fold.y_val, constant)
            expected = {
                None: r2,
                "r2": r2,
                "squashed_r2": 1 / (2 - r2),
                "neg_mean_squared_error": -metrics.mean_squared_error(fold.y_val, constant),
                "neg_mean_absolute_error": -metrics.mean_absolute_error(fold.y_val, constant),
            }[scoring]
        assert_allclose(value, expected, rtol=1e-12)


def test_constant_targets_have_scikit_learns_values(make_fold, make_utility, random_coalitions):
    fold = make_fold("numbers")
    flat = Fold(0, fold.X, fold.y, fold.X_val, np.full(40, 3.0), None)
    found = make_utility(Ridge(), flat, "r2")(random_coalitions(3))
    assert_array_equal(found, 0.0)


def test_regressors_that_predict_nan_are_refused(make_fold, make_utility, random_coalitions):
    class Nan(Ridge):
        def predict(self, X):
            return np.full(len(X), np.nan)

    fold = make_fold("numbers")
    for scoring in OF_TARGETS:
        with recording() as record:
            found = make_utility(Nan(), fold, scoring)(random_coalitions(2))
        assert np.isfinite(found).all()
        assert record.n_refused == 2
