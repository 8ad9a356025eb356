"""What is special about logistic regression: the exact optimum, whatever the penalty."""

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from skdvl.metrics import resolve_scorer
from skdvl.utilities.base import prefix_coalitions
from skdvl.utilities.dispatch import make_utility
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental import logistic
from skdvl.utilities.incremental.logistic import LogisticUtility
from skdvl.utilities.incremental.optima import Slots
from skdvl.utilities.quiet import quiet_warnings
from skdvl.utilities.record import recording
from skdvl.utilities.refit import RefitUtility
from skdvl.utilities.supervised import FallbackRule


def make_fold(n_classes=2, d=4, n=40, seed=0, offset=0.0, overlap=1.0):
    rng = np.random.default_rng(seed)
    y, y_val = rng.integers(0, n_classes, n), np.arange(24) % n_classes
    centres = rng.normal(size=(n_classes, d)) / overlap
    X, X_val = (centres[t] + rng.normal(size=(len(t), d)) * overlap for t in (y, y_val))
    scales = 10.0 ** rng.integers(-1, 2, d)
    return Fold(0, X * scales + offset, y, X_val * scales + offset, y_val, np.arange(n_classes))


def make_engine(estimator, fold, scoring="true_class_probability"):
    judge = Judge(fold, resolve_scorer(scoring, estimator), own_score=False)
    utility, reasons = make_utility(estimator, fold, judge, FallbackRule(judge))
    assert utility.engine == "logistic (exact optimum)", reasons
    return utility


def some_sets(n_sets, fold, n_classes=2, seed=1):
    """Return random sets that have rows of at least so many classes."""
    rng = np.random.default_rng(seed)
    sets = rng.random((5 * n_sets, fold.n_rows)) < rng.uniform(0.1, 1, (5 * n_sets, 1))
    return np.stack([rows for rows in sets if len(np.unique(fold.y[rows])) >= n_classes])[:n_sets]


def predicted(engine, rows, response):
    with quiet_warnings():
        predictions, errors = engine._predict(rows, response)
    assert not errors
    return predictions


def exact(estimator, fold, rows):
    """Fit by scikit-learn's own Newton solver: lbfgs has no more than six digits."""
    model = clone(estimator).set_params(solver="newton-cholesky", tol=1e-12, max_iter=1000)
    with quiet_warnings():
        return model.fit(fold.X[rows], fold.y[rows])


@pytest.mark.parametrize("C", [1e-8, 1e-4, 1.0, 1e4])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_coefficients_are_exact_whatever_the_penalty(C, n_classes, fit_intercept):
    fold = make_fold(n_classes)
    estimator = LogisticRegression(C=C, fit_intercept=fit_intercept)
    engine = make_engine(estimator, fold)
    rows = some_sets(8, fold, n_classes)
    found = predicted(engine, rows, "decision_function")
    for decision, members in zip(found, rows, strict=True):
        model = exact(estimator, fold, members)
        expected = model.decision_function(fold.X_val)
        # what the intercepts have in common may be anything
        slopes = expected - expected.mean(axis=0)
        if n_classes > 2:
            slopes -= slopes.mean(axis=1, keepdims=True)
            decision -= decision.mean(axis=1, keepdims=True)
        error = np.abs(decision - decision.mean(axis=0) - slopes)
        assert error.max() < 1e-6 * np.abs(slopes).max()


@pytest.mark.parametrize(
    ("fold", "weight", "closeness"),
    [
        (make_fold(2), None, 1e-9),
        (make_fold(2, overlap=0.1), "balanced", 1e-9),  # separable
        (make_fold(2, d=60), {0: 1.0, 1: 7.5}, 1e-9),  # fewer rows than columns
        (make_fold(3, offset=1000.0), "balanced", 1e-9),
        (make_fold(5, d=3), None, 1e-9),  # sets often lack a class
        (make_fold(4, d=30), "balanced", 1e-8),  # too many coefficients to invert their Hessian
    ],
)
def test_both_doors_give_the_exact_utilities(fold, weight, closeness):
    engine = make_engine(LogisticRegression(class_weight=weight, C=3.0), fold)
    orders = np.stack([np.random.default_rng(s).permutation(40) for s in (2, 3)])
    by_prefix = engine.prefixes(orders)
    coalitions = np.concatenate([prefix_coalitions(order, np.arange(41)) for order in orders])
    assert_allclose(by_prefix.ravel(), engine(coalitions), rtol=0, atol=closeness)
    sets = some_sets(12, fold)
    utilities = engine(sets)
    for members, utility in zip(sets, utilities, strict=True):
        model = exact(engine.estimator, fold, members)
        assert_allclose(utility, engine.judge.judge_model(model), rtol=0, atol=closeness)


