"""The data on which every incremental engine is tested, and refitting to compare it with."""

from functools import lru_cache

import numpy as np
import pytest
from sklearn.base import clone, is_classifier

from skdvl.metrics import resolve_scorer
from skdvl.utilities.base import prefix_coalitions
from skdvl.utilities.dispatch import has_own_score
from skdvl.utilities.fold import Fold, Judge, take_rows
from skdvl.utilities.refit import RefitUtility
from skdvl.utilities.supervised import FallbackRule

# --- data -------------------------------------------------------------------------------------


def two_classes():
    rng = np.random.default_rng(1)
    X, X_val = rng.normal(size=(26, 3)) + 100, rng.normal(size=(30, 3)) + 100
    y, y_val = (rng.random(26) < 0.4).astype(int), np.arange(30) % 2
    X[:, 0] += y
    X_val[:, 0] += y_val
    return X, y, X_val, y_val


def three_words():
    """String labels, one of them on two rows; duplicates that disagree; constant columns."""
    rng = np.random.default_rng(2)
    codes = np.array([0] * 11 + [1] * 11 + [2] * 2)
    X = rng.normal(size=(24, 5)) + 0.7 * codes[:, np.newaxis]
    X[:, 1] = 0.1
    X[codes == 0, 2] = 0.3  # constant inside a class only
    X[1] = X[2] = X[0]
    X[12] = X[0]
    order = rng.permutation(24)
    val_codes = np.arange(24) % 3
    X_val = rng.normal(size=(24, 5)) + 0.7 * val_codes[:, np.newaxis]
    X_val[:, 1] = 0.1
    names = np.array(["ant", "bee", "cat"])
    return X[order], names[codes[order]], X_val, names[val_codes]


def wide():
    rng = np.random.default_rng(3)
    y, y_val = np.arange(20) % 2, np.arange(22) % 2
    X, X_val = rng.normal(size=(20, 30)), rng.normal(size=(22, 30))
    X[:, :4] += y[:, np.newaxis]
    X_val[:, :4] += y_val[:, np.newaxis]
    names = np.array(["no", "yes"])
    return X, names[y], X_val, names[y_val]


def counts():
    """Small whole numbers; a column of zeros; the validation rows hold unseen counts."""
    rng = np.random.default_rng(4)
    y, y_val = rng.integers(0, 3, 25), np.arange(21) % 3
    rates = np.array([[1, 2, 0.3, 0.5, 1, 1], [2, 1, 0.3, 1.5, 1, 0.2], [1, 1, 1, 0.1, 2, 1]])
    X, X_val = rng.poisson(rates[y]), rng.poisson(rates[y_val])
    X[:, 2] = X_val[:, 2] = 0
    X_val[0, 0] = X[:, 0].max() + 1
    return X, 10 * (y + 1), X_val, 10 * (y_val + 1)


def categories():
    """Codes of categories, some of them rare; the validation rows have all but the rarest."""
    rng = np.random.default_rng(17)
    y, y_val = rng.integers(0, 3, 24), np.arange(18) % 3
    X, X_val = rng.integers(0, 3, (24, 6)), rng.integers(0, 3, (18, 6))
    X[:, 0], X_val[:, 0] = (y + rng.integers(0, 2, 24)) % 3, y_val
    X[:3, 3], X_val[0, 3], X[5, 1] = 3, 3, 4
    names = np.array(["x", "y", "z"])
    return X, names[y], X_val, names[y_val]


def bits():
    rng = np.random.default_rng(18)
    y, y_val = rng.integers(0, 2, 24), np.arange(20) % 2
    rates = np.array([[0.2, 0.7, 0.4, 0.5], [0.6, 0.3, 0.5, 0.5]])
    return rng.random((24, 4)) < rates[y], y, rng.random((20, 4)) < rates[y_val], y_val


def many_rows():
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(6, 8))
    y, y_val = rng.integers(0, 6, 320), np.arange(18) % 6
    return (
        centres[y] + rng.normal(size=(320, 8)),
        y,
        centres[y_val] + rng.normal(size=(18, 8)),
        y_val,
    )


def line():
    rng = np.random.default_rng(6)
    X, X_val = rng.normal(size=(24, 3)), rng.normal(size=(20, 3))
    slope = np.array([1.0, -2.0, 0.5])
    return X, X @ slope + rng.normal(size=24), X_val, X_val @ slope + rng.normal(size=20)


def far_targets():
    """Targets and columns far from zero, a constant column, duplicates that disagree."""
    rng = np.random.default_rng(7)
    X, X_val = rng.normal(size=(24, 4)) + 1000, rng.normal(size=(20, 4)) + 1000
    X[:, 2] = X_val[:, 2] = 7
    X[1] = X[0]
    X[3] = X[2]
    y = 1e6 + X[:, 0] + rng.normal(size=24)
    return X, y, X_val, 1e6 + X_val[:, 0] + rng.normal(size=20)


def wide_line():
    rng = np.random.default_rng(8)
    X, X_val = rng.normal(size=(18, 30)), rng.normal(size=(20, 30))
    return X, X[:, 0] + rng.normal(size=18), X_val, X_val[:, 0] + rng.normal(size=20)


