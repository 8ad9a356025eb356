"""Means and their errors from draws that come in chunks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["RunningMoments"]


class RunningMoments:
    """Mean and spread of vectors, merged chunk by chunk without cancellation.

    Parameters
    ----------
    n_entries : int
        Length of the vectors.

    References
    ----------
    .. [1] Chan, Golub, LeVeque (1983). "Algorithms for computing the sample variance." The
       American Statistician.
    """

    def __init__(self, n_entries: int) -> None:
        self.count = 0
        self.mean = np.zeros(n_entries)
        self._sum_of_squares = np.zeros(n_entries)

    def add(self, vectors: NDArray[np.float64]) -> None:
        """Add vectors, shape (n_vectors, n_entries)."""
        n_new = len(vectors)
        mean = vectors.sum(axis=0) / n_new
        total = self.count + n_new
        gap = mean - self.mean
        self._sum_of_squares += ((vectors - mean) ** 2).sum(axis=0)
        self._sum_of_squares += gap**2 * (self.count * n_new / total)
        self.mean = self.mean + gap * (n_new / total)
        self.count = total

    @property
    def standard_errors(self) -> NDArray[np.float64]:
        """Standard errors of the mean; NaN from fewer than two vectors."""
        if self.count < 2:
            return np.full(len(self.mean), np.nan)
        return np.sqrt(self._sum_of_squares / (self.count - 1) / self.count)
