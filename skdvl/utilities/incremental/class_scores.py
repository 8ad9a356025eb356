"""From class scores to predictions, for many models at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_class", "has_rounded_ranks", "predict_from_difference", "predict_from_scores"]

Floats = NDArray[np.float64]

_ROUNDED = 1e-11
_UNDERFLOW = -750.0  # the exponential of any lower number is 0
_TINY = 1e-303  # a lower probability may be 0 to scikit-learn, and another number than here


def best_class(scores: Iterator[Floats], n_classes: int) -> NDArray[Any]:
    """Return the first of the classes with the greatest score.

    Parameters
    ----------
    scores : iterator of ndarray of shape (n_models, n_val)
        By class, not NaN. The first one is overwritten.
    n_classes : int
    """
    # class by class: argmax over stacked scores takes three times as long
    best = next(scores)
    codes = np.zeros(best.shape, dtype=np.int8 if n_classes < 128 else np.intp)
    for code, score in enumerate(scores, start=1):
        np.copyto(codes, code, where=score > best)
        np.maximum(best, score, out=best)
    return codes


def predict_from_scores(scores: Iterator[Floats], n_classes: int, response: str) -> NDArray[Any]:
    """Predict from log-likelihoods, up to a constant per row.

    Parameters
    ----------
    scores : iterator of ndarray of shape (n_models, n_val)
        By class; minus infinity for classes that a model has not seen. The first is overwritten.
    n_classes : int
    response : {"predict", "predict_proba"}

    Returns
    -------
    ndarray of shape (n_models, n_val) or (n_models, n_val, n_classes)
    """
    if response == "predict":
        return best_class(scores, n_classes)
    stacked = np.stack(list(scores))
    stacked -= stacked.max(axis=0)
    # numpy's exp slows down beyond -700, and what it gives there has few digits or none
    is_zero = stacked < _UNDERFLOW
    np.maximum(stacked, -700, out=stacked)
    np.exp(stacked, out=stacked)
    stacked[is_zero] = 0
    stacked /= stacked.sum(axis=0)
    return np.moveaxis(stacked, 0, 2)


def predict_from_difference(difference: Floats, response: str) -> NDArray[Any]:
    """Predict from the second class's log-likelihood minus the first's.

    Parameters
    ----------
    difference : ndarray of shape (n_models, n_val)
        Infinite where the model has seen one class only.
    response : {"predict", "predict_proba", "decision_function"}
    """
    if response == "decision_function":
        return difference
    if response == "predict":
        return (difference > 0).view(np.int8)
    # Both probabilities keep their digits, and cost a tenth of two calls of scipy's expit.
    # Beyond 700, where numpy's exp slows down, nothing changes but the last of 300 zeros.
    odds = np.exp(np.clip(difference, -700, 700))
    proba = np.empty((2, *difference.shape))
    sums = 1 + odds
    np.divide(1, sums, out=proba[0])
    np.divide(odds, sums, out=proba[1])
    for absent, infinity in enumerate((np.inf, -np.inf)):
        alone = difference[:, 0] == infinity
        proba[absent, alone], proba[1 - absent, alone] = 0, 1
    return np.moveaxis(proba, 0, 2)


def has_rounded_ranks(predictions: Floats) -> NDArray[np.bool_]:
    """Tell in which models two rows' probabilities or margins differ by no more than rounding.

    Their order, which ranking scorers see, is then one of rounding errors: so it is among true
    ties, and among probabilities near 1. Zeros are no such ties, but what nearly is 0 may be one.

    Parameters
    ----------
    predictions : ndarray of shape (n_models, n_val, n_classes) or (n_models, n_val)
        Of distinct rows.
    """
    if predictions.ndim == 2:
        ranked = np.sort(predictions, axis=1)
        least = _ROUNDED * np.abs(ranked[:, [0, -1]]).max(axis=1, keepdims=True)
        return np.asarray((np.diff(ranked, axis=1) <= least).any(axis=1))
    columns = predictions[:, :, 1:] if predictions.shape[2] == 2 else predictions
    ranked = np.sort(columns, axis=1)
    later = ranked[:, 1:]
    rounded = (np.diff(ranked, axis=1) <= _ROUNDED * later) & (later > 0)
    rounded |= (later > 0) & (later < _TINY)
    return np.asarray(rounded.any(axis=(1, 2)))
