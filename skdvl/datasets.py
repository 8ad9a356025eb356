"""Seeded corruption of labels, to see whether values find it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

__all__ = ["flip_labels"]


def flip_labels(
    y: ArrayLike, share: float = 0.1, *, random_state: Any = None
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Give some samples the label of another class.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels of at least two classes.
    share : float, default=0.1
        Share of the samples whose label is changed, in [0, 1]; rounded to whole samples.
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    y_noisy : ndarray of shape (n_samples,)
        The new label is uniform among the other classes.
    is_flipped : ndarray of bool, shape (n_samples,)

    Raises
    ------
    ValueError
        If there is only one class, or ``share`` lies outside [0, 1].

    Examples
    --------
    >>> from skdvl.datasets import flip_labels
    >>> y_noisy, is_flipped = flip_labels(["a", "b"] * 10, 0.2, random_state=0)
    >>> int(is_flipped.sum())
    4
    """
    labels = np.asarray(y)
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError("y has a single class, so that no label can be flipped.")
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share!r}.")
    rng = check_random_state(random_state)
    is_flipped = np.zeros(len(labels), dtype=bool)
    is_flipped[rng.choice(len(labels), size=round(share * len(labels)), replace=False)] = True
    shifts = rng.randint(1, len(classes), size=is_flipped.sum())
    codes[is_flipped] = (codes[is_flipped] + shifts) % len(classes)
    return classes[codes], is_flipped
