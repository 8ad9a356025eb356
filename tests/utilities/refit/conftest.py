"""Small folds, their coalitions, and what plain scikit-learn makes of these."""

import numpy as np
import pytest
from sklearn.base import clone

from skdvl.metrics import resolve_scorer
from skdvl.parallel import single_threaded
from skdvl.utilities.dispatch import has_own_score
from skdvl.utilities.fold import Fold, Judge, take_rows
from skdvl.utilities.quiet import quiet_warnings
from skdvl.utilities.refit import RefitUtility
from skdvl.utilities.supervised import FallbackRule

N_ROWS = 24


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """As in a valuation: threads that wait for each other take longer than these fits."""
    with single_threaded():
        yield


def make_fold(kind, seed=0, missing_in_val=None):
    """Return a fold: "two" or "three" classes, "words" for labels, or "numbers" for targets."""
    rng = np.random.default_rng(seed)
    n_classes = {"two": 2, "three": 3, "words": 3, "numbers": 2}[kind]
    codes = np.arange(N_ROWS + 40) % n_classes
    X = rng.normal(size=(len(codes), 3))
    X[:, 0] += codes
    y = codes
    classes = np.arange(n_classes)
    if kind == "words":
        classes = np.array(["bird", "cat", "dog"])
        y = classes[codes]
    elif kind == "numbers":
        y, classes = 10 + X @ [1.0, 2.0, 0.5] + rng.normal(size=len(codes)), None
    rows = np.arange(N_ROWS)
    val = np.arange(N_ROWS, len(codes))
    if missing_in_val is not None:
        val = val[codes[val] != missing_in_val]
    return Fold(0, X[rows], y[rows], X[val], y[val], classes)


def with_data(fold, X, X_val):
    return Fold(0, X, fold.y, X_val, fold.y_val, fold.classes)


def make_utility(estimator, fold, scoring=None, **rules):
    scorer = resolve_scorer(scoring, estimator)
    judge = Judge(fold, scorer, scorer is None and has_own_score(estimator))
    return RefitUtility(estimator, fold, judge, FallbackRule(judge, **rules))


def coalition_of(rows):
    coalition = np.zeros((1, N_ROWS), dtype=bool)
    coalition[0, rows] = True
    return coalition


def random_coalitions(n, seed=1):
    rng = np.random.default_rng(seed)
    coalitions = rng.random((n, N_ROWS)) < rng.random((n, 1))
    coalitions[~coalitions.any(axis=1), 0] = True
    return coalitions


def by_hand(estimator, fold, scoring, coalition):
    """Score a plain clone as any user would; None where it fails."""
    with quiet_warnings():
        try:
            model = clone(estimator).fit(take_rows(fold.X, coalition), fold.y[coalition])
            if scoring is None:
                return model.score(fold.X_val, fold.y_val)
            return resolve_scorer(scoring, model)(model, fold.X_val, fold.y_val)
        except ValueError:
            return None


@pytest.fixture(scope="session", name="make_fold")
def _make_fold():
    return make_fold


@pytest.fixture(scope="session", name="make_utility")
def _make_utility():
    return make_utility


@pytest.fixture(scope="session", name="coalition_of")
def _coalition_of():
    return coalition_of


@pytest.fixture(scope="session", name="random_coalitions")
def _random_coalitions():
    return random_coalitions


@pytest.fixture(scope="session", name="by_hand")
def _by_hand():
    return by_hand


@pytest.fixture(scope="session", name="with_data")
def _with_data():
    return with_data


@pytest.fixture(scope="session", name="N_ROWS")
def _n_rows():
    return N_ROWS
