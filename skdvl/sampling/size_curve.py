"""The mean utility of coalitions as a curve of their size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["fit_size_curves", "smooth_curves"]

_WINDOW = 8.0  # observations that a point of the smooth curve leans on
_WIDE_WINDOW = 16.0  # where the numbers are squares, which vary more
_TRUST_IN_SMOOTH = 2.0  # the smooth curve weighs as much as so many observations at a size
_TRUST_IN_MEAN = 1e-3  # as many observations at the overall mean, where a window is empty


def fit_size_curves(
    counts: NDArray[np.float64], sums: NDArray[np.float64], expected: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return a mean utility for every size from sparse observations, for several curves at once.

    Each size's own mean, drawn towards a local line through the observations nearest in size. The
    own mean wins where there are several observations: utilities jump where a model needs k rows,
    or with parity, and a line would smooth that away.

    Parameters
    ----------
    counts : ndarray of shape (n_curves, n_players + 1)
        Number of observations of each size; at least one in all for each curve.
    sums : ndarray of shape (n_curves, n_players + 1)
        Sum of the observed utilities of each size.
    expected : ndarray of shape (n_players + 1,)
        About how many observations of each size were to be expected. It sets how far a point
        looks, so that this does not depend on what was drawn.

    Returns
    -------
    ndarray of shape (n_curves, n_players + 1)
    """
    n_curves, n_sizes = counts.shape
    position = np.linspace(-1.0, 1.0, n_sizes)
    terms = np.empty((5, n_curves, n_sizes))
    terms[0], terms[3] = counts, sums
    np.multiply(terms[0::3], position, out=terms[1::3])
    np.multiply(counts, position**2, out=terms[2])
    (n, x, xx, u, xu), totals = _window_sums(terms, expected, _WINDOW)
    overall = totals[3] / totals[0]
    n = n + _TRUST_IN_MEAN
    u = u + _TRUST_IN_MEAN * overall
    spread = xx - x**2 / n
    slope = np.divide(xu - x * u / n, spread, out=np.zeros_like(n), where=spread > 1e-6 * n)
    line = u / n + slope * (position - x / n)
    return (sums + _TRUST_IN_SMOOTH * line) / (counts + _TRUST_IN_SMOOTH)


def smooth_curves(
    counts: NDArray[np.float64], sums: NDArray[np.float64], expected: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean of positive numbers for every size, over the observations nearest in size.

    Parameters
    ----------
    counts, sums : ndarray of shape (n_curves, n_players + 1)
        Number and sum of the observations of each size.
    expected : ndarray of shape (n_players + 1,)
        As in `fit_size_curves`.

    Returns
    -------
    ndarray of shape (n_curves, n_players + 1)
    """
    (n, u), totals = _window_sums(np.stack([counts, sums]), expected, _WIDE_WINDOW)
    overall = totals[1] / np.maximum(totals[0], 1)
    return (u + _TRUST_IN_MEAN * overall) / (n + _TRUST_IN_MEAN)


def _window_sums(
    terms: NDArray[np.float64], expected: NDArray[np.float64], window: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum terms over the sizes that the line at each size is fitted to, and over all sizes.

    Parameters
    ----------
    terms : ndarray of shape (n_terms, n_curves, n_players + 1)

    Returns
    -------
    sums : ndarray of shape (n_terms, n_curves, n_players + 1)
    totals : ndarray of shape (n_terms, n_curves, 1)
    """
    reached = expected.cumsum()
    centre = reached - expected / 2
    size = np.arange(len(expected))
    low = np.minimum(reached.searchsorted(centre - window / 2, side="right"), size)
    high = reached.searchsorted(centre + window / 2, side="left")
    end = np.minimum(np.maximum(high, size), len(size) - 1) + 1
    so_far = np.zeros((*terms.shape[:2], len(expected) + 1))
    terms.cumsum(axis=2, out=so_far[:, :, 1:])
    # by index and not by `numpy.take`: its order in memory decides the bits of later sums
    return so_far[:, :, end] - so_far[:, :, low], so_far[:, :, -1:]
