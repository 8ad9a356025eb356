"""From a utility to values: rounds, budgets, stopping, checkpoints, results."""

from skdvl.estimation.estimate import estimate_values
from skdvl.estimation.result import ValuationResult
from skdvl.estimation.stopping import (
    RankStability,
    Snapshot,
    StandardErrorBelow,
    StoppingRule,
    TimeLimit,
)

__all__ = [
    "RankStability",
    "Snapshot",
    "StandardErrorBelow",
    "StoppingRule",
    "TimeLimit",
    "ValuationResult",
    "estimate_values",
]
