"""Discriminant analysis without refitting: small and singular sets, refusals, shrinkage."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from sklearn.preprocessing import StandardScaler

from skdvl.metrics import resolve_scorer
from skdvl.utilities.base import prefix_coalitions
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.discriminant import LinearDiscriminantUtility
from skdvl.utilities.incremental.quadratic_discriminant import QuadraticDiscriminantUtility
from skdvl.utilities.record import recording
from skdvl.utilities.refit import RefitUtility
from skdvl.utilities.supervised import FallbackRule

LDA, QDA = LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
HAS_SOLVERS = "solver" in QDA().get_params()  # of the quadratic one, from scikit-learn 1.8 on


class CountedRefit(RefitUtility):
    """Refitting that counts how many sets it is asked for."""

    n_sets = 0

    def _score(self, rows):
        self.n_sets += len(rows)
        return super()._score(rows)


def make_fold(n_classes=3, n_rows=50, d=6, n_val=40, seed=0):
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(n_rows + n_val) % n_classes)
    X = rng.normal(size=(n_rows + n_val, d)) @ rng.normal(size=(d, d)) + 10
    X += rng.normal(size=(n_classes, d))[codes]
    names = np.array([f"class {k}" for k in range(n_classes)])
    y = names[codes]
    return Fold(0, X[:n_rows], y[:n_rows], X[n_rows:], y[n_rows:], names)


def both(estimator, fold, scoring="true_class_probability"):
    engine = LinearDiscriminantUtility
    if isinstance(estimator, QDA):
        engine = QuadraticDiscriminantUtility
    judge = Judge(fold, resolve_scorer(scoring, estimator), own_score=False)
    assert engine.why_not(estimator, fold, judge) is None
    fallback = FallbackRule(judge)
    utility = engine(estimator, fold, judge, fallback)
    utility.__dict__["_refitting"] = CountedRefit(estimator, fold, judge, fallback)
    return utility, RefitUtility(estimator, fold, judge, fallback)


def why_not(estimator, fold):
    engine = LinearDiscriminantUtility if isinstance(estimator, LDA) else None
    engine = engine or QuadraticDiscriminantUtility
    return engine.why_not(estimator, fold, Judge(fold, None, own_score=False))


def assert_same(utility, refit, coalitions, rtol=1e-9):
    with recording() as ours:
        found = utility(coalitions)
    with recording() as theirs:
        expected = refit(coalitions)
    assert_allclose(found, expected, rtol=rtol, atol=1e-12)
    assert ours.n_refused == theirs.n_refused
    return ours, theirs, expected


def prefixes_of(n_rows, seed=0):
    order = np.random.default_rng(seed).permutation(n_rows)
    return order[np.newaxis], prefix_coalitions(order, np.arange(n_rows + 1))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("d", [1, 5, 30])
def test_svd_is_solved_without_refitting_from_few_rows_to_many(n_classes, d):
    fold = make_fold(n_classes, d=d)
    utility, refit = both(LDA(), fold)
    order, coalitions = prefixes_of(50)
    _, _, expected = assert_same(utility, refit, coalitions)
    assert_allclose(utility.prefixes(order)[0], expected, rtol=1e-9)
    assert utility._refitting.n_sets <= 2


def test_svd_leaves_out_directions_without_variance():
    fold = make_fold(3, d=6)
    for X in (fold.X, fold.X_val):
        X[:, 5] = X[:, 3] - X[:, 4]
    utility, refit = both(LDA(), fold)
    _, coalitions = prefixes_of(50)
    assert_same(utility, refit, coalitions)
    assert utility._refitting.n_sets <= 2


def test_svd_with_class_means_on_a_line_is_left_to_refitting_where_that_decides():
    rng = np.random.default_rng(1)
    codes = np.arange(60) % 3
    X = rng.normal(size=(60, 4))
    for code in range(3):  # means exactly on a line, but for the rounding
        X[codes == code] += code - X[codes == code].mean(axis=0)
    names = np.array(["a", "b", "c"])
    fold = Fold(0, X, names[codes], rng.normal(size=(20, 4)), names[np.arange(20) % 3], names)
    utility, refit = both(LDA(), fold)
    assert_same(utility, refit, np.ones((1, 60), dtype=bool))
    assert utility._refitting.n_sets == 1


@pytest.mark.parametrize("solver", ["lsqr", "eigen"])
@pytest.mark.parametrize("shrinkage", [None, 0.05, "auto"])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_shrinkage(solver, shrinkage, n_classes):
    fold = make_fold(n_classes)
    utility, refit = both(LDA(solver=solver, shrinkage=shrinkage), fold)
    order, coalitions = prefixes_of(50)
    _, _, expected = assert_same(utility, refit, coalitions)
    assert_allclose(utility.prefixes(order)[0], expected, rtol=1e-9)
    if isinstance(shrinkage, float):
        assert utility._refitting.n_sets == 0


@pytest.mark.parametrize("d", [3, 5])  # with three columns there are fewer products than rows
def test_ledoit_wolf_of_a_coalition_is_scikit_learns(d):
    fold = make_fold(2, d=d)
    fold.X[:, d - 1] = np.round(fold.X[:, d - 1])
    utility, _ = both(LDA(solver="lsqr", shrinkage="auto"), fold)
    assert utility._keeps_rows(0) == (d == 5)
    rows = np.random.default_rng(2).random(50) < 0.5
    members = utility.members[0][rows[utility.members[0]]]
    table = utility._prepared().tables[0]
    chosen = rows[utility.members[0]]
    digest = utility._digest(0, np.array([chosen.sum()]), table[chosen].sum(axis=0)[np.newaxis])
    found = np.zeros((d, d))
    covariance = digest[0, d : d + len(utility.row)]
    found[utility.row, utility.column] = found[utility.column, utility.row] = covariance
    scaler = StandardScaler().fit(fold.X[members])
    expected = ledoit_wolf(scaler.transform(fold.X[members]))[0]
    expected = expected * np.outer(scaler.scale_, scaler.scale_)
    assert_allclose(
        found * np.outer(utility.scale, utility.scale), expected, rtol=1e-10, atol=1e-12
    )


def pairs_of_rows(fold, n_sets=150, seed=0):
    """Return sets of two rows of the first two classes and five of the others."""
    rng = np.random.default_rng(seed)
    sets = np.zeros((n_sets, fold.n_rows), dtype=bool)
    for rows in sets:
        for code in range(len(fold.classes)):
            mine = rng.permutation(np.flatnonzero(fold.codes == code))
            rows[mine[: 2 if code < 2 else 5]] = True
    return sets


@pytest.mark.parametrize("solver", ["lsqr", "eigen"])
def test_a_column_that_varies_by_the_rounding_of_the_shrinkage_only(solver):
    fold = make_fold(2, n_rows=30, d=3)
    fold.X[:, 0] = np.random.default_rng(0).choice([1.0, 2.0], 30, p=[0.8, 0.2])
    utility, refit = both(LDA(solver=solver, shrinkage="auto"), fold)
    assert_same(utility, refit, pairs_of_rows(fold))


@pytest.mark.parametrize("d", [3, 5])
def test_two_rows_whose_values_in_one_column_are_close(d):
    fold = make_fold(3, d=d)
    fold.X[:, 0] = np.round(fold.X[:, 0]) + 1e-4 * np.random.default_rng(0).random(50)
    utility, refit = both(LDA(solver="lsqr", shrinkage="auto"), fold)
    assert utility._keeps_rows(0) == (d == 5)
    assert_same(utility, refit, pairs_of_rows(fold))


@pytest.mark.parametrize("solver", ["svd", "lsqr"])
@pytest.mark.parametrize("scoring", ["accuracy", "neg_brier_score", "roc_auc"])
def test_a_single_class_fails_where_scikit_learn_fails(solver, scoring):
    fold = make_fold(2)
    y, y_val = ((a == "class 1").astype(int) for a in (fold.y, fold.y_val))
    fold = Fold(0, fold.X, y, fold.X_val, y_val, np.arange(2))
    shrinkage = 0.2 if solver == "lsqr" else None
    utility, refit = both(LDA(solver=solver, shrinkage=shrinkage), fold, scoring)
    single = np.zeros((12, 50), dtype=bool)
    for j in range(12):
        members = np.flatnonzero(y == j % 2)
        single[j, members[: j // 2 + 1]] = True
    ours, theirs, _ = assert_same(utility, refit, single)
    assert ours.refused == theirs.refused
    assert utility._refitting.n_sets == 0


@pytest.mark.parametrize(
    "estimator",
    [
        LDA(priors=[0.2, 0.3, 0.5]),
        LDA(priors=[1, 2, 2]),
        QDA(reg_param=0.3, priors=[0.2, 0.3, 0.5]),
    ],
)
def test_priors_and_classes_that_are_missing(estimator):
    fold = make_fold(3, d=3)
    utility, refit = both(estimator, fold)
    _, coalitions = prefixes_of(50)
    without = fold.y != "class 1"
    assert_same(utility, refit, np.concatenate([coalitions, coalitions & without]))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("d", [1, 4])
@pytest.mark.parametrize(
    "parameters",
    [{}, {"reg_param": 0.1}, {"tol": 0.5}]
    + [{"solver": "eigen", "shrinkage": s} for s in (None, 0.1, "auto") if HAS_SOLVERS],
)
def test_quadratic_scores_and_refusals(n_classes, d, parameters):
    fold = make_fold(n_classes, d=d)
    utility, refit = both(QDA(**parameters), fold)
    order, coalitions = prefixes_of(50)
    rtol = 1e-9 if HAS_SOLVERS else 1e-7  # singular covariances then go on, with a warning
    ours, theirs, expected = assert_same(utility, refit, coalitions, rtol)
    assert {message[:40] for message, _ in ours.refused} == {
        message[:40] for message, _ in theirs.refused
    }
    assert_allclose(utility.prefixes(order)[0], expected, rtol=rtol)
    if HAS_SOLVERS:
        assert utility._refitting.n_sets <= 4


@pytest.mark.skipif(not HAS_SOLVERS, reason="older versions do not refuse deficient covariances")
def test_eigenvalues_near_tol_are_compared_as_scikit_learn_compares_them():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(40, 3))
    codes = np.arange(40) % 2
    for code in range(2):  # eigenvalues 4, 1 and 0.25 of the whole class's covariance
        centred = X[codes == code] - X[codes == code].mean(axis=0)
        white = centred @ np.linalg.inv(np.linalg.cholesky(centred.T @ centred / 20)).T
        X[codes == code] = white * [2, 1, 0.5] + code
    names = np.array(["a", "b"])
    fold = Fold(0, X, names[codes], X[:10], names[codes[:10]], names)
    full = np.ones((1, 40), dtype=bool)
    n_refused = [
        assert_same(*both(QDA(tol=tol), fold), full)[0].n_refused
        for tol in (0.2, 0.249, 0.25, 0.251, 0.263, 0.264, 0.9)  # scaled by 20/19 in 1.8
    ]
    assert n_refused[0] == 0
    assert n_refused[-1] == 1


@pytest.mark.parametrize(
    "estimator",
    [
        LDA(),
        LDA(solver="lsqr", shrinkage=0.1),
        LDA(solver="lsqr", shrinkage="auto"),
        LDA(solver="eigen", shrinkage="auto"),
        QDA(reg_param=0.1),
    ],
)
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("d", [2, 12])
def test_a_utility_does_not_depend_on_its_batch(estimator, n_classes, d):
    utility, _ = both(estimator, make_fold(n_classes, d=d))
    rng = np.random.default_rng(4)
    coalitions = rng.random((140, 50)) < rng.random((140, 1))
    whole = utility(coalitions)
    for chosen in ([0], [139, 3], np.arange(1, 66)):
        assert_array_equal(utility(coalitions[chosen]), whole[chosen])
    orders = np.concatenate([prefixes_of(50, seed)[0] for seed in range(4)])
    whole = utility.prefixes(orders)
    assert_array_equal(utility.prefixes(orders[[3]]), whole[[3]])
    assert_array_equal(utility.prefixes(orders[[2, 0]]), whole[[2, 0]])


@pytest.mark.parametrize(
    "estimator",
    [
        LDA(n_components=1),
        LDA(shrinkage=0.1),
        LDA(tol=1e-12),
        LDA(priors=[0.5, 0.5]),
        LDA(priors=[0.5, 0.500001, 0.0]),
        LDA(priors=[0.3, 0.3, 0.400001]),
        QDA(priors=[0.0, 0.5, 0.5]),
    ],
)
def test_what_is_not_exact_is_declined(estimator):
    assert why_not(estimator, make_fold(3))


def test_a_margin_is_given_for_two_classes_only():
    judge = Judge(make_fold(3), resolve_scorer("roc_auc_ovr", LDA()), own_score=False)
    judge.scorer._response_method = "decision_function"
    assert LinearDiscriminantUtility.why_not(LDA(), judge.fold, judge)
