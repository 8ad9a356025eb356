"""From a utility to values: rounds, budgets, stopping, checkpoints, results."""

from skdvl.estimation.estimate import estimate_values
from skdvl.estimation.result import ValuationResult
from skdvl.estimation.stopping import StandardErrorBelow, StoppingRule

__all__ = ["StandardErrorBelow", "StoppingRule", "ValuationResult", "estimate_values"]
