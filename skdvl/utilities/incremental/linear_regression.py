"""Least squares without refitting.

Sets of more rows than coefficients are solved by their normal equations, which loses as many
digits again as the problem itself does; they are regained by refinement with the residuals of the
rows. Smaller sets are interpolated: one QR decomposition along an order holds the solutions of
smallest norm of all its short prefixes. Sets on which the rank could be in doubt are left to
scikit-learn, whose cut-off for small singular values depends on its version.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from sklearn.linear_model import LinearRegression

from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.base import DOUBTFUL, Errors, blocked_matmul, numeric_array
from skdvl.utilities.incremental.linear import LinearUtility, flat_places
from skdvl.utilities.incremental.normal_equations import PackedSystems, ProductSums, sum_rows
from skdvl.utilities.supervised import FallbackRule

__all__ = ["LinearRegressionUtility"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_EPS = float(np.finfo(np.float64).eps)
_MAX_CONDITION = 1e6  # beyond it the least squares solution is left to scikit-learn
_WELL_CONDITIONED = 1e3
_MAX_VARIABLES = 60
_MAX_TABLE_BYTES = 2**25
_STACKED = 64
_LENGTH_STEP = 8
# Relative error of normal equations that one step of refinement, and two, repair.
_ONE_STEP, _TWO_STEPS = 1e-7, 1e-5


class LinearRegressionUtility(LinearUtility):
    """Utilities of `LinearRegression`.

    Attributes
    ----------
    scale : ndarray of shape (n_features,)
        Powers of two near the columns' standard deviations. The normal equations are those of
        columns divided by them, which changes no digit but helps their condition.
    max_condition : float
        Bound on the ratio of singular values below which the rank is beyond doubt.
    """

    engine: ClassVar[str] = "linear regression"
    serves = ("LinearRegression",)

    def __init__(self, estimator: Any, fold: Fold, judge: Judge, fallback: FallbackRule) -> None:
        self.uses_sums = _fits_in_table(*np.shape(fold.X))
        super().__init__(estimator, fold, judge, fallback)
        self.max_condition = _max_condition(estimator, self.X)
        self.has_cheap_prefixes = self.uses_sums or fold.n_rows <= self.n_variables

    @classmethod
    def why_not(cls, estimator: Any, fold: Fold, judge: Judge) -> str | None:
        """Decline constraints, and columns that are linearly dependent to within rounding."""
        reason = super().why_not(estimator, fold, judge)
        if reason is not None:
            return reason
        if estimator.positive:
            return "positive=True is solved iteratively"
        X = numeric_array(fold.X)
        assert X is not None
        n_rows, d = X.shape
        if not _fits_in_table(n_rows, d) and n_rows > d + 1:
            return "with so many columns refitting is as fast"
        if estimator.fit_intercept:
            X, n_rows = X - X.mean(axis=0), n_rows - 1
        singular = np.linalg.svd(X, compute_uv=False)[: min(n_rows, d)]
        if singular.size and singular[-1] * _max_condition(estimator, X) <= singular[0]:
            return "the columns, or the rows, are linearly dependent"
        return None

    @classmethod
    def examples(cls) -> list[Any]:
        """Return estimators that show every variant of the parameters that is served."""
        return [LinearRegression(), LinearRegression(fit_intercept=False)]

    @classmethod
    def closeness(cls, X: NDArray[np.float64]) -> float:
        """Return a thousand times the rounding error that the condition of the rows amplifies.

        Predictions are ten times as close; squared errors are off by more than the predictions
        where these are far from zero.
        """
        conditions = [1.0]
        for rows in (X, X - X.mean(axis=0)):  # without and with an intercept
            singular = np.linalg.svd(rows, compute_uv=False)
            kept = singular[singular > 1e-6 * singular[0]]
            conditions.append(kept[0] / kept[-1] if kept.size else 1.0)
        return max(1e-12, 1000 * _EPS * max(conditions))

    @cached_property
    def scale(self) -> Floats:
        """Powers of two near the columns' standard deviations."""
        if not self.uses_sums:
            return np.ones(self.X.shape[1])
        size = np.sqrt(((self.X - self.centre) ** 2).mean(axis=0))
        return np.exp2(np.round(np.log2(np.where(size > 0, size, 1.0))))

    def _as_design(self, X: Floats) -> Floats:
        design = super()._as_design(X).copy()
        design[:, int(self.has_intercept) :] /= self.scale
        return design

    @cached_property
    def _sums(self) -> ProductSums:
        return ProductSums(self.design, self.targets)

    def _coefficients(self, rows: NDArray[np.bool_]) -> tuple[Floats, Errors]:
        sizes = rows.sum(axis=1)
        coefficients = np.zeros((1, len(rows), self.n_variables))
        certain = np.zeros(len(rows), dtype=bool)
        small = np.flatnonzero(sizes <= self.n_variables)
        if small.size:
            coefficients[0, small], certain[small] = self._interpolate_sets(rows[small])
        large = np.flatnonzero(sizes > self.n_variables)
        if large.size:
            sums = self._sums.of_sets(rows[large])
            coefficients[0, large], certain[large] = self._least_squares(sums, rows[large])
        return coefficients, dict.fromkeys(np.flatnonzero(~certain).tolist(), DOUBTFUL)

    def _interpolate_sets(self, rows: NDArray[np.bool_]) -> tuple[Floats, Flags]:
        """Interpolate sets of at most n_variables rows, each as the prefix of an order.

        Rows of no interest fill the orders up, so that orders of one length can be stacked.
        """
        sizes = rows.sum(axis=1)
        coefficients = np.empty((len(rows), self.n_variables))
        certain = np.empty(len(rows), dtype=bool)
        longest = min(self.n_variables, self.fold.n_rows)
        lengths = np.minimum(-(-sizes // _LENGTH_STEP) * _LENGTH_STEP, longest)
        for length in np.unique(lengths).tolist():
            which = np.flatnonzero(lengths == length)
            members_first = np.argsort(~rows[which], axis=1, kind="stable")[:, :length]
            for k in range(0, len(which), _STACKED):
                some = which[k : k + _STACKED]
                found, sure = self._interpolate(members_first[k : k + _STACKED])
                at = np.arange(len(some)), sizes[some] - 1
                coefficients[some], certain[some] = found[at], sure[at]
        return coefficients, certain

    def _prefix_outputs(
        self, orders: NDArray[np.intp], sizes: NDArray[np.intp]
    ) -> Iterator[tuple[Floats, Errors]]:
        n_together = max(1, self.block_size // self.fold.n_rows)
        for start in range(0, len(orders), n_together):
            some = slice(start, start + n_together)
            coefficients, certain = self._prefix_coefficients(orders[some], sizes[some])
            for first in range(0, len(certain), self.block_size):
                block = slice(first, first + self.block_size)
                doubtful = np.flatnonzero(~certain[block]).tolist()
                yield self._outputs(coefficients[:, block]), dict.fromkeys(doubtful, DOUBTFUL)

    def _prefix_coefficients(
        self, orders: NDArray[np.intp], sizes: NDArray[np.intp]
    ) -> tuple[Floats, Flags]:
        """Return the coefficients of prefixes, order by order, and where they are certain."""
        coefficients = np.zeros((1, *sizes.shape, self.n_variables))
        certain = np.zeros(sizes.shape, dtype=bool)
        few = sizes <= self.n_variables
        if few.any():
            found, sure = self._interpolate(orders[:, : self.n_variables])
            at = np.nonzero(few)[0], sizes[few] - 1
            coefficients[0, few], certain[few] = found[at], sure[at]
        large = np.argwhere(sizes > self.n_variables)
        if len(large):
            sums = self._sums.of_prefixes(orders)
            positions = np.argsort(orders, axis=1).astype(np.int32)
            places = flat_places(sizes, self.fold.n_rows).reshape(sizes.shape)
            for first in range(0, len(large), self.block_size):
                j, k = large[first : first + self.block_size].T
                rows = positions[j] < sizes[j, k, np.newaxis]
                found, sure = self._least_squares(sums.take(places[j, k], axis=1), rows)
                coefficients[0, j, k], certain[j, k] = found, sure
        return coefficients.reshape(1, -1, self.n_variables), certain.ravel()

    def _least_squares(self, sums: Floats, rows: NDArray[np.bool_]) -> tuple[Floats, Flags]:
        """Solve normal equations and refine.

        Parameters
        ----------
        sums : ndarray of shape (n_products, n_sets)
            Overwritten.
        rows : ndarray of bool, shape (n_sets, n_rows)

        Returns
        -------
        coefficients : ndarray of shape (n_sets, n_variables)
        certain : ndarray of bool, shape (n_sets,)
            Where the solution is as exact as the rows' condition allows.
        """
        first = int(self.has_intercept)
        systems = PackedSystems(sums, self.n_variables, 1)
        squares = systems.diagonal()[first:]
        solution = systems.solve()
        # products of norms of a matrix and of its inverse: bounds on condition numbers, squared
        weights = np.stack([np.ones(len(squares)), self.scale**-2.0])
        squares_of = np.stack(
            [sum_rows(squares), sum_rows(squares * self.scale[:, np.newaxis] ** 2)]
        )
        limits = np.array([[_ONE_STEP / _EPS], [self.max_condition**2]])
        conditions = squares_of * systems.inverse_bound(weights.T[:, :, np.newaxis], first)
        rough = np.flatnonzero(~(conditions < limits).all(axis=0))
        if rough.size:
            of_inverse = systems.select(rough).inverse_diagonal(first)
            for k, weighting in enumerate(weights):
                exact = sum_rows(of_inverse * weighting[:, np.newaxis])
                conditions[k, rough] = squares_of[k, rough] * exact
        limits[0] = _TWO_STEPS / _EPS
        certain = np.asarray((conditions < limits).all(axis=0))
        solution += self._correction(systems, solution, rows)
        again = certain & (conditions[0] > _ONE_STEP / _EPS)
        if again.any():
            more = self._correction(systems, solution, rows)
            solution += np.where(again, more, 0.0)
        return solution[:, 0].T, certain

    def _correction(
        self, systems: PackedSystems, solution: Floats, rows: NDArray[np.bool_]
    ) -> Floats:
        coefficients = np.ascontiguousarray(solution[:, 0].T)
        gradient = np.empty_like(coefficients)
        for first in range(0, len(rows), _STACKED):  # residuals of few sets fit into the cache
            some = slice(first, first + _STACKED)
            residual = self.targets[:, 0] - blocked_matmul(coefficients[some], self.design.T)
            residual *= rows[some]
            gradient[some] = blocked_matmul(residual, self.design)
        return systems.solve_again(np.ascontiguousarray(gradient.T)[:, np.newaxis])

    def _interpolate(self, orders: NDArray[np.intp]) -> tuple[Floats, Flags]:
        """Return the solutions of smallest norm for the first 1, 2, … of at most n_variables rows.

        With an intercept the differences to the first row are interpolated without one. The
        first k of them span nested subspaces, and the first k columns of Q in QR are their bases.

        Parameters
        ----------
        orders : ndarray of int, shape (n_orders, n_prefixes)

        Returns
        -------
        coefficients : ndarray of shape (n_orders, n_prefixes, n_variables)
        certain : ndarray of bool, shape (n_orders, n_prefixes)
        """
        first = int(self.has_intercept)
        X, y = self.X[orders], self.targets[orders, 0]
        coefficients = np.zeros((*orders.shape, self.n_variables))
        certain = np.ones(orders.shape, dtype=bool)
        weights = coefficients[:, first:, first:]
        if not first:
            certain = self._interpolate_nested(X, y, weights)
        elif X.shape[1] > 1:
            rows, steps = X[:, 1:] - X[:, :1], y[:, 1:] - y[:, :1]
            certain[:, 1:] = self._interpolate_nested(rows, steps, weights)
        if first:
            start = X[:, 0] - self.centre
            coefficients[:, :, 0] = y[:, :1]
            coefficients[:, 1:, 0] -= (weights @ start[:, :, np.newaxis])[:, :, 0]
        if self.uses_sums:  # or else the scale is one
            weights *= self.scale
        return coefficients, certain

    def _interpolate_nested(self, X: Floats, y: Floats, weights: Floats) -> Flags:
        """Interpolate the first 1, 2, … rows of each of several arrays, without an intercept.

        Parameters
        ----------
        X : ndarray of shape (n_arrays, n, n_features)
        y : ndarray of shape (n_arrays, n)
        weights : ndarray of shape (n_arrays, n, n_features)
            The result.

        Returns
        -------
        certain : ndarray of bool, shape (n_arrays, n)
        """
        columns = np.swapaxes(X, 1, 2)
        R = np.asarray(np.linalg.qr(columns, mode="r"))
        squares = np.cumsum((R**2).sum(axis=1), axis=1)
        pivots = np.abs(np.diagonal(R, axis1=1, axis2=2))
        sound = pivots * self.max_condition > pivots.max(axis=1, keepdims=True)
        sound = np.logical_and.accumulate(sound, axis=1)
        # a unit matrix takes the place of what can not be inverted; it is not certain anyway
        R = np.where(sound[:, np.newaxis], R, np.eye(R.shape[1]))
        inverse = np.triu(np.stack([lapack.dtrtri(triangle)[0] for triangle in R]))
        conditions = squares * np.cumsum((inverse**2).sum(axis=1), axis=1)
        # Q' = R^-T X, at half the cost of Q itself, but with an error that the condition amplifies
        basis = np.swapaxes(inverse, 1, 2) @ X
        poor = np.flatnonzero(~(conditions[:, -1] < _WELL_CONDITIONED**2))
        if poor.size:
            basis[poor] = np.swapaxes(np.linalg.qr(columns[poor])[0], 1, 2)
        along = np.stack([lapack.dtrtrs(r, t, trans=1)[0] for r, t in zip(R, y, strict=True)])
        basis *= (along * sound)[:, :, np.newaxis]
        np.cumsum(basis, axis=1, out=weights)
        # Centring may shorten a singular vector by the square root of the number of rows.
        n_rows = np.arange(X.shape[1]) + 2
        return np.asarray(sound & (n_rows * conditions < self.max_condition**2))


def _max_condition(estimator: Any, X: Floats) -> float:
    # half of what the installed version keeps; `tol` counts for dense data from 1.9 on
    cut_off = max(getattr(estimator, "tol", 0.0), max(X.shape) * _EPS)
    return min(_MAX_CONDITION, 0.5 / cut_off)


def _fits_in_table(n_rows: int, d: int) -> bool:
    n_products = ProductSums.n_products(d + 1, 1)
    return d < _MAX_VARIABLES and 8 * n_rows * n_products < _MAX_TABLE_BYTES
