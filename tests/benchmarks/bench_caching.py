"""What a key costs, in batches, against what it saves: one refit of a LogisticRegression.

pytest tests/benchmarks/bench_caching.py; divide the times of the caches by N_KEYS.
"""

import os

import pytest
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression

from skdvl.caching import DiskCache, MemcachedCache, MemoryCache

N_KEYS = 1000  # about a chunk of evaluations


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
