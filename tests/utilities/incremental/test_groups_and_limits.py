"""Laws of every incremental engine: groups, what it declines, how much memory it takes."""

import pickle
import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import is_classifier

from skdvl.utilities.base import prefix_coalitions
from skdvl.utilities.dispatch import find_engines
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.supervised import FallbackRule

ENGINES = find_engines()
FIRST_EXAMPLES = [pytest.param(engine, 0, id=engine.engine) for engine in ENGINES]


@pytest.mark.parametrize(("engine", "k"), FIRST_EXAMPLES)
def test_groups_bring_all_their_rows(both, served_on, engine, k):
    estimator = engine.examples()[k]
    name = served_on(engine, k)[0]
    single, _ = both(engine, estimator, name, None)
    fold = single.fold
    owners = np.random.default_rng(13).permutation(np.arange(fold.n_rows) % 7)
    grouped_fold = Fold(0, fold.X, fold.y, fold.X_val, fold.y_val, fold.classes, owners)
    judge = Judge(grouped_fold, single.judge.scorer, own_score=False)
    grouped = engine(estimator, grouped_fold, judge, FallbackRule(judge))
    coalitions = np.random.default_rng(14).random((30, 7)) < 0.5
    assert_array_equal(grouped(coalitions), single(coalitions[:, owners]))
    order = np.random.default_rng(15).permutation(7)
    by_prefix = grouped.prefixes(order[np.newaxis])[0]
    by_coalition = single(prefix_coalitions(order, np.arange(8))[:, owners])
    assert_allclose(by_prefix, by_coalition, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("engine", "k"), FIRST_EXAMPLES)
def test_subclasses_float32_and_unknown_scorers_are_declined(
    make_fold, make_judge, served_on, engine, k
):
    estimator = engine.examples()[k]
    name = served_on(engine, k)[0]
    fold, judge = make_fold(name), make_judge(name, estimator, None)
    kind = type(estimator)
    own = type(kind.__name__, (kind,), {})(**estimator.get_params(deep=False))
    assert engine.why_not(own, fold, judge)
    single = Fold(0, np.float32(fold.X), fold.y, np.float32(fold.X_val), fold.y_val, fold.classes)
    assert engine.why_not(estimator, single, judge)
    looks_inside = Judge(fold, lambda model, X, y: model.n_features_in_, own_score=False)
    assert engine.why_not(estimator, fold, looks_inside)


@pytest.mark.parametrize(("engine", "k"), FIRST_EXAMPLES)
def test_memory_stays_bounded_and_shipping_small(engine, k):
    estimator = engine.examples()[k]
    rng = np.random.default_rng(16)
    X, X_val = rng.poisson(2, (200, 20)) + 0.0, rng.poisson(2, (3000, 20)) + 0.0
    y, y_val, classes = X[:, 0] + rng.random(200), X_val[:, 0] + rng.random(3000), None
    if is_classifier(estimator):
        classes = np.arange(8)
        y, y_val = np.arange(200) % 8, np.arange(3000) % 8
    fold = Fold(0, X, y, X_val, y_val, classes)
    judge = Judge(fold, None, own_score=False)
    if engine.why_not(estimator, fold, judge) is not None:
        pytest.skip("declined on these data")
    utility = engine(estimator, fold, judge, FallbackRule(judge))
    coalitions = rng.random((300, 200)) < 0.5
    utility(coalitions[:2])
    assert len(pickle.dumps(utility)) < 4 * len(pickle.dumps(fold)) + 50_000
    tracemalloc.start()
    utility(coalitions)
    utility.prefixes(np.stack([rng.permutation(200) for _ in range(2)]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
