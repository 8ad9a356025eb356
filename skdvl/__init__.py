"""skdvl: what each training sample is worth to a scikit-learn model."""

from skdvl.estimation import estimate_values

__version__ = "0.1.0"

__all__ = ["__version__", "estimate_values"]
