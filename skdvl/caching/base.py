"""What a cache is to the rest of the library: two methods over bytes and floats."""

import inspect
import multiprocessing
import os
import threading
import uuid
import warnings
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

AnyCache = TypeVar("AnyCache", bound="Cache")


class CacheWarning(UserWarning):
    """A cache cannot be read or written; the computation goes on without it."""


@dataclass(frozen=True)
class CacheInfo:
    """What a cache did in one process; infos of several processes add up.

    Attributes
    ----------
    hits, misses : int
        Keys asked for that were found, and that were not.
    sets : int
        Entries that were stored.
    errors : int
        Operations that failed, and were treated as a miss or left out.
    bytes : int
        Bytes of keys and values exchanged with a store outside the process; 0 for memory.
    bypassed : int
        Evaluations that did not ask the cache at all. Caches leave it 0; whoever goes past a
        cache fills it in.

    Examples
    --------
    >>> from skdvl.caching import CacheInfo
    >>> sum([CacheInfo(hits=3, misses=1), CacheInfo(hits=2)], CacheInfo()).hits
    5
    """

    hits: int = 0
    misses: int = 0
    sets: int = 0
    errors: int = 0
    bytes: int = 0
    bypassed: int = 0

    def __add__(self, other: "CacheInfo") -> "CacheInfo":
        return CacheInfo(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: "CacheInfo") -> "CacheInfo":
        return CacheInfo(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


class Cache(ABC):
    """A place where utilities are kept: 16 to 32 bytes of key, one float.

    Keys are digests of everything that a utility depends on, so an entry is never wrong, only
    present or absent, and no operation needs to be atomic with another.

    Subclasses implement `get_many` and `set_many`, keep their constructor arguments as attributes
    of the same names (that is how a cache travels to a worker process) and report what they do
    through `count`. A subclass whose store can fail is better derived from `ExternalCache`.
    Declared as ``class MyCache(Cache, name="mine")`` it can be asked for as ``cache="mine"``.

    A cache keeps its identity: `sklearn.base.clone` and `copy.deepcopy` return the cache itself,
    and however often it is sent to a process, it is one object there.

    Examples
    --------
    >>> from skdvl.caching import Cache
    >>> class DictCache(Cache):
    ...     def __init__(self):
    ...         self._values = {}
    ...     def get_many(self, keys):
    ...         found = {key: self._values[key] for key in keys if key in self._values}
    ...         hits = sum(key in found for key in keys)
    ...         self.count(hits=hits, misses=len(keys) - hits)
    ...         return found
    ...     def set_many(self, items):
    ...         kept = {k: float(v) for k, v in items.items() if abs(v) < float("inf")}
    ...         self._values.update(kept)
    ...         self.count(sets=len(kept))
    >>> with DictCache() as cache:
    ...     cache.set_many({b"0123456789abcdef": 0.5})
    ...     cache.get_many([b"0123456789abcdef", b"fedcba9876543210"])
    {b'0123456789abcdef': 0.5}
    >>> cache.info()
    CacheInfo(hits=1, misses=1, sets=1, errors=0, bytes=0, bypassed=0)
    """

    shared_between_processes: ClassVar[bool] = False
    """Whether what one process stores is found by the others."""

    _token: str
    _home: int | None  # the process in which it was constructed; None for an unpickled copy
    _has_warned: bool
    _lock: threading.Lock
    _counts: dict[str, int]

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            known = _REGISTRY.setdefault(name, cls)
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(f"cache name {name!r} is already taken by {known!r}")
            _REGISTRY[name] = cls  # the same class again: a notebook cell that was run twice

    # The state of the base is made here and not in __init__, so that a subclass that does not
    # call super().__init__() still counts, pickles and warns.
    def __new__(cls: type[AnyCache], *args: Any, **kwargs: Any) -> AnyCache:  # noqa: D102
        self = super().__new__(cls)
        self._token = uuid.uuid4().hex
        self._home = os.getpid()
        self._has_warned = False
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(("hits", "misses", "sets", "errors", "bytes"), 0)
        _LIVE[self._token] = self
        return self

    @abstractmethod
    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        """Look keys up.

        Parameters
        ----------
        keys : sequence of bytes
            Digests of 16 to 32 bytes; any byte may occur in them.

        Returns
        -------
        dict
            The values found, exact to the bit. An absent key is absent from it.
        """

    @abstractmethod
    def set_many(self, items: Mapping[bytes, float]) -> None:
        """Store values; storing an entry again changes nothing.

        Parameters
        ----------
        items : mapping of bytes to float
            NaN and infinities are left out: they could not be told from a damaged entry.
        """

    def info(self) -> CacheInfo:
        """Return what this cache did in this process since it was made here."""
        with self._lock:
            return CacheInfo(**self._counts)

    def count(
        self, *, hits: int = 0, misses: int = 0, sets: int = 0, errors: int = 0, bytes: int = 0
    ) -> None:
        """Add to what `info` returns; for subclasses. Every key asked for is a hit or a miss."""
        with self._lock:
            counts = self._counts
            counts["hits"] += hits
            counts["misses"] += misses
            counts["sets"] += sets
            counts["errors"] += errors
            counts["bytes"] += bytes

    def warn(self, reason: str) -> None:
        """Warn that the cache does not work, the first time only.

        A copy in a worker process only counts its errors: with 64 workers, one stopped server
        would be reported 64 times. Who collects the counts of the workers calls this where the
        cache comes from, if ``info.errors`` says so.
        """
        is_worker = multiprocessing.parent_process() is not None and self._home != os.getpid()
        if not (self._has_warned or is_worker):
            self._has_warned = True
            warnings.warn(
                f"{self!r} does not work: {reason}. Computing goes on without it; it is tried "
                f"again from time to time, and further failures are only counted.",
                CacheWarning,
                stacklevel=3,
            )

    def mute(self) -> None:
        """Leave warnings to where the cache comes from; for a copy that works for it elsewhere.

        Processes of `multiprocessing` know that they are workers, those of Ray do not.
        """
        self._has_warned = True

    def close(self) -> None:  # noqa: B027 - most caches have nothing to release
        """Release connections; the next use opens them again."""

    def __enter__(self: AnyCache) -> AnyCache:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __sklearn_clone__(self: AnyCache) -> AnyCache:
        return self

    def __copy__(self: AnyCache) -> AnyCache:
        return self

    def __deepcopy__(self: AnyCache, memo: dict[int, Any]) -> AnyCache:
        return self

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self._arguments().items())
        return f"{type(self).__name__}({arguments})"

    def __getstate__(self) -> object:
        """Return what travels besides the constructor arguments; nothing by default."""
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (type(self), self._token, self._arguments()), self.__getstate__()

    def _arguments(self) -> dict[str, Any]:
        """Return the constructor arguments, which are attributes of the same names."""
        has_none = type(self).__init__ is object.__init__  # its signature takes anything
        names = [] if has_none else list(inspect.signature(type(self)).parameters)
        missing = [name for name in names if not hasattr(self, name)]
        if missing:
            raise TypeError(
                f"{type(self).__name__} must keep its constructor arguments as attributes of the "
                f"same names; missing: {', '.join(missing)}"
            )
        return {name: getattr(self, name) for name in names}


