"""The mean utility of coalitions as a curve of their size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["fit_size_curve"]

_WINDOW = 8.0  # observations that a point of the smooth curve leans on
_TRUST_IN_SMOOTH = 2.0  # the smooth curve weighs as much as so many observations at a size


def fit_size_curve(counts: NDArray[np.float64], sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a mean utility for every size from sparse observations.

    Each size's own mean, drawn towards a local line through the observations nearest in size. The
    own mean wins where there are several observations: utilities jump where a model needs k rows,
    or with parity, and a line would smooth that away.

    Parameters
    ----------
    counts : ndarray of shape (n_players + 1,)
        Number of observations of each size; at least one in all.
    sums : ndarray of shape (n_players + 1,)
        Sum of the observed utilities of each size.

    Returns
    -------
    ndarray of shape (n_players + 1,)
    """
    position = np.linspace(-1.0, 1.0, len(counts))
    totals = np.zeros((5, len(counts) + 1))
    moments = (counts, counts * position, counts * position**2, sums, sums * position)
    np.cumsum(moments, axis=1, out=totals[:, 1:])
    reached = totals[0, 1:]
    centre = reached - counts / 2
    low = np.searchsorted(reached, centre - _WINDOW / 2, side="right")
    high = np.searchsorted(reached, centre + _WINDOW / 2, side="left")
    low = np.minimum(low, np.arange(len(counts)))
    high = np.clip(high, np.arange(len(counts)), len(counts) - 1)
    n, x, xx, u, xu = totals[:, high + 1] - totals[:, low]
    n = np.maximum(n, 1e-300)
    spread = xx - x**2 / n
    slope = np.divide(xu - x * u / n, spread, out=np.zeros_like(n), where=spread > 1e-9 * n)
    line = u / n + slope * (position - x / n)
    return (sums + _TRUST_IN_SMOOTH * line) / (counts + _TRUST_IN_SMOOTH)
