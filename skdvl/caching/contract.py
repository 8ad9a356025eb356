"""What every cache promises, as a battery that third parties can run on their own."""

import copy
import math
import os
import pickle
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from joblib import Parallel, delayed
from sklearn.base import clone

from skdvl.caching.base import Cache, CacheInfo, check_cache

# What could be changed on the way: signed zero, denormals, the extremes, no short decimal form.
VALUES = (0.0, -0.0, 1 / 3, -1 / 3, 0.1, 5e-324, -2.2e-310, 1.7976931348623157e308, math.pi, 1e16)
N_PROCESSES = 4


def check_cache_contract(make_cache: Callable[[], Cache]) -> None:
    """Check a cache against everything that the library relies on.

    Takes some seconds, since it starts worker processes. The class of the cache must be one that
    they can import.

    Parameters
    ----------
    make_cache : callable
        Returns a cache that works: a new one with each call. If entries are shared between
        processes, the calls may return views of the same store, and it need not be empty.

    Raises
    ------
    AssertionError
        That says which promise is broken.

    Examples
    --------
    >>> from skdvl.caching import MemoryCache
    >>> from skdvl.testing import check_cache_contract
    >>> check_cache_contract(MemoryCache)  # doctest: +SKIP
    """
    for check in (
        _check_values_exact_to_the_bit,
        _check_absent_keys,
        _check_any_bytes_in_keys,
        _check_many_keys,
        _check_storing_again,
        _check_not_finite,
        _check_counts,
        _check_identity,
        _check_closing,
        _check_threads,
        _check_pickle,
        _check_processes,
    ):
        check(make_cache)


def _require(condition: bool, promise: str) -> None:
    if not condition:  # not an assert statement: it must hold under python -O as well
        raise AssertionError(promise)


def _new_keys(count: int, size: int = 20) -> list[bytes]:
    return [os.urandom(size) for _ in range(count)]


def _bits(values: Sequence[float]) -> list[bytes]:
    return [struct.pack("<d", value) for value in values]


def _check_values_exact_to_the_bit(make_cache: Callable[[], Cache]) -> None:
    items = dict(zip(_new_keys(len(VALUES)), VALUES, strict=True))
    with make_cache() as cache:
        cache.set_many(items)
        found = cache.get_many(list(items))
        _require(set(found) == set(items), "every key that was stored is found")
        _require(all(type(value) is float for value in found.values()), "values are Python floats")
        same = _bits([found[key] for key in items]) == _bits(list(items.values()))
        _require(same, "values are exact to the bit")
        items[next(iter(items))] = 99.0
        _require(99.0 not in cache.get_many(list(items)).values(), "the mapping passed is not kept")


def _check_absent_keys(make_cache: Callable[[], Cache]) -> None:
    present, absent = _new_keys(2)
    with make_cache() as cache:
        cache.set_many({present: 0.5})
        _require(cache.get_many([absent]) == {}, "an absent key is absent from the answer")
        answer = cache.get_many([absent, present, absent, present])
        _require(answer == {present: 0.5}, "some keys absent, some asked for twice")
        _require(cache.get_many([]) == {}, "asking for nothing")
        cache.set_many({})


def _check_any_bytes_in_keys(make_cache: Callable[[], Cache]) -> None:
    keys = [bytes([byte]) * size for byte in b"\x00\n\r \x80\xff" for size in (16, 20, 32)]
    keys += [bytes(range(32)), bytes(range(32, 64)), b"\r\n" * 10]
    items = {key: float(number) for number, key in enumerate(keys)}
    with make_cache() as cache:
        cache.set_many(items)
        _require(cache.get_many(keys) == items, "keys are any 16 to 32 bytes")


def _check_many_keys(make_cache: Callable[[], Cache]) -> None:
    items = {key: float(number) for number, key in enumerate(_new_keys(3000))}
    with make_cache() as cache:
        cache.set_many(items)
        _require(cache.get_many(list(items)) == items, "thousands of keys in one call")


def _check_storing_again(make_cache: Callable[[], Cache]) -> None:
    (key,) = _new_keys(1)
    with make_cache() as cache:
        cache.set_many({key: 0.25})
        cache.set_many({key: 0.25})
        _require(cache.get_many([key]) == {key: 0.25}, "storing an entry again changes nothing")


def _check_not_finite(make_cache: Callable[[], Cache]) -> None:
    keys = _new_keys(4)
    with make_cache() as cache:
        cache.set_many(dict(zip(keys, (math.nan, math.inf, -math.inf, 1.5), strict=True)))
        _require(cache.get_many(keys) == {keys[3]: 1.5}, "NaN and infinities are not stored")


