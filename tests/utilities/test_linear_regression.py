"""LinearRegression without refitting: accuracy, underdetermined sets, what is left to refitting."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LinearRegression

from skdvl.metrics import resolve_scorer
from skdvl.utilities.base import prefix_coalitions
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.linear_regression import LinearRegressionUtility
from skdvl.utilities.refit import RefitUtility
from skdvl.utilities.supervised import FallbackRule

EPS = np.finfo(float).eps


class CountedRefit(RefitUtility):
    """Refitting that counts how many sets it is asked for."""

    n_sets = 0

    def _score(self, rows):
        self.n_sets += len(rows)
        return super()._score(rows)


def make_fold(X, n_rows, noise=1.0):
    rng = np.random.default_rng(3)
    y = X @ np.cos(np.arange(X.shape[1])) + noise * rng.normal(size=len(X))
    return Fold(0, X[:n_rows], y[:n_rows], X[n_rows:], y[n_rows:])


def plain_fold(n_rows=40, d=4):
    return make_fold(np.random.default_rng(4).normal(size=(n_rows + 30, d)) + 5, n_rows)


def both(fold, scoring=None, **parameters):
    estimator = LinearRegression(**parameters)
    judge = Judge(fold, resolve_scorer(scoring, estimator), own_score=False)
    assert LinearRegressionUtility.why_not(estimator, fold, judge) is None
    fallback = FallbackRule(judge)
    utility = LinearRegressionUtility(estimator, fold, judge, fallback)
    utility.__dict__["_refitting"] = CountedRefit(estimator, fold, judge, fallback)
    return utility, RefitUtility(estimator, fold, judge, fallback)


def why_not(fold, **parameters):
    judge = Judge(fold, None, own_score=False)
    return LinearRegressionUtility.why_not(LinearRegression(**parameters), fold, judge)


def sets_of_size(size, n_sets, n_rows):
    rng = np.random.default_rng(size)
    return np.stack([rng.permutation(n_rows) < size for _ in range(n_sets)])


def random_order(n_rows, seed=0):
    return np.random.default_rng(seed).permutation(n_rows)[np.newaxis]


def exact_predictions(X, y, X_val):
    """Least squares with an intercept in extended precision."""
    X, y, X_val = (np.asarray(a, dtype=np.longdouble) for a in (X, y, X_val))
    middle, level = X.mean(axis=0), y.mean()
    Q = np.array(X - middle)
    d = Q.shape[1]
    R = np.zeros((d, d), dtype=np.longdouble)
    for j in range(d):  # Gram-Schmidt, twice
        for _ in range(2):
            along = Q[:, :j].T @ Q[:, j]
            Q[:, j] -= Q[:, :j] @ along
            R[:j, j] += along
        R[j, j] = np.sqrt(Q[:, j] @ Q[:, j])
        Q[:, j] /= R[j, j]
    right = Q.T @ (y - level)
    w = np.zeros(d, dtype=np.longdouble)
    for j in range(d - 1, -1, -1):
        w[j] = (right[j] - R[j, j + 1 :] @ w[j + 1 :]) / R[j, j]
    return level + (X_val - middle) @ w


@pytest.mark.parametrize("log_condition", [0, 2, 3, 4])
def test_predictions_are_as_exact_as_the_condition_allows(log_condition):
    rng = np.random.default_rng(5)
    X = rng.normal(size=(60, 6))
    X[:, 5] = X[:, 4] + 10.0**-log_condition * X[:, 5]  # nearly the same column
    fold = make_fold(X + 3, 45)
    scored_as = "neg_mean_absolute_error"
    utility, _ = both(fold, scored_as)
    doors = {size: utility(sets_of_size(size, 4, 45)) for size in (9, 20, 44)}
    for size, found in doors.items():
        for rows, utility_found in zip(sets_of_size(size, 4, 45), found, strict=True):
            centred = fold.X[rows] - fold.X[rows].mean(axis=0)
            exact = exact_predictions(fold.X[rows], fold.y[rows], fold.X_val)
            expected = -float(np.abs(fold.y_val - exact).mean())
            allowed = 100 * EPS * np.linalg.cond(centred) * max(1, abs(expected))
            assert abs(utility_found - expected) <= allowed
    assert utility._refitting.n_sets <= (log_condition == 4)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize(("n_rows", "d"), [(30, 4), (30, 29), (30, 30), (20, 75)])
def test_both_doors_equal_refitting_on_every_size(fit_intercept, n_rows, d):
    fold = plain_fold(n_rows, d)
    utility, refit = both(fold, fit_intercept=fit_intercept)
    order = random_order(n_rows)
    prefixes = prefix_coalitions(order[0], np.arange(n_rows + 1))
    expected = refit(prefixes)
    assert_allclose(utility(prefixes), expected, rtol=1e-8)
    assert utility.has_cheap_prefixes
    assert_allclose(utility.prefixes(order)[0], expected, rtol=1e-8)
    assert utility._refitting.n_sets <= 4  # near as many rows as columns


def test_columns_of_very_different_size_need_no_refitting():
    scales = 10.0 ** np.arange(-2, 3)
    rng = np.random.default_rng(6)
    fold = make_fold(rng.normal(size=(70, 5)) * scales + 10 * scales, 40)
    utility, refit = both(fold)
    coalitions = sets_of_size(25, 20, 40)
    assert_allclose(utility(coalitions), refit(coalitions), rtol=1e-9)
    assert utility._refitting.n_sets == 0


def test_sets_of_doubtful_rank_are_refitted_to_the_bit():
    rng = np.random.default_rng(7)
    X = rng.normal(size=(60, 5))
    X[:12, 4] = X[:12, 3]  # the same column as far as these rows go
    X[1] = X[0]
    fold = make_fold(X, 40)
    utility, refit = both(fold)
    among = np.zeros((8, 40), dtype=bool)
    for j in range(8):
        among[j, : j + 5] = True
    assert_array_equal(utility(among), refit(among))
    assert utility._refitting.n_sets == 8
    order = np.arange(40)[np.newaxis]
    prefixes = prefix_coalitions(order[0], np.arange(41))
    assert_allclose(utility.prefixes(order)[0], refit(prefixes), rtol=1e-8)


def test_no_route_depends_on_the_batch():
    for d in (4, 75):
        utility, _ = both(plain_fold(40, d), "neg_mean_absolute_error")
        coalitions = np.concatenate([sets_of_size(size, 40, 40) for size in (1, 3, 5, 20)])
        whole = utility(coalitions)
        for chosen in ([0], [130, 2, 90], np.arange(1, 66)):
            assert_array_equal(utility(coalitions[chosen]), whole[chosen])
        orders = np.concatenate([random_order(40, seed) for seed in range(4)])
        whole = utility.prefixes(orders)
        assert_array_equal(utility.prefixes(orders[[3]]), whole[[3]])
        some = utility.prefixes(orders[[2, 0]], [0, 3, 30])
        assert_array_equal(some, whole[[2, 0]][:, [0, 3, 30]])


def test_constraints_and_dependent_columns_are_declined():
    fold = plain_fold()
    assert why_not(fold, positive=True)
    doubled = Fold(0, fold.X.copy(), fold.y, fold.X_val, fold.y_val)
    doubled.X[:, 1] = 2 * doubled.X[:, 0] + 1
    assert why_not(doubled)
    assert why_not(plain_fold(300, 100))
