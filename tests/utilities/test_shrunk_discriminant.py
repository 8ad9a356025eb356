"""Refitting LDA with automatic shrinkage without scikit-learn's checks: the same bits."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from skdvl.metrics import resolve_scorer
from skdvl.utilities.base import prefix_coalitions
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental import shrunk_discriminant
from skdvl.utilities.incremental.discriminant import LinearDiscriminantUtility
from skdvl.utilities.incremental.shrunk_discriminant import ShrunkDiscriminantRefit
from skdvl.utilities.record import recording
from skdvl.utilities.refit import RefitUtility
from skdvl.utilities.supervised import FallbackRule

pytestmark = pytest.mark.oldest
SOLVERS = ["lsqr", "eigen"]


def columns(kind, rng, n_rows=24, d=30):
    """Return training rows of very different scales, whose covariances have their quirks."""
    X = rng.normal(size=(n_rows, d)) * np.exp(rng.normal(0, 3, d)) + rng.normal(size=d)
    if kind == "duplicates":
        X = X[rng.integers(0, 4, n_rows)]
    elif kind == "constant columns":
        X[:, ::3] = 0.1
        X[:, 1] = 0.0
    elif kind == "a whole column":
        X = X[:, :4]
        X[:, 0] = 2.0
    elif kind == "whole numbers":
        X = np.round(X).astype(np.int64)
    elif kind == "one column":
        X = X[:, :1]
    elif kind == "column by column":
        X = np.asfortranarray(X)
    elif kind == "frame":
        X = pd.DataFrame(X, columns=[f"column {j}" for j in range(d)])
    return X


KINDS = ["plain", "duplicates", "constant columns", "a whole column"]
KINDS += ["whole numbers", "one column", "column by column", "frame"]


def make_fold(kind="plain", n_classes=2, seed=0):
    rng = np.random.default_rng(seed)
    X = columns(kind, rng)
    y = np.array([f"class {k}" for k in rng.permutation(np.arange(24) % n_classes)])
    names = np.unique(y)
    return Fold(0, X, y, X, y, names)


def small_sets(fold, rng, n_sets=18):
    """Return sets of one class, and of several, with one to three rows of each."""
    sets = []
    for j in range(n_sets):
        seen = rng.permutation(len(fold.classes))[: 1 + j % len(fold.classes)]
        rows = np.zeros(fold.n_rows, dtype=bool)
        for code in seen:
            rows[rng.permutation(np.flatnonzero(fold.codes == code))[: rng.integers(1, 4)]] = True
        sets.append(rows)
    return np.array(sets)


def three(fold, solver, scoring="accuracy", priors=None):
    """Return the engine, the refitting that it leaves doubtful sets to, and plain refitting."""
    estimator = LinearDiscriminantAnalysis(solver=solver, shrinkage="auto", priors=priors)
    judge = Judge(fold, resolve_scorer(scoring, estimator), own_score=False)
    arguments = (estimator, fold, judge, FallbackRule(judge))
    return LinearDiscriminantUtility(*arguments), *(
        kind(*arguments) for kind in (ShrunkDiscriminantRefit, RefitUtility)
    )


def assert_same(utility, refit, coalitions):
    with recording() as ours:
        found = utility(coalitions)
    with recording() as theirs:
        expected = refit(coalitions)
    assert_array_equal(found, expected)
    assert ours.refused == theirs.refused


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.filterwarnings("ignore")
def test_coefficients_have_the_bits_of_scikit_learns(solver, kind, n_classes):
    fold = make_fold(kind, n_classes)
    _, shrunk, plain = three(fold, solver)
    n_fitted = 0
    for rows in small_sets(fold, np.random.default_rng(1)):
        which = np.flatnonzero(rows)
        model = clone(plain.estimator)
        try:
            model.fit(fold.X.iloc[which] if kind == "frame" else fold.X[which], fold.y[which])
        except (ValueError, np.linalg.LinAlgError):
            continue
        alike = shrunk._fit_alike(which)
        n_fitted += 1
        assert_array_equal(alike.coef_, model.coef_)
        assert_array_equal(alike.intercept_, model.intercept_)
        assert_array_equal(alike.classes_, model.classes_)
    assert n_fitted > (9 if solver == "lsqr" else 0)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scoring", ["accuracy", "neg_brier_score", "roc_auc"])
def test_scores_and_refusals_are_those_of_refitting(solver, kind, scoring):
    fold = make_fold(kind)
    y = (fold.y == "class 1").astype(int)
    fold = Fold(0, fold.X, y, fold.X_val, y, np.arange(2))
    engine, shrunk, plain = three(fold, solver, scoring)
    coalitions = small_sets(fold, np.random.default_rng(2))
    assert_same(shrunk, plain, coalitions)
    if scoring == "accuracy":
        assert_same(engine, plain, coalitions)


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_engine_never_asks_scikit_learn_to_fit_small_sets(solver, monkeypatch):
    X, y = load_breast_cancer(return_X_y=True)
    fold = Fold(0, X[:60], y[:60], X[60:120], y[60:120], np.arange(2))
    engine, _, plain = three(fold, solver)
    orders = np.stack([np.random.default_rng(seed).permutation(60) for seed in range(4)])
    coalitions = np.concatenate([prefix_coalitions(order, np.arange(61)) for order in orders])
    expected = plain(coalitions)
    shrunk_discriminant._gives_the_same_bits(solver, *shrunk_discriminant._settings())
    monkeypatch.setattr(LinearDiscriminantAnalysis, "fit", None)
    assert_array_equal(engine(coalitions), expected)
    assert_array_equal(engine.prefixes(orders).ravel(), expected)


def test_scikit_learn_is_asked_itself_where_priors_are_given_or_numbers_overflow():
    fold = make_fold()
    _, shrunk, plain = three(fold, "lsqr", priors=[0.3, 0.7])
    coalitions = small_sets(fold, np.random.default_rng(3), 10)
    assert_same(shrunk, plain, coalitions)
    _, shrunk, plain = three(fold, "lsqr")
    fold.X[:, 0] *= 1e200
    assert_same(shrunk, plain, coalitions)


def test_a_scikit_learn_that_computes_otherwise_is_asked_itself(monkeypatch):
    fold = make_fold()
    _, shrunk, _ = three(fold, "lsqr")
    rows = np.flatnonzero(small_sets(fold, np.random.default_rng(4), 2)[1])
    assert shrunk._fit_alike(rows) is not None
    shrunk_discriminant._gives_the_same_bits.cache_clear()
    solve = LinearDiscriminantAnalysis._solve_lstsq

    def solve_otherwise(self, *arguments, **keywords):
        solve(self, *arguments, **keywords)
        self.intercept_ = np.nextafter(self.intercept_, np.inf)

    monkeypatch.setattr(LinearDiscriminantAnalysis, "_solve_lstsq", solve_otherwise)
    try:
        assert shrunk._fit_alike(rows) is None
    finally:
        shrunk_discriminant._gives_the_same_bits.cache_clear()


def test_settings_are_checked_for_themselves():
    fold = make_fold()
    _, shrunk, plain = three(fold, "lsqr")
    coalitions = small_sets(fold, np.random.default_rng(5))
    with sklearn.config_context(transform_output="pandas"):
        assert_same(shrunk, plain, coalitions)