def _check_counts(make_cache: Callable[[], Cache]) -> None:
    first, second, absent = _new_keys(3)
    with make_cache() as cache:
        before = cache.info()
        cache.set_many({first: 1.0, second: 2.0})
        cache.get_many([first, absent, second])
        cache.get_many([absent])
        done = cache.info() - before
        _require(type(done) is CacheInfo, "info() returns a CacheInfo")
        counted = (done.hits, done.misses, done.sets, done.errors)
        _require(
            counted == (2, 2, 2, 0),
            f"hits, misses, sets and errors are counted: expected (2, 2, 2, 0), got {counted}",
        )


def _check_identity(make_cache: Callable[[], Cache]) -> None:
    with make_cache() as cache:
        _require(clone(cache) is cache, "sklearn.base.clone returns the cache itself")
        _require(copy.deepcopy([cache])[0] is cache, "copy.deepcopy returns the cache itself")
        _require(check_cache(cache) is cache, "check_cache returns an instance as it is")
        _require(type(cache.shared_between_processes) is bool, "shared_between_processes is a bool")


def _check_closing(make_cache: Callable[[], Cache]) -> None:
    (key,) = _new_keys(1)
    cache = make_cache()
    cache.set_many({key: 0.5})
    cache.close()
    cache.close()
    _require(cache.get_many([key]) == {key: 0.5}, "a closed cache opens again when it is used")
    cache.close()


def _check_threads(make_cache: Callable[[], Cache]) -> None:
    errors: list[BaseException] = []
    common = {key: float(number) for number, key in enumerate(_new_keys(50))}

    def work(cache: Cache) -> None:
        try:
            for _ in range(10):
                own = {key: float(number) for number, key in enumerate(_new_keys(50))}
                cache.set_many(own)
                cache.set_many(common)
                _require(cache.get_many(list(own)) == own, "a thread finds what it stored")
                _require(cache.get_many(list(common)) == common, "and what all threads store")
        except BaseException as error:
            errors.append(error)

    with make_cache() as cache:
        threads = [threading.Thread(target=work, args=(cache,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for error in errors:
            raise AssertionError("a cache can be used by several threads") from error
        _require(cache.info().errors == 0, "several threads cause no errors")


def _check_pickle(make_cache: Callable[[], Cache]) -> None:
    with make_cache() as cache:
        pickled = pickle.dumps(cache)
        _require(
            pickle.loads(pickled) is cache and pickle.loads(pickle.dumps(cache)) is cache,
            "a cache that is sent to a process in which it lives is itself there",
        )


def _check_processes(make_cache: Callable[[], Cache]) -> None:
    common = dict(zip(_new_keys(len(VALUES)), VALUES, strict=True))
    own_keys = [_new_keys(200) for _ in range(2 * N_PROCESSES)]
    with make_cache() as cache:
        reports = Parallel(n_jobs=N_PROCESSES, backend="loky")(
            delayed(_work_in_process)(cache, common, keys) for keys in own_keys
        )
        for report in reports:
            _require(not report.complaint, f"in a worker process: {report.complaint}")
        pids = {report.pid for report in reports}
        _require(
            len({(report.pid, report.identity) for report in reports}) == len(pids),
            "a cache that is sent to a worker several times is one object there",
        )
        if cache.shared_between_processes:
            _require(
                _bits([cache.get_many([key]).get(key, math.nan) for key in common])
                == _bits(list(common.values())),
                "what several processes store at once is exact to the bit",
            )
            for keys in own_keys:
                expected = {key: number / 3 for number, key in enumerate(keys)}
                _require(cache.get_many(keys) == expected, "what a worker stored is found")
        _require(cache.info().errors == 0, "several processes cause no errors")


@dataclass(frozen=True)
class _Report:
    pid: int
    identity: int
    complaint: str  # not an exception, which would lose its cause on the way


def _work_in_process(cache: Cache, common: dict[bytes, float], keys: list[bytes]) -> _Report:
    before = cache.info()
    items = {key: number / 3 for number, key in enumerate(keys)}
    for start in range(0, len(keys), 50):
        cache.set_many({key: items[key] for key in keys[start : start + 50]})
        cache.set_many(common)
    complaint = ""
    if cache.get_many(keys) != items:
        complaint = "it finds what it stored"
    done = cache.info() - before
    if (done.hits, done.misses, done.errors) != (len(keys), 0, 0):
        complaint = f"it counts what it does itself: got {done}"
    return _Report(os.getpid(), id(cache), complaint)
