"""Valuators: the scikit-learn face of data valuation."""

from skdvl.valuators.banzhaf import BanzhafValuator
from skdvl.valuators.base import DataValuator
from skdvl.valuators.beta_shapley import BetaShapleyValuator
from skdvl.valuators.data_oob import DataOOBValuator
from skdvl.valuators.knn_shapley import KNNShapleyValuator
from skdvl.valuators.leave_one_out import LeaveOneOutValuator
from skdvl.valuators.semivalue import SemivalueValuator
from skdvl.valuators.shapley import ShapleyValuator

__all__ = [
    "BanzhafValuator",
    "BetaShapleyValuator",
    "DataOOBValuator",
    "DataValuator",
    "KNNShapleyValuator",
    "LeaveOneOutValuator",
    "SemivalueValuator",
    "ShapleyValuator",
]
