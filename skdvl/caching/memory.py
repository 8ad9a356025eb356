"""A cache in the memory of the process."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, final

from skdvl.caching.base import Cache

SNAPSHOT_ITEMS = 100_000  # 3 MB of pickle, 50 ms to write: what a worker gets to start with


@final
class MemoryCache(Cache, name="memory"):
    """Keep utilities in memory; the least recently used leave first.

    ``cache="memory"`` is one store of the process, shared by everything that asks for it; an
    instance is a store of its own. A worker process works on a copy that starts with the most
    recently used 100 000 entries; what it adds comes back only if the caller brings it back.

    Parameters
    ----------
    max_items : int, default=500_000
        Number of entries kept, about 200 bytes each.

    Examples
    --------
    >>> from skdvl.caching import MemoryCache
    >>> cache = MemoryCache(max_items=2)
    >>> cache.set_many({b"first key.......": 1.0, b"second key......": 2.0})
    >>> cache.get_many([b"first key......."])
    {b'first key.......': 1.0}
    >>> cache.set_many({b"third key.......": 3.0})
    >>> cache.get_many([b"second key......"])
    {}
    """

    def __init__(self, max_items: int = 500_000) -> None:
        if max_items < 1:
            raise ValueError(f"max_items must be at least 1, got {max_items}")
        self.max_items = max_items
        self._values: OrderedDict[bytes, float] = OrderedDict()

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, float]:  # noqa: D102 - inherited
        found = {}
        hits = 0
        with self._lock:
            values = self._values
            for key in keys:
                value = values.get(key)
                if value is not None:
                    values.move_to_end(key)
                    found[key] = value
                    hits += 1
        self.count(hits=hits, misses=len(keys) - hits)
        return found

    def set_many(self, items: Mapping[bytes, float]) -> None:  # noqa: D102 - inherited
        kept = {key: float(value) for key, value in items.items() if isfinite(value)}
        self._keep(kept)
        self.count(sets=len(kept))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()

    def __len__(self) -> int:
        return len(self._values)

    def __bool__(self) -> bool:
        return True  # an empty cache is still a cache: `if cache` must not pass over it

    def _keep(self, items: Mapping[bytes, float]) -> None:
        with self._lock:
            values = self._values
            values.update(items)
            for key in items:
                values.move_to_end(key)
            for _ in range(len(values) - self.max_items):
                values.popitem(last=False)

    def __getstate__(self) -> dict[bytes, float]:
        with self._lock:
            keys = list(self._values)[-SNAPSHOT_ITEMS:]
            return {key: self._values[key] for key in keys}

    def __setstate__(self, snapshot: Any) -> None:
        self._keep(snapshot)
