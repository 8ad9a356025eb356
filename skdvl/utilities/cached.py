"""Utilities that are looked up before they are computed."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from skdvl.caching import Cache
from skdvl.utilities.base import Coalitions, Utility
from skdvl.utilities.record import current_record

__all__ = ["CachedUtility"]


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
    fingerprint : bytes
        The utility's, computed once per fit.
    """

    def __init__(self, utility: Utility, cache: Cache, fingerprint: bytes) -> None:
        self.utility = utility
        self.cache = cache
        self.n_players = utility.n_players
        self.evals_per_chunk = utility.evals_per_chunk
        self._hasher = hashlib.blake2b(fingerprint, digest_size=20)
        self._fingerprint = fingerprint

    def _evaluate(self, coalitions: Coalitions) -> NDArray[np.float64]:
        keys = self._keys(coalitions)
        found = self.cache.get_many(keys)
        missing = {key: j for j, key in enumerate(keys) if key not in found}
        if missing:
            computed = self.utility(coalitions[list(missing.values())]).tolist()
            new = dict(zip(missing, computed, strict=True))
            self.cache.set_many(new)
            if not self.cache.shared_between_processes:
                current_record().cached.update(new)
            found.update(new)
        return np.array([found[key] for key in keys])

    def _keys(self, coalitions: Coalitions) -> list[bytes]:
        packed = np.packbits(coalitions, axis=1)
        keys = []
        for row in packed:
            hasher = self._hasher.copy()
            hasher.update(row.tobytes())
            keys.append(hasher.digest())
        return keys

    def fingerprint(self) -> bytes:
        """Return the fingerprint of the utility."""
        return self._fingerprint

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_hasher"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._hasher = hashlib.blake2b(self._fingerprint, digest_size=20)
