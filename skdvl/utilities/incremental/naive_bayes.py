"""What the naive Bayes engines share: priors of the classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.base import Errors
from skdvl.utilities.incremental.class_sums import ClassSumsUtility

__all__ = ["NaiveBayesUtility"]

Floats = NDArray[np.float64]


class NaiveBayesUtility(ClassSumsUtility):
    """Base of the naive Bayes engines."""

    @classmethod
    def why_not(cls, estimator: Any, fold: Fold, judge: Judge) -> str | None:
        """Add to the base's conditions: priors, if any, are such for the fold's classes."""
        reason = super().why_not(estimator, fold, judge)
        given = _given_priors(estimator)
        if reason is not None or given is None:
            return reason
        if given.shape != np.unique(fold.codes).shape or not (given >= 0).all():
            return "the priors do not fit the classes"
        return None

    def _log_priors(self, counts: Floats) -> Floats:
        """Return the logarithms of the priors, minus infinity for classes without rows."""
        given = _given_priors(self.estimator)
        if given is not None:
            return np.where(counts > 0, np.log(given)[:, np.newaxis], -np.inf)
        if getattr(self.estimator, "fit_prior", True):
            return np.log(counts / counts.sum(axis=0))
        return np.where(counts > 0, 0.0, -np.inf)

    def _refusals(self, counts: Floats, rests: list[Floats]) -> Errors:
        if _given_priors(self.estimator) is None:
            return {}
        missing = np.flatnonzero((counts == 0).any(axis=0))
        return dict.fromkeys(
            missing.tolist(), "ValueError: Number of priors must match number of classes."
        )


def _given_priors(estimator: Any) -> Floats | None:
    name = "priors" if hasattr(estimator, "priors") else "class_prior"
    given = getattr(estimator, name)
    return None if given is None else np.asarray(given, dtype=np.float64)
