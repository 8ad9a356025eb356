"""L2 penalties of coefficients, which depend on the set of rows where these are scaled by it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from skdvl.utilities.incremental.optima import Floats, matmul_by_row

__all__ = ["FixedPenalty", "Penalty", "ScaledPenalty"]

_SMALL = 1e-3  # share of a column's variance below which a difference of moments has few digits


class Penalty(ABC):
    """Weights of the squared coefficients, by set of rows."""

    @abstractmethod
    def of_sets(self, weights: Floats) -> Floats:
        """Return the penalties of sets.

        Parameters
        ----------
        weights : ndarray of shape (n_sets, n_rows)
            Positive for a set's rows, 0 for the others.

        Returns
        -------
        ndarray of shape (n_sets, n_columns) or (1, n_columns)
        """

    @abstractmethod
    def times(self, factor: float) -> Penalty:
        """Return penalties that are larger by a factor."""


class FixedPenalty(Penalty):
    """The same penalties for all sets.

    Parameters
    ----------
    penalty : ndarray of shape (n_columns,)
    """

    def __init__(self, penalty: Floats) -> None:
        self.penalty = penalty

    def of_sets(self, weights: Floats) -> Floats:
        """Return the penalties, whatever the sets, see `Penalty`."""
        return self.penalty[np.newaxis]

    def times(self, factor: float) -> FixedPenalty:
        """Return penalties that are larger by a factor."""
        return FixedPenalty(factor * self.penalty)


class ScaledPenalty(Penalty):
    """Penalties of coefficients of columns that each set scales to variance 1 for itself.

    With w' the coefficient of the scaled column, w'² = (w·s)² for the set's standard deviation s.
    A column that `StandardScaler` takes to be constant in a set is not scaled; its w' is 0 in any
    case, as an intercept that costs nothing does the same.

    Parameters
    ----------
    penalty : ndarray of shape (n_columns,)
        Of w', 0 for an intercept.
    Z : ndarray of shape (n_rows, n_columns)
        The rows, (X - centre) / scale.
    centre, scale : ndarray of shape (n_columns,)
    """

    def __init__(self, penalty: Floats, Z: Floats, centre: Floats, scale: Floats) -> None:
        self.penalty = penalty
        self.Z = Z
        self.squares = Z * Z
        self.centre, self.scale = centre, scale
        self.varies = np.ptp(Z, axis=0) > 0

    def times(self, factor: float) -> ScaledPenalty:
        """Return penalties that are larger by a factor."""
        return ScaledPenalty(factor * self.penalty, self.Z, self.centre, self.scale)

    def of_sets(self, weights: Floats) -> Floats:
        """Return the penalties of sets, see `Penalty`."""
        members = weights > 0
        counts = members.sum(axis=1, keepdims=True)
        flags = members.astype(np.float64)
        means = matmul_by_row(flags, self.Z) / counts
        variances = matmul_by_row(flags, self.squares) / counts - means**2
        for j in np.flatnonzero(((variances < _SMALL) & self.varies).any(axis=1)):
            rows = self.Z[members[j]]
            variances[j] = np.where(np.ptp(rows, axis=0) > 0, rows.var(axis=0), 0)
        return self.penalty * np.where(self._are_constant(means, variances, counts), 1, variances)

    def _are_constant(self, means: Floats, variances: Floats, counts: Floats) -> NDArray[np.bool_]:
        """Tell which columns scikit-learn takes to be constant."""
        eps = np.finfo(np.float64).eps
        means, variances = self.centre + self.scale * means, self.scale**2 * variances
        return variances <= counts * eps * variances + (counts * means * eps) ** 2