def whole_targets():
    """Whole numbers as data and targets; the validation rows all have the same target."""
    rng = np.random.default_rng(9)
    X, X_val = rng.integers(0, 4, (22, 3)), rng.integers(0, 4, (15, 3))
    return X, rng.integers(0, 5, 22), X_val, np.full(15, 2)


def many_rows_line():
    rng = np.random.default_rng(10)
    X, X_val = rng.normal(size=(400, 6)), rng.normal(size=(30, 6))
    return X, X[:, 0] * X[:, 1] + rng.normal(size=400), X_val, X_val[:, 0] + rng.normal(size=30)


CLASSIFICATION = {
    f.__name__: f for f in (two_classes, three_words, wide, counts, categories, bits, many_rows)
}
REGRESSION = {f.__name__: f for f in (line, far_targets, wide_line, whole_targets, many_rows_line)}


@lru_cache
def make_fold(name):
    if name in REGRESSION:
        return Fold(0, *REGRESSION[name]())
    X, y, X_val, y_val = CLASSIFICATION[name]()
    return Fold(0, X, y, X_val, y_val, np.unique(y))


@lru_cache
def make_orders(name):
    return np.random.default_rng(0).permutation(make_fold(name).n_rows)[np.newaxis]


@lru_cache
def wanted_sizes(name):
    n_rows = make_fold(name).n_rows
    if n_rows < 100:
        return np.arange(n_rows + 1)
    return np.array([0, 1, 2, 3, 7, 20, 63, 64, 65, 150, n_rows - 1, n_rows])


@lru_cache
def some_coalitions(name):
    """Return the empty coalition, single rows, rows of one class only, random sets."""
    fold = make_fold(name)
    rng = np.random.default_rng(11)
    n = fold.n_rows
    sets = [np.zeros(n, dtype=bool), *np.eye(n, dtype=bool)[:3], fold.y == fold.y[0]]
    sets += [rng.random(n) < rng.random() for _ in range(8 if n >= 100 else 14)]
    return np.stack([*sets, np.ones(n, dtype=bool)])


def doors(utility, name):
    """Yield coalitions with the ways to ask the engine for them."""
    some = some_coalitions(name)
    yield some, [lambda u: u(some)]
    orders, sizes = make_orders(name), wanted_sizes(name)
    prefixes = np.concatenate([prefix_coalitions(order, sizes) for order in orders])
    ways = [lambda u: u(prefixes)]
    if utility.has_cheap_prefixes:
        ways.append(lambda u: u.prefixes(orders, sizes).ravel())
    yield prefixes, ways


# --- an engine and refitting ------------------------------------------------------------------


def make_judge(name, estimator, scoring):
    scorer = resolve_scorer(scoring, estimator)
    return Judge(make_fold(name), scorer, scorer is None and has_own_score(estimator))


class RememberedRefit(RefitUtility):
    """Refitting that keeps its models, so that every scoring judges the same ones."""

    def __init__(self, *args):
        super().__init__(*args)
        self.models = {}

    def model_for(self, rows):
        key = rows.tobytes()
        if key not in self.models:
            try:
                model = clone(self.estimator)
                self.models[key] = model.fit(take_rows(self.fold.X, rows), self.fold.y[rows])
                model.predict(self.fold.X_val)  # some models refuse only now
            except Exception as error:
                self.models[key] = error
        return self.models[key]

    def _refit(self, rows):
        model = self.model_for(rows)
        if isinstance(model, Exception):
            raise model
        return self.judge.judge_model(model)


def both(engine, estimator, name, scoring, remembered=None):
    """Return the engine's utility and refitting's, or None if the engine declines."""
    judge = make_judge(name, estimator, scoring)
    fold = make_fold(name)
    if engine.why_not(estimator, fold, judge) is not None:
        return None
    fallback = FallbackRule(judge)
    refit = RememberedRefit(engine.reference(estimator), fold, judge, fallback)
    if remembered is not None:
        refit.models = remembered
    return engine(estimator, fold, judge, fallback), refit


def served_on(engine, k):
    """Return the data on which an example is served: all for the first one, two for variants."""
    estimator = engine.examples()[k]
    names = CLASSIFICATION if is_classifier(estimator) else REGRESSION
    served = [name for name in names if both(engine, estimator, name, None) is not None]
    return served if k == 0 else (served[k:] + served[:k])[:2]


# --- for the tests ----------------------------------------------------------------------------


@pytest.fixture(scope="session", name="make_fold")
def _make_fold():
    return make_fold


@pytest.fixture(scope="session", name="make_judge")
def _make_judge():
    return make_judge


@pytest.fixture(scope="session", name="both")
def _both():
    return both


@pytest.fixture(scope="session", name="served_on")
def _served_on():
    return served_on


@pytest.fixture(scope="session", name="doors")
def _doors():
    return doors


@pytest.fixture(scope="session", name="wanted_sizes")
def _wanted_sizes():
    return wanted_sizes
