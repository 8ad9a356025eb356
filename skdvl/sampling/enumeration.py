"""Exact values: every coalition that matters, once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from skdvl.sampling.base import Estimate, Game, SamplingScheme
from skdvl.sampling.log import Chunk, EvaluationLog
from skdvl.semivalues import Semivalue, size_weights

__all__ = [
    "MOST_COUNTED",
    "Exact",
    "count_coalitions",
    "enumerated_coalitions",
    "enumerated_sums",
]

MOST_COUNTED = 2**62


def count_coalitions(n_players: int, target: Semivalue) -> int:
    """Return how many evaluations the exact values take, with those of ∅ and N.

    Counting stops at 2^62: the sums of binomials of thousands of players take seconds.

    Examples
    --------
    >>> from skdvl.semivalues import LOO, Shapley
    >>> count_coalitions(10, Shapley()), count_coalitions(10, LOO())
    (1024, 12)
    """
    sizes = _sizes_that_matter(n_players, target)
    if len(sizes) == n_players - 1:
        return min(2**n_players, MOST_COUNTED)
    total = 2
    for size in sizes.tolist():
        total += math.comb(n_players, size)
        if total > MOST_COUNTED:
            return MOST_COUNTED
    return total


def _sizes_that_matter(n_players: int, target: Semivalue) -> NDArray[np.intp]:
    _, a = size_weights(target.size_distribution(n_players))
    return np.flatnonzero(a)


@dataclass(frozen=True)
class Exact(SamplingScheme, name="exact"):
    r"""Enumerate the coalitions of all sizes on which the semivalue depends.

    Each coalition is evaluated once, not once per player: 2^n evaluations for Shapley and
    Banzhaf, n + 2 for leave-one-out. With the weights of `skdvl.semivalues.size_weights`,

    .. math::
        \phi_i = \sum_k m_k \bar u_k
                + \sum_k a_k \, \mathrm{mean}_{|S|=k} (1[i \in S] - k/n) \, u(S).

    Examples
    --------
    >>> import skdvl
    >>> result = skdvl.estimate_values(lambda players: len(players) > 1, n_players=3,
    ...                                method="exact")
    >>> result.values.round(12), result.n_evals
    (array([0.333..., 0.333..., 0.333...]), 8)
    """

    is_exact: ClassVar[bool] = True

    def n_evals(self, n_players: int, target: Semivalue) -> int:
        """Return how many evaluations the values take, with those of ∅ and N."""
        return count_coalitions(n_players, target)

    def plan(self, game: Game, target: Semivalue, log: EvaluationLog) -> Sequence[Chunk]:
        """Plan all coalitions as one round."""
        n_players = game.n_players
        sizes = _sizes_that_matter(n_players, target)
        if log.n_chunks or not len(sizes):
            return ()
        law = np.zeros(n_players + 1)
        law[sizes] = 1.0
        total = count_coalitions(n_players, target) - 2
        per_chunk = game.evals_per_chunk
        return [
            Chunk(0, log.fold, index, 0, start, min(per_chunk, total - start), law)
            for index, start in enumerate(range(0, total, per_chunk))
        ]

    def draw(self, n_players: int, chunk: Chunk, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Return the coalitions of the chunk's range, by size and then in lexicographic order."""
        return enumerated_coalitions(n_players, chunk)

    def estimate(self, game: Game, target: Semivalue, log: EvaluationLog) -> Estimate:
        """Return exact values, with standard errors of 0."""
        m, a = size_weights(target.size_distribution(game.n_players))
        values = np.full(game.n_players, m[0] * game.empty + m[-1] * game.full)
        for _, coalitions, utilities in log.replay(self):
            values += enumerated_sums(game, m, a, coalitions, utilities)
        # A null player's sum leaves a rounding error, and values < 0 would select it.
        scale = max(abs(game.full), abs(game.empty), np.abs(values).max())
        values[np.abs(values) < 4 * game.n_players * np.finfo(np.float64).eps * scale] = 0.0
        is_exact = log.is_round_complete and bool(log.rounds or not np.any(a))
        return Estimate(values, np.zeros(game.n_players), is_exact=is_exact)

    def efficiency(self, n_players: int, target: Semivalue, chunks: Sequence[Chunk]) -> float:
        """Return 1 if all sizes that matter are enumerated, else 0."""
        sizes = _sizes_that_matter(n_players, target)
        laws = [chunk.law for chunk in chunks[:1] if chunk.law is not None]
        return float(not len(sizes) or (bool(laws) and bool((laws[0][sizes] > 0).all())))


def enumerated_coalitions(n_players: int, chunk: Chunk) -> NDArray[np.bool_]:
    """Return the coalitions of the sizes in a chunk's law, of them the chunk's range."""
    assert chunk.law is not None
    sizes = np.flatnonzero(chunk.law)
    counts = np.array([math.comb(n_players, int(k)) for k in sizes])
    ends = np.cumsum(counts)
    ranks = np.arange(chunk.start, chunk.start + chunk.n_draws)
    which = np.searchsorted(ends, ranks, side="right")
    coalitions = np.empty((chunk.n_draws, n_players), dtype=bool)
    for position in np.unique(which):
        mine = which == position
        first = ends[position] - counts[position]
        coalitions[mine] = _unrank(n_players, int(sizes[position]), ranks[mine] - first)
    return coalitions


def enumerated_sums(
    game: Game,
    m: NDArray[np.float64],
    a: NDArray[np.float64],
    coalitions: NDArray[np.generic],
    utilities: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return what coalitions add to the values if all of their sizes are evaluated."""
    sizes = coalitions.sum(axis=1)
    n_of_size = np.zeros(game.n_players + 1)
    for k in np.flatnonzero(np.bincount(sizes)).tolist():
        n_of_size[k] = math.comb(game.n_players, k)
    n_alike = n_of_size[sizes]
    centre = (game.empty + game.full) / 2  # keeps the sums small
    weighted = a[sizes] * ((utilities - centre) / n_alike)
    shared = np.sum(m[sizes] * (utilities / n_alike) - weighted * sizes / game.n_players)
    return weighted @ coalitions + shared


def _unrank(n_players: int, size: int, ranks: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return the subsets of a size with given ranks in lexicographic order."""
    if 2 * size > n_players:
        return ~_unrank(n_players, n_players - size, ranks)
    subsets = np.zeros((len(ranks), n_players), dtype=bool)
    if size == 1:
        subsets[np.arange(len(ranks)), ranks] = True
        return subsets
    table = _binomials(n_players, size)
    ranks = ranks.copy()
    left = np.full(len(ranks), size)
    for player in range(n_players):
        with_player = table[n_players - 1 - player, left - 1] * (left > 0)
        taken = ranks < with_player
        subsets[:, player] = taken
        ranks -= np.where(taken, 0, with_player)
        left -= taken
    return subsets


@lru_cache(maxsize=64)
def _binomials(n: int, k: int) -> NDArray[np.int64]:
    """Return C(i, j) for i <= n and j <= k, cut at 2^62: ranks beyond that are never enumerated."""
    return np.array(
        [[min(math.comb(i, j), 2**62) for j in range(k + 1)] for i in range(n + 1)], dtype=np.int64
    )
