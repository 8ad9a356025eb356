"""Ridge and RidgeClassifier without refitting: every route, weights, refusals, what is declined."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge, RidgeClassifier

from skdvl.metrics import resolve_scorer
from skdvl.utilities.base import prefix_coalitions
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.ridge import RidgeUtility
from skdvl.utilities.record import recording
from skdvl.utilities.refit import RefitUtility
from skdvl.utilities.supervised import FallbackRule


def regression_fold(n_rows=30, d=5, n_val=40, offset=0.0):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows + n_val, d)) + 3
    y = X[:, 0] - X[:, -1] ** 2 + rng.normal(size=n_rows + n_val) + offset
    return Fold(0, X[:n_rows], y[:n_rows], X[n_rows:], y[n_rows:])


def class_fold(n_classes, n_rows=30, d=4, n_val=40):
    rng = np.random.default_rng(1)
    codes = rng.integers(0, n_classes, n_rows + n_val)
    codes[:n_classes] = np.arange(n_classes)
    X = rng.normal(size=(n_rows + n_val, d)) + 0.8 * codes[:, np.newaxis] * np.arange(d)
    y = np.array([f"class {k}" for k in range(n_classes)])[codes]
    classes = np.unique(y)
    return Fold(0, X[:n_rows], y[:n_rows], X[n_rows:], y[n_rows:], classes)


def both(estimator, fold, scoring=None):
    judge = Judge(fold, resolve_scorer(scoring, estimator), own_score=False)
    assert RidgeUtility.why_not(estimator, fold, judge) is None
    fallback = FallbackRule(judge)
    return RidgeUtility(estimator, fold, judge, fallback), RefitUtility(
        estimator, fold, judge, fallback
    )


def why_not(estimator, fold):
    return RidgeUtility.why_not(estimator, fold, Judge(fold, None, own_score=False))


def random_sets(n_sets, n_rows, seed=2):
    rng = np.random.default_rng(seed)
    return rng.random((n_sets, n_rows)) < rng.random((n_sets, 1))


def by_prefixes(utility, orders):
    assert utility.has_cheap_prefixes
    return utility.prefixes(orders)


def all_prefixes(orders):
    return np.concatenate([prefix_coalitions(o, np.arange(len(o) + 1)) for o in orders])


def orders_of(n_rows, n_orders=1):
    return np.stack([np.random.default_rng(s).permutation(n_rows) for s in range(n_orders)])


ROUTES = {"sums": True, "one by one, or dual": False}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("d", [1, 4, 45])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("scoring", [None, "neg_mean_squared_error", "neg_median_absolute_error"])
def test_every_route_gives_the_score_of_refitting(route, d, fit_intercept, scoring):
    fold = regression_fold(d=d)
    utility, refit = both(Ridge(alpha=0.5, fit_intercept=fit_intercept), fold, scoring)
    utility.sums_for_sets = utility.sums_for_prefixes = ROUTES[route]
    coalitions = random_sets(20, 30)
    assert_allclose(utility(coalitions), refit(coalitions), rtol=1e-10)
    orders = orders_of(30)
    expected = refit(all_prefixes(orders)).reshape(len(orders), -1)
    assert_allclose(by_prefixes(utility, orders), expected, rtol=1e-10)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("weights", [None, "balanced", "dict"])
@pytest.mark.parametrize("scoring", [None, "decision"])
def test_classes_weights_and_margins(route, n_classes, weights, scoring):
    def sum_of_margins(estimator, X, y):
        margins = estimator.decision_function(X)
        return float(np.cos(np.arange(margins.size)) @ np.clip(margins, -9, 9).ravel())

    sum_of_margins._response_method = "decision_function"
    fold = class_fold(n_classes)
    if weights == "dict":
        weights = {label: 0.5 + k for k, label in enumerate(fold.classes.tolist())}
    estimator = RidgeClassifier(alpha=0.3, class_weight=weights)
    judge = Judge(fold, sum_of_margins if scoring else None, own_score=False)
    utility = RidgeUtility(estimator, fold, judge, FallbackRule(judge))
    refit = RefitUtility(estimator, fold, judge, FallbackRule(judge))
    utility.sums_for_sets = utility.sums_for_prefixes = ROUTES[route]
    coalitions = random_sets(20, 30)
    assert_allclose(utility(coalitions), refit(coalitions), rtol=1e-10, atol=1e-10)
    orders = orders_of(30)
    expected = refit(all_prefixes(orders)).reshape(len(orders), -1)
    assert utility.has_cheap_prefixes == (weights != "balanced")
    assert_allclose(utility.prefixes(orders), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("d", [3, 60])
def test_no_route_depends_on_the_batch(route, d):
    utility, _ = both(Ridge(), regression_fold(d=d), "neg_mean_absolute_error")
    utility.sums_for_sets = utility.sums_for_prefixes = ROUTES[route]
    coalitions = random_sets(130, 30)
    whole = utility(coalitions)
    for chosen in ([0], [129, 3], np.arange(1, 66)):
        assert_array_equal(utility(coalitions[chosen]), whole[chosen])
    orders = orders_of(30, 5)
    whole = utility.prefixes(orders)
    assert_array_equal(utility.prefixes(orders[[3]]), whole[[3]])
    assert_array_equal(utility.prefixes(orders[[4, 0]], [0, 2, 17]), whole[[4, 0]][:, [0, 2, 17]])


def test_targets_far_from_zero_keep_their_digits():
    near, far = regression_fold(), regression_fold(offset=1e8)
    coalitions = random_sets(40, 30)
    coalitions = coalitions[coalitions.sum(axis=1) > 1]
    # 1e8 + y is rounded to 1e-8, and so are the scores
    assert_allclose(
        both(Ridge(), far)[0](coalitions), both(Ridge(), near)[0](coalitions), rtol=1e-6
    )


def test_a_single_class_without_intercept_is_refused_where_scikit_learn_finds_no_second_one():
    fold = class_fold(3)
    utility, refit = both(RidgeClassifier(fit_intercept=False), fold)
    rows = np.concatenate([np.eye(30, dtype=bool), [fold.y == label for label in fold.classes]])
    with recording() as ours:
        found = utility(rows)
    with recording() as theirs:
        expected = refit(rows)
    assert_array_equal(found, expected)
    assert ours.refused == theirs.refused
    assert ours.n_refused > 5


@pytest.mark.parametrize(
    "estimator",
    [
        Ridge(alpha=0),
        Ridge(alpha=np.array([1.0])),
        Ridge(alpha=1e-9),
        Ridge(positive=True),
        Ridge(solver="lsqr"),
        Ridge(solver="sag"),
    ],
)
def test_what_is_not_exact_is_declined(estimator):
    assert why_not(estimator, regression_fold())


def test_weights_that_leave_a_class_out_are_declined():
    fold = class_fold(3)
    assert why_not(RidgeClassifier(class_weight={"class 0": 2.0}), fold)
    assert why_not(RidgeClassifier(class_weight=dict.fromkeys(fold.classes.tolist(), 0.0)), fold)


def test_r2_of_constant_targets_is_declined_but_not_squared_errors():
    fold = regression_fold()
    constant = Fold(0, fold.X, fold.y, fold.X_val, np.full(40, 2.5))
    assert why_not(Ridge(), constant)
    judge = Judge(constant, resolve_scorer("neg_mean_squared_error", Ridge()), own_score=False)
    assert RidgeUtility.why_not(Ridge(), constant, judge) is None


def test_values_equal_those_of_the_textbook_loop_over_the_same_permutations():
    X, y = load_diabetes(return_X_y=True)
    fold = Fold(0, X[:40], y[:40], X[100:300], y[100:300])
    utility, _ = both(Ridge(), fold)
    orders = orders_of(40, 12)
    empty = utility(np.zeros((1, 40), dtype=bool))[0]
    textbook = np.zeros(40)
    for order in orders:
        before = empty
        for k, player in enumerate(order):
            rows = np.sort(order[: k + 1])
            model = clone(Ridge()).fit(fold.X[rows], fold.y[rows])
            now = model.score(fold.X_val, fold.y_val)
            textbook[player] += (now - before) / len(orders)
            before = now
    values = np.zeros(40)
    for order, utilities in zip(orders, utility.prefixes(orders), strict=True):
        values[order] += np.diff(utilities) / len(orders)
    assert np.abs(values - textbook).max() <= 1e-12
