"""Engines whose models are made of the means and covariances of classes."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.base import blocked_matmul
from skdvl.utilities.incremental.class_sums import ClassSumsUtility
from skdvl.utilities.incremental.moments import column_centres, whole_columns
from skdvl.utilities.supervised import FallbackRule

__all__ = ["ClassCovariancesUtility", "lower_triangle"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

_EPS = float(np.finfo(np.float64).eps)
_MAX_FEATURES = 64
_MAX_TABLE_BYTES = 2**25
_SETS_AT_ONCE = 128


def lower_triangle(d: int) -> tuple[Rows, Rows]:
    """Return rows and columns of the entries of a lower triangle, column by column."""
    column, row = np.triu_indices(d)
    return row, column


def _n_fourth(d: int) -> int:
    """Return how many products of four, or of a square and another column, d columns have."""
    return d * (d + 1) // 2 + d**2


def _row_products(left: Floats, right: Floats) -> Floats:
    """Return the inner products of rows."""
    return np.asarray((left[:, np.newaxis] @ right[:, :, np.newaxis])[:, 0, 0])


class ClassCovariancesUtility(ClassSumsUtility):
    """Base of the engines of discriminant analysis.

    Everything is computed in columns divided by powers of two near their deviations within the
    classes, which changes no digit and keeps what is compared of the order of one.

    Attributes
    ----------
    origin : ndarray of shape (n_features,)
        What means and features are relative to.
    centres : list of ndarray of shape (n_features,)
        By class: what its rows are relative to when products are summed.
    scale : ndarray of shape (n_features,)
        Powers of two.
    """

    responses: ClassVar[tuple[str, ...]] = ("predict", "predict_proba", "decision_function")
    shrinkage: float | str = 0.0
    n_digested: int
    _renormalises: ClassVar[bool] = False  # priors that do not sum to one

    def __init__(self, estimator: Any, fold: Fold, judge: Judge, fallback: FallbackRule) -> None:
        super().__init__(estimator, fold, judge, fallback)
        d = self.X.shape[1]
        self.origin = column_centres(self.X)
        self.centres = [column_centres(self.X[members]) for members in self.members]
        squares = np.zeros(d)
        for members, centre in zip(self.members, self.centres, strict=True):
            squares += ((self.X[members] - centre) ** 2).sum(axis=0)
        deviation = np.sqrt(squares / fold.n_rows)
        self.scale = np.exp2(np.round(np.log2(np.where(deviation > 0, deviation, 1.0))))
        self.is_whole = whole_columns(self.X)
        self.row, self.column = lower_triangle(d)
        self.diagonal = np.flatnonzero(self.row == self.column)
        square = np.zeros((d, d), dtype=np.intp)
        square[self.row, self.column] = square[self.column, self.row] = np.arange(len(self.row))
        self.square = square.ravel()  # where the entries of the whole matrix are

    @classmethod
    def why_not(cls, estimator: Any, fold: Fold, judge: Judge) -> str | None:
        """Decline priors that do not fit, estimators of covariances, and very many columns."""
        reason = super().why_not(estimator, fold, judge)
        if reason is not None:
            return reason
        assert fold.classes is not None
        n_rows, d = np.shape(fold.X)
        n_products = d + d * (d + 1) // 2
        if getattr(estimator, "shrinkage", None) == "auto":
            n_products += min(n_rows, _n_fourth(d))
        if d > _MAX_FEATURES or 8 * n_rows * n_products > _MAX_TABLE_BYTES:
            return "with so many columns refitting is as fast"
        if getattr(estimator, "covariance_estimator", None) is not None:
            return "the covariances are not the empirical ones"
        if len(np.unique(fold.codes)) < 2:
            return "the training rows are of one class"
        if cls._pick_response(judge) == "decision_function" and len(fold.classes) != 2:
            return "there are decision functions of more than two classes"
        if estimator.priors is None:
            return None
        priors = np.asarray(estimator.priors, dtype=np.float64)
        total = priors.sum()
        if priors.shape != (len(np.unique(fold.codes)),) or not (priors > 0).all():
            return "the priors do not give every class a positive share"
        if 1e-12 < abs(total - 1) < 2e-5:
            return "the priors do not quite sum to one"
        return None

    def _row_statistics(self, k: int) -> Floats:
        moved = (self.X[self.members[k]] - self.centres[k]) / self.scale
        tables = [moved, moved[:, self.row] * moved[:, self.column]]
        if self.shrinkage == "auto" and self._keeps_rows(k):
            tables.append(np.eye(len(moved)))
        elif self.shrinkage == "auto":
            squares = moved**2
            tables.append(tables[1] ** 2)
            tables.append(
                (squares[:, :, np.newaxis] * moved[:, np.newaxis]).reshape(len(moved), -1)
            )
        return np.concatenate(tables, axis=1)

    def _keeps_rows(self, k: int) -> bool:
        """Tell whether class k's sums have which rows there are, in place of fourth powers."""
        return len(self.members[k]) < _n_fourth(self.X.shape[1])

    def _features(self, X: Floats) -> Floats:
        return np.concatenate([(X - self.origin) / self.scale, np.ones((len(X), 1))], axis=1)

    def _digest(self, k: int, count: Floats, sums: Floats) -> Floats:
        """Return what a class contributes, from a few sets at a time: they stay in the cache."""
        counts, sums = count.ravel(), sums.reshape(count.size, -1)
        digest = np.empty((count.size, self.n_digested))
        for first in range(0, count.size, _SETS_AT_ONCE):
            some = slice(first, first + _SETS_AT_ONCE)
            self._describe(k, counts[some], sums[some], digest[some])
        return digest.reshape(*count.shape, -1)

    @abstractmethod
    def _describe(self, k: int, count: Floats, sums: Floats, digest: Floats) -> None:
        """Write what class k contributes to some sets into ``digest`` (n_sets, n_digested)."""

    def _moments(self, count: Floats, sums: Floats, covariance: Floats) -> tuple[Floats, Floats]:
        """Return means (n_sets, d) about the class's centre, and mean squares about it.

        Covariances are written into an array (n_sets, n_products).
        """
        d = self.X.shape[1]
        n = np.maximum(count, 1)[:, np.newaxis]
        mean = sums[:, :d] / n
        np.divide(sums[:, d : d + len(self.row)], n, out=covariance)
        squares = covariance.take(self.diagonal, axis=1)
        of_means = mean.take(self.row, axis=1)
        of_means *= mean.take(self.column, axis=1)
        covariance -= of_means
        covariance[count < 2] = 0.0  # as it is but for rounding
        return mean, squares

    def _shrink(self, covariance: Floats, diagonal: Rows, shrinkage: float) -> None:
        """Shrink covariances (n_sets, n_entries) towards a multiple of the unit, in place."""
        variances = covariance.take(diagonal, axis=1) * self.scale**2
        mean_variance = variances.mean(axis=1, keepdims=True)
        covariance *= 1 - shrinkage
        covariance[:, diagonal] += shrinkage * mean_variance / self.scale**2

    def _shrink_by_ledoit_wolf(
        self, k: int, count: Floats, sums: Floats, mean: Floats, squares: Floats, covariance: Floats
    ) -> NDArray[np.bool_]:
        """Shrink covariances of class k as scikit-learn does, of standardised columns, in place.

        ``squares``, of which rounding errors are a fixed part, grow by those of the shrinkage.

        Returns
        -------
        ndarray of bool, shape (n_sets,)
            Where rounding may decide whether a column is constant.
        """
        d = self.X.shape[1]
        variance = covariance.take(self.diagonal, axis=1)
        lost = variance <= 1e7 * _EPS * squares
        is_constant = (squares == 0) | (lost & self.is_whole)
        n = np.maximum(count, 1)
        precision = np.where(is_constant | lost, 0.0, 1.0) / np.where(lost, 1.0, variance)
        shrinkage, noise = np.zeros(count.shape), np.zeros(count.shape)
        n_varying = (precision > 0).sum(axis=1)
        if d > 1:
            pairs = precision.take(self.row, axis=1)
            pairs *= precision.take(self.column, axis=1)
            pairs *= np.where(self.row == self.column, 1.0, 2.0)
            of_squares = _row_products(pairs, covariance**2)
            noise = (precision * squares).mean(axis=1)
            if self._keeps_rows(k):
                fourth = self._sum_over_rows(k, sums, mean, precision)
            else:
                noise **= 2  # fourth powers about another centre are differences of large numbers
                fourth = self._sum_of_fourth_powers(n, sums, mean, squares, precision, pairs)
            beta = (fourth / n - of_squares) / (d * n)
            delta = (of_squares - n_varying**2 / d) / d
            beta = np.minimum(beta, delta)
            np.divide(beta, delta, out=shrinkage, where=(beta != 0) & (delta > 1e-9))
            lost = lost | (delta <= 1e-9)[:, np.newaxis]
        covariance *= (1 - shrinkage)[:, np.newaxis]
        unit = np.where(precision > 0, variance, 1 / self.scale**2)
        covariance[:, self.diagonal] += (shrinkage * n_varying / d)[:, np.newaxis] * unit
        few = count < 2
        covariance[few] = 0.0
        squares += noise[:, np.newaxis] * unit
        return (lost & ~is_constant).any(axis=1) & ~few

    def _sum_over_rows(self, k: int, sums: Floats, mean: Floats, precision: Floats) -> Floats:
        """Return what `_sum_of_fourth_powers` does, from the rows of class k."""
        d = self.X.shape[1]
        rows = self._prepared().tables[k][:, :d].T
        moved = precision * mean
        distances = blocked_matmul(
            np.concatenate([precision, -2 * moved], axis=1), np.concatenate([rows**2, rows])
        )
        distances += _row_products(moved, mean)[:, np.newaxis]
        distances **= 2
        return _row_products(distances, sums[:, d + len(self.row) :])

    def _sum_of_fourth_powers(
        self,
        n: Floats,
        sums: Floats,
        mean: Floats,
        squares: Floats,
        precision: Floats,
        pairs: Floats,
    ) -> Floats:
        """Return the sum over rows of |x - mean|⁴, distances in standardised columns.

        ``pairs`` has the products of precisions, doubled off the diagonal.
        """
        d, q = self.X.shape[1], len(self.row)
        of_square_and_one = sums[:, d + 2 * q :].reshape(-1, d, d)
        moved = precision * mean
        of_moved = pairs * mean.take(self.row, axis=1) * mean.take(self.column, axis=1)
        offset = _row_products(moved, mean)
        mixed = (precision[:, np.newaxis] @ of_square_and_one)[:, 0]
        total = _row_products(pairs, sums[:, d + q : d + 2 * q])
        total -= 4 * _row_products(mixed, moved)
        total += 2 * n * _row_products(precision, squares) * offset
        total += 4 * _row_products(of_moved, sums[:, d : d + q])
        return total - 3 * n * offset**2

    def _log_priors(self, counts: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Return priors and their logarithms, (n_present, n_sets), and which sets they do not fit.

        Classes that a set does not have get 0 and minus infinity.
        """
        seen = counts > 0
        if self.estimator.priors is None:
            priors = counts / counts.sum(axis=0)
            unfit = np.zeros(counts.shape[1], dtype=bool)
        else:
            given = np.asarray(self.estimator.priors, dtype=np.float64)
            if abs(given.sum() - 1) > 1e-5 and self._renormalises:
                given = given / given.sum()
            priors = np.where(seen, given[:, np.newaxis], 0.0)
            unfit = np.asarray(~seen.all(axis=0))
        with np.errstate(divide="ignore"):
            return priors, np.log(priors), unfit
