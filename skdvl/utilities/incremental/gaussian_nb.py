"""GaussianNB from counts, sums and sums of squares."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.naive_bayes import GaussianNB

from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.base import Errors
from skdvl.utilities.incremental.moments import column_centres, mean_and_variance, whole_columns
from skdvl.utilities.incremental.naive_bayes import NaiveBayesUtility
from skdvl.utilities.supervised import FallbackRule

__all__ = ["GaussianNBUtility"]

Floats = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)
# A variance from sums is off by about 2 eps times the mean square about the centre. That must be
# less than 1e-7 of the smoothed variance.
_MEAN_SQUARES = 2 * _EPS / 1e-7
# scikit-learn's own class means are rounded to about 4 eps of the column's distance from zero.
# That must be less than 5e-8 standard deviations.
_ROUNDED_MEAN = 4 * _EPS / 5e-8
# The squares (x - mean)² are expanded; what that loses must be less than this share of the score.
_EXPANSION = 5e-7
# A coalition must spread over more than this share of the data's range, in standard deviations.
_NARROW = 1e-6


class GaussianNBUtility(NaiveBayesUtility):
    """Exact utilities of `sklearn.naive_bayes.GaussianNB`.

    A class's log-likelihood is linear in (x², x, 1), with coefficients made of the class's count,
    sums and sums of squares. Sums lose digits, and the smoothing of variances, 1e-9 of the
    largest, may need them: the few coalitions where rounding could show are refitted.
    """

    engine: ClassVar[str] = "Gaussian naive Bayes"
    serves = ("GaussianNB",)
    tie = 1e-6

    def __init__(self, estimator: Any, fold: Fold, judge: Judge, fallback: FallbackRule) -> None:
        super().__init__(estimator, fold, judge, fallback)
        self.origin = column_centres(self.X)
        self.centres = [column_centres(self.X[members]) for members in self.members]
        self.is_whole = whole_columns(self.X)
        self.least_variance = (_ROUNDED_MEAN * np.abs(self.X).max(axis=0)) ** 2
        self.least_spread = (_NARROW * np.ptp(self.X, axis=0).max()) ** 2

    @classmethod
    def examples(cls) -> list[Any]:
        """Return estimators that show every variant of the parameters that is served."""
        return [
            GaussianNB(),
            GaussianNB(var_smoothing=0.1),
            GaussianNB(var_smoothing=0.0),
            GaussianNB(priors=[0.3, 0.7]),
            GaussianNB(priors=[0.2, 0.5, 0.3]),
        ]

    @classmethod
    def closeness(cls, X: Floats) -> float:
        """Return 1e-6: the variances of near-constant columns multiply rounding errors by 1e9."""
        return 1e-6

    def _row_statistics(self, k: int) -> Floats:
        shifted = self.X[self.members[k]] - self.centres[k]
        return np.concatenate([shifted, shifted**2], axis=1)

    def _features(self, X: Floats) -> Floats:
        shifted = X - self.origin
        return np.concatenate([shifted**2, shifted, np.ones((len(X), 1))], axis=1)

    def _digest(self, k: int, count: Floats, sums: Floats) -> Floats:
        """Return the means, the variances, and below which smoothing these are not exact enough."""
        d = self.X.shape[1]
        digest = np.empty((*count.shape, 2 * d + 1))
        mean, variance = digest[..., :d], digest[..., d : 2 * d]
        mean_and_variance(count, sums, mean, variance)
        error_scale = np.where(self.is_whole, 0, _MEAN_SQUARES)
        inexact = error_scale * sums[..., d:] / np.maximum(count, 1)[..., np.newaxis]
        inexact[count < 2] = 0
        needed = np.maximum(inexact, self.least_variance) - variance
        variance[count < 1] = 1  # of no weight, but divided by
        digest[..., 2 * d] = np.where(count > 0, needed.max(axis=-1), -np.inf)
        mean += self.centres[k] - self.origin
        return digest

    def _coefficients(
        self, counts: Floats, digests: list[Floats]
    ) -> tuple[list[Floats], NDArray[np.bool_]]:
        d = self.X.shape[1]
        means = [digest[:, :d] for digest in digests]
        variances = [digest[:, d : 2 * d] for digest in digests]
        shares = counts / counts.sum(axis=0)
        largest = _total_variances(shares, means, variances).max(axis=1)
        smoothing = self.estimator.var_smoothing * largest
        doubtful = largest <= self.least_spread
        for digest in digests:
            doubtful |= smoothing <= digest[:, 2 * d]
        smoothing[doubtful] = 1.0
        log_priors = self._log_priors(counts)
        coefficients = []
        for k, (mean, variance) in enumerate(zip(means, variances, strict=True)):
            smoothed = variance + smoothing[:, np.newaxis]
            made = np.empty((len(mean), 2 * d + 1))
            np.divide(-0.5, smoothed, out=made[:, :d])
            np.divide(mean, smoothed, out=made[:, d : 2 * d])
            log_det = np.log(smoothed).sum(axis=1)
            quadratic = (mean * made[:, d : 2 * d]).sum(axis=1)
            doubtful |= 2 * _EPS * quadratic > _EXPANSION * (1 + np.abs(log_det))
            made[:, 2 * d] = log_priors[k] - 0.5 * (log_det + quadratic)
            coefficients.append(made)
        return coefficients, doubtful

    def _refusals(self, counts: Floats, rests: list[Floats]) -> Errors:
        errors = super()._refusals(counts, rests)
        if self.response != "predict":
            # one row has no variance, not even a smoothed one; every order starts with one
            for j in np.flatnonzero(counts.sum(axis=0) == 1).tolist():
                errors.setdefault(j, "ValueError: the model predicts NaN")
        return errors


def _total_variances(shares: Floats, means: list[Floats], variances: list[Floats]) -> Floats:
    """Return the variances over all classes: those inside plus that of the means."""
    shares = shares[:, :, np.newaxis]
    if len(means) == 2:
        total = shares[0] * shares[1] * (means[0] - means[1]) ** 2
    else:
        centre = np.sum([share * mean for share, mean in zip(shares, means, strict=True)], axis=0)
        total = np.zeros_like(centre)
        for share, mean in zip(shares, means, strict=True):
            total += share * (mean - centre) ** 2
    for share, variance in zip(shares, variances, strict=True):
        total += share * variance
    return total