def test_an_order_has_the_same_bits_in_any_company():
    for fold in (make_fold(2), make_fold(3), make_fold(4, d=30)):
        engine = make_engine(LogisticRegression(), fold)
        orders = np.stack([np.random.default_rng(s).permutation(40) for s in range(20)])
        together = engine.prefixes(orders)
        assert_array_equal(engine.prefixes(orders[[7]]), together[[7]])
        assert_array_equal(engine.prefixes(orders[[11, 3, 7]]), together[[11, 3, 7]])


def test_orders_beyond_what_is_started_at_once_take_no_more_memory(monkeypatch):
    monkeypatch.setattr(logistic, "_CELLS", 2**12)
    fold = make_fold(d=1, n=60)
    engine = make_engine(LogisticRegression(), fold)
    orders = np.stack([np.random.default_rng(j).permutation(60) for j in range(200)])
    sizes = np.arange(1, 61, 3)
    engine.prefixes(orders[:1], sizes)  # what is computed once

    def peak(orders):
        tracemalloc.start()
        try:
            engine.prefixes(orders, sizes)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    results = 8 * orders.shape[0] * len(sizes)
    assert peak(orders) - results < 1.5 * peak(orders[:50])


def test_sets_of_one_class_are_refused_in_scikit_learns_words():
    fold = make_fold(3)
    names = np.array(["ant", "bee", "cat"])
    fold = Fold(0, fold.X, names[fold.y], fold.X_val, names[fold.y_val], names)
    estimator = LogisticRegression()
    engine = make_engine(estimator, fold, "accuracy")
    refit = RefitUtility(estimator, fold, engine.judge, engine.fallback)
    sets = np.stack([fold.y == name for name in names] + [fold.y != "bee"])
    with recording() as ours:
        found = engine(sets)
    with recording() as theirs:
        expected = refit(sets)
    assert_array_equal(found[:3], expected[:3])
    assert ours.refused == theirs.refused
    assert ours.n_refused == 3
    order = np.argsort(fold.y, kind="stable")
    with recording() as by_prefix:
        engine.prefixes(order[np.newaxis])
    assert by_prefix.n_refused == (fold.y == "ant").sum()


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_block_may_have_nothing_to_solve(n_classes):
    fold = make_fold(n_classes)
    engine = make_engine(make_pipeline(StandardScaler(), LogisticRegression()), fold)
    refit = RefitUtility(engine.estimator, fold, engine.judge, engine.fallback)
    sets = np.eye(fold.n_rows, dtype=bool)[:3]
    assert_array_equal(engine(sets), refit(sets))


def test_a_coalition_has_the_same_bits_in_any_company():
    for fold in (make_fold(2), make_fold(2, d=60), make_fold(3), make_fold(4, d=30)):
        engine = make_engine(LogisticRegression(), fold)
        sets = some_sets(60, fold)
        together = engine(sets)
        some = np.random.default_rng(3).permutation(60)[:17]
        assert_array_equal(engine(sets[some]), together[some])
        assert_array_equal(engine(sets[[5]]), together[[5]])


@pytest.mark.parametrize("fold", [make_fold(2), make_fold(3), make_fold(4, d=30)])
def test_a_set_that_is_not_solved_is_refitted(fold, monkeypatch):
    monkeypatch.setattr(Slots, "max_age", 2)
    estimator = LogisticRegression()
    engine = make_engine(estimator, fold)
    refit = RefitUtility(estimator, fold, engine.judge, engine.fallback)
    sets = some_sets(6, fold)
    assert_allclose(engine(sets), refit(sets), rtol=1e-9)
    order = np.random.default_rng(4).permutation(40)
    sizes = np.array([0, 1, 5, 20, 40])
    expected = refit(prefix_coalitions(order, sizes))
    assert_allclose(engine.prefixes(order[np.newaxis], sizes)[0], expected, rtol=1e-9)


