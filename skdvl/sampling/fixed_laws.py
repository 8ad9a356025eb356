"""Schemes of the literature that are the reuse read-out under a law of their own."""

from __future__ import annotations

from dataclasses import dataclass

from skdvl.sampling.base import Estimate, Game
from skdvl.sampling.laws import Law, law_by_name
from skdvl.sampling.log import EvaluationLog
from skdvl.sampling.reuse import estimate_by_reuse
from skdvl.sampling.reuse_scheme import ReuseScheme
from skdvl.semivalues import Semivalue

__all__ = ["GroupTesting", "MaximumSampleReuse"]


@dataclass(frozen=True)
class MaximumSampleReuse(ReuseScheme, name="msr"):
    """Maximum sample reuse: every coalition is equally likely, so sizes are Binomial(n, 1/2).

    Made for the Banzhaf value. As in the stratified scheme, sizes are drawn systematically and
    what all coalitions of a size have in common is subtracted, both of which lowers the error.

    References
    ----------
    .. [1] Wang, Jia (2023). "Data Banzhaf: a robust data valuation framework for machine
       learning." AISTATS.
    """

    def law_of_sizes(self, n_players: int, target: Semivalue) -> Law:
        """Return the law that suits the Banzhaf value, whatever the target."""
        return law_by_name("binomial", n_players)

    def estimate(self, game: Game, target: Semivalue, log: EvaluationLog) -> Estimate:
        """Read the values out of all evaluations."""
        return estimate_by_reuse(self, game, target, log)


@dataclass(frozen=True)
class GroupTesting(ReuseScheme, name="group_testing"):
    """Group testing: sizes in proportion to 1/k + 1/(n - k), and no baseline.

    Kept for comparison: utilities enter with all that coalitions of a size have in common, which
    is most of their variance. For the Shapley value the estimates are shifted to add up to
    u(N) - u(∅).

    References
    ----------
    .. [1] Jia, Dao, Wang, Hubis, Hynes, Gurel, Li, Zhang, Song, Spanos (2019). "Towards efficient
       data valuation based on the Shapley value." AISTATS.
    """

    def law_of_sizes(self, n_players: int, target: Semivalue) -> Law:
        """Return the same law whatever the target."""
        return law_by_name("group_testing", n_players)

    def estimate(self, game: Game, target: Semivalue, log: EvaluationLog) -> Estimate:
        """Read the values out of all evaluations."""
        return estimate_by_reuse(self, game, target, log, has_baseline=False)
