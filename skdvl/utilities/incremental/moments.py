"""Means and variances from sums, with as few rounding errors as sums allow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["column_centres", "mean_and_variance", "whole_columns"]

Floats = NDArray[np.float64]

# A value that this share of the rows has is a better centre than the mean: columns that are
# constant in a coalition then have no rounding errors at all.
_COMMON = 0.05
# Sums of squares of so small whole numbers are exact for up to 10^5 rows.
_SMALL = 1e5


def column_centres(X: Floats) -> Floats:
    """Return each column's commonest value, where it is common, or else its mean.

    Sums and sums of squares about the centre lose few digits. Whole numbers stay whole.
    """
    centres = X.mean(axis=0)
    for j, column in enumerate(X.T):
        values, counts = np.unique(column, return_counts=True)
        if counts.max() > 1 and counts.max() >= _COMMON * len(column):
            centres[j] = values[counts.argmax()]
        elif (np.rint(values) == values).all():
            centres[j] = np.rint(centres[j])
    return centres


def whole_columns(X: Floats) -> NDArray[np.bool_]:
    """Tell which columns hold whole numbers so small that their sums of squares are exact."""
    return np.asarray(((np.rint(X) == X) & (np.abs(X) < _SMALL)).all(axis=0))


def mean_and_variance(count: Floats, sums: Floats, mean: Floats, variance: Floats) -> None:
    """Write means and variances into arrays of shape (..., d).

    Parameters
    ----------
    count : ndarray of shape (...)
        Where it is 0, both become 0.
    sums : ndarray of shape (..., 2 * d)
        Sums of the values, then of their squares, about a centre.
    mean, variance : ndarray of shape (..., d)
        Results; the mean is about the centre as well.
    """
    d = mean.shape[-1]
    n = np.maximum(count, 1)[..., np.newaxis]
    total, squares = sums[..., :d], sums[..., d:]
    np.divide(total, n, out=mean)
    # for whole numbers this is exact until the division
    np.divide(np.maximum(n * squares - total**2, 0), n**2, out=variance)
