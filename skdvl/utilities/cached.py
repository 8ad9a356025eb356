"""Utilities that are looked up before they are computed."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from skdvl.caching import Cache, CacheInfo
from skdvl.utilities.base import Coalitions, Utilities, Utility, are_usable, prefix_coalitions
from skdvl.utilities.fingerprint import required_fingerprint
from skdvl.utilities.record import current_record

__all__ = ["CachedUtility", "read_through"]

_TOKEN = uuid.uuid4().hex


def read_through(cache: Cache | None, utility: Utility) -> Utility:
    """Return the utility behind a cache, or itself where it computes as fast as a look-up.

    Raises
    ------
    FingerprintError
        If the utility has no fingerprint.
    """
    if cache is None or utility.evals_are_cheap:
        return utility
    return CachedUtility(utility, cache)


class CachedUtility(Utility):
    """A utility read through a cache.

    A key is a digest of the utility's fingerprint and of the coalition as a packed bit set: the
    order in which players were drawn has no part in it, so orders, methods, valuators, processes
    and runs that play the same game share entries, and another game can never be hit.

    Parameters
    ----------
    utility : Utility
        One with a fingerprint.
    cache : Cache

    Raises
    ------
    FingerprintError
        If the utility has no fingerprint.
    """

    def __init__(self, utility: Utility, cache: Cache) -> None:
        self.utility = utility
        self.cache = cache
        self.n_players = utility.n_players
        self.evals_per_chunk = utility.evals_per_chunk
        self.has_cheap_prefixes = utility.has_cheap_prefixes
        self._fingerprint = required_fingerprint(utility)
        self._home = _this_process()
        self._hasher = self._make_hasher()

    @property
    def is_at_home(self) -> bool:
        """Whether this is the process in which the utility was made, not a worker's copy."""
        return self._home == _this_process()

    def _evaluate(self, coalitions: Coalitions) -> Utilities:
        keys = self._keys(coalitions)
        found = self._look_up(keys)
        missing = {key: j for j, key in enumerate(keys) if key not in found}
        if missing:
            rows = list(missing.values())
            computed = self.utility(coalitions if len(rows) == len(keys) else coalitions[rows])
            new = dict(zip(missing, computed.tolist(), strict=True))
            self._keep(new)
            found.update(new)
        return np.array([found[key] for key in keys])

    def prefixes(self, orders: ArrayLike, sizes: ArrayLike | None = None) -> Utilities:
        """Evaluate the prefixes of orders, see `Utility.prefixes`.

        Where the utility has cheap prefixes, an order with a missing one is computed as a whole.
        """
        orders = np.asarray(orders, dtype=np.intp)
        wanted = np.arange(self.n_players + 1) if sizes is None else np.asarray(sizes)
        if not self.has_cheap_prefixes:
            return super().prefixes(orders, wanted)
        utilities = np.empty((len(orders), len(wanted)))
        for row, order in zip(utilities, orders, strict=True):
            keys = self._keys(prefix_coalitions(order, wanted))
            found = self._look_up(keys)
            if len(found) < len(set(keys)):
                computed = self.utility.prefixes(order[np.newaxis], wanted)[0].tolist()
                pairs = zip(keys, computed, strict=True)
                new = {key: value for key, value in pairs if key not in found}
                self._keep(new)
                found.update(new)
            row[:] = [found[key] for key in keys]
        return utilities

    def fingerprint(self) -> bytes:
        """Return the fingerprint of the utility."""
        return self._fingerprint

    def _keys(self, coalitions: Coalitions) -> list[bytes]:
        keys = []
        for row in np.packbits(coalitions, axis=1):
            hasher = self._hasher.copy()
            hasher.update(row.tobytes())
            keys.append(hasher.digest())
        return keys

    def _make_hasher(self) -> Any:
        # with the number of players: packed sets are padded to whole bytes
        start = self._fingerprint + self.n_players.to_bytes(8, "little")
        return hashlib.blake2b(start, digest_size=20)

    def _look_up(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        """Ask the cache; what it gives that no utility can be is a miss, and so is its failure."""
        try:
            given = self.cache.get_many(keys)
            found = {
                key: value
                for key in keys
                if isinstance(value := given.get(key), float) and are_usable(value)
            }
        except Exception as error:
            self._report(error)
            found = {}
        hits = sum(key in found for key in keys)
        current_record().cache += CacheInfo(hits=hits, misses=len(keys) - hits)
        return found

    def _keep(self, new: dict[bytes, float]) -> None:
        try:
            self.cache.set_many(new)
        except Exception as error:
            self._report(error)
        if not (self.cache.shared_between_processes or self.is_at_home):
            current_record().cached.update(new)

    def _report(self, error: Exception) -> None:
        self.cache.count(errors=1)
        self.cache.warn(f"{type(error).__name__}: {error}")

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_hasher"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._hasher = self._make_hasher()
        if not self.is_at_home:
            self.cache.mute()


def _this_process() -> tuple[str, int]:
    """Return what tells this process from all others, forks and other machines included."""
    return _TOKEN, os.getpid()
