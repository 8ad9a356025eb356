"""Permutations: marginal contributions along random orders of the players."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from skdvl.sampling.base import Estimate, Game
from skdvl.sampling.log import Chunk, EvaluationLog
from skdvl.sampling.marginals import MarginalScheme
from skdvl.sampling.moments import RunningMoments
from skdvl.sampling.order_mix import mixed_values
from skdvl.semivalues import Semivalue
from skdvl.utilities.base import Utility

__all__ = ["Antithetic", "OrderScheme", "Permutation", "TruncatedMonteCarlo"]


class OrderScheme(MarginalScheme):
    r"""Base of the schemes that walk along orders of the players.

    u(∅) and u(N) are known, so an order costs n - 1 evaluations. A player that joins at size k
    contributes u(S ∪ i) - u(S), weighted by p_k / (1/n) for a semivalue with size distribution
    p; values are means over orders:

    .. math:: \phi_i = \mathrm{mean}_r \; n \, p_{k_r(i)} [u(S_r \cup i) - u(S_r)].

    References
    ----------
    .. [1] Castro, Gómez, Tejada (2009). "Polynomial calculation of the Shapley value based on
       sampling." Computers & Operations Research.
    """

    is_foreseeable: ClassVar[bool] = True

    def draw(self, n_players: int, chunk: Chunk, rng: np.random.Generator) -> NDArray[np.intp]:
        """Return uniform random orders."""
        orders = np.empty((chunk.n_draws, n_players), dtype=np.intp)
        orders[:] = np.arange(n_players)
        return rng.permuted(orders, axis=1, out=orders)

    def cost_per_draw(self, n_players: int) -> int:
        """Return n - 1 evaluations per order."""
        return max(1, n_players - 1) * self.rows_per_draw

    def marginals(
        self,
        draws: NDArray[np.generic],
        utilities: NDArray[np.float64],
        game: Game,
        target: Semivalue,
    ) -> NDArray[np.float64]:
        """Return each player's weighted marginal contribution in each order.

        Where an order was truncated (NaN), later contributions are 0.
        """
        n_orders, n_players = draws.shape
        along = np.empty((n_orders, n_players + 1))
        along[:, 0] = game.empty
        along[:, 1:-1] = utilities
        along[:, -1] = self.last_utilities(utilities, game)
        gains = along[:, 1:] - along[:, :-1]
        gains[np.isnan(gains)] = 0.0
        gains *= n_players * target.size_distribution(n_players)
        by_player = np.empty_like(gains)
        by_player[np.arange(n_orders)[:, np.newaxis], draws.astype(np.intp, copy=False)] = gains
        return by_player

    def last_utilities(
        self, utilities: NDArray[np.float64], game: Game
    ) -> float | NDArray[np.float64]:
        """Return the utilities with which orders end, NaN where one was truncated at the last."""
        return game.full

    def joined_sizes(self, n_players: int) -> NDArray[np.float64]:
        """Return that a player joins at all sizes alike."""
        return np.full(n_players, 1 / n_players)


@dataclass(frozen=True)
class Permutation(OrderScheme, name="permutation"):
    """Independent random orders.

    Parameters
    ----------
    mix : bool, default=True
        Whether each prefix's utility is also used for all players, beside the marginal
        contributions; both readings are centred on what the other orders say about a size, and
        mixed. It costs no evaluation, and both are unbiased. False is the textbook's estimator,
        the mean of the marginal contributions.

    Examples
    --------
    >>> import skdvl
    >>> result = skdvl.estimate_values(lambda players: len(players) ** 2, n_players=5,
    ...                                method="permutation", max_evals=30, random_state=0)
    >>> result.n_evals, result.values
    (30, array([5., 5., 5., 5., 5.]))
    """

    mix: bool = True

    def estimate(self, game: Game, target: Semivalue, log: EvaluationLog) -> Estimate:
        """Average what the orders say; errors from the spread over orders.

        The two orders of two players tell the same by either reading. Centred on each other,
        their mean would hang on how often each came, which their spread does not show.
        """
        if not self.mix or game.n_players < 3 or not log.n_draws:
            return super().estimate(game, target, log)
        orders, utilities, halves = [], [], []
        for chunk, drawn, found in log.replay(self):
            orders.append(drawn.astype(np.intp, copy=False))
            utilities.append(found)
            halves.append(np.full(len(found), chunk.half))
        estimates = mixed_values(
            np.concatenate(orders),
            np.concatenate(utilities),
            np.concatenate(halves),
            game,
            target,
        )
        moments = RunningMoments(game.n_players)
        moments.add(estimates)
        return self.estimate_from(moments)


@dataclass(frozen=True)
class Antithetic(OrderScheme, name="antithetic"):
    """Random orders in pairs, each with its reverse; a pair is one draw.

    References
    ----------
    .. [1] Mitchell, Cooper, Frank, Holmes (2022). "Sampling permutations for Shapley value
       estimation." JMLR.
    """

    @property
    def rows_per_draw(self) -> int:
        """Two: the order and its reverse."""
        return 2

    def draw(self, n_players: int, chunk: Chunk, rng: np.random.Generator) -> NDArray[np.intp]:
        """Return each random order, followed by its reverse."""
        orders = super().draw(n_players, chunk, rng)
        return np.stack([orders, orders[:, ::-1]], axis=1).reshape(-1, n_players)


@dataclass(frozen=True)
class TruncatedMonteCarlo(OrderScheme, name="tmc"):
    r"""Truncated Monte Carlo: an order is left once its utility is near that of all players.

    After the first j >= 1 with \|u(N) - u_j\| <= truncation · \|u(N) - u(∅)\| the later players
    of the order count as contributing 0. This is biased, the more the larger ``truncation``, and
    the bias is not in the standard errors; hence no intervals are claimed.

    Parameters
    ----------
    truncation : float, default=0.01
        Share of u(N) - u(∅) that is given up, at least 0.

    References
    ----------
    .. [1] Ghorbani, Zou (2019). "Data Shapley: equitable valuation of data for machine learning."
       ICML.
    """

    is_foreseeable: ClassVar[bool] = False  # what an order costs is seen on the way
    spends_what_is_saved: ClassVar[bool] = True

    truncation: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.truncation < 1:
            raise ValueError(f"truncation must be in [0, 1), got {self.truncation!r}")

    def evaluate(
        self, draws: NDArray[np.generic], utility: Utility, game: Game
    ) -> NDArray[np.float64]:
        """Walk each order up to its truncation; what was not needed is NaN."""
        if utility.has_cheap_prefixes:
            utilities = utility.prefixes(draws, np.arange(1, game.n_players))
            near = self._ends(utilities, game)
            later = np.cumsum(near, axis=1) - near > 0
            return np.where(later, np.nan, utilities)
        utilities = np.full((len(draws), game.n_players - 1), np.nan)
        for row, order in zip(utilities, draws, strict=True):
            coalition = np.zeros((1, game.n_players), dtype=bool)
            for j, player in enumerate(order[:-1]):
                coalition[0, player] = True
                row[j] = utility(coalition)[0]
                if self._ends(row[j : j + 1], game)[0]:
                    break
        return utilities

    def _ends(self, utilities: NDArray[np.float64], game: Game) -> NDArray[np.bool_]:
        """Tell after which prefixes an order is left."""
        if game.full == game.empty:  # nothing would ever be evaluated
            return np.zeros(utilities.shape, dtype=bool)
        near = np.abs(game.full - utilities) <= self.truncation * abs(game.full - game.empty)
        return np.asarray(near)

    def last_utilities(
        self, utilities: NDArray[np.float64], game: Game
    ) -> float | NDArray[np.float64]:
        """Return u(N), NaN where the last prefix before it was near enough."""
        return np.where(self._ends(utilities[:, -1], game), np.nan, game.full)

    def left_out(self, game: Game, target: Semivalue, log: EvaluationLog) -> float:
        """Return the share of a semivalue's weight that is on truncated contributions."""
        if game.n_players < 2:
            return 0.0
        n_seen = np.zeros(game.n_players)
        for _, _, utilities in log.replay(self):
            n_seen[:-1] += np.count_nonzero(~np.isnan(utilities), axis=0)
            last = utilities[:, -1]
            n_seen[-1] += np.count_nonzero(~np.isnan(last) & ~self._ends(last, game))
        p = target.size_distribution(game.n_players)
        return float(p @ (1 - n_seen / max(1, log.n_draws)))

    def interval_caveat(self, n_units: int) -> str | None:
        """Return that truncation is biased."""
        return "truncated orders are biased, and the standard errors do not include the bias."
