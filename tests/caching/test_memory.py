import pickle
import sys

import pytest

from skdvl.caching import CacheInfo, DiskCache, MemcachedCache, MemoryCache
from skdvl.caching.database import database_class
from skdvl.caching.memory import SNAPSHOT_ITEMS


def test_the_least_recently_used_leave_first():
    cache = MemoryCache(max_items=3)
    cache.set_many({b"a": 1.0, b"b": 2.0, b"c": 3.0})
    cache.get_many([b"a"])
    cache.set_many({b"b": 2.0})
    cache.set_many({b"d": 4.0})
    assert cache.get_many([b"a", b"b", b"c", b"d"]) == {b"a": 1.0, b"b": 2.0, b"d": 4.0}
    assert len(cache) == 3


def test_a_block_larger_than_the_cache_keeps_its_end():
    cache = MemoryCache(max_items=2)
    cache.set_many({bytes([i]): float(i) for i in range(10)})
    assert cache.get_many([bytes([i]) for i in range(10)]) == {b"\x08": 8.0, b"\x09": 9.0}


def test_zero_is_a_value():
    cache = MemoryCache()
    cache.set_many({b"zero": 0.0})
    assert cache.get_many([b"zero"]) == {b"zero": 0.0}


def test_clear_forgets_and_an_empty_cache_is_still_one():
    cache = MemoryCache()
    cache.set_many({b"a": 1.0})
    cache.clear()
    assert len(cache) == 0
    assert cache
    assert cache.get_many([b"a"]) == {}


def test_instances_are_stores_of_their_own():
    one, other = MemoryCache(), MemoryCache()
    one.set_many({b"a": 1.0})
    assert other.get_many([b"a"]) == {}


@pytest.mark.parametrize("max_items", [0, -1])
def test_a_cache_of_nothing_is_refused(max_items):
    with pytest.raises(ValueError, match="at least 1"):
        MemoryCache(max_items)


def test_a_worker_starts_with_the_most_recent_entries(run_python, tmp_path):
    cache = MemoryCache(max_items=SNAPSHOT_ITEMS + 10)
    keys = [number.to_bytes(16, "big") for number in range(SNAPSHOT_ITEMS + 10)]
    cache.set_many({key: float(number) for number, key in enumerate(keys)})
    (tmp_path / "cache").write_bytes(pickle.dumps(cache))
    script = """if True:
        import pathlib, pickle, sys
        sent = pathlib.Path(sys.argv[1]).read_bytes()
        cache = pickle.loads(sent)
        count = int(sys.argv[2])
        keys = [number.to_bytes(16, "big") for number in range(count + 10)]
        expected = {key: float(number) for number, key in enumerate(keys) if number >= 10}
        assert cache.get_many(keys) == expected
        cache.set_many({b"a worker's own..": 1.0})
        assert pickle.loads(sent) is cache
        assert cache.get_many([b"a worker's own.."])
        print(cache.info())
    """
    printed = run_python(script, tmp_path / "cache", SNAPSHOT_ITEMS)
    info = CacheInfo(hits=SNAPSHOT_ITEMS + 1, misses=10, sets=1)
    assert printed.strip() == str(info)


def test_it_needs_no_optional_library(monkeypatch):
    # As if they were not installed.
    monkeypatch.setitem(sys.modules, "diskcache", None)
    monkeypatch.setitem(sys.modules, "pymemcache", None)
    monkeypatch.setitem(sys.modules, "pymemcache.client.base", None)
    database_class.cache_clear()
    MemoryCache().set_many({b"a": 1.0})
    with pytest.raises(ImportError, match=r'pip install "skdvl\[disk\]"'):
        DiskCache()
    with pytest.raises(ImportError, match=r'pip install "skdvl\[memcached\]"'):
        MemcachedCache()


def test_importing_the_package_imports_no_optional_library(run_python):
    script = "import sys, skdvl.caching; print({'diskcache', 'pymemcache'} & set(sys.modules))"
    assert run_python(script).strip() == "set()"
