"""The reuse read-out: values from coalitions of random sizes, each used for all players."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from skdvl.sampling.base import Estimate, Game, SamplingScheme
from skdvl.sampling.enumeration import enumerated_sums
from skdvl.sampling.log import Chunk, EvaluationLog
from skdvl.sampling.size_curve import fit_size_curves
from skdvl.semivalues import Semivalue, size_weights

__all__ = [
    "N_BLOCKS",
    "DrawTable",
    "enumerated_sizes",
    "estimate_by_reuse",
    "interval_caveat",
    "known_part",
    "read_out",
    "reuse_efficiency",
]

N_BLOCKS = 8
_MAX_STRATA = 64
_MIN_PER_STRATUM = 8
_MIN_EVALS_FOR_INTERVALS = 4  # per player
_MAX_FLOATS = 2**21  # of draws turned into floats at a time
_NEGLIGIBLE = 1e-15

Floats = NDArray[np.float64]


def estimate_by_reuse(
    scheme: SamplingScheme,
    game: Game,
    target: Semivalue,
    log: EvaluationLog,
    has_baseline: bool = True,
) -> Estimate:
    """Estimate a semivalue from independent coalitions, given their sizes.

    Parameters
    ----------
    scheme : SamplingScheme
        Draws uniform coalitions of the sizes that its chunks' laws give.
    game : Game
    target : Semivalue
    log : EvaluationLog
    has_baseline : bool, default=True
        Whether the mean utility of the coalition's size is subtracted from each utility.

    Returns
    -------
    Estimate
        With standard errors from the spread of the draws' contributions within strata of sizes.
    """
    table = DrawTable.of(scheme, game, log)
    values = known_part(scheme, game, target, log)
    if not len(table.sizes):
        return Estimate(values, np.full(game.n_players, 0.0 if game.n_players < 2 else np.nan))
    residuals = table.utilities
    if has_baseline:
        curves = table.curves()
        residuals = residuals - curves[table.blocks, table.sizes]
        m, _ = size_weights(target.size_distribution(game.n_players))
        values += np.sum(m * table.shares() * curves)
    sums, variances = read_out(scheme, target, log, table, residuals)
    return Estimate(values + sums, np.sqrt(variances), math.inf, interval_caveat(log))


def known_part(scheme: SamplingScheme, game: Game, target: Semivalue, log: EvaluationLog) -> Floats:
    """Return what ∅, N and the enumerated sizes add to the values."""
    m, a = size_weights(target.size_distribution(game.n_players))
    values = np.full(game.n_players, m[0] * game.empty + m[-1] * game.full)
    is_known = enumerated_sizes(log)
    for chunk, coalitions, utilities in log.replay(scheme):
        if chunk.half < 0 and chunk.law is not None and is_known[chunk.law > 0].all():
            values += enumerated_sums(game, m, a, coalitions, utilities)
    return values


def enumerated_sizes(log: EvaluationLog, planned: bool = False) -> NDArray[np.bool_]:
    """Return of which sizes all coalitions are evaluated, or planned, by enumeration.

    Returns
    -------
    ndarray of bool, shape (n_players + 1,)
    """
    sizes = np.zeros(log.n_players + 1, dtype=bool)
    for entries in log.rounds:
        enumeration = [entry for entry in entries if entry.chunk.half < 0]
        if planned or all(entry.is_complete for entry in enumeration):
            for entry in enumeration[:1]:
                assert entry.chunk.law is not None
                sizes |= entry.chunk.law > 0
    return sizes


def interval_caveat(log: EvaluationLog) -> str | None:
    """Say why intervals from so few draws cannot be trusted, None if they can."""
    if log.n_draws >= _MIN_EVALS_FOR_INTERVALS * log.n_players:
        return None
    return (
        f"{log.n_draws} evaluations are too few for intervals of {log.n_players} players: at "
        f"least {_MIN_EVALS_FOR_INTERVALS} per player are needed."
    )


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
        Whether a draw was made by a law that no utility had a part in.
    expected : ndarray of shape (n_blocks, n_players + 1)
        How many draws of each size the laws let expect in each block.
    is_known : ndarray of bool, shape (n_players + 1,)
        Sizes that are enumerated as well: their draws are of no more use.
    """

    game: Game
    sizes: NDArray[np.intp]
    utilities: Floats
    blocks: NDArray[np.intp]
    is_pilot: NDArray[np.bool_]
    expected: Floats
    is_known: NDArray[np.bool_]

    @classmethod
    def of(cls, scheme: SamplingScheme, game: Game, log: EvaluationLog) -> DrawTable:
        """Read the table out of a log."""
        n_sizes = game.n_players + 1
        is_adapted = any(entry.chunk.half >= 2 for entry in log.entries)
        n_blocks = 2 * N_BLOCKS if is_adapted else N_BLOCKS
        sizes, utilities = [np.empty(0, dtype=np.intp)], [np.empty(0)]
        blocks, is_pilot = [np.empty(0, dtype=np.intp)], [np.empty(0, dtype=bool)]
        expected = np.zeros((n_blocks, n_sizes))
        for chunk, coalitions, found in log.replay(scheme):
            if chunk.half < 0:
                continue
            assert chunk.law is not None
            block = np.arange(len(found)) % N_BLOCKS
            if is_adapted:
                block += N_BLOCKS * (chunk.half % 2)
            sizes.append(np.count_nonzero(coalitions, axis=1))
            utilities.append(found)
            blocks.append(block)
            is_pilot.append(np.full(len(found), chunk.half < 2))
            expected += np.outer(np.bincount(block, minlength=n_blocks), chunk.law)
        return cls(
            game,
            np.concatenate(sizes),
            np.concatenate(utilities),
            np.concatenate(blocks),
            np.concatenate(is_pilot),
            expected,
            enumerated_sizes(log),
        )

    @property
    def n_groups(self) -> int:
        """Number of halves that are estimates of their own."""
        return len(self.expected) // N_BLOCKS

    def of_group(self) -> Floats:
        """Return how many draws of each size the laws let expect in each group."""
        return self.expected.reshape(self.n_groups, N_BLOCKS, -1).sum(axis=1)

    def weights(self) -> Floats:
        """Return 1 / (n_draws · r_k) for each draw, r the density of its group's sizes."""
        return self._weight_of_size()[self.blocks // N_BLOCKS, self.sizes]

    def shares(self) -> Floats:
        """Return the expected sum of the weights of each block's draws of each size."""
        return self.expected * np.repeat(self._weight_of_size(), N_BLOCKS, axis=0)

    def _weight_of_size(self) -> Floats:
        group = self.of_group()
        share = group.sum(axis=1, keepdims=True) / len(self.sizes)
        drawn = (group > 0) & ~self.is_known
        return np.divide(share, group, out=np.zeros_like(group), where=drawn)

    def elsewhere(self, of_all: Floats, of_pilot: Floats) -> Floats:
        """Return what each block may know: a sum over other blocks of sums over their draws.

        Whatever is subtracted from the utilities of a block, the estimate stays unbiased if it is
        independent of the block's coalitions, given their sizes, and of how many of each size
        there are. These are the other blocks of the same half, and the other half's pilot: the
        other half's later sizes depend on the utilities of this block.

        Parameters
        ----------
        of_all, of_pilot : ndarray of shape (n_blocks, ...)
            Sums over all draws of each block, and over those of the pilot.
        """
        shape = (self.n_groups, N_BLOCKS, *of_all.shape[1:])
        known = of_all.reshape(shape).sum(axis=1)
        if self.n_groups == 2:
            known = known + of_pilot.reshape(shape).sum(axis=1)[::-1]
        return np.repeat(known, N_BLOCKS, axis=0) - of_all

    def curves(self) -> Floats:
        """Return the mean utility per size as each block may know it."""
        ones = np.ones_like(self.utilities)
        counts = self.elsewhere(self._by_cell(ones), self._by_cell(ones * self.is_pilot))
        sums = self.elsewhere(
            self._by_cell(self.utilities), self._by_cell(self.utilities * self.is_pilot)
        )
        counts[:, [0, -1]] += 1
        sums[:, 0] += self.game.empty
        sums[:, -1] += self.game.full
        expected = self.expected.sum(axis=0)
        expected[[0, -1]] += 1
        return fit_size_curves(counts, sums, expected)

    def _by_cell(self, numbers: Floats) -> Floats:
        """Sum a number per draw over the draws of each block and size."""
        shape = self.expected.shape
        cells = self.blocks * shape[1] + self.sizes
        return np.bincount(cells, weights=numbers, minlength=shape[0] * shape[1]).reshape(shape)

    def strata(self) -> NDArray[np.intp]:
        """Group draws of one half and of neighbouring sizes, each group with several draws.

        Sizes are drawn systematically, so only the spread within a size is sampling error. A size
        with one draw shows no spread: neighbours are put together.
        """
        n_sizes = self.expected.shape[1]
        cells = self.blocks // N_BLOCKS * n_sizes + self.sizes
        counts = np.bincount(cells, minlength=self.n_groups * n_sizes)
        wanted = max(_MIN_PER_STRATUM, math.ceil(len(cells) / _MAX_STRATA))
        stratum_of_cell = np.zeros(len(counts), dtype=np.intp)
        stratum, filled = 0, 0
        for group in np.arange(len(counts)).reshape(self.n_groups, n_sizes):
            left = counts[group].sum()
            if filled:
                stratum, filled = stratum + 1, 0
            for cell in group[counts[group] > 0]:
                if filled >= wanted and left >= wanted:
                    stratum, filled = stratum + 1, 0
                stratum_of_cell[cell] = stratum
                filled += counts[cell]
                left -= counts[cell]
        return stratum_of_cell[cells]


def read_out(
    scheme: SamplingScheme,
    target: Semivalue,
    log: EvaluationLog,
    table: DrawTable,
    residuals: Floats,
) -> tuple[Floats, Floats]:
    """Sum what draws contribute to players: t_ij = inside_j · 1[i in S_j] + outside_j.

    A stratum of g draws adds g / (g - 1) · (sum t² - (sum t)² / g) to the variance.

    Returns
    -------
    sums, variances : ndarray of shape (n_players,)
    """
    m, a = size_weights(target.size_distribution(log.n_players))
    scale = residuals * table.weights()
    inside = a[table.sizes] * scale
    outside = m[table.sizes] * scale - inside * table.sizes / log.n_players
    strata = table.strata()
    n_of_stratum = np.bincount(strata).astype(np.float64)
    correction = n_of_stratum / np.maximum(n_of_stratum - 1, 1)
    per_draw = correction[strata]
    squared = per_draw * (inside**2 + 2 * inside * outside)
    base = np.bincount(strata, weights=outside)
    sums: Floats = np.repeat(base[:, np.newaxis], log.n_players, axis=1)
    squares = np.full(log.n_players, np.sum(per_draw * outside**2))
    start = 0
    for chunk, coalitions, _ in log.replay(scheme):
        if chunk.half < 0:
            continue
        step = max(1, _MAX_FLOATS // log.n_players)
        for first in range(0, len(coalitions), step):
            part = coalitions[first : first + step].astype(np.float64)
            mine = slice(start, start + len(part))
            n_rows = len(part)
            adder = sparse.csr_matrix(
                (inside[mine], (strata[mine], np.arange(n_rows))), (len(base), n_rows)
            )
            sums += adder @ part
            squares += squared[mine] @ part
            start += n_rows
    variances = squares - (correction / n_of_stratum) @ sums**2
    return sums.sum(axis=0), np.maximum(variances, 0.0)


def mean_law(chunks: Sequence[Chunk]) -> Floats:
    """Return the mixture of the chunks' laws, weighted by the number of draws from each."""
    laws = [chunk.law for chunk in chunks if chunk.law is not None]
    return np.average(laws, axis=0, weights=[chunk.n_draws for chunk in chunks])


def reuse_efficiency(n_players: int, target: Semivalue, chunks: Sequence[Chunk]) -> float:
    """Return (sum s)² / sum(s² / r), s_k = a_k sqrt(pi_k (1 - pi_k)), r the chunks' mean law."""
    _, a = size_weights(target.size_distribution(n_players))
    share = np.arange(n_players + 1) / n_players
    s = a * np.sqrt(share * (1 - share))
    needed = s > _NEGLIGIBLE * s.sum()
    for chunk in chunks:
        if chunk.half < 0 and chunk.law is not None:
            needed &= chunk.law == 0
    if not needed.any():
        return 1.0
    law = mean_law([chunk for chunk in chunks if chunk.half >= 0])
    if (law[needed] == 0).any():
        return 0.0
    return float(s[needed].sum() ** 2 / np.sum(s[needed] ** 2 / law[needed]))
