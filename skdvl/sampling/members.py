"""Coalitions as rows of booleans: drawn and counted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["count_members", "draw_members"]

_MOST_IN_A_BYTE = 255
_MOST_SORTED = 200
_MOST_NUMBERS = 2**16  # sorted at a time: they stay in the processor's cache


def count_members(coalitions: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the sizes of coalitions.

    Sums of bytes within a byte: `numpy.count_nonzero` along an axis takes thrice as long.
    """
    as_bytes = coalitions.view(np.uint8)
    sizes = np.add.reduce(as_bytes[:, :_MOST_IN_A_BYTE], axis=1, dtype=np.uint8).astype(np.intp)
    for first in range(_MOST_IN_A_BYTE, coalitions.shape[1], _MOST_IN_A_BYTE):
        part = as_bytes[:, first : first + _MOST_IN_A_BYTE]
        sizes += np.add.reduce(part, axis=1, dtype=np.uint8)
    return sizes


def draw_members(
    n_players: int, sizes: NDArray[np.intp], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw uniform random coalitions of given sizes."""
    draw = _lowest if n_players <= _MOST_SORTED else _picked
    return draw(n_players, sizes, rng)


def _lowest(n_players: int, sizes: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Take the players with the lowest of random numbers; rows in doubt by a tie are redrawn.

    The generator's raw bits are four times as fast as its integers, and any bits will do.
    """
    members = np.empty((len(sizes), n_players), dtype=bool)
    is_tied = np.zeros(len(sizes), dtype=bool)
    step = max(1, _MOST_NUMBERS // n_players)
    for first in range(0, len(sizes), step):
        wanted = sizes[first : first + step]
        n_numbers = len(wanted) * n_players
        raw = rng.bit_generator.random_raw((n_numbers + 1) // 2)
        numbers = raw.view(np.uint32)[:n_numbers].reshape(len(wanted), n_players)
        ascending = np.sort(numbers, axis=1)
        rows = np.arange(len(wanted))
        limits = ascending[rows, np.maximum(wanted, 1) - 1]
        is_part = (wanted > 0) & (wanted < n_players)
        is_tied[first : first + step] = is_part & (limits == ascending[rows, wanted % n_players])
        np.less_equal(numbers, limits[:, np.newaxis], out=members[first : first + step])
    members[sizes == 0] = False
    tied = np.flatnonzero(is_tied)
    if len(tied):
        members[tied] = _lowest(n_players, sizes[tied], rng)
    return members


def _picked(n_players: int, sizes: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Add random players until there are enough, or for large coalitions leave them out.

    What was picked before is picked again, which favours nobody. Sorting takes four times as long
    at 1000 players, where most coalitions are small.
    """
    members = np.zeros((len(sizes), n_players), dtype=bool)
    cells = members.reshape(-1)
    wanted = np.minimum(sizes, n_players - sizes)
    rows = np.flatnonzero(wanted)
    missing = wanted[rows]
    while len(rows):
        picked = rng.integers(n_players, size=missing.sum(), dtype=np.uint32)
        cells[np.repeat(rows * n_players, missing) + picked] = True
        missing = wanted[rows] - count_members(members[rows])
        rows, missing = rows[missing > 0], missing[missing > 0]
    members ^= (2 * sizes > n_players)[:, np.newaxis]
    return members
