"""Caches whose entries live outside the process, and which therefore can fail."""

import os
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar, TypeVar

from skdvl.caching.base import Cache
from skdvl.caching.codec import ENCODED_SIZE, decode, encode
from skdvl.caching.memory import MemoryCache

AnyCache = TypeVar("AnyCache", bound="ExternalCache")

# What a forked child shares with its parent, kept for ever: the child must neither use nor close
# it, and not even garbage collection may close an SQLite connection there.
_INHERITED: list[Any] = []


class Store(ABC):
    """One place outside the process that keeps bytes. It may raise whatever it likes.

    It connects on first use, is used by several threads at once, and is made anew in a forked
    child.
    """

    @abstractmethod
    def read(self, keys: list[bytes]) -> Mapping[bytes, object]:
        """Return what is stored under those of `keys` that are there."""

    @abstractmethod
    def write(self, items: dict[bytes, bytes]) -> None:
        """Store all of `items`, as one block."""

    @abstractmethod
    def clear(self) -> None:
        """Drop every entry of this library, and nothing else."""

    def close(self) -> None:  # noqa: B027 - a store may have nothing to release
        """Release connections; the next use opens them again."""


class ExternalCache(Cache):
    """A cache over one or several stores: layered, checked, and never in the way.

    - Reads go through a small memory layer, so that what a process has read or written is not
      fetched again.
    - Values are encoded in thirteen checked bytes; what does not decode is a miss. No store can
      make this class unpickle anything.
    - Whatever a store raises is counted, warned of once, and treated as a miss; the store is then
      left alone for `retry_after` seconds, or five times as long as the failure took.
    - Stores are connected lazily, once per process, also in a forked child.

    Subclasses implement `connect`. Keys are spread over the stores by their CRC-32.
    """

    shared_between_processes: ClassVar[bool] = True
    memory_items: ClassVar[int] = 50_000
    """Number of entries of the memory layer."""
    retry_after: float = 5.0
    """Seconds for which a store is left alone after a failure."""

    _memory: MemoryCache
    _guards: "list[_Guard] | None"
    _connected_in: int

    def __new__(cls: type[AnyCache], *args: Any, **kwargs: Any) -> AnyCache:  # noqa: D102
        self = super().__new__(cls)
        self._memory = MemoryCache(cls.memory_items)
        self._guards = None
        self._connected_in = os.getpid()
        return self

    @abstractmethod
    def connect(self) -> Sequence[Store]:
        """Make the stores, without reaching for them yet: this must not fail."""

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, float]:  # noqa: D102 - inherited
        found = self._memory.get_many(keys)
        wanted = list(dict.fromkeys(key for key in keys if key not in found))
        traffic = 0
        if wanted:
            read = {}
            for guard, part in self._split(wanted):
                for key, data in self._try_reading(guard, part).items():
                    value = decode(key, data)
                    if value is not None:
                        read[key] = value
                        traffic += len(key) + ENCODED_SIZE
            self._memory.set_many(read)
            found.update(read)
        hits = sum(key in found for key in keys)
        self.count(hits=hits, misses=len(keys) - hits, bytes=traffic)
        return found

    def set_many(self, items: Mapping[bytes, float]) -> None:  # noqa: D102 - inherited
        values = {key: float(value) for key, value in items.items() if isfinite(value)}
        self._memory.set_many(values)
        written = traffic = 0
        for guard, part in self._split(list(values)):
            block = {key: encode(key, values[key]) for key in part}
            if self._try_writing(guard, block):
                written += len(block)
                traffic += sum(len(key) + ENCODED_SIZE for key in block)
        self.count(sets=written, bytes=traffic)

    def clear(self) -> None:
        """Drop the entries of this library from the stores, and nothing else that they hold.

        Raises
        ------
        Exception
            What the store raises, since whoever asks for this wants to know.
        """
        self._memory.clear()
        for guard in self._connected():
            guard.store.clear()

    def close(self) -> None:
        """Release connections; the next use opens them again."""
        for guard in self._connected():
            guard.store.close()

    def _connected(self) -> "list[_Guard]":
        with self._lock:
            if self._guards is not None and self._connected_in != os.getpid():
                _INHERITED.append(self._guards)
                self._guards = None
            if self._guards is None:
                self._connected_in = os.getpid()
                self._guards = [_Guard(store) for store in self.connect()]
            return self._guards

    def _split(self, keys: list[bytes]) -> "list[tuple[_Guard, list[bytes]]]":
        guards = self._connected()
        if len(guards) == 1:
            return [(guards[0], keys)] if keys else []
        parts: list[list[bytes]] = [[] for _ in guards]
        for key in keys:
            parts[zlib.crc32(key) % len(guards)].append(key)
        return [(guard, part) for guard, part in zip(guards, parts, strict=True) if part]

    def _try_reading(self, guard: "_Guard", keys: list[bytes]) -> Mapping[bytes, object]:
        started = time.monotonic()
        if started < guard.no_read_before:
            return {}
        try:
            return guard.store.read(keys)
        except Exception as error:  # whatever the world outside does, the computation goes on
            guard.no_read_before = guard.no_write_before = self._end_of_pause(started)
            self._report(error)
            return {}

    def _try_writing(self, guard: "_Guard", items: dict[bytes, bytes]) -> bool:
        started = time.monotonic()
        if started < guard.no_write_before:
            return False
        try:
            guard.store.write(items)
        except Exception as error:  # as above; a full disk can still be read
            guard.no_write_before = self._end_of_pause(started)
            self._report(error)
            return False
        return True

    def _end_of_pause(self, started: float) -> float:
        # A failure that took long (a server that hangs until the timeout) is tried more rarely:
        # at most a sixth of the time is spent on waiting for it.
        now = time.monotonic()
        return now + max(self.retry_after, 5 * (now - started))

    def _report(self, error: Exception) -> None:
        self.count(errors=1)
        self.warn(f"{type(error).__name__}: {error}")


@dataclass
class _Guard:
    """A store, and until when it is left alone."""

    store: Store
    no_read_before: float = 0.0
    no_write_before: float = 0.0
