"""What every cache outside the process gets from its base: layers, checks, patience."""

import threading
import warnings
from types import SimpleNamespace

import pytest

from skdvl.caching import CacheInfo, CacheWarning, ExternalCache, Store
from skdvl.caching.codec import ENCODED_SIZE, encode


class Shelf(Store):
    """A store that breaks when it is told to, and says what it was asked."""

    def __init__(self):
        self.data = {}
        self.reads = []
        self.writes = []
        self.breaks = None

    def _maybe_break(self):
        if self.breaks is not None:
            raise self.breaks

    def read(self, keys):
        self.reads.append(keys)
        self._maybe_break()
        return {key: self.data[key] for key in keys if key in self.data}

    def write(self, items):
        self.writes.append(dict(items))
        self._maybe_break()
        self.data.update(items)

    def clear(self):
        self._maybe_break()
        self.data.clear()


class Shelves(ExternalCache):
    def __init__(self, size=1):
        self.size = size
        self.shelves = [Shelf() for _ in range(size)]
        self.connections = 0

    def connect(self):
        self.connections += 1
        return self.shelves


def keys_of(count):
    return [bytes([number]) * 16 for number in range(count)]


def test_what_was_read_or_written_is_not_read_again():
    cache = Shelves()
    one, two, three = keys_of(3)
    cache.shelves[0].data[one] = encode(one, 0.5)
    cache.set_many({two: 0.25})
    for _ in range(3):
        assert cache.get_many([one, two, three, one]) == {one: 0.5, two: 0.25}
    assert cache.shelves[0].reads == [[one, three], [three], [three]]
    assert cache.shelves[0].writes == [{two: encode(two, 0.25)}]
    assert cache.info() == CacheInfo(9, 3, 1, 0, 2 * (16 + ENCODED_SIZE), 0)
    assert cache.connections == 1


def test_the_memory_layer_is_bounded():
    class Small(Shelves):
        memory_items = 10

    cache = Small()
    cache.set_many(dict.fromkeys(keys_of(50), 0.5))
    assert len(cache._memory) == 10
    assert len(cache.get_many(keys_of(50))) == 50


def test_keys_are_spread_over_the_stores_and_found_again():
    cache = Shelves(size=3)
    items = {key: number / 3 for number, key in enumerate(keys_of(200))}
    cache.set_many(items)
    cache._memory.clear()
    assert cache.get_many(list(items)) == items
    sizes = [len(shelf.data) for shelf in cache.shelves]
    assert sum(sizes) == 200
    assert min(sizes) > 40


@pytest.fixture
def clock(monkeypatch):
    """The time as the caches see it, which only passes when a test says so."""
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("skdvl.caching.external.time", clock)
    return clock


def test_a_broken_store_is_left_alone_for_a_while_and_the_others_work_on(clock):
    cache = Shelves(size=2)
    items = dict.fromkeys(keys_of(100), 0.5)
    cache.set_many(items)
    broken, sound = cache.shelves
    written = dict.fromkeys(broken.data, 0.5)

    def read():
        cache._memory.clear()
        return set(cache.get_many(list(items)))

    broken.breaks = ConnectionResetError("gone")
    with pytest.warns(CacheWarning, match="ConnectionResetError: gone"):
        assert read() == set(sound.data)
    for _ in range(9):
        clock.now += 0.5
        assert read() == set(sound.data)
        cache.set_many(written)
    assert len(broken.reads) == 1
    assert len(broken.writes) == 1, "what cannot be read is not written to either"
    assert len(sound.reads) == 10
    clock.now += 1
    assert read() == set(sound.data)
    assert len(broken.reads) == 2
    assert cache.info().errors == 2, "counted, and not warned of again"
    broken.breaks = None
    clock.now += cache.retry_after
    assert read() == set(items)


def test_a_store_that_cannot_be_written_is_still_read():
    cache = Shelves()
    old, new = keys_of(2)
    cache.set_many({old: 0.5})
    cache.shelves[0].breaks = OSError(28, "No space left on device")
    with pytest.warns(CacheWarning, match="No space left"):
        cache.set_many({new: 0.25})
    cache.shelves[0].breaks = None
    cache._memory.clear()
    assert cache.get_many([old, new]) == {old: 0.5}
    cache.set_many({new: 0.25})
    assert len(cache.shelves[0].writes) == 2, "it is not written to yet"
    assert (cache.info().sets, cache.info().errors) == (1, 1)


def test_a_failure_that_takes_long_is_tried_more_rarely(clock):
    cache = Shelves()
    shelf = cache.shelves[0]

    def hang():
        clock.now += 10
        raise TimeoutError

    shelf._maybe_break = hang
    with pytest.warns(CacheWarning, match="TimeoutError"):
        cache.get_many(keys_of(1))
    clock.now += 49
    cache.get_many(keys_of(1))
    assert len(shelf.reads) == 1
    clock.now += 2
    cache.get_many(keys_of(1))
    assert len(shelf.reads) == 2


@pytest.mark.parametrize("error", [ValueError("garbled"), KeyError("x"), RuntimeError()])
def test_whatever_a_store_raises_is_a_miss(error):
    cache = Shelves()
    cache.shelves[0].breaks = error
    with pytest.warns(CacheWarning, match=type(error).__name__):
        assert cache.get_many(keys_of(2)) == {}
    assert cache.info() == CacheInfo(misses=2, errors=1)


def test_the_user_can_still_interrupt():
    cache = Shelves()
    cache.shelves[0].breaks = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        cache.get_many(keys_of(1))


def test_a_warning_that_is_made_an_error_leaves_the_cache_usable():
    cache = Shelves()
    cache.shelves[0].breaks = OSError()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CacheWarning):
            cache.get_many(keys_of(1))
        assert cache.get_many(keys_of(1)) == {}


def test_clear_tells_when_it_fails():
    cache = Shelves()
    cache.set_many(dict.fromkeys(keys_of(3), 0.5))
    cache.clear()
    assert cache.get_many(keys_of(3)) == {}
    cache.shelves[0].breaks = OSError("read-only")
    with pytest.raises(OSError, match="read-only"):
        cache.clear()


def test_foreign_bytes_are_misses_and_no_errors():
    cache = Shelves()
    keys = keys_of(4)
    cache.shelves[0].data = {
        keys[0]: b"0.25",
        keys[1]: encode(keys[0], 0.25),
        keys[2]: 0.25,
        keys[3]: encode(keys[3], float("nan")),
    }
    assert cache.get_many(keys) == {}
    assert cache.info() == CacheInfo(misses=4)


def test_a_forked_child_connects_anew(run_in_fork):
    cache = Shelves()
    cache.set_many({keys_of(1)[0]: 0.5})
    guards = cache._guards

    def child():
        cache.get_many(keys_of(2))
        assert cache.connections == 2
        assert cache._guards is not guards

    run_in_fork(child)
    assert cache.connections == 1


def test_threads_connect_once():
    cache = Shelves()
    threads = [threading.Thread(target=cache.get_many, args=(keys_of(5),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.connections == 1
    assert cache.info().misses == 40
