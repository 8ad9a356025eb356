"""skdvl: what each training sample is worth to a scikit-learn model."""

__version__ = "0.1.0"
