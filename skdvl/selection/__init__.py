"""Data cleaning: fit a model, or hand on rows, without the samples of lowest value."""

from skdvl.selection.cleaned_estimator import CleanedEstimator
from skdvl.selection.sample_selector import SampleSelector
from skdvl.selection.support import support_mask

__all__ = ["CleanedEstimator", "SampleSelector", "support_mask"]
