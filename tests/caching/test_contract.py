"""The promises of every cache, and that the battery notices when one is broken."""

import sys

import pytest

from skdvl.caching import Cache, DiskCache, MemcachedCache, MemoryCache
from skdvl.caching.contract import check_cache_contract

try:
    from cloudpickle import register_pickle_by_value  # what joblib 1.6 uses
except ImportError:
    from joblib.externals.cloudpickle import register_pickle_by_value  # what joblib had inside

# Worker processes cannot import a test module.
register_pickle_by_value(sys.modules[__name__])


class DictCache(Cache):
    """What a user would write."""

    def __init__(self):
        self._values = {}

    def get_many(self, keys):
        found = {key: self._values[key] for key in keys if key in self._values}
        hits = sum(key in found for key in keys)
        self.count(hits=hits, misses=len(keys) - hits)
        return found

    def set_many(self, items):
        kept = {key: float(value) for key, value in items.items() if abs(value) < float("inf")}
        self._values.update(kept)
        self.count(sets=len(kept))


def test_memory():
    check_cache_contract(MemoryCache)


def test_disk(tmp_path):
    check_cache_contract(lambda: DiskCache(tmp_path))


@pytest.mark.memcached
def test_memcached(memcached_server):
    check_cache_contract(lambda: MemcachedCache(memcached_server.address, namespace="contract"))


@pytest.mark.memcached
def test_several_memcached_servers(memcached_server, start_memcached):
    servers = [memcached_server.address, start_memcached().address, start_memcached().address]
    check_cache_contract(lambda: MemcachedCache(servers, namespace="contract"))


def test_a_cache_of_a_user():
    check_cache_contract(DictCache)


class Rounds(DictCache):
    def get_many(self, keys):
        return {key: round(value, 15) for key, value in super().get_many(keys).items()}


class ReturnsNone(DictCache):
    def get_many(self, keys):
        return {**dict.fromkeys(keys), **super().get_many(keys)}


class KeepsNaN(DictCache):
    def set_many(self, items):
        self._values.update(items)
        self.count(sets=len(items))


class DoesNotCount(DictCache):
    def count(self, **counts):
        pass


class CountsWrongly(DictCache):
    def get_many(self, keys):
        self.count(hits=1)
        return super().get_many(keys)


class Truncates(DictCache):
    def set_many(self, items):
        super().set_many({key[:16]: value for key, value in items.items()})

    def get_many(self, keys):
        found = super().get_many([key[:16] for key in keys])
        return {key: found[key[:16]] for key in keys if key[:16] in found}


class Forgets(DictCache):
    def close(self):
        self._values.clear()


class IsCopied(DictCache):
    def __deepcopy__(self, memo):
        return type(self)()


class ClaimsToBeShared(DictCache):
    shared_between_processes = True


class SmallIntegers(DictCache):
    def set_many(self, items):
        super().set_many({key: value for key, value in items.items() if value < 1e3})


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (Rounds, "exact to the bit"),
        (ReturnsNone, "absent key is absent"),
        (KeepsNaN, "NaN and infinities"),
        (DoesNotCount, "are counted"),
        (CountsWrongly, "are counted"),
        (Truncates, "any 16 to 32 bytes"),
        (Forgets, "opens again"),
        (IsCopied, "deepcopy"),
        (ClaimsToBeShared, "exact to the bit"),
        (SmallIntegers, "every key that was stored"),
    ],
)
def test_the_battery_notices_a_broken_cache(broken, promise):
    with pytest.raises(AssertionError, match=promise):
        check_cache_contract(broken)