def check_cache(cache: "str | Cache | None") -> "Cache | None":
    """Resolve what a user passes as ``cache=``.

    Parameters
    ----------
    cache : None, str or Cache
        None is no cache. "memory", "disk", "memcached" or the name of a registered subclass is
        the one default cache of that kind in this process. A `Cache` is returned as it is.

    Returns
    -------
    Cache or None

    Raises
    ------
    ValueError
        If no cache has that name.
    TypeError
        If `cache` is anything else.

    Examples
    --------
    >>> from skdvl.caching import check_cache
    >>> check_cache("memory") is check_cache("memory")
    True
    """
    if cache is None or isinstance(cache, Cache):
        return cache
    if not isinstance(cache, str):
        raise TypeError(f"cache must be None, a name or a skdvl.caching.Cache, got {cache!r}")
    if cache not in _REGISTRY:
        names = ", ".join(repr(name) for name in sorted(_REGISTRY))
        raise ValueError(
            f"unknown cache {cache!r}; the names are {names}. For a directory of your own pass "
            f"skdvl.caching.DiskCache({cache!r})."
        )
    default = _REGISTRY[cache]()
    # A default may depend on the environment (the directory of the disk cache): the cache of the
    # process serves as long as it is the one that would be made now.
    with _REVIVAL:
        known = _DEFAULTS.get(cache)
        if type(known) is not type(default) or known._arguments() != default._arguments():
            known = _DEFAULTS[cache] = default
    return known


_REGISTRY: dict[str, type[Cache]] = {}
_DEFAULTS: dict[str, Cache] = {}
_LIVE: "weakref.WeakValueDictionary[str, Cache]" = weakref.WeakValueDictionary()
_KEPT: "OrderedDict[str, Cache]" = OrderedDict()
_KEEP = 4
_REVIVAL = threading.Lock()


def _revive(cls: type[Cache], token: str, arguments: dict[str, Any]) -> Cache:
    """Unpickle: the cache that this process already has under the token, or a new one.

    The last few are kept alive between tasks; otherwise each task would connect anew, and a
    memory cache would forget what the task before it computed.
    """
    with _REVIVAL:
        cache = _LIVE.get(token)
        if cache is None:
            cache = cls(**arguments)
            del _LIVE[cache._token]
            cache._token, cache._home = token, None
            _LIVE[token] = cache
        if cache._home is None:
            _KEPT[token] = cache
            _KEPT.move_to_end(token)
            while len(_KEPT) > _KEEP:
                _KEPT.popitem(last=False)
    return cache


def _renew_locks() -> None:
    """Give a forked child free locks: another thread of the parent may have held them."""
    global _REVIVAL
    _REVIVAL = threading.Lock()
    for cache in list(_LIVE.values()):
        cache._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
