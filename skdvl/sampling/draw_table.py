"""What is known of draws beside their members."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from skdvl.sampling.base import Game, SamplingScheme
from skdvl.sampling.laws import law_of_rows
from skdvl.sampling.log import Chunk, EvaluationLog
from skdvl.sampling.members import count_members
from skdvl.sampling.size_curve import fit_size_curves, smooth_curves

__all__ = [
    "N_BLOCKS",
    "DrawTable",
    "block_lengths",
    "enumerated_sizes",
    "sizes_enumerated_by",
    "whole_sizes",
]

N_BLOCKS = 8
_MAX_STRATA = 64
_MIN_PER_STRATUM = 8

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DrawTable:
    """What is known of every draw but its members, and of how it came to be drawn.

    Draws belong in turn to eight blocks. Where one half of the draws set the law of the other
    half and the reverse, each half is an estimate of its own, has eight blocks of its own, and
    weighs as much as it has draws.

    Attributes
    ----------
    game : Game
    sizes : ndarray of int, shape (n_draws,)
    utilities : ndarray of shape (n_draws,)
    blocks : ndarray of int, shape (n_draws,)
    is_pilot : ndarray of bool, shape (n_draws,)
        Whether the other half may know of a draw: no utility had a part in its law.
    expected : ndarray of shape (n_blocks, n_players + 1)
        How many draws of each size the laws let expect in each block.
    is_known : ndarray of bool, shape (n_players + 1,)
        Sizes that are enumerated as well: their draws are of no more use.
    n_groups : int
        2 where the halves are estimates of their own, else 1.
    """

    game: Game
    sizes: NDArray[np.intp]
    utilities: Floats
    blocks: NDArray[np.intp]
    is_pilot: NDArray[np.bool_]
    expected: Floats
    is_known: NDArray[np.bool_]
    n_groups: int

    @classmethod
    def of(
        cls,
        scheme: SamplingScheme,
        game: Game,
        log: EvaluationLog,
        keeps_halves_apart: bool = False,
    ) -> DrawTable:
        """Read the table out of a log.

        Where a draw is a pair, its second coalition is the complement of the first.

        Parameters
        ----------
        scheme : SamplingScheme
        game : Game
        log : EvaluationLog
        keeps_halves_apart : bool, default=False
            Whether neither half may know of any draw of the other.
        """
        n_sizes = game.n_players + 1
        n_rows = scheme.rows_per_draw
        is_adapted = any(entry.chunk.half >= 2 for entry in log.entries)
        n_groups = 2 if is_adapted or keeps_halves_apart else 1
        sizes, utilities, halves = [np.empty(0, dtype=np.intp)], [np.empty(0)], [0]
        expected = np.zeros((n_groups, N_BLOCKS, n_sizes))
        for chunk, coalitions, found in log.replay(scheme, enumerated=False):
            assert chunk.law is not None
            sizes.append(count_members(coalitions.astype(bool, copy=False)))
            utilities.append(found)
            halves.append(chunk.half)
            in_block = n_rows * block_lengths(len(found) // n_rows)
            expected[chunk.half % n_groups] += in_block * law_of_rows(chunk.law, n_rows)
        lengths = np.array([len(part) for part in sizes])
        half = np.repeat(halves, lengths)
        position = np.arange(len(half)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return cls(
            game,
            np.concatenate(sizes),
            np.concatenate(utilities),
            position // n_rows % N_BLOCKS + N_BLOCKS * (half % n_groups),
            (half < 2) & (not keeps_halves_apart),
            expected.reshape(-1, n_sizes),
            enumerated_sizes(log),
            n_groups,
        )

    def of_firsts(self) -> DrawTable:
        """Return the table of the first coalitions of all pairs."""
        return replace(
            self,
            sizes=self.sizes[::2],
            utilities=self.utilities[::2],
            blocks=self.blocks[::2],
            is_pilot=self.is_pilot[::2],
        )

    @cached_property
    def groups(self) -> NDArray[np.intp]:
        """Group of each draw."""
        return self.blocks * self.n_groups // len(self.expected)

    @cached_property
    def cells(self) -> NDArray[np.intp]:
        """Position of each draw in ``expected``, row by row."""
        return self.blocks * self.expected.shape[1] + self.sizes

    @cached_property
    def of_group(self) -> Floats:
        """Return how many draws of each size the laws let expect in each group."""
        return self.expected.reshape(self.n_groups, -1, self.expected.shape[1]).sum(axis=1)

    def to_blocks(self, of_group: Floats) -> Floats:
        """Repeat what belongs to a group for each of its blocks."""
        return np.repeat(of_group, len(self.expected) // self.n_groups, axis=0)

    def weights(self) -> Floats:
        """Return 1 / (n_draws · r_k) for each draw, r the density of its group's sizes."""
        return self._weight_of_size[self.groups, self.sizes]

    def shares(self) -> Floats:
        """Return the expected sum of the weights of each block's draws of each size."""
        return self.expected * self.to_blocks(self._weight_of_size)

    @cached_property
    def _weight_of_size(self) -> Floats:
        group = self.of_group
        share = group.sum(axis=1, keepdims=True) / len(self.sizes)
        drawn = (group > 0) & ~self.is_known
        return np.divide(share, group, out=np.zeros_like(group), where=drawn)

    def elsewhere(self, numbers: Floats) -> Floats:
        """Sum a number per draw over the draws of each size that each block may know of.

        Whatever is subtracted from the utilities of a block, the estimate stays unbiased if it is
        independent of the block's coalitions, given their sizes, and of how many of each size
        there are. Known are so the other blocks of the same half, and the other half's pilot; the
        other half's later sizes depend on the utilities of this block.

        Parameters
        ----------
        numbers : ndarray of shape (n_draws,)

        Returns
        -------
        ndarray of shape (n_blocks, n_players + 1)
        """
        of_block = self._by_cell(numbers)
        known = of_block.sum(axis=1)
        if self.n_groups == 2:
            known += self._by_cell(np.where(self.is_pilot, numbers, 0.0)).sum(axis=1)[::-1]
        return (known[:, np.newaxis] - of_block).reshape(self.expected.shape)

    def may_know(self) -> NDArray[np.bool_]:
        """Return of which draws each block may know, shape (n_blocks, n_draws)."""
        block = np.arange(len(self.expected))[:, np.newaxis]
        group = block * self.n_groups // len(self.expected)
        return np.where(self.groups == group, self.blocks != block, self.is_pilot)

    @cached_property
    def _counts_and_sums(self) -> tuple[Floats, Floats]:
        return self.elsewhere(np.ones_like(self.utilities)), self.elsewhere(self.utilities)

    def curves(self) -> Floats:
        """Return the mean utility per size, as each block may know it."""
        counts, sums, expected = (a.copy() for a in (*self._counts_and_sums, self.of_group))
        for ends in (counts, expected):
            ends[:, 0] += 1
            ends[:, -1] += 1
        sums[:, 0] += self.game.empty
        sums[:, -1] += self.game.full
        return fit_size_curves(counts, sums, expected)

    def spreads(self, curves: Floats) -> Floats:
        """Return the standard deviation of utilities per size, as each block may know it."""
        counts, sums = self._counts_and_sums
        centre = self.utilities.mean()  # squares of what all have in common would cancel badly
        squares = self.elsewhere((self.utilities - centre) ** 2)
        curves = curves - centre
        squares += curves * (counts * curves - 2 * (sums - counts * centre))
        squares = np.maximum(squares, 0.0)
        return np.sqrt(smooth_curves(counts, squares, self.of_group))

    def _by_cell(self, numbers: Floats) -> Floats:
        """Sum a number per draw over the draws of each block and size, by group."""
        sums = np.bincount(self.cells, weights=numbers, minlength=self.expected.size)
        by_group = (self.n_groups, -1, self.expected.shape[1])
        return sums.astype(np.float64, copy=False).reshape(by_group)

    def strata(self) -> NDArray[np.intp]:
        """Group draws of one half and of neighbouring sizes, each group with several draws.

        Sizes are drawn systematically, so only the spread within a size is sampling error. A size
        with one draw shows no spread: neighbours are put together.
        """
        n_sizes = self.expected.shape[1]
        cells = self.groups * n_sizes + self.sizes
        counts = np.bincount(cells, minlength=self.n_groups * n_sizes)
        wanted = max(_MIN_PER_STRATUM, math.ceil(len(cells) / _MAX_STRATA))
        strata = []
        stratum, filled = 0, 0
        for of_size in counts.reshape(self.n_groups, n_sizes).tolist():
            left = sum(of_size)
            if filled:
                stratum, filled = stratum + 1, 0
            for count in of_size:
                if count and filled >= wanted and left >= wanted:
                    stratum, filled = stratum + 1, 0
                strata.append(stratum)
                filled += count
                left -= count
        return np.array(strata, dtype=np.intp)[cells]


