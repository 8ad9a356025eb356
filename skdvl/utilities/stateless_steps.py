"""Steps of a pipeline that transform each row by itself: they can be done once and for all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils.validation import _num_samples

from skdvl.utilities.fold import Fold, take_rows
from skdvl.utilities.quiet import quiet_warnings

__all__ = ["split_stateless_steps"]

_N_TRIED = 8  # rows


def split_stateless_steps(estimator: Any, fold: Fold) -> tuple[Any, Fold, str | None]:
    """Take a pipeline's fixed transformations out of the game, if all but its last step are such.

    A step that learns nothing from the rows it is fitted on, because it is stateless or frozen,
    transforms training and validation rows once; the last step then plays on the result. Steps
    that claim to be such are tried: a `FunctionTransformer` says so whatever its function does.

    Returns
    -------
    estimator : estimator object
    fold : Fold
    reason : str or None
        Why a pipeline stays whole.
    """
    if type(estimator) is not Pipeline or estimator.steps[-1][1] in (None, "passthrough"):
        return estimator, fold, None
    steps = [step for _, step in estimator.steps[:-1] if step not in (None, "passthrough")]
    for step in steps:
        frozen = type(step).__name__ == "FrozenEstimator"
        if not frozen and get_tags(step).requires_fit:
            return estimator, fold, f"{type(step).__name__} learns from the rows of a coalition"
    X, X_val = fold.X, fold.X_val
    for step in steps:
        fixed = clone(step).fit(X, fold.y)
        together = fixed.transform(X)
        if not _transforms_row_by_row(fixed, X, together):
            return estimator, fold, f"{type(step).__name__} transforms rows together"
        X, X_val = together, fixed.transform(X_val)
    return estimator.steps[-1][1], replace(fold, X=X, X_val=X_val), None


def _transforms_row_by_row(step: Any, X: Any, together: Any) -> bool:
    """Try whether a few rows are transformed alike alone, with others and all together.

    Alike up to rounding: a matrix product may round rows of other blocks in another way.
    """
    n_rows = _num_samples(X)
    some = np.unique(np.linspace(0, n_rows - 1, _N_TRIED).astype(int))
    parts = [some, some[: len(some) // 2 + 1], *(some[:, np.newaxis])]
    with quiet_warnings():
        try:
            return all(
                _are_alike(step.transform(take_rows(X, rows)), take_rows(together, rows))
                for rows in parts
            )
        except Exception:  # a function that cannot do with a single row looks at several
            return False


def _are_alike(found: Any, expected: Any) -> bool:
    found, expected = (
        np.asarray(part.toarray() if hasattr(part, "toarray") else part)
        for part in (found, expected)
    )
    if found.shape != expected.shape:
        return False
    if found.dtype.kind in "biufc" and expected.dtype.kind in "biufc":
        scale = np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected))
        return np.allclose(found, expected, rtol=1e-12, atol=1e-12 * scale, equal_nan=True)
    are_missing = pd.isna(found) & pd.isna(expected)
    return bool(((found == expected) | are_missing).all())
