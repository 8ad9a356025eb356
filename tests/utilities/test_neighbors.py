"""What is special about nearest neighbours: ties, equal rows, metrics, the two walks."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import make_scorer
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from skdvl import ShapleyValuator
from skdvl.metrics import resolve_scorer
from skdvl.utilities.base import prefix_coalitions
from skdvl.utilities.dispatch import has_own_score, make_utility
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.neighbors import NeighborsUtility
from skdvl.utilities.record import recording
from skdvl.utilities.refit import RefitUtility
from skdvl.utilities.supervised import FallbackRule

pytestmark = pytest.mark.oldest
RNG = np.random.default_rng(0)  # for the data: tests draw from generators of their own
X, X_VAL = RNG.normal(size=(40, 4)), RNG.normal(size=(25, 4))
LABELS, LABELS_VAL = RNG.integers(0, 3, 40), np.arange(25) % 3
TARGETS, TARGETS_VAL = RNG.normal(size=40) + 50, RNG.normal(size=25) + 50


def utilities(estimator, X=X, X_val=X_VAL, scoring=None):
    """Return the engine's utility and refitting's."""
    if isinstance(estimator, KNeighborsRegressor):
        fold = Fold(0, X, TARGETS[: len(X)], X_val, TARGETS_VAL[: len(X_val)])
    else:
        y, y_val = LABELS[: len(X)], LABELS_VAL[: len(X_val)]
        fold = Fold(0, X, y, X_val, y_val, np.arange(3))
    scorer = resolve_scorer(scoring, estimator)
    judge = Judge(fold, scorer, scorer is None and has_own_score(estimator))
    fallback = FallbackRule(judge)
    engine, reasons = make_utility(estimator, fold, judge, fallback)
    assert engine.engine == "nearest neighbors", reasons
    return engine, RefitUtility(estimator, fold, judge, fallback)


def some_sets(n_sets=60, n_rows=40):
    rng = np.random.default_rng(1)
    return rng.random((n_sets, n_rows)) < rng.random((n_sets, 1))


@pytest.mark.parametrize(
    ("metric", "params"),
    [
        ("l1", None),
        ("sqeuclidean", None),
        ("canberra", None),
        ("correlation", None),
        ("minkowski", {"p": 1.5}),
        ("minkowski", {"w": np.array([1.0, 2.0, 0.5, 3.0])}),
        (lambda a, b: float(np.abs(a - b).max()), None),
    ],
)
def test_any_metric_gives_the_utilities_of_refitting(metric, params):
    model = KNeighborsClassifier(3, metric=metric, metric_params=params, weights="distance")
    engine, refit = utilities(model, scoring="neg_log_loss")
    sets = some_sets(20)
    assert_allclose(engine(sets), refit(sets), rtol=1e-9)


@pytest.mark.parametrize("n_neighbors", [1, 7, 40])
@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("kind", [KNeighborsClassifier, KNeighborsRegressor])
def test_both_walks_find_the_same_neighbours(kind, weights, n_neighbors):
    engine, refit = utilities(kind(n_neighbors, weights=weights))
    order = np.random.default_rng(1).permutation(40)
    coalitions = prefix_coalitions(order, np.arange(41))
    by_prefix = engine.prefixes(order[np.newaxis])[0]
    assert_array_equal(by_prefix, engine(coalitions))
    assert_allclose(by_prefix, refit(coalitions), rtol=1e-12)


def test_of_equally_far_rows_the_first_is_nearest():
    X = np.zeros((4, 1))
    X[:, 0] = [1, -1, 1, -1]
    engine, _ = utilities(KNeighborsRegressor(1), X, np.zeros((2, 1)), "neg_mean_squared_error")
    target = TARGETS_VAL[:2]
    for coalition in (~np.eye(4, dtype=bool), np.eye(4, dtype=bool)):
        first = coalition.argmax(axis=1)
        expected = -np.mean((TARGETS[first][:, np.newaxis] - target) ** 2, axis=1)
        assert_allclose(engine(coalition), expected, rtol=1e-14)
    by_prefix = engine.prefixes([[3, 2, 1, 0]])[0, 1:]
    assert_allclose(by_prefix, -np.mean((TARGETS[[3, 2, 1, 0], np.newaxis] - target) ** 2, axis=1))


@pytest.mark.parametrize("kind", [KNeighborsClassifier, KNeighborsRegressor])
def test_rows_equal_to_a_validation_row_outweigh_all_others(kind):
    X_here = X.copy()
    X_here[[3, 17, 30]] = X_VAL[[5, 9, 20]]
    # brute force, the choice of "auto" for few rows, does not see that rows are equal
    engine, refit = utilities(kind(4, weights="distance", algorithm="kd_tree"), X_here)
    sets = some_sets()
    assert_allclose(engine(sets), refit(sets), rtol=1e-12)
    order = np.random.default_rng(1).permutation(40)
    expected = refit(prefix_coalitions(order, np.arange(41)))
    assert_allclose(engine.prefixes(order[np.newaxis])[0], expected, rtol=1e-12)


def test_too_few_rows_are_refused_in_scikit_learns_words():
    engine, refit = utilities(KNeighborsClassifier(5))
    sets = np.tril(np.ones((8, 40), dtype=bool))
    with recording() as ours:
        engine(sets)
    with recording() as theirs:
        refit(sets)
    assert ours.refused == theirs.refused
    assert ours.n_refused == 4


def test_what_fails_by_brute_force_is_declined():
    # scikit-learn 1.6 with texts for labels; and a tree is searched from twelve rows on
    y, y_val = LABELS.astype(str), LABELS_VAL.astype(str)
    fold = Fold(0, X, y, X_VAL, y_val, np.unique(y))
    for metric in ("manhattan", "euclidean"):
        model = KNeighborsClassifier(metric=metric)
        judge = Judge(fold, resolve_scorer("accuracy", model), own_score=False)
        engine, reasons = make_utility(model, fold, judge, FallbackRule(judge))
        try:
            clone(model).fit(X[:5], y[:5]).predict(X_VAL)
        except ValueError:
            assert engine.engine == "refit"
            assert "fails by brute force (ValueError" in reasons[0]
        else:
            assert engine.engine == "nearest neighbors", reasons
            sets = some_sets(200)  # also of fewer rows than neighbours
            refit = RefitUtility(model, fold, judge, FallbackRule(judge))
            assert_array_equal(engine(sets), refit(sets))
            order = np.random.default_rng(1).permutation(40)
            by_prefix = engine.prefixes(order[np.newaxis])[0]
            assert_array_equal(by_prefix, refit(prefix_coalitions(order, np.arange(41))))


def test_more_rows_than_a_small_integer_counts():
    rng = np.random.default_rng(1)
    X, X_val = rng.normal(size=(700, 2)), rng.normal(size=(12, 2))
    y, y_val = rng.integers(0, 200, 700), np.arange(12)
    fold = Fold(0, X, y, X_val, y_val, np.arange(200))
    model = KNeighborsClassifier(30, weights="distance")
    judge = Judge(fold, None, own_score=False)
    engine = NeighborsUtility(model, fold, judge, FallbackRule(judge))
    refit = RefitUtility(model, fold, judge, FallbackRule(judge))
    sets = rng.random((10, 700)) < rng.random((10, 1))
    assert_array_equal(engine(sets), refit(sets))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (KNeighborsClassifier(weights=lambda d: 1 / (1 + d)), "weights"),
        (KNeighborsClassifier(metric="precomputed"), "precomputed"),
        (KNeighborsClassifier(metric="seuclidean"), "seuclidean"),
        (KNeighborsClassifier(metric="braycurtis"), "miss neighbours"),
    ],
)
def test_what_is_not_covered_is_declined(model, reason):
    fold = Fold(0, X, LABELS, X_VAL, LABELS_VAL, np.arange(3))
    assert reason in NeighborsUtility.why_not(model, fold, Judge(fold, None, False))


def test_too_many_distances_are_declined():
    X_many = np.zeros((5000, 1))
    fold = Fold(0, X_many, np.zeros(5000), X_many, np.zeros(5000))
    judge = Judge(fold, None, own_score=False)
    assert "too many" in NeighborsUtility.why_not(KNeighborsRegressor(), fold, judge)


def test_means_of_single_precision_targets_are_left_to_scikit_learn():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 3)), (100 + rng.normal(size=30)).astype(np.float32)
    found, expected = (
        ShapleyValuator(KNeighborsRegressor(2), engine=engine, method="exact").fit(
            X[:6], y[:6], X_val=X[6:], y_val=y[6:]
        )
        for engine in ("auto", "refit")
    )
    assert found.engine_ == "refit"
    assert_array_equal(found.values_, expected.values_)


def test_a_single_cell_that_changes_has_the_bits_of_many():
    """One validation row and many classes: numpy sums one cell's votes in another order."""
    rng = np.random.default_rng(0)
    codes = np.append(np.arange(12), rng.integers(0, 12, 49))
    features = rng.normal(size=(61, 3))
    fold = Fold(0, features[1:], codes[1:], features[:1], codes[:1], np.arange(12))
    model = KNeighborsClassifier(weights="distance")
    judge = Judge(fold, resolve_scorer("true_class_probability", model), own_score=False)
    engine = NeighborsUtility(model, fold, judge, FallbackRule(judge))
    orders = rng.permuted(np.tile(np.arange(60), (60, 1)), axis=1)
    whole = engine.prefixes(orders)
    for first in range(5, 60, 5):
        for order, expected in zip(orders, whole[:, first : first + 2], strict=True):
            assert_array_equal(engine.prefixes([order], [first, first + 1])[0], expected)
    sets = rng.random((60, 60)) < 0.5
    assert_array_equal(np.concatenate([engine(one[np.newaxis]) for one in sets]), engine(sets))


def moody(y_true, y_pred):
    if y_pred[0] == 0 and np.ptp(y_pred) > 0:  # not for dummies
        raise RuntimeError("class 0 comes first")
    return 0.5


def test_a_scorer_that_fails_is_heard_at_both_doors():
    engine, refit = utilities(KNeighborsClassifier(3), scoring=make_scorer(moody))
    order = np.random.default_rng(1).permutation(40)
    records = []
    for evaluate in (
        lambda: engine.prefixes(order[np.newaxis]),
        lambda: engine(prefix_coalitions(order, np.arange(41))),
        lambda: refit(prefix_coalitions(order, np.arange(41))),
    ):
        with recording() as record:
            evaluate()
        records.append(record.refused)
    assert records[0] == records[1] == records[2]
    assert any("class 0 comes first" in message for message, _ in records[0])
