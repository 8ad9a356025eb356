"""The reuse read-out: values from coalitions of random sizes, each used for all players."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skdvl.sampling.base import Estimate, Game, SamplingScheme
from skdvl.sampling.log import Chunk, EvaluationLog
from skdvl.sampling.size_curve import fit_size_curve
from skdvl.semivalues import Semivalue, size_weights

__all__ = ["N_BLOCKS", "estimate_by_reuse", "mean_law", "reuse_efficiency"]

N_BLOCKS = 8
_MAX_STRATA = 64
_MIN_PER_STRATUM = 8
_MIN_EVALS_FOR_INTERVALS = 4  # per player
_MAX_FLOATS = 2**22  # of draws turned into floats at a time


def estimate_by_reuse(
    scheme: SamplingScheme, game: Game, target: Semivalue, log: EvaluationLog
) -> Estimate:
    """Estimate a semivalue from independent coalitions, given their sizes.

    Parameters
    ----------
    scheme : SamplingScheme
        Draws uniform coalitions of the sizes that its chunks' laws give.
    game : Game
    target : Semivalue
    log : EvaluationLog

    Returns
    -------
    Estimate
        With standard errors from the spread of the draws' contributions within strata of sizes.
    """
    n_players = game.n_players
    m, a = size_weights(target.size_distribution(n_players))
    known = m[0] * game.empty + m[-1] * game.full
    if n_players < 2 or not log.n_draws:
        return Estimate(
            np.full(n_players, known), np.full(n_players, 0.0 if n_players < 2 else np.nan)
        )
    sizes, utilities, blocks = _evaluated(scheme, log)
    law = mean_law([(entry.chunk, entry.n_done) for entry in log.entries])
    residuals, curve = _residuals(sizes, utilities, blocks, game)
    scale = residuals / (len(sizes) * law[sizes])
    inside = a[sizes] * scale
    outside = m[sizes] * scale - inside * sizes / n_players
    strata = _strata(sizes, n_players)
    values = np.full(n_players, known + np.sum(m[1:-1] * curve[1:-1]) + outside.sum())
    variances = _Variances(strata, inside, outside, n_players)
    start = 0
    for _, coalitions, _ in log.replay(scheme):
        step = max(1, _MAX_FLOATS // n_players)
        for first in range(0, len(coalitions), step):
            part = coalitions[first : first + step].astype(np.float64)
            mine = slice(start, start + len(part))
            values += inside[mine] @ part
            variances.add(mine, part)
            start += len(part)
    caveat = None
    if len(sizes) < _MIN_EVALS_FOR_INTERVALS * n_players:
        caveat = (
            f"{len(sizes)} evaluations are too few for intervals of {n_players} players: at least "
            f"{_MIN_EVALS_FOR_INTERVALS} per player are needed."
        )
    return Estimate(values, np.sqrt(variances.total()), math.inf, caveat)


def mean_law(parts: Sequence[tuple[Chunk, int]]) -> NDArray[np.float64]:
    """Return the mixture of the chunks' laws, weighted by the number of draws from each."""
    total = sum(n_draws for _, n_draws in parts)
    weights: dict[int, float] = {}
    laws: dict[int, NDArray[np.float64]] = {}
    for chunk, n_draws in parts:
        assert chunk.law is not None
        laws[id(chunk.law)] = chunk.law
        weights[id(chunk.law)] = weights.get(id(chunk.law), 0.0) + n_draws / total
    return np.sum([weights[key] * law for key, law in laws.items()], axis=0)


def reuse_efficiency(n_players: int, target: Semivalue, chunks: Sequence[Chunk]) -> float:
    """Return (sum s)² / sum(s² / r), s_k = a_k sqrt(pi_k (1 - pi_k)), r the chunks' mean law."""
    _, a = size_weights(target.size_distribution(n_players))
    share = np.arange(n_players + 1) / n_players
    s = a * np.sqrt(share * (1 - share))
    needed = s > 0
    if not needed.any():
        return 1.0
    law = mean_law([(chunk, chunk.n_draws) for chunk in chunks])
    if (law[needed] == 0).any():
        return 0.0
    return float(s[needed].sum() ** 2 / np.sum(s[needed] ** 2 / law[needed]))


