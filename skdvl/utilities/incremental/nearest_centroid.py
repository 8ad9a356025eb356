"""NearestCentroid from sums of rows."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestCentroid

from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.base import Errors
from skdvl.utilities.incremental.class_sums import ClassSumsUtility
from skdvl.utilities.incremental.moments import column_centres, mean_and_variance, whole_columns
from skdvl.utilities.supervised import FallbackRule

__all__ = ["NearestCentroidUtility"]

Floats = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)
_CLOSE = 1e-9


class NearestCentroidUtility(ClassSumsUtility):
    """Exact utilities of `sklearn.neighbors.NearestCentroid` with Euclidean distances.

    The square of a distance is linear in (x², x, 1). With equal priors the estimator predicts the
    nearest centroid; with others, and for probabilities, it first divides the columns by their
    standard deviations within the classes.
    """

    engine: ClassVar[str] = "nearest centroid"
    serves = ("NearestCentroid",)
    responses = ("predict", "predict_proba", "decision_function")

    def __init__(self, estimator: Any, fold: Fold, judge: Judge, fallback: FallbackRule) -> None:
        super().__init__(estimator, fold, judge, fallback)
        self.origin = column_centres(self.X)
        self.centres = [column_centres(self.X[members]) for members in self.members]
        self.is_whole = whole_columns(self.X)
        self.ranges = np.ptp(self.X, axis=0)
        self.is_scaled = self.response != "predict" or not _has_uniform_priors(estimator)
        self.is_separable = not (self.is_scaled or estimator.shrink_threshold)
        # centroids that differ have different projections on a direction taken at random
        direction = np.random.default_rng(0).normal(size=self.X.shape[1])
        self.direction = direction / np.where(self.ranges > 0, self.ranges, 1)

    @classmethod
    def why_not(cls, estimator: Any, fold: Fold, judge: Judge) -> str | None:
        """Add to the base's conditions: distances that are Euclidean and not rounded away."""
        reason = super().why_not(estimator, fold, judge)
        if reason is not None:
            return reason
        if np.asarray(fold.X).dtype.kind == "b":
            return "scikit-learn does not fit this estimator to truth values"
        if estimator.metric != "euclidean":
            return "the distances are not Euclidean"
        n_classes = 0 if fold.classes is None else len(fold.classes)
        if not isinstance(estimator.priors, str) and (
            np.shape(estimator.priors) != (n_classes,) or len(np.unique(fold.codes)) < n_classes
        ):
            return "the priors do not fit the classes"
        if cls._pick_response(judge) == "decision_function" and n_classes != 2:
            return "there are decision functions of more than two classes"
        X = np.asarray(fold.X, dtype=np.float64)
        if _EPS * (np.abs(X).max(axis=0) ** 2).sum() > _CLOSE * X.var(axis=0).sum():
            return "the data are so far from zero that scikit-learn's distances are rounded"
        return None

    @classmethod
    def examples(cls) -> list[Any]:
        """Return estimators that show every variant of the parameters that is served."""
        return [
            NearestCentroid(),
            NearestCentroid(priors="empirical"),
            NearestCentroid(shrink_threshold=0.4),
            NearestCentroid(priors=[0.2, 0.5, 0.3], shrink_threshold=0.2),
        ]

    @classmethod
    def closeness(cls, X: Floats) -> float:
        """Return 1e-7: scikit-learn's scores are differences of squares far from the mean."""
        return 1e-7

    def _row_statistics(self, k: int) -> Floats:
        shifted = self.X[self.members[k]] - self.centres[k]
        if self.is_separable:
            return shifted
        return np.concatenate([shifted, shifted**2], axis=1)

    def _features(self, X: Floats) -> Floats:
        shifted, one = X - self.origin, np.ones((len(X), 1))
        if self.is_separable:  # the squares are the same for all centroids
            return np.concatenate([shifted, one], axis=1)
        return np.concatenate([shifted**2, shifted, one], axis=1)

    def _digest(self, k: int, count: Floats, sums: Floats) -> Floats:
        """Return the centroid with what goes with it.

        For plain distances the coefficients of x · centroid - |centroid|² / 2, and a projection;
        else the projection, the squares about the centroid, and how far these may be off.
        """
        d = self.X.shape[1]
        shift = self.centres[k] - self.origin
        if self.is_separable:
            digest = np.empty((*count.shape, d + 2))
            centroid = digest[..., :d]
            np.divide(sums, np.maximum(count, 1)[..., np.newaxis], out=centroid)
            centroid += shift
            digest[..., d] = -0.5 * (centroid**2).sum(axis=-1)
            digest[..., d + 1] = (centroid * self.direction).sum(axis=-1)
            return digest
        digest = np.empty((*count.shape, 3 * d + 1))
        centroid, squares, error = np.split(digest[..., :-1], 3, axis=-1)
        mean_and_variance(count, sums, centroid, squares)
        centroid += shift
        squares *= count[..., np.newaxis]
        np.multiply(sums[..., d:], np.where(self.is_whole, 0, 2 * _EPS), out=error)
        error[count < 2] = 0
        digest[..., -1] = (centroid * self.direction).sum(axis=-1)
        return digest

    def _additions(self, counts: Floats, rests: list[Floats]) -> tuple[Floats, NDArray[np.bool_]]:
        projections = np.stack([rest[:, 0] for rest in rests])
        return np.where(counts > 0, 0, -np.inf), _coincide(counts, projections)

    def _coefficients(
        self, counts: Floats, digests: list[Floats]
    ) -> tuple[list[Floats], NDArray[np.bool_]]:
        if self.is_separable:
            return super()._coefficients(counts, digests)
        d = self.X.shape[1]
        centroids = [digest[:, :d] for digest in digests]
        doubtful = _coincide(counts, np.stack([digest[:, -1] for digest in digests]))
        is_raw, log_priors = self._priors(counts)
        deviation, unsure = self._deviation(counts, digests)
        if self.estimator.shrink_threshold:
            doubtful |= unsure
            centroids = self._shrink(counts, centroids, deviation)
        else:
            doubtful |= unsure & ~is_raw
        precision = np.where(deviation > 0, deviation, 1) ** -2.0
        precision[is_raw] = 1
        log_priors[:, is_raw] = np.where(counts[:, is_raw] > 0, 0, -np.inf)
        coefficients = []
        for centroid, log_prior in zip(centroids, log_priors, strict=True):
            made = np.empty((len(centroid), 2 * d + 1))
            np.negative(precision, out=made[:, :d])
            np.multiply(2 * centroid, precision, out=made[:, d : 2 * d])
            made[:, 2 * d] = -0.5 * (centroid * made[:, d : 2 * d]).sum(axis=1)
            odd = ~np.isfinite(made[:, 2 * d])
            made[odd] = 0
            doubtful |= odd
            made[:, 2 * d] += log_prior
            coefficients.append(made)
        return coefficients, doubtful

    def _refusals(self, counts: Floats, rests: list[Floats]) -> Errors:
        single = np.flatnonzero((counts > 0).sum(axis=0) < 2)
        return dict.fromkeys(
            single.tolist(),
            "ValueError: The number of classes has to be greater than one; got 1 class",
        )

    def _priors(self, counts: Floats) -> tuple[NDArray[np.bool_], Floats]:
        """Return whether plain distances decide, and 2 log(prior), minus infinity if absent."""
        n_seen = (counts > 0).sum(axis=0)
        priors = self.estimator.priors
        if isinstance(priors, str):
            shares = counts / counts.sum(axis=0) if priors == "empirical" else 1 / n_seen
            shares = np.where(counts > 0, shares, 0)
            is_even = np.isclose(shares, 1 / n_seen) | (counts == 0)
        else:
            given = np.asarray(priors, dtype=np.float64)
            if not np.isclose(given.sum(), 1.0):
                given = given / given.sum()
            # the estimator reads its priors in order, whichever classes it has seen
            place = np.maximum(np.cumsum(counts > 0, axis=0) - 1, 0)
            shares = np.where(counts > 0, given[place], 0)
            is_even = np.isclose(given[:, np.newaxis], 1 / n_seen)
        is_raw = is_even.all(axis=0) & (self.response == "predict")
        return is_raw, 2 * np.log(shares)

    def _deviation(self, counts: Floats, digests: list[Floats]) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the deviations within the classes, and for which sets rounding shows in them."""
        d = self.X.shape[1]
        squares = np.sum([digest[:, d : 2 * d] for digest in digests], axis=0)
        error = np.sum([digest[:, 2 * d : 3 * d] for digest in digests], axis=0)
        # scikit-learn divides by a deviation of 1e-17 and not by 0, so that must be sure
        unsure = (error > _CLOSE * squares) | ((squares == 0) & ~self.is_whole)
        freedom = counts.sum(axis=0) - (counts > 0).sum(axis=0)
        deviation = np.sqrt(squares / np.maximum(freedom, 1)[:, np.newaxis])
        return deviation, unsure.any(axis=1) | (freedom == 0)

    def _shrink(self, counts: Floats, centroids: list[Floats], deviation: Floats) -> list[Floats]:
        n_rows = counts.sum(axis=0)
        shares = (counts / n_rows)[:, :, np.newaxis]
        centre = np.sum([s * c for s, c in zip(shares, centroids, strict=True)], axis=0)
        unit = deviation + np.median(deviation, axis=1, keepdims=True)
        shrunken = []
        for count, centroid in zip(counts, centroids, strict=True):
            scale = np.sqrt(1 / np.maximum(count, 1) - 1 / n_rows)[:, np.newaxis] * unit
            moved = (centroid - centre) / scale
            size = np.maximum(np.abs(moved) - self.estimator.shrink_threshold, 0)
            shrunken.append(centre + scale * np.sign(moved) * size)
        return shrunken


def _has_uniform_priors(estimator: Any) -> bool:
    return isinstance(estimator.priors, str) and estimator.priors == "uniform"


def _coincide(counts: Floats, projections: Floats) -> NDArray[np.bool_]:
    """Tell for which sets all centroids coincide; if all rows do, the estimator refuses them."""
    least = np.where(counts > 0, projections, np.inf).min(axis=0)
    most = np.where(counts > 0, projections, -np.inf).max(axis=0)
    return most - least <= _CLOSE
