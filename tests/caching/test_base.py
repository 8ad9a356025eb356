import copy
import gc
import pickle
import warnings
import weakref

import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from skdvl.caching import (
    Cache,
    CacheInfo,
    CacheWarning,
    DiskCache,
    MemcachedCache,
    MemoryCache,
    check_cache,
)
from skdvl.caching.base import _DEFAULTS, _KEEP, _KEPT, _LIVE, _REGISTRY, _revive


class Plain(Cache):
    def __init__(self, size=1, *, flavour="vanilla"):
        self.size = size
        self.flavour = flavour

    def get_many(self, keys):
        return {}

    def set_many(self, items):
        pass


class Sloppy(Plain):
    def __init__(self, size, colour="red"):
        self.size = size


def test_info_adds_up():
    one = CacheInfo(hits=1, misses=2, sets=3, errors=4, bytes=5, bypassed=6)
    assert one + one - one == one
    assert sum([one, one], CacheInfo()) == CacheInfo(2, 4, 6, 8, 10, 12)
    with pytest.raises(AttributeError):
        one.hits = 3


@pytest.mark.parametrize("value", [None, Plain()])
def test_none_and_instances_are_returned_as_they_are(value):
    assert check_cache(value) is value


def test_a_name_is_one_cache_of_the_process(tmp_path, monkeypatch):
    monkeypatch.setenv("SKDVL_CACHE_DIR", str(tmp_path / "one"))
    assert type(check_cache("memory")) is MemoryCache
    assert check_cache("memory") is check_cache("memory")
    assert check_cache("memory") is not MemoryCache()
    assert type(check_cache("memcached")) is MemcachedCache
    disk = check_cache("disk")
    assert type(disk) is DiskCache
    assert disk is check_cache("disk")
    monkeypatch.setenv("SKDVL_CACHE_DIR", str(tmp_path / "two"))
    assert check_cache("disk").directory == str(tmp_path / "two")
    assert not (tmp_path / "one").exists(), "nothing is touched before it is used"


def test_unknown_names_and_types_are_refused_by_name():
    with pytest.raises(ValueError, match="'disk', 'memcached', 'memory'"):
        check_cache("redis")
    with pytest.raises(TypeError, match="or a skdvl"):
        check_cache({})


def test_a_subclass_registers_under_its_name():
    try:

        class Named(Plain, name="named"):
            pass

        assert type(check_cache("named")) is Named

        with pytest.raises(ValueError, match="already taken"):

            class Other(Plain, name="named"):
                pass

        class Named(Plain, name="named"):  # a notebook cell that is run again
            pass

        assert _REGISTRY["named"] is Named
    finally:
        _REGISTRY.pop("named", None)
        _DEFAULTS.pop("named", None)


def test_a_cache_keeps_its_identity_inside_other_objects():
    cache = Plain()
    estimator = Pipeline([("model", LogisticRegression())], memory=None)
    estimator.cache = cache
    assert clone(cache) is cache
    assert clone([cache], safe=False)[0] is cache
    assert copy.copy(cache) is cache
    assert copy.deepcopy(estimator).cache is cache


def test_a_cache_travels_by_its_constructor_arguments():
    sent = pickle.dumps(Plain(3, flavour="lemon"))
    gc.collect()
    arrived = pickle.loads(sent)
    assert (arrived.size, arrived.flavour) == (3, "lemon")
    assert arrived.info() == CacheInfo()
    assert pickle.loads(sent) is arrived
    assert repr(arrived) == "Plain(size=3, flavour='lemon')"


def test_a_subclass_that_forgets_its_arguments_is_told_so():
    with pytest.raises(TypeError, match="missing: colour"):
        pickle.dumps(Sloppy(1))


def test_a_process_keeps_the_last_few_caches_that_were_sent_to_it():
    tokens = [f"token {number}" for number in range(_KEEP + 2)]
    arrived = [weakref.ref(_revive(Plain, token, {"size": 1})) for token in tokens]
    gc.collect()
    alive = [reference() is not None for reference in arrived]
    assert alive == [False, False] + [True] * _KEEP
    for token in tokens:
        _KEPT.pop(token, None)


def test_a_cache_warns_once():
    cache = Plain()
    with pytest.warns(CacheWarning, match=r"Plain\(size=1.*out of order"):
        cache.warn("out of order")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.warn("still out of order")


def test_a_copy_in_a_worker_is_silent_and_its_locks_are_free(run_in_fork, monkeypatch):
    cache = Plain()

    def child():
        # What multiprocessing and loky set in the processes that they start.
        monkeypatch.setattr("multiprocessing.parent_process", lambda: "the parent")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            cache.warn("out of order")
        assert cache.info() == CacheInfo()
        with pytest.warns(CacheWarning):
            Plain().warn("made in this process")

    with cache._lock:  # as if another thread were counting while this one forks
        run_in_fork(child)
    assert _LIVE[cache._token] is cache
