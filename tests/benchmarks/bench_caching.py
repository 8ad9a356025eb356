"""What a key costs, in batches, against what it saves: one refit of a LogisticRegression.

pytest tests/benchmarks/bench_caching.py; divide the times of the caches by N_KEYS.

With ``-s -k cold``: what a cold cache adds to a whole fit. The processor time of fingerprints,
keys, look-ups and storing is taken within the fit, and compared with all the rest of it: on a busy
machine two whole fits differ by more than a cache costs.
"""

import itertools
import os
import time

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression

from skdvl import ShapleyValuator
from skdvl.caching import Cache, DiskCache, ExternalCache, MemcachedCache, MemoryCache
from skdvl.estimation import estimate
from skdvl.utilities.cached import CachedUtility
from skdvl.utilities.refit import RefitUtility

N_KEYS = 1000  # about a chunk of evaluations
N_ROUNDS = 5


@pytest.fixture(params=["memory", "disk", "memcached"])
def make_cache(request, tmp_path):
    if request.param == "memcached":
        server = request.getfixturevalue("memcached_server")
        return lambda: MemcachedCache(server.address, namespace="bench")
    return MemoryCache if request.param == "memory" else lambda: DiskCache(tmp_path)


def new_items():
    return {os.urandom(20): 0.5 for _ in range(N_KEYS)}


def test_set_many(benchmark, make_cache):
    with make_cache() as cache:
        cache.set_many(new_items())
        benchmark.pedantic(cache.set_many, setup=lambda: ((new_items(),), {}), rounds=30)
        assert cache.info().sets == 31 * N_KEYS


def test_get_many_hits(benchmark, make_cache):
    items = new_items()
    with make_cache() as cache:
        cache.set_many(items)

        def forget_in_memory():
            if cache.shared_between_processes:
                cache._memory.clear()  # else this would measure the layer in front
            return (list(items),), {}

        found = benchmark.pedantic(cache.get_many, setup=forget_in_memory, rounds=30)
        assert found == items


def test_get_many_misses(benchmark, make_cache):
    with make_cache() as cache:
        cache.set_many(new_items())
        benchmark.pedantic(cache.get_many, setup=lambda: ((list(new_items()),), {}), rounds=30)
        assert cache.info().hits == 0


def test_refit(benchmark):
    X, y = make_classification(n_samples=100, n_features=10, random_state=0)
    benchmark(LogisticRegression().fit, X, y)


@pytest.fixture
def make_cold_cache(request, tmp_path):
    """Return caches of a kind, each of which is empty and has yet to open or connect."""
    numbers = itertools.count()

    def make(kind):
        if kind == "memcached":
            server = request.getfixturevalue("memcached_server")
            return MemcachedCache(server.address, namespace=f"cold-{next(numbers)}")
        return MemoryCache() if kind == "memory" else DiskCache(tmp_path / str(next(numbers)))

    return make


class Stopwatch:
    """Adds up the processor time of functions, less that of what they call in turn."""

    def __init__(self):
        self.seconds = 0.0

    def added(self, function, sign=1):
        def timed(*arguments, **named):
            started = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += sign * (time.process_time() - started)

        return timed


def test_a_fit_with_a_cold_cache(make_cold_cache, monkeypatch):
    X, y = make_classification(n_samples=100, n_features=10, random_state=0)
    watch = Stopwatch()
    for owner, name, sign in (
        (estimate, "read_through", 1),
        (CachedUtility, "_evaluate", 1),
        (RefitUtility, "__call__", -1),
        (Cache, "close", 1),
        (ExternalCache, "close", 1),
    ):
        monkeypatch.setattr(owner, name, watch.added(getattr(owner, name), sign))

    def added(cache):
        valuator = ShapleyValuator(LogisticRegression(), engine="refit", random_state=0)
        valuator.set_params(cache=cache)
        watch.seconds, started = 0.0, time.process_time()
        with cache:
            valuator.fit(X, y)
        took = time.process_time() - started
        assert valuator.cache_info_.sets > 0.9 * valuator.n_evals_
        assert valuator.cache_info_.errors == 0
        return watch.seconds / (took - watch.seconds)

    kinds = ["memory", "disk", "memcached"]
    shares = [[added(make_cold_cache(kind)) for kind in kinds] for _ in range(N_ROUNDS)]
    print()
    for kind, of_kind in zip(kinds, 100 * np.transpose(shares), strict=True):
        print(f"{kind:10s} {np.median(of_kind):.2f} % ({of_kind.min():.2f} to {of_kind.max():.2f})")
