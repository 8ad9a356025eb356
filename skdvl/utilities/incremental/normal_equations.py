"""Normal equations of many sets of rows at once: their sums, and their solution.

The matrices are small and there are hundreds of them, so a call of LAPACK for each would mostly
be overhead. Stacks are kept with the sets along the last axis; what is done to one entry of every
matrix is then one operation on a contiguous vector. Up to some ten variables that is the fastest
way, beyond see `definite`; and such elementwise operations give each set the same bits whatever the
others are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skdvl.utilities.incremental.base import blocked_matmul

__all__ = ["PackedSystems", "ProductSums", "sum_rows"]

Floats = NDArray[np.float64]


def sum_rows(rows: Floats) -> Floats:
    """Return ``rows.sum(axis=0)``, whose bits numpy changes with the number of columns."""
    total = rows[0].copy()
    for row in rows[1:]:
        total += row
    return total


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

    def of_prefixes(self, orders: NDArray[np.intp]) -> Floats:
        """Return the sums over the first 1, 2, … rows of orders.

        Parameters
        ----------
        orders : ndarray of int, shape (n_orders, n_rows)

        Returns
        -------
        ndarray of shape (n_products, n_orders * n_rows)
        """
        sums = self.table[:, orders]
        np.cumsum(sums, axis=2, out=sums)
        return sums.reshape(len(sums), -1)


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

    def diagonal(self) -> Floats:
        """Return a copy of the diagonals, shape (n_variables, n_sets), before `solve`."""
        return self._packed[self._starts]

    def solve(self) -> Floats:
        """Factor the matrices and return the solutions, (n_variables, n_targets, n_sets)."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            self._factor()
            forward = [column[self.n_variables - j :] for j, column in enumerate(self._columns)]
            return self._back_substitute(np.stack(forward))

    def solve_again(self, right: Floats) -> Floats:
        """Solve for other right sides, shape (n_variables, n_targets, n_sets), in place."""
        with np.errstate(invalid="ignore", over="ignore"):
            self._forward_substitute(right)
            return self._back_substitute(right)

    def select(self, which: NDArray[np.intp]) -> PackedSystems:
        """Return a copy of some of the systems, in the state they are in."""
        return PackedSystems(self._packed[:, which], self.n_variables, self.n_targets)

    def inverse_diagonal(self, first: int = 0) -> Floats:
        """Return the diagonals of inverses, of the block of variables from ``first`` on.

        The block is what remains of the matrix when the variables before are eliminated.
        Shape (n_variables - first, n_sets); after `solve`.
        """
        n = self.n_variables - first
        inverse = np.zeros((n, n, self.n_sets))  # of the factor, column by column
        total = np.zeros((n, self.n_sets))
        with np.errstate(invalid="ignore", over="ignore"):
            for j in range(n):
                column = self._columns[first + j]
                inverse[:j, j] *= -column[0]
                inverse[j, j] = column[0]
                below = column[1 : n - j]
                inverse[: j + 1, j + 1 :] += inverse[: j + 1, j, np.newaxis] * below
                total += inverse[:, j] ** 2
        return total

    def inverse_bound(self, weights: Floats, first: int = 0) -> Floats:
        """Return upper bounds on weighted sums of `inverse_diagonal`, at a fraction of its cost.

        The inverse of the factor is in absolute value at most that of its comparison matrix,
        whose entries off the diagonal are all negative.

        Parameters
        ----------
        weights : ndarray of shape (n_variables - first, n_weightings, n_sets or 1)
        first : int

        Returns
        -------
        ndarray of shape (n_weightings, n_sets)
        """
        n = self.n_variables - first
        grown = np.sqrt(weights)
        if grown.shape[2] != self.n_sets:
            grown = np.repeat(grown, self.n_sets, axis=2)
        total = np.zeros(grown.shape[1:])
        with np.errstate(invalid="ignore", over="ignore"):
            for j in range(n):
                column = self._columns[first + j]
                grown[j] *= column[0]
                grown[j + 1 :] += np.abs(column[1 : n - j])[:, np.newaxis] * grown[j]
                total += grown[j] ** 2
        return total

    def _forward_substitute(self, right: Floats) -> None:
        """Solve with the factor, in place."""
        for j, column in enumerate(self._columns):
            right[j] *= column[0]
            below = column[1 : self.n_variables - j]
            right[j + 1 :] -= below[:, np.newaxis] * right[j]

    def _back_substitute(self, right: Floats) -> Floats:
        """Solve with the transposed factor, in place."""
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
