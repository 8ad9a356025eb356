"""Normal equations of many sets of rows at once: their sums, and their solution.

The matrices are small and there are hundreds of them, so a call of LAPACK for each would mostly
be overhead. Stacks are kept with the sets along the last axis; what is done to one entry of every
matrix is then one operation on a contiguous vector. Up to about 60 variables that is faster than
numpy's stacked Cholesky, whose operands would have to be transposed to and fro, and such
elementwise operations give each set the same bits whatever the others are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skdvl.utilities.incremental.base import blocked_matmul

__all__ = ["PackedSystems", "ProductSums"]

Floats = NDArray[np.float64]


class ProductSums:
    """Sums of products of columns over sets of rows.

    Parameters
    ----------
    Z : ndarray of shape (n_rows, n_variables)
        Columns of the design.
    Y : ndarray of shape (n_rows, n_targets)
        Columns whose products with those of ``Z`` are wanted, but not with each other.

    Attributes
    ----------
    table : ndarray of shape (n_products, n_rows)
        The products of one row, in the order of `PackedSystems`.
    """

    def __init__(self, Z: Floats, Y: Floats) -> None:
        columns = np.concatenate([Z, Y], axis=1).T
        self.n_variables, self.n_targets = Z.shape[1], Y.shape[1]
        self.table = np.concatenate([columns[j] * columns[j:] for j in range(self.n_variables)])

    @staticmethod
    def n_products(n_variables: int, n_targets: int) -> int:
        """Return how many products one row has."""
        return n_variables * (n_variables + 1) // 2 + n_variables * n_targets

    def of_sets(self, rows: NDArray[np.bool_]) -> Floats:
        """Return the sums over sets of rows, bool (n_sets, n_rows); shape (n_products, n_sets)."""
        sums = blocked_matmul(rows.astype(np.float64), self.table.T)
        return np.ascontiguousarray(sums.T)

    def of_prefixes(self, orders: NDArray[np.intp], sizes: NDArray[np.intp]) -> Floats:
        """Return the sums over the first rows of orders.

        Parameters
        ----------
        orders : ndarray of int, shape (n_orders, n_rows)
        sizes : ndarray of int, shape (n_orders, n_sizes)

        Returns
        -------
        ndarray of shape (n_products, n_orders * n_sizes)
        """
        sums = self.table[:, orders]
        np.cumsum(sums, axis=2, out=sums)
        flat = np.arange(len(orders))[:, np.newaxis] * orders.shape[1] + sizes - 1
        return sums.reshape(len(sums), -1).take(flat.ravel(), axis=1)


class PackedSystems:
    """Symmetric positive definite systems, factored in place by Cholesky's method.

    Parameters
    ----------
    packed : ndarray of shape (n_products, n_sets)
        For each variable j its products with the variables j, j+1, … and then with the
        targets. Overwritten.
    n_variables, n_targets : int

    Notes
    -----
    A matrix that is not positive definite gives NaN or infinity in everything that follows.
    """

    def __init__(self, packed: Floats, n_variables: int, n_targets: int) -> None:
        self.n_variables, self.n_targets = n_variables, n_targets
        self.n_sets = packed.shape[1]
        lengths = n_variables - np.arange(n_variables) + n_targets
        self._starts = np.cumsum(lengths) - lengths
        self._packed = packed
        self._columns = [
            packed[start : start + length]
            for start, length in zip(self._starts.tolist(), lengths.tolist(), strict=True)
        ]

    def add_to_diagonal(self, added: Floats) -> None:
        """Add ``added`` of shape (n_variables,) to the diagonal of every matrix."""
        for column, value in zip(self._columns, added.tolist(), strict=True):
            if value:
                column[0] += value

    def solve(self) -> Floats:
        """Factor the matrices and return the solutions, (n_variables, n_targets, n_sets)."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            self._factor()
            forward = [column[self.n_variables - j :] for j, column in enumerate(self._columns)]
            return self.back_substitute(np.stack(forward))

    def back_substitute(self, right: Floats) -> Floats:
        """Solve with the transposed factor, in place.

        Parameters
        ----------
        right : ndarray of shape (n_variables, n_targets, n_sets)
        """
        for j in range(self.n_variables - 1, -1, -1):
            right[j] *= self._columns[j][0]
            if j:
                row = self._packed[self._starts[:j] + j - np.arange(j)]
                right[:j] -= row[:, np.newaxis] * right[j]
        return right

    def _factor(self) -> None:
        """Turn the columns into those of the factor, the pivots into their inverses.

        The targets' rows become the solution of the forward substitution.
        """
        buffer = np.empty((self.n_variables + self.n_targets, self.n_sets))
        for j, column in enumerate(self._columns):
            np.sqrt(column[0], out=column[0])
            np.divide(1.0, column[0], out=column[0])
            column[1:] *= column[0]
            for k in range(j + 1, self.n_variables):
                below = column[k - j :]
                product = np.multiply(below, column[k - j], out=buffer[: len(below)])
                self._columns[k] -= product
