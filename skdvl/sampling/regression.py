"""Regression: a surrogate's values in closed form, and reuse of what it leaves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skdvl.sampling.base import Estimate, Game
from skdvl.sampling.draw_table import DrawTable
from skdvl.sampling.log import Chunk, EvaluationLog
from skdvl.sampling.reuse import (
    all_is_enumerated,
    estimate_without_draws,
    interval_caveat,
    known_part,
    read_out,
)
from skdvl.sampling.reuse_scheme import AdaptiveScheme
from skdvl.sampling.surrogate import fit_surrogates
from skdvl.semivalues import Semivalue, size_weights

__all__ = ["Regression"]

_MAX_NUMBERS = 2**21
_MIN_EVALS_FOR_INTERVALS = 10  # per player: before, the model follows the noise of its draws


@dataclass(frozen=True)
class Regression(AdaptiveScheme, name="regression"):
    r"""A linear model of the utilities, and reuse of what it does not explain.

    Coalitions are drawn as by the stratified scheme. Beside the mean utility of a size, a linear
    model of who is a member is fitted for each eighth of the draws on the other draws. Its values
    are known in closed form; what it leaves of the utilities is read out as usual, so that the
    estimate is unbiased however bad the model. It pays from about ten evaluations per player on,
    where utilities are mostly a sum of what the players add; the fit takes time in proportion to
    evaluations times players.

    Parameters
    ----------
    law : {"mixed", "uniform", "kernel_shap", ...}, default="mixed"
        As in the stratified scheme. "kernel_shap" is the law of KernelSHAP [1]_, in proportion to
        1 / (k (n - k)); "uniform" that of leverage scores [2]_.
    adaptive : bool, default=True
        As in the stratified scheme.
    paired : bool, default=False
        Whether each coalition is drawn with its complement.

    References
    ----------
    .. [1] Lundberg, Lee (2017). "A unified approach to interpreting model predictions." NeurIPS.
    .. [2] Musco, Witter (2025). "Provably accurate Shapley value estimation via leverage score
       sampling." ICLR.
    .. [3] Witter, Liu, Musco (2025). "Regression-adjusted Monte Carlo estimators for Shapley
       values and probabilistic values." arXiv:2506.11849.

    Examples
    --------
    >>> import skdvl
    >>> from skdvl.testing import AdditiveGame
    >>> game = AdditiveGame(10)
    >>> result = skdvl.estimate_values(game, method="regression", max_evals=1000, random_state=0)
    >>> bool(abs(result.values - game.values("shapley")).max() < 0.01)
    True
    """

    paired: bool = False

    @property
    def rows_per_draw(self) -> int:
        """Two if paired."""
        return 2 if self.paired else 1

    def cost_per_draw(self, n_players: int) -> int:
        """Return one evaluation per coalition."""
        return self.rows_per_draw

    def draw(self, n_players: int, chunk: Chunk, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Return coalitions as the stratified scheme draws them, or each with its complement."""
        coalitions = super().draw(n_players, chunk, rng)
        if not self.paired:
            return coalitions
        return np.stack([coalitions, ~coalitions], axis=1).reshape(-1, n_players)

    def estimate(self, game: Game, target: Semivalue, log: EvaluationLog) -> Estimate:
        """Return the surrogates' values plus what their residuals say."""
        table = DrawTable.of(self, game, log)
        m, a = weights = size_weights(target.size_distribution(game.n_players))
        values = known_part(self, weights, log, table)
        is_exact = all_is_enumerated(weights, table)
        if not len(table.sizes):
            return estimate_without_draws(values, is_exact)

        def parts() -> Iterator[NDArray[np.bool_]]:
            step = max(1, _MAX_NUMBERS // game.n_players)
            for _, coalitions, _ in log.replay(self, enumerated=False):
                for first in range(0, len(coalitions), step):
                    yield coalitions[first : first + step].astype(bool, copy=False)

        curves, shares = table.curves(), table.shares()
        surrogate = fit_surrogates(table, curves, parts)
        values += np.sum(m * shares * curves) + surrogate.covariances(shares, a)
        residuals = table.utilities - curves[table.blocks, table.sizes] - surrogate.predictions
        sums, variances = read_out(self, weights, log, table, residuals)
        caveat = None if is_exact else interval_caveat(log, _MIN_EVALS_FOR_INTERVALS)
        return Estimate(values + sums, np.sqrt(variances), math.inf, caveat, is_exact)
