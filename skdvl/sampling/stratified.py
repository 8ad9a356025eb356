"""Size-stratified reuse: every evaluation tells something about every player."""

from __future__ import annotations

from dataclasses import dataclass

from skdvl.sampling.base import Estimate, Game
from skdvl.sampling.log import EvaluationLog
from skdvl.sampling.reuse import estimate_by_reuse
from skdvl.sampling.reuse_scheme import AdaptiveScheme
from skdvl.semivalues import Semivalue

__all__ = ["Stratified"]


@dataclass(frozen=True)
class Stratified(AdaptiveScheme, name="stratified"):
    r"""Random coalitions of systematically drawn sizes, each used for all players.

    Where orders give one marginal contribution per evaluation, here each evaluation enters the
    value of every player, with the sign of its membership:

    .. math:: \phi_i = \frac{u(N) - u(∅)}{n}
        + \sum_j \frac{a_k (1[i \in S_j] - k/n)(u_j - b_j)}{B \, r_k}, \quad k = |S_j|

    with r the law of the sizes and b a curve of mean utilities per size, fitted without the block
    that j is in. Exactly unbiased for any number of evaluations; Shapley values add up to
    u(N) - u(∅) to rounding.

    Parameters
    ----------
    law : {"mixed", "uniform", "vrds", "delta_shapley"}, default="mixed"
        How sizes k are drawn before utilities are known, for the Shapley value: "mixed" is one
        quarter uniform, the rest in proportion to 1/k, "vrds" is in proportion to 1/(k + 1) [1]_,
        "delta_shapley" to 1/k² [2]_. Other semivalues get a law that suits a game for which this
        one suits the Shapley value.
    adaptive : bool, default=True
        Whether sizes whose utilities vary much are drawn more often once there are four
        evaluations per player. So that this is no bias, the draws are halved, and each half sets
        the law of the other, once.

    References
    ----------
    .. [1] Wu, Jia, Lin, Huang, Chang (2023). "Variance reduced Shapley value estimation for
       trustworthy data valuation." Computers & Operations Research 159.
    .. [2] Watson, Kujawa, Andreeva, Yang, Elahi, Larson (2023). "Accelerated Shapley value
       approximation for data evaluation." arXiv:2311.05346.

    Examples
    --------
    >>> import skdvl
    >>> result = skdvl.estimate_values(lambda players: len(players) ** 2, n_players=5,
    ...                                method="stratified", max_evals=30, random_state=0)
    >>> round(float(result.values.sum()), 12)
    25.0
    """

    def estimate(self, game: Game, target: Semivalue, log: EvaluationLog) -> Estimate:
        """Read the values out of all evaluations."""
        return estimate_by_reuse(self, game, target, log)
