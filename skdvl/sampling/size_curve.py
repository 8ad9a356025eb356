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
    expected : ndarray of shape (n_groups, n_players + 1)
        About how many observations of each size were to be expected, for each of the groups of
        equally many curves. It sets how far a point looks, so that this does not depend on what
        was drawn.

    Returns
    -------
    ndarray of shape (n_curves, n_players + 1)
    """
    n_curves, n_sizes = counts.shape
    position = np.linspace(-1.0, 1.0, n_sizes)[:, np.newaxis]
    terms = np.empty((n_sizes, 5, n_curves))
    terms[:, 0], terms[:, 3] = counts.T, sums.T
    np.multiply(terms[:, 0::3], position[:, np.newaxis], out=terms[:, 1::3])
    np.multiply(terms[:, 0], position**2, out=terms[:, 2])
    (n, x, xx, u, xu), totals = _window_sums(terms, expected, _WINDOW)
    position = position[:, 0]
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
    expected : ndarray of shape (n_groups, n_players + 1)
        As in `fit_size_curves`.

    Returns
    -------
    ndarray of shape (n_curves, n_players + 1)
    """
    terms = np.stack([counts.T, sums.T], axis=1)
    (n, u), totals = _window_sums(terms, expected, _WIDE_WINDOW)
    overall = totals[1] / np.maximum(totals[0], 1)
    return (u + _TRUST_IN_MEAN * overall) / (n + _TRUST_IN_MEAN)


def _window_sums(
    terms: NDArray[np.float64], expected: NDArray[np.float64], window: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum terms over the sizes that the line at each size is fitted to, and over all sizes.

    Parameters
    ----------
    terms : ndarray of shape (n_players + 1, n_terms, n_curves)

    Returns
    -------
    sums : ndarray of shape (n_terms, n_curves, n_players + 1)
    totals : ndarray of shape (n_terms, n_curves, 1)
    """
    n_sizes, n_terms, n_curves = terms.shape
    so_far = np.zeros((n_sizes + 1, n_terms, n_curves))
    terms.cumsum(axis=0, out=so_far[1:])
    sums = np.empty(terms.shape)  # its order in memory decides the bits of later sums
    size = np.arange(n_sizes)
    per_group = n_curves // len(expected)
    for group, of_size in enumerate(expected):
        mine = slice(group * per_group, (group + 1) * per_group)
        reached = of_size.cumsum()
        centre = reached - of_size / 2
        low = np.minimum(reached.searchsorted(centre - window / 2, side="right"), size)
        high = reached.searchsorted(centre + window / 2, side="left")
        end = np.minimum(np.maximum(high, size) + 1, n_sizes)
        sums[..., mine] = so_far[end, :, mine] - so_far[low, :, mine]
    return sums.transpose(1, 2, 0), so_far[-1, :, :, np.newaxis]
