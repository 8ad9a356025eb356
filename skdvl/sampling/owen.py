"""Owen's multilinear extension, integrated by Gauss-Legendre nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from skdvl.sampling.base import Game
from skdvl.sampling.log import Chunk
from skdvl.sampling.marginals import MarginalScheme
from skdvl.semivalues import Semivalue
from skdvl.utilities.base import Utility

__all__ = ["Owen"]


@dataclass(frozen=True)
class Owen(MarginalScheme, name="owen"):
    r"""Coalitions that each player joins with probability t, and what each player adds to them.

    The Shapley value is the integral over t of the mean marginal contribution to such a
    coalition. t is drawn from the nodes of Gauss-Legendre quadrature, each with its weight
    :math:`w_g`, so that a player joins coalitions of sizes

    .. math:: q_k = \sum_g w_g \, \mathrm{Binomial}(n - 1, t_g)(k).

    Contributions are weighted by p_k / q_k, so that the estimate is unbiased for any number of
    nodes and any semivalue; an even grid of t, as in [1]_, is not. A draw costs n + 1 evaluations:
    of the coalition, and of it with each player's membership changed.

    Parameters
    ----------
    n_nodes : int or None, default=None
        None takes as many as the sizes of ``n_players`` need.
    antithetic : bool, default=False
        Whether draws are pairs, a coalition and its complement.

    References
    ----------
    .. [1] Okhrati, Lipani (2021). "A multilinear sampling algorithm to estimate Shapley values."
       ICPR.
    """

    is_foreseeable: ClassVar[bool] = True

    n_nodes: int | None = None
    antithetic: bool = False

    def __post_init__(self) -> None:
        if self.n_nodes is not None and self.n_nodes < 1:
            raise ValueError(f"n_nodes must be positive or None, got {self.n_nodes!r}")

    @property
    def rows_per_draw(self) -> int:
        """Two if antithetic."""
        return 2 if self.antithetic else 1

    def cost_per_draw(self, n_players: int) -> int:
        """Return n + 1 evaluations per coalition."""
        return (n_players + 1) * self.rows_per_draw

    def draw(self, n_players: int, chunk: Chunk, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Return coalitions of independent members; if antithetic, each with its complement."""
        nodes, weights = _quadrature(self._count_nodes(n_players))
        reached = np.cumsum(weights)
        points = rng.random((chunk.n_draws, 1))
        t = nodes[np.searchsorted(reached / reached[-1], points, side="right")]
        coalitions = rng.random((chunk.n_draws, n_players)) < t
        if not self.antithetic:
            return coalitions
        return np.stack([coalitions, ~coalitions], axis=1).reshape(-1, n_players)

    def evaluate(
        self, draws: NDArray[np.generic], utility: Utility, game: Game
    ) -> NDArray[np.float64]:
        """Return u(S), and u(S) with the membership of each player changed.

        Returns
        -------
        ndarray of shape (n_rows, n_players + 1)
            NaN for ∅ and N, which are known.
        """
        n_players = game.n_players
        utilities = np.full((len(draws), n_players + 1), np.nan)
        for row, coalition in zip(utilities, draws.astype(bool), strict=True):
            for first in range(-1, n_players, game.evals_per_chunk):
                changed = np.arange(first, min(first + game.evals_per_chunk, n_players))
                part = np.repeat(coalition[np.newaxis], len(changed), axis=0)
                some = changed >= 0
                part[np.flatnonzero(some), changed[some]] ^= True
                unknown = part.any(axis=1) & ~part.all(axis=1)
                if unknown.any():
                    row[changed[unknown] + 1] = utility(part[unknown])
        return utilities

    def marginals(
        self,
        draws: NDArray[np.generic],
        utilities: NDArray[np.float64],
        game: Game,
        target: Semivalue,
    ) -> NDArray[np.float64]:
        """Return each player's weighted contribution to each coalition."""
        members = draws.astype(bool)
        sizes = members.sum(axis=1, keepdims=True)
        own, changed = utilities[:, :1], utilities[:, 1:]
        own = np.where(sizes == 0, game.empty, np.where(sizes == game.n_players, game.full, own))
        changed = np.where(members & (sizes == 1), game.empty, changed)
        changed = np.where(~members & (sizes == game.n_players - 1), game.full, changed)
        p, q = target.size_distribution(game.n_players), self.joined_sizes(game.n_players)
        weights = np.divide(p, q, out=np.zeros_like(p), where=q > 0)
        return np.where(members, own - changed, changed - own) * weights[sizes - members]

    def joined_sizes(self, n_players: int) -> NDArray[np.float64]:
        """Return the mixture of binomial distributions."""
        return _mixture(self._count_nodes(n_players), n_players)

    def _count_nodes(self, n_players: int) -> int:
        # binomial distributions are sqrt(n) wide: with fewer nodes, sizes between them are rare
        return self.n_nodes or 8 + math.isqrt(n_players)


@lru_cache(maxsize=16)
def _quadrature(n_nodes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the nodes in [0, 1] and weights that add up to one."""
    nodes, weights = special.roots_legendre(n_nodes)
    return (nodes + 1) / 2, weights / weights.sum()


@lru_cache(maxsize=16)
def _mixture(n_nodes: int, n_players: int) -> NDArray[np.float64]:
    nodes, weights = _quadrature(n_nodes)
    sizes = np.arange(n_players)
    return weights @ stats.binom.pmf(sizes, n_players - 1, nodes[:, np.newaxis])
