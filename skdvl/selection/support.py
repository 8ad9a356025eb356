"""Which samples stay."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval

__all__ = ["KEEP_CONSTRAINTS", "support_mask"]

KEEP_CONSTRAINTS: dict[str, Any] = {
    "keep": [Interval(Real, 0, 1, closed="right")],
    "threshold": [Interval(Real, None, None, closed="neither"), None],
}


def support_mask(
    values: NDArray[np.float64],
    y: NDArray[Any] | None,
    keep: float = 0.9,
    threshold: float | None = None,
) -> NDArray[np.bool_]:
    """Choose the samples that stay.

    Parameters
    ----------
    values : ndarray of shape (n_samples,)
        Samples without a value (NaN) stay.
    y : ndarray of shape (n_samples,) or None
        Class labels: a class of which no sample would stay keeps its best one. None for targets
        that are not classes.
    keep : float, default=0.9
        Share of the samples that stay: the ceil(keep · n) of highest value, ties in row order.
    threshold : float or None, default=None
        If given, samples of at least this value stay instead.

    Returns
    -------
    ndarray of bool, shape (n_samples,)

    Examples
    --------
    >>> import numpy as np
    >>> support_mask(np.array([0.3, -0.1, 0.2, 0.0]), None, keep=0.5)
    array([ True, False,  True, False])
    """
    ranked = np.where(np.isnan(values), np.inf, values)
    if threshold is not None:
        mask = ranked >= threshold
    else:
        # the product of a decimal share may exceed a whole number by rounding: 0.7 · 10
        n_kept = math.ceil(round(keep * len(values), 9))
        mask = np.zeros(len(values), dtype=bool)
        mask[np.argsort(-ranked, kind="stable")[:n_kept]] = True
    groups = (
        [np.arange(len(values))] if y is None else [np.flatnonzero(y == c) for c in np.unique(y)]
    )
    for members in groups:
        if not mask[members].any():
            mask[members[np.argmax(ranked[members])]] = True
    return mask
