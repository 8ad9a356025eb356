"""The common metrics as functions of stacked predictions.

A scorer of scikit-learn judges one model, and takes longer for it than a small model takes to be
fitted. An engine predicts for hundreds of coalitions at once, and gets all their scores here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy
from scipy.stats import rankdata
from sklearn.metrics import _classification

__all__ = ["CLASSIFICATION", "REGRESSION", "Metric", "R2Metric", "SquashedR2Metric"]

# scikit-learn's log loss took another logarithm once, which differs in the last bit
_LOG_IS_SCIPYS = hasattr(_classification, "xlogy")


class Metric(ABC):
    """A metric of stacked predictions: one number per model.

    Parameters
    ----------
    y_val : ndarray of shape (n_val,)
        For a classifier the codes of the true classes (positions in ``classes``), otherwise the
        true targets.
    classes : ndarray of shape (n_classes,) or None
        Class set of the whole fit; None for regression.

    Attributes
    ----------
    responses : tuple of str
        Which predictions the metric can use, in the order in which the scorer looks for them.
    """

    responses: ClassVar[tuple[str, ...]]

    def __init__(self, y_val: NDArray[Any], classes: NDArray[Any] | None) -> None:
        self.y_val = y_val
        self.classes = classes

    @abstractmethod
    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        """Judge models.

        Parameters
        ----------
        predictions : ndarray
            "predict": class codes or targets, shape (n_models, n_val). "predict_proba": shape
            (n_models, n_val, n_classes). "decision_function": shape (n_models, n_val), or
            (n_models, n_val, n_classes) with more than two classes.

        Returns
        -------
        ndarray of shape (n_models,)
        """

    def judge_one(self, prediction: NDArray[Any]) -> float:
        """Judge one model, to the bit as scikit-learn's scorer does."""
        return float(self(prediction[np.newaxis])[0])


class _Accuracy(Metric):
    responses = ("predict",)

    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        return np.mean(predictions == self.y_val, axis=1)


class _BalancedAccuracy(Metric):
    responses = ("predict",)

    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        right = predictions == self.y_val
        recalls = [right[:, self.y_val == code].mean(axis=1) for code in np.unique(self.y_val)]
        return np.mean(np.stack(recalls, axis=1), axis=1)


class _F1(Metric):
    responses = ("predict",)

    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        assert self.classes is not None
        positive = int(np.flatnonzero(self.classes == 1)[0])
        predicted = predictions == positive
        actual = self.y_val == positive
        hits = (predicted & actual).sum(axis=1)
        total = predicted.sum(axis=1) + actual.sum()
        return np.divide(2.0 * hits, total, out=np.zeros(len(hits)), where=total > 0)


def _of_true_classes(proba: NDArray[np.float64], codes: NDArray[np.intp]) -> NDArray[np.float64]:
    # Indexing leaves the models along the last axis in memory; means along the other axis would
    # then be summed in another order for many models than for one, and differ in the last bit.
    return np.ascontiguousarray(proba[:, np.arange(len(codes)), codes])


class _NegLogLoss(Metric):
    responses = ("predict_proba",)

    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        if predictions.shape[2] == 2:  # scikit-learn's scorer keeps p1 and takes 1 - p1 for p0
            true = np.where(self.y_val == 1, predictions[:, :, 1], 1 - predictions[:, :, 1])
        else:
            true = _of_true_classes(predictions, self.y_val)
        eps = np.finfo(predictions.dtype).eps
        clipped = np.clip(true, eps, 1 - eps)
        return (xlogy(1.0, clipped) if _LOG_IS_SCIPYS else np.log(clipped)).mean(axis=1)


class _TrueClassProbabilityMetric(Metric):
    responses = ("predict_proba",)

    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        return _of_true_classes(predictions, self.y_val).mean(axis=1)


class _RocAuc(Metric):
    responses = ("decision_function", "predict_proba")

    def __init__(self, y_val: NDArray[Any], classes: NDArray[Any] | None) -> None:
        super().__init__(y_val, classes)
        self.positive = y_val == 1

    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        scores = predictions[:, :, 1] if predictions.ndim == 3 else predictions
        n_positive = self.positive.sum()
        rank_sums = rankdata(scores, axis=1)[:, self.positive].sum(axis=1)
        wins = rank_sums - n_positive * (n_positive + 1) / 2
        areas = wins / (n_positive * (len(self.positive) - n_positive))
        return np.where(np.isfinite(scores).all(axis=1), areas, np.nan)

    def judge_one(self, prediction: NDArray[Any]) -> float:
        """Return the area under the curve's corners, summed as scikit-learn sums it.

        Ranks are three times as fast for many models, and differ in the last bit.
        """
        scores = prediction[:, 1] if prediction.ndim == 2 else prediction
        if not np.isfinite(scores).all():
            raise ValueError("the model predicts NaN or infinity")
        order = np.argsort(scores, kind="stable")[::-1]
        ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
        hits = np.cumsum(self.positive[order], dtype=np.float64)[ends]
        misses = 1 + ends - hits
        is_corner = np.ones(len(ends), dtype=bool)
        is_corner[1:-1] = (np.diff(misses, 2) != 0) | (np.diff(hits, 2) != 0)
        height = np.append(0.0, hits[is_corner] / hits[-1])
        place = np.append(0.0, misses[is_corner] / misses[-1])
        return float(np.sum(np.diff(place) * (height[1:] + height[:-1]) / 2.0))


class R2Metric(Metric):
    """R², with scikit-learn's values for constant targets."""

    responses = ("predict",)

    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        """See `Metric.__call__`."""
        residual = ((self.y_val - predictions) ** 2).sum(axis=1)
        total = ((self.y_val - self.y_val.mean()) ** 2).sum()
        if total == 0:  # scikit-learn's force_finite
            return np.where(residual == 0, 1.0, 0.0)
        return 1 - residual / total


class SquashedR2Metric(R2Metric):
    """1 / (2 - R²)."""

    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        """See `Metric.__call__`."""
        return 1 / (2 - super().__call__(predictions))


class _NegMeanSquaredError(Metric):
    responses = ("predict",)

    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        return -((self.y_val - predictions) ** 2).mean(axis=1)


class _NegMeanAbsoluteError(Metric):
    responses = ("predict",)

    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        return -np.abs(self.y_val - predictions).mean(axis=1)


CLASSIFICATION: dict[str, type[Metric]] = {
    "accuracy": _Accuracy,
    "balanced_accuracy": _BalancedAccuracy,
    "f1": _F1,
    "neg_log_loss": _NegLogLoss,
    "roc_auc": _RocAuc,
    "true_class_probability": _TrueClassProbabilityMetric,
}
REGRESSION: dict[str, type[Metric]] = {
    "r2": R2Metric,
    "squashed_r2": SquashedR2Metric,
    "neg_mean_squared_error": _NegMeanSquaredError,
    "neg_mean_absolute_error": _NegMeanAbsoluteError,
}