def test_constant_columns_have_no_weight():
    fold = make_fold(2)
    X, X_val = np.insert(fold.X, 1, 0.1, axis=1), np.insert(fold.X_val, 1, 5e3, axis=1)
    wider = Fold(0, X, fold.y, X_val, fold.y_val, fold.classes)
    sets = some_sets(10, fold)
    found = make_engine(LogisticRegression(), wider)(sets)
    assert_allclose(found, make_engine(LogisticRegression(), fold)(sets), rtol=1e-9)


@pytest.mark.parametrize("n_classes", [2, 3, 4])
@pytest.mark.parametrize("scaler", [StandardScaler(), StandardScaler(with_std=False)])
def test_a_scaler_scales_each_set_in_its_own_way(scaler, n_classes):
    fold = make_fold(n_classes, d=25 if n_classes == 4 else 5, offset=100.0)
    fold.X[:, 1] = 0.1
    fold.X[:3, 2] = fold.X_val[:, 2] = 7  # hardly any set has another value than 0.3 here
    fold.X[3:, 2] = 0.3
    fold.X[:, 3] = 1e5 + 1e-12 * fold.X[:, 3]  # varies only by rounding
    engine = make_engine(make_pipeline(scaler, LogisticRegression(C=0.5)), fold)
    sets = some_sets(12, fold)
    expected = []
    for members in sets:
        model = clone(engine.estimator)
        model[-1].set_params(solver="newton-cholesky", tol=1e-12)
        with quiet_warnings():
            expected.append(engine.judge.judge_model(model.fit(fold.X[members], fold.y[members])))
    closeness = 1e-8 if n_classes == 4 else 1e-9
    assert_allclose(engine(sets), expected, rtol=0, atol=closeness)
    order = np.random.default_rng(5).permutation(40)
    coalitions = prefix_coalitions(order, np.arange(41))
    by_prefix = engine.prefixes(order[np.newaxis])[0]
    assert_allclose(by_prefix, engine(coalitions), rtol=0, atol=closeness)


@pytest.mark.parametrize(
    "pipeline",
    [
        make_pipeline(StandardScaler(), LogisticRegression(fit_intercept=False)),
        make_pipeline(StandardScaler(), PCA(2), LogisticRegression()),
        make_pipeline(MinMaxScaler(), LogisticRegression()),
        make_pipeline(StandardScaler(), LogisticRegression(C=np.inf)),
    ],
)
def test_other_pipelines_are_refitted(pipeline):
    fold = make_fold(2)
    judge = Judge(fold, None, own_score=False)
    assert make_utility(pipeline, fold, judge, FallbackRule(judge))[0].engine == "refit"


@pytest.mark.filterwarnings("ignore:.*penalty.*:FutureWarning")
def test_the_penalty_may_be_given_by_name():
    fold = make_fold(2)
    sets = some_sets(5, fold)
    named = make_engine(LogisticRegression(penalty="l2", C=2.0), fold)
    assert_array_equal(named(sets), make_engine(LogisticRegression(C=2.0), fold)(sets))


@pytest.mark.parametrize(
    "parameters",
    [
        {"solver": "liblinear"},
        {"solver": "saga", "penalty": "l1"},
        {"penalty": None},
        {"C": np.inf},
        {"C": 1e12},
        {"tol": 1e-3},
        {"max_iter": 50},
        {"class_weight": {0: 1.0}},
        {"class_weight": {0: 1.0, 1: 0.0}},
    ],
)
def test_what_is_not_covered_is_declined(parameters):
    fold = make_fold(2)
    estimator = LogisticRegression(**parameters)
    assert LogisticUtility.why_not(estimator, fold, Judge(fold, None, own_score=False))


def test_many_columns_are_declined():
    fold = make_fold(2, d=101)
    judge = Judge(fold, None, own_score=False)
    assert "faster" in LogisticUtility.why_not(LogisticRegression(), fold, judge)


def test_many_rows_of_many_columns_are_declined():
    for fold in (make_fold(2, d=100, n=3001), make_fold(4, d=100, n=751)):
        judge = Judge(fold, None, own_score=False)
        assert "faster" in LogisticUtility.why_not(LogisticRegression(), fold, judge)