def _evaluated(
    scheme: SamplingScheme, log: EvaluationLog
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.intp]]:
    """Return size, utility and block of every draw."""
    sizes, utilities, blocks = [], [], []
    for _, coalitions, found in log.replay(scheme):
        sizes.append(coalitions.sum(axis=1, dtype=np.intp))
        utilities.append(found)
        blocks.append(np.arange(len(found)) % N_BLOCKS)
    return np.concatenate(sizes), np.concatenate(utilities), np.concatenate(blocks)


def _residuals(
    sizes: NDArray[np.intp],
    utilities: NDArray[np.float64],
    blocks: NDArray[np.intp],
    game: Game,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Subtract from each utility a curve fitted without its own block of draws.

    Whatever the curve, the estimate then stays unbiased: given the sizes, a coalition is
    independent of the other blocks, and the sizes of the blocks are independent too. A curve that
    had seen the draw itself would bias it.

    Returns
    -------
    residuals : ndarray of shape (n_draws,)
    curve : ndarray of shape (n_players + 1,)
        Mean of the curves, weighted by the size of the blocks they serve.
    """
    length = game.n_players + 1
    cells = blocks * length + sizes
    counts = np.bincount(cells, minlength=N_BLOCKS * length).reshape(N_BLOCKS, length)
    sums = np.bincount(cells, weights=utilities, minlength=N_BLOCKS * length)
    sums = sums.reshape(N_BLOCKS, length)
    known_counts = counts.sum(axis=0).astype(np.float64)
    known_counts[[0, -1]] += 1
    known_sums = sums.sum(axis=0)
    known_sums[0] += game.empty
    known_sums[-1] += game.full
    residuals = np.empty(len(sizes))
    mean_curve = np.zeros(length)
    for block in range(N_BLOCKS):
        curve = fit_size_curve(known_counts - counts[block], known_sums - sums[block])
        mine = blocks == block
        residuals[mine] = utilities[mine] - curve[sizes[mine]]
        mean_curve += curve * (mine.sum() / len(sizes))
    return residuals, mean_curve


def _strata(sizes: NDArray[np.intp], n_players: int) -> NDArray[np.intp]:
    """Group draws of neighbouring sizes, each group with several draws, at most 64 groups.

    Sizes are drawn systematically, so only the spread within a size is sampling error. A size
    with one draw shows no spread: neighbours are put together.
    """
    counts = np.bincount(sizes, minlength=n_players + 1)
    wanted = max(_MIN_PER_STRATUM, math.ceil(len(sizes) / _MAX_STRATA))
    stratum_of_size = np.zeros(n_players + 1, dtype=np.intp)
    stratum, filled = 0, 0
    left = len(sizes)
    for size in np.flatnonzero(counts):
        if filled >= wanted and left >= wanted:
            stratum, filled = stratum + 1, 0
        stratum_of_size[size] = stratum
        filled += counts[size]
        left -= counts[size]
    return stratum_of_size[sizes]


class _Variances:
    """Variances of the values, summed over strata.

    Draw j adds t_ij = inside_j · 1[i in S_j] + outside_j to the value of i; a stratum of g draws
    adds g / (g - 1) · (sum t² - (sum t)² / g) to its variance.
    """

    def __init__(
        self,
        strata: NDArray[np.intp],
        inside: NDArray[np.float64],
        outside: NDArray[np.float64],
        n_players: int,
    ) -> None:
        self.sizes = np.bincount(strata).astype(np.float64)
        self.correction = self.sizes / np.maximum(self.sizes - 1, 1)
        per_draw = self.correction[strata]
        self.strata = strata
        self.inside = inside
        self.linear = per_draw * (inside**2 + 2 * inside * outside)
        self.squares = np.full(n_players, np.sum(per_draw * outside**2))
        by_stratum = np.bincount(strata, weights=outside)
        self.sums: NDArray[np.float64] = np.repeat(by_stratum[:, np.newaxis], n_players, axis=1)

    def add(self, mine: slice, coalitions: NDArray[np.float64]) -> None:
        """Add the draws of a slice, given their coalitions as floats."""
        self.squares += self.linear[mine] @ coalitions
        selector = np.zeros((len(self.sizes), len(coalitions)))
        selector[self.strata[mine], np.arange(len(coalitions))] = self.inside[mine]
        self.sums += selector @ coalitions

    def total(self) -> NDArray[np.float64]:
        """Return the variances."""
        weights = self.correction / self.sizes
        return np.maximum(self.squares - weights @ self.sums**2, 0.0)
