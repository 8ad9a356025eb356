"""skdvl: what each training sample is worth to a scikit-learn model."""

from skdvl.estimation import (
    RankStability,
    StandardErrorBelow,
    StoppingRule,
    TimeLimit,
    ValuationResult,
    estimate_values,
)
from skdvl.selection import CleanedEstimator, SampleSelector
from skdvl.utilities import Utility
from skdvl.valuators import (
    BanzhafValuator,
    BetaShapleyValuator,
    DataOOBValuator,
    KNNShapleyValuator,
    LeaveOneOutValuator,
    SemivalueValuator,
    ShapleyValuator,
)

__version__ = "0.1.0"

__all__ = [
    "BanzhafValuator",
    "BetaShapleyValuator",
    "CleanedEstimator",
    "DataOOBValuator",
    "KNNShapleyValuator",
    "LeaveOneOutValuator",
    "RankStability",
    "SampleSelector",
    "SemivalueValuator",
    "ShapleyValuator",
    "StandardErrorBelow",
    "StoppingRule",
    "TimeLimit",
    "Utility",
    "ValuationResult",
    "__version__",
    "estimate_values",
]
