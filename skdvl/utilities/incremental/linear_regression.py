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
import sklearn
from numpy.typing import NDArray
from scipy.linalg import lapack
from sklearn.base import clone
from sklearn.linear_model import LinearRegression

from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.base import Errors, blocked_matmul, numeric_array
from skdvl.utilities.incremental.linear import LinearUtility, flat_places
from skdvl.utilities.incremental.normal_equations import PackedSystems, ProductSums, sum_rows
from skdvl.utilities.supervised import FallbackRule

__all__ = ["LinearRegressionUtility"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_EPS = float(np.finfo(np.float64).eps)
_MAX_CONDITION = 1e8  # beyond it the least squares solution is left to scikit-learn
_MAX_VARIABLES = 60
_MAX_TABLE_BYTES = 2**25
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
        super().__init__(estimator, fold, judge, fallback)
        self.max_condition = _max_condition(estimator, self.X)
        self.uses_sums = _fits_in_table(*self.X.shape)
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
        """Return a hundred times the rounding error that the condition of the rows amplifies."""
        singular = np.linalg.svd(X - X.mean(axis=0), compute_uv=False)
        kept = singular[singular > 1e-6 * singular[0]]
        return max(1e-12, 100 * _EPS * (kept[0] / kept[-1] if kept.size else 1.0))

    @cached_property
    def scale(self) -> Floats:
        """Powers of two near the columns' standard deviations."""
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
        for j in np.flatnonzero(sizes <= self.n_variables).tolist():
            members = np.flatnonzero(rows[j])
            found, sure = self._interpolate(members)
            coefficients[0, j], certain[j] = found[-1], sure[-1]
        large = np.flatnonzero(sizes > self.n_variables)
        if large.size:
            sums = self._sums.of_sets(rows[large])
            coefficients[0, large], certain[large] = self._least_squares(sums, rows[large])
        for j in np.flatnonzero(~certain).tolist():
            coefficients[0, j] = self._refit(np.flatnonzero(rows[j]))
        return coefficients, {}

    def _prefix_outputs(
        self, orders: NDArray[np.intp], sizes: NDArray[np.intp]
    ) -> Iterator[Floats]:
        n_together = max(1, self.block_size // self.fold.n_rows)
        for start in range(0, len(orders), n_together):
            some = slice(start, start + n_together)
            coefficients = self._prefix_coefficients(orders[some], sizes[some])
            for first in range(0, coefficients.shape[1], self.block_size):
                yield self._outputs(coefficients[:, first : first + self.block_size])

    def _prefix_coefficients(self, orders: NDArray[np.intp], sizes: NDArray[np.intp]) -> Floats:
        coefficients = np.zeros((1, *sizes.shape, self.n_variables))
        certain = np.zeros(sizes.shape, dtype=bool)
        for j, (order, wanted) in enumerate(zip(orders, sizes, strict=True)):
            few = wanted <= self.n_variables
            if few.any():
                found, sure = self._interpolate(order[: self.n_variables])
                coefficients[0, j, few] = found[wanted[few] - 1]
                certain[j, few] = sure[wanted[few] - 1]
        large = np.argwhere(sizes > self.n_variables)
        if len(large):
            sums = self._sums.of_prefixes(orders)
            positions = np.argsort(orders, axis=1)
            places = flat_places(sizes, self.fold.n_rows).reshape(sizes.shape)
            for first in range(0, len(large), self.block_size):
                j, k = large[first : first + self.block_size].T
                rows = positions[j] < sizes[j, k, np.newaxis]
                found, sure = self._least_squares(sums.take(places[j, k], axis=1), rows)
                coefficients[0, j, k], certain[j, k] = found, sure
        for j, k in np.argwhere(~certain).tolist():
            coefficients[0, j, k] = self._refit(np.sort(orders[j, : sizes[j, k]]))
        return coefficients.reshape(1, -1, self.n_variables)

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
        of_inverse = systems.inverse_diagonal(first)
        # products of norms of a matrix and of its inverse: bounds on condition numbers, squared
        error = _EPS * sum_rows(squares) * sum_rows(of_inverse)
        scale = self.scale[:, np.newaxis]
        bound = sum_rows(squares * scale**2) * sum_rows(of_inverse / scale**2)
        certain = (error < _TWO_STEPS) & (bound < self.max_condition**2)
        solution += self._correction(systems, solution, rows)
        again = certain & (error > _ONE_STEP)
        if again.any():
            more = self._correction(systems, solution, rows)
            solution += np.where(again, more, 0.0)
        return solution[:, 0].T, certain

    def _correction(
        self, systems: PackedSystems, solution: Floats, rows: NDArray[np.bool_]
    ) -> Floats:
        coefficients = np.ascontiguousarray(solution[:, 0].T)
        residual = self.targets[:, 0] - blocked_matmul(coefficients, self.design.T)
        residual *= rows
        gradient = blocked_matmul(residual, self.design)
        return systems.solve_again(np.ascontiguousarray(gradient.T)[:, np.newaxis])

    def _interpolate(self, order: NDArray[np.intp]) -> tuple[Floats, Flags]:
        """Return the solutions of smallest norm for the prefixes of up to n_variables rows.

        With an intercept the differences to the first row are interpolated without one. Their
        rows span nested subspaces, of which QR gives a basis: Q_1, …, Q_k span the first k.

        Returns
        -------
        coefficients : ndarray of shape (n, n_variables)
        certain : ndarray of bool, shape (n,)
        """
        first = int(self.has_intercept)
        X, y = self.X[order] - self.centre, self.targets[order, 0]
        steps, wanted = (X[1:] - X[0], y[1:] - y[0]) if first else (X, y)
        n_certain, weights = 0, np.zeros(steps.shape)
        certain = np.zeros(len(steps), dtype=bool)
        if len(steps):
            Q, R = np.linalg.qr(steps.T)
            pivots = np.abs(np.diag(R))
            sound = pivots > pivots.max() / self.max_condition
            n_certain = len(sound) if sound.all() else int(np.argmin(sound))
        if n_certain:
            R = R[:n_certain, :n_certain]
            inverse = lapack.dtrtri(R)[0]
            along = wanted[:n_certain] @ np.triu(inverse)
            weights[:n_certain] = np.cumsum(along[:, np.newaxis] * Q.T[:n_certain], axis=0)
            of_inverse = np.cumsum((np.triu(inverse) ** 2).sum(axis=0))
            squares = np.cumsum((steps[:n_certain] ** 2).sum(axis=1))
            # Centring may shorten a singular vector by the square root of the number of rows.
            n_rows = np.arange(n_certain) + 2
            certain[:n_certain] = n_rows * squares * of_inverse < self.max_condition**2
        if not first:
            return weights * self.scale, certain
        weights = np.concatenate([np.zeros((1, weights.shape[1])), weights])
        counts = np.arange(1, len(order) + 1)
        means = np.cumsum(X, axis=0) / counts[:, np.newaxis]
        intercepts = np.cumsum(y) / counts - np.einsum("ij,ij->i", means, weights)
        coefficients = np.column_stack([intercepts, weights * self.scale])
        return coefficients, np.concatenate([[True], certain])

    def _refit(self, members: NDArray[np.intp]) -> Floats:
        """Return the coefficients that scikit-learn finds."""
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            model = clone(self.estimator).fit(self.X[members], np.asarray(self.fold.y)[members])
        weights = np.asarray(model.coef_, dtype=np.float64)
        if not self.has_intercept:
            return weights * self.scale
        # as scikit-learn has it, but of moved data, whose means are small
        X, y = self.X[members] - self.centre, self.targets[members, 0]
        return np.concatenate([[y.mean() - X.mean(axis=0) @ weights], weights * self.scale])


def _max_condition(estimator: Any, X: Floats) -> float:
    # half of what the installed version keeps; `tol` counts for dense data from 1.9 on
    cut_off = max(getattr(estimator, "tol", 0.0), max(X.shape) * _EPS)
    return min(_MAX_CONDITION, 0.5 / cut_off)


def _fits_in_table(n_rows: int, d: int) -> bool:
    n_products = ProductSums.n_products(d + 1, 1)
    return d < _MAX_VARIABLES and 8 * n_rows * n_products < _MAX_TABLE_BYTES
