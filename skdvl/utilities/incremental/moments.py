"""Means and variances from sums, with as few rounding errors as sums allow."""

from __future__ import annotations

import math

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
    is_whole = (np.rint(X) == X).all(axis=0)
    centres[is_whole] = np.rint(centres[is_whole])
    ascending = np.sort(X, axis=0)
    others = max(2, math.ceil(_COMMON * len(X))) - 1  # that a common value has beside itself
    is_common = (ascending[others:] == ascending[: len(X) - others]).any(axis=0)
    for j in np.flatnonzero(is_common).tolist():
        values, counts = np.unique(X[:, j], return_counts=True)
        centres[j] = values[counts.argmax()]
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
