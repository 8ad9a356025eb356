"""The marginal read-out: values as means of the marginal contributions that draws show."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skdvl.sampling.base import Estimate, Game, SamplingScheme, next_total, split_into_chunks
from skdvl.sampling.log import Chunk, EvaluationLog
from skdvl.sampling.moments import RunningMoments
from skdvl.semivalues import Semivalue

__all__ = ["MarginalScheme"]

_MIN_UNITS_FOR_INTERVALS = 500


class MarginalScheme(SamplingScheme):
    r"""Base of the schemes of which each draw shows a marginal contribution of every player.

    With q the distribution of the size of the coalition that a player joins, a contribution
    is weighted by p_k / q_k for a semivalue with size distribution p.
    """

    @abstractmethod
    def marginals(
        self,
        draws: NDArray[np.generic],
        utilities: NDArray[np.float64],
        game: Game,
        target: Semivalue,
    ) -> NDArray[np.float64]:
        """Return each player's weighted marginal contribution, shape (n_rows, n_players)."""

    @abstractmethod
    def joined_sizes(self, n_players: int) -> NDArray[np.float64]:
        """Return the distribution q, shape (n_players,)."""

    def plan(self, game: Game, target: Semivalue, log: EvaluationLog) -> Sequence[Chunk]:
        """Plan the next round: about 2n evaluations, then half as many again as there are."""
        if game.n_players < 2:
            return ()
        cost = self.cost_per_draw(game.n_players)
        per_chunk = max(1, game.evals_per_chunk // cost)
        first = max(2, 2 * game.n_players // cost)
        return split_into_chunks(log, next_total(log.n_draws, first) - log.n_draws, per_chunk)

    def estimate(self, game: Game, target: Semivalue, log: EvaluationLog) -> Estimate:
        """Average the weighted marginal contributions; errors from the spread over draws."""
        if game.n_players < 2:
            return Estimate(np.full(1, game.full - game.empty), np.zeros(1), is_exact=True)
        moments = RunningMoments(game.n_players)
        for _, draws, utilities in log.replay(self):
            joined = self.marginals(draws, utilities, game, target)
            if self.rows_per_draw > 1:
                joined = joined.reshape(-1, self.rows_per_draw, game.n_players).mean(axis=1)
            moments.add(joined)
        return self.estimate_from(moments)

    def estimate_from(self, moments: RunningMoments) -> Estimate:
        """Return the mean of independent estimates, with errors from their spread."""
        return Estimate(
            moments.mean,
            moments.standard_errors,
            degrees_of_freedom=max(1, moments.count - 1),
            interval_caveat=self.interval_caveat(moments.count),
        )

    def interval_caveat(self, n_units: int) -> str | None:
        """Say why intervals from so many draws cannot be trusted, None if they can."""
        if n_units >= _MIN_UNITS_FOR_INTERVALS:
            return None
        return (
            f"{n_units} draws are too few for intervals: marginal contributions are so skewed "
            f"that about {_MIN_UNITS_FOR_INTERVALS} are needed."
        )

    def efficiency(self, n_players: int, target: Semivalue, chunks: Sequence[Chunk]) -> float:
        """Return 1 / sum(p² / q)."""
        p, q = target.size_distribution(n_players), self.joined_sizes(n_players)
        needed = p > 1e-15
        if (q[needed] == 0).any():
            return 0.0
        return float(1 / np.sum(p[needed] ** 2 / q[needed]))
