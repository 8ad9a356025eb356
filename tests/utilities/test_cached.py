"""A cache saves evaluations and changes nothing else."""

import importlib.util
import math
import os
import pickle
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.naive_bayes import GaussianNB

from skdvl import ShapleyValuator, estimate_values
from skdvl.caching import Cache, CacheInfo, CacheWarning, DiskCache, MemoryCache
from skdvl.metrics import true_class_probability
from skdvl.parallel.pickling import cloudpickle
from skdvl.sampling import TruncatedMonteCarlo
from skdvl.testing import AirportGame
from skdvl.utilities import CallableUtility, Utility
from skdvl.utilities.base import prefix_coalitions
from skdvl.utilities.cached import CachedUtility, read_through
from skdvl.utilities.fingerprint import FingerprintError
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.record import recording
from skdvl.utilities.refit import RefitUtility
from skdvl.utilities.supervised import FallbackRule

METHODS = ["exact", "permutation", "antithetic", "tmc", "stratified"]


@pytest.fixture(autouse=True, scope="module")
def _classes_travel_by_value():
    """Workers cannot import test modules: pytest does not put them on the path."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


class CountingNB(GaussianNB):
    """Writes a byte into a file whenever it is fitted, in whichever process that happens."""

    def __init__(self, log, var_smoothing=1e-9):
        super().__init__(var_smoothing=var_smoothing)
        self.log = log

    def fit(self, X, y):
        file = os.open(self.log, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        os.write(file, b".")
        os.close(file)
        return super().fit(X, y)


def make_game(estimator, n_players=8, scoring="accuracy", label=None):
    rng = np.random.default_rng(0)
    y = np.arange(n_players + 40) % 2
    X = rng.normal(size=(len(y), 3)) + y[:, np.newaxis]
    if label is not None:
        y[label] = 1 - y[label]
    train, val = slice(0, n_players), slice(n_players, None)
    fold = Fold(0, X[train], y[train], X[val], y[val], np.array([0, 1]))
    own = {"true_class_probability": true_class_probability}
    judge = Judge(fold, own.get(scoring) or get_scorer(scoring), False)
    return RefitUtility(estimator, fold, judge, FallbackRule(judge))


@pytest.fixture
def game(tmp_path):
    return make_game(CountingNB(str(tmp_path / "fits")))


@pytest.fixture
def n_fits(tmp_path):
    """Return how many fits there were since the last call."""
    seen = [0]

    def count():
        path = tmp_path / "fits"
        seen.append(path.stat().st_size if path.exists() else 0)
        return seen[-1] - seen[-2]

    return count


def assert_same_result(one, other):
    assert_array_equal(one.values, other.values)
    assert_array_equal(one.standard_errors, other.standard_errors)
    assert one.n_evals == other.n_evals


# --- what is saved ----------------------------------------------------------------------------


def test_exact_after_exact_computes_nothing(game, n_fits):
    cache = MemoryCache()
    first = estimate_values(game, method="exact", cache=cache)
    assert n_fits() == 255  # ∅ is not fitted
    assert first.cache_info == CacheInfo(misses=256, sets=256)
    second = estimate_values(game, method="exact", cache=cache)
    assert n_fits() == 0
    assert second.cache_info == CacheInfo(hits=256)
    assert_same_result(first, second)


@pytest.mark.parametrize("method", ["permutation", "antithetic", "tmc", "stratified"])
def test_sampling_asks_for_no_coalition_twice(game, n_fits, method):
    options = {"method": method, "max_evals": 800, "random_state": 0}
    result = estimate_values(game, cache=MemoryCache(), **options)
    # a chunk may hold a coalition twice: both are misses, and one is computed
    assert n_fits() == result.cache_info.sets - 1 <= 255
    assert result.cache_info.hits + result.cache_info.misses == result.n_evals <= 800


def test_methods_semivalues_and_seeds_share_their_evaluations(game, n_fits):
    cache = MemoryCache()
    estimate_values(game, method="exact", cache=cache)
    n_fits()
    for method in METHODS:
        for random_state in (0, 1):
            options = {"method": method, "random_state": random_state, "cache": cache}
            estimate_values(game, semivalue="banzhaf", **options)
    assert n_fits() == 0


SCRIPT = """
import sys
from skdvl import estimate_values
from skdvl.caching import DiskCache
from skdvl.testing import AirportGame
result = estimate_values(AirportGame((3, 4, 2)), method="exact", cache=DiskCache(sys.argv[1]))
print(result.cache_info.hits, result.cache_info.misses, result.values.tobytes().hex())
"""


def test_a_second_process_finds_what_the_first_left_on_the_disk(tmp_path, skip_missing_part):
    if importlib.util.find_spec("diskcache") is None:
        skip_missing_part("diskcache is not installed")
    printed = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, tmp_path], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert printed[0][:2] == ["0", "512"]
    assert printed[1][:2] == ["512", "0"]
    assert printed[0][2] == printed[1][2]


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize(
    "backend",
    [
        "threading",
        "loky",
        "multiprocessing",
        pytest.param("ray joblib", marks=pytest.mark.ray),
        pytest.param("RayExecutor", marks=pytest.mark.ray),
    ],
)
def test_a_cache_serves_workers(game, n_fits, open_backend, tmp_path, backend, kind):
    cache = MemoryCache() if kind == "memory" else DiskCache(tmp_path / "cache")
    options = {"method": "exact", "cache": cache}
    with open_backend(backend), cache:
        first = estimate_values(game, **options)
        assert n_fits() == 255
        second = estimate_values(game, **options)
        assert n_fits() == 0
    assert replace(first.cache_info, bytes=0) == CacheInfo(misses=256, sets=256)
    assert replace(second.cache_info, bytes=0) == CacheInfo(hits=256)
    assert_same_result(first, second)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_second_exact_fit_trains_on_whole_folds_only(n_fits, tmp_path, n_jobs):
    """Once for ``estimator_``, and once per fold so that a mistake shows."""
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    X = rng.normal(size=(40, 3)) + y[:, np.newaxis]
    valuator = ShapleyValuator(
        CountingNB(str(tmp_path / "fits")), method="exact", engine="refit", cv=2, n_jobs=n_jobs
    )
    valuator.set_params(cache=MemoryCache()).fit(X, y, groups=np.arange(40) % 8)
    assert n_fits() == 2 * 255 + 3
    valuator.set_params(random_state=1).fit(X, y, groups=np.arange(40) % 8)
    assert n_fits() == 3
    assert valuator.cache_info_ == CacheInfo(hits=512)


@pytest.mark.parametrize("change", [{"label": 0}, {"label": 9}, {"scoring": "f1"}, {"C": 2.0}])
def test_another_game_hits_nothing(change):
    change = dict(change)
    cache = MemoryCache()
    estimate_values(make_game(LogisticRegression(), 5), method="exact", cache=cache)
    other = make_game(LogisticRegression(C=change.pop("C", 1.0)), 5, **change)
    assert estimate_values(other, method="exact", cache=cache).cache_info.hits == 0


# --- what is not changed ----------------------------------------------------------------------


@pytest.mark.parametrize("method", [*METHODS, TruncatedMonteCarlo(truncation=0.3)], ids=str)
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_the_same_bits_without_and_with_a_cold_warm_and_half_warm_cache(game, method, n_jobs):
    options = {"method": method, "max_evals": 256, "random_state": 0}
    expected = estimate_values(game, **options)
    cache = MemoryCache()
    options |= {"n_jobs": n_jobs}
    with joblib.parallel_config(backend="threading"):
        for _ in ("cold", "warm"):
            assert_same_result(estimate_values(game, cache=cache, **options), expected)
        half = MemoryCache()
        half._keep(dict(list(cache.__getstate__().items())[::2]))
        assert_same_result(estimate_values(game, cache=half, **options), expected)


class Given(Cache):
    """Answers with what it is given, whatever it is asked to keep."""

    def __init__(self, answer):
        self.answer = answer

    def get_many(self, keys):
        return self.answer(keys)

    def set_many(self, items):
        pass


def raise_error(keys):
    raise ConnectionError("gone")


MALFORMED = {
    "other keys": lambda keys: {key + b"x": 1.0 for key in keys},
    "NaN": lambda keys: dict.fromkeys(keys, math.nan),
    "too large": lambda keys: dict.fromkeys(keys, 1e200),
    "infinite": lambda keys: dict.fromkeys(keys, -math.inf),
    "texts": lambda keys: dict.fromkeys(keys, "0.5"),
    "bytes": lambda keys: dict.fromkeys(keys, b"\0" * 8),
    "none": lambda keys: dict.fromkeys(keys),
    "arrays": lambda keys: dict.fromkeys(keys, np.zeros(2)),
    "objects": lambda keys: dict.fromkeys(keys, object()),
    "nothing": lambda keys: None,
    "a list": lambda keys: [0.5] * len(keys),
    "an error": raise_error,
}


@pytest.mark.parametrize("answer", MALFORMED)
def test_a_malformed_cache_never_changes_values(answer):
    game = AirportGame((3, 4, 1))
    expected = estimate_values(game, method="exact")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = estimate_values(game, method="exact", cache=Given(MALFORMED[answer]))
    assert_same_result(result, expected)
    assert (result.cache_info.hits, result.cache_info.misses) == (0, 256)
    failed = answer in ("nothing", "a list", "an error")
    assert (result.cache_info.errors > 0) == failed
    assert [w.category for w in caught] == [CacheWarning] * failed


def test_a_cache_that_cannot_keep_is_warned_of_once():
    game = AirportGame((3, 4, 1))

    class Full(Given):
        def set_many(self, items):
            raise OSError("no room")

    cache = Full(lambda keys: {})
    with pytest.warns(CacheWarning, match="no room") as caught:
        result = estimate_values(game, method="exact", cache=cache)
    assert len(caught) == 1
    assert_same_result(result, estimate_values(game, method="exact"))


def test_a_cache_that_fails_in_workers_is_warned_of_at_home():
    game = AirportGame((3, 4, 1))
    cache = Given(raise_error)
    home = os.getpid()
    cache.answer = lambda keys: raise_error(keys) if os.getpid() != home else {}
    with (
        joblib.parallel_config(backend="loky", n_jobs=2),
        pytest.warns(CacheWarning, match="worker") as caught,
    ):
        result = estimate_values(game, method="exact", cache=cache)
    assert len(caught) == 1
    assert result.cache_info.errors > 0
    assert result.cache_info.misses == 256


# --- how it works -----------------------------------------------------------------------------


def test_utilities_as_fast_as_a_look_up_go_past_the_cache():
    fast = AirportGame((3, 4))
    fast.evals_are_cheap = True
    cache = MemoryCache()
    assert read_through(cache, fast) is fast
    assert read_through(None, AirportGame((3, 4))).engine == "callable"
    result = estimate_values(fast, method="exact", cache=cache)
    assert len(cache) == 0
    assert result.cache_info == CacheInfo(bypassed=128)


class WithPrefixes(Utility):
    """Has its own way with prefixes, and counts how often it is asked for whole orders."""

    n_players = 6
    has_cheap_prefixes = True

    def __init__(self):
        self.n_orders = 0
        self.n_coalitions = 0

    def _evaluate(self, coalitions):
        self.n_coalitions += len(coalitions)
        return np.sqrt(coalitions @ np.arange(6))

    def prefixes(self, orders, sizes=None):
        sizes = np.arange(7) if sizes is None else sizes
        self.n_orders += len(orders)
        return np.stack([np.sqrt(prefix_coalitions(o, sizes) @ np.arange(6)) for o in orders])

    def fingerprint(self):
        return b"with prefixes"


def test_cheap_prefixes_stay_cheap_behind_a_cache():
    expected = estimate_values(WithPrefixes(), method="permutation", max_evals=102, random_state=0)
    cache = MemoryCache()
    for n_orders in (20, 0):
        utility = WithPrefixes()
        result = estimate_values(
            utility, method="permutation", max_evals=102, random_state=0, cache=cache
        )
        assert_same_result(result, expected)
        assert utility.n_orders <= n_orders
        assert utility.n_coalitions <= 2
    assert result.cache_info.hits == 102


def test_keys_are_sets_of_players_and_nothing_else(game):
    rng = np.random.default_rng(0)
    cached = CachedUtility(game, MemoryCache())
    coalitions = rng.random((100, 8)) < 0.5
    keys = cached._keys(coalitions)
    assert {len(key) for key in keys} == {20}
    distinct = len(np.unique(coalitions, axis=0))
    assert len(set(keys)) == distinct
    order = rng.permutation(100)
    assert [keys[j] for j in order] == cached._keys(np.asfortranarray(coalitions[order]))
    assert pickle.loads(pickle.dumps(cached))._keys(coalitions) == keys


def test_the_number_of_players_is_part_of_the_key():
    class Share:
        def __call__(self, players):
            return len(players)

        def fingerprint(self):
            return b"share"

    small, large = (CachedUtility(CallableUtility(Share(), n), MemoryCache()) for n in (3, 5))
    one = np.eye(5, dtype=bool)
    assert small._keys(one[:1, :3]) != large._keys(one[:1])


def test_repeated_coalitions_are_computed_once(game, n_fits):
    cached = CachedUtility(game, MemoryCache())
    coalitions = np.repeat(np.eye(8, dtype=bool)[:, :] | np.eye(8, dtype=bool)[::-1], 3, axis=0)
    with recording() as record:
        found = cached(coalitions)
    assert_array_equal(found, game(coalitions))
    assert n_fits() == 4 + 24
    assert record.cache == CacheInfo(misses=24)
    assert not record.cached  # at home the cache itself keeps them


def test_a_utility_without_a_fingerprint_cannot_be_cached():
    with pytest.raises(FingerprintError, match=r"fingerprint\(\)"):
        CachedUtility(CallableUtility(len, 3), MemoryCache())


def test_a_key_is_cheap():
    """2 µs are the aim; ten times as much is allowed for on a busy machine."""
    cached = CachedUtility(AirportGame((500, 500)), MemoryCache())
    coalitions = np.random.default_rng(0).random((1000, 1000)) < 0.5
    started = time.process_time()
    cached._keys(coalitions)
    assert time.process_time() - started < 1000 * 20e-6