@lru_cache(maxsize=64)
def block_lengths(n_draws: int) -> NDArray[np.intp]:
    """Return how many of the draws of a chunk belong to each block, shape (N_BLOCKS, 1)."""
    lengths = (n_draws + N_BLOCKS - 1 - np.arange(N_BLOCKS)[:, np.newaxis]) // N_BLOCKS
    lengths.flags.writeable = False
    return lengths


def enumerated_sizes(log: EvaluationLog, planned: bool = False) -> NDArray[np.bool_]:
    """Return of which sizes all coalitions are evaluated, or planned, by enumeration.

    Returns
    -------
    ndarray of bool, shape (n_players + 1,)
    """
    entries = [e for entries in log.rounds for e in entries if e.chunk.half < 0]
    chunks = [e.chunk if planned else replace(e.chunk, n_draws=e.n_done) for e in entries]
    return sizes_enumerated_by(log.n_players, chunks)


def sizes_enumerated_by(n_players: int, chunks: Iterable[Chunk]) -> NDArray[np.bool_]:
    """Return of which sizes chunks hold all coalitions.

    An enumeration goes size by size: where the budget ends within one, those before are known.
    """
    n_done: dict[bytes, int] = {}
    for chunk in chunks:
        if chunk.half < 0 and chunk.law is not None:
            law = (chunk.law > 0).tobytes()
            n_done[law] = n_done.get(law, 0) + chunk.n_draws
    sizes = np.zeros(n_players + 1, dtype=bool)
    for law, n in n_done.items():
        due = np.flatnonzero(np.frombuffer(law, dtype=bool))
        sizes[due[_ends_of_sizes(n_players, due) <= n]] = True
    return sizes


def whole_sizes(n_players: int, chunks: Sequence[tuple[Chunk, int]], affordable: int) -> int:
    """Return how many more coalitions of an enumeration end with a whole size.

    Parameters
    ----------
    n_players : int
    chunks : sequence of (Chunk, int)
        All chunks of the enumeration, and how many draws of each are evaluated.
    affordable : int
        How many there may be.
    """
    if not chunks:
        return 0
    n_done = sum(n for _, n in chunks)
    law = chunks[0][0].law
    assert law is not None
    ends = _ends_of_sizes(n_players, np.flatnonzero(law))
    return int(max(0, ends[ends <= n_done + affordable].max(initial=0) - n_done))


def _ends_of_sizes(n_players: int, sizes: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.cumsum([math.comb(n_players, k) for k in sizes.tolist()], dtype=np.intp)
