"""How predictions are judged: skdvl's two scorers, the view that scorers see, batched metrics.

A scorer of scikit-learn judges one model. An engine predicts for hundreds of coalitions at once,
so the common metrics also exist here as functions of stacked predictions; every other scorer is
called once per model through a `PredictionView`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from sklearn.base import BaseEstimator
from sklearn.metrics import check_scoring, get_scorer

__all__ = [
    "Metric",
    "PredictionView",
    "R2Metric",
    "align_decision",
    "align_proba",
    "find_metric",
    "resolve_scorer",
    "squashed_r2",
    "true_class_probability",
]


class TrueClassProbability:
    """Scorer: the mean predicted probability of the true class.

    Smooth in the model's confidence, hence far less noisy than accuracy on small validation
    sets. Between 0 and 1, greater is better.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.naive_bayes import GaussianNB
    >>> X, y = load_iris(return_X_y=True)
    >>> round(true_class_probability(GaussianNB().fit(X, y), X, y), 3)
    0.948
    """

    name = "true_class_probability"

    def __call__(self, estimator: Any, X: ArrayLike, y: ArrayLike) -> float:
        proba = estimator.predict_proba(X)
        columns = np.searchsorted(estimator.classes_, np.asarray(y))
        return float(np.mean(proba[np.arange(len(columns)), columns]))

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> str:
        return self.name


class SquashedR2:
    """Scorer: 1 / (2 - R²), which is SST / (SST + SSE).

    R² is unbounded below: one regression on three rows can outweigh all others in a mean. This
    keeps R²'s order, maps its 1 to 1, its 0 to 1/2 and its minus infinity to 0.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> X, y = load_diabetes(return_X_y=True)
    >>> round(squashed_r2(Ridge().fit(X, y), X, y), 3)
    0.646
    """

    name = "squashed_r2"

    def __call__(self, estimator: Any, X: ArrayLike, y: ArrayLike) -> float:
        target = np.asarray(y, dtype=np.float64)
        predicted = np.asarray(estimator.predict(X), dtype=np.float64).reshape(1, -1)
        return float(_SquashedR2Metric(target, None)(predicted)[0])

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> str:
        return self.name


true_class_probability = TrueClassProbability()
squashed_r2 = SquashedR2()
_OWN_SCORERS: dict[str, Callable[..., float]] = {
    scorer.name: scorer for scorer in (true_class_probability, squashed_r2)
}


def resolve_scorer(scoring: Any, estimator: Any) -> Callable[..., float] | None:
    """Return the scorer for ``scoring``, or None where the estimator's own score is meant.

    Parameters
    ----------
    scoring : str, callable or None
        A name of skdvl's or of scikit-learn's, or a callable ``(estimator, X, y) -> float``.
    estimator : estimator object
        What will be scored.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if scoring is None:
        check_scoring(estimator)
        return None
    if isinstance(scoring, str):
        if scoring in _OWN_SCORERS:
            return _OWN_SCORERS[scoring]
        try:
            return get_scorer(scoring)
        except (ValueError, KeyError):
            raise ValueError(
                f"{scoring!r} is not a known scoring. Use 'true_class_probability', "
                "'squashed_r2', a name of sklearn.metrics.get_scorer_names(), or a callable "
                "(estimator, X, y) -> float."
            ) from None
    if not callable(scoring):
        raise ValueError(
            "scoring must be one name, one callable (estimator, X, y) -> float, or None; "
            f"got {scoring!r}. A valuation has a single utility."
        )
    return check_scoring(estimator, scoring)


class PredictionView(BaseEstimator):
    """What a scorer sees of a model: its predictions, with the class set of the whole fit.

    Parameters
    ----------
    kind : {"classifier", "regressor"} or None
        Estimator type that scorers are told.
    classes : ndarray of shape (n_classes,) or None
        Class set of the whole fit.
    responses : dict of str to callable
        ``predict``, ``predict_proba`` and ``decision_function``, as far as there are such; each
        takes X and returns predictions aligned to ``classes``.
    model : object, optional
        Where other attributes are looked up.
    """

    def __init__(
        self,
        kind: str | None,
        classes: NDArray[Any] | None,
        responses: dict[str, Callable[[Any], NDArray[Any]]],
        model: Any = None,
    ) -> None:
        self.kind = kind
        self.responses = responses
        self.model = model
        if classes is not None:
            self.classes_ = classes

    def __getattr__(self, name: str) -> Any:
        responses = self.__dict__.get("responses", {})
        if name in responses:

            def respond(X: Any) -> NDArray[Any]:
                return responses[name](X)

            respond.__name__ = name  # scikit-learn's scorers tell responses apart by their name
            return respond
        model = self.__dict__.get("model")
        if model is None or name in ("predict", "predict_proba", "decision_function"):
            raise AttributeError(f"the model under valuation has no attribute {name!r}")
        return getattr(model, name)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.estimator_type = self.kind
        return tags


def align_proba(
    proba: NDArray[np.float64], seen: NDArray[Any], classes: NDArray[Any]
) -> NDArray[np.float64]:
    """Spread the columns of the classes a model has seen over all classes; absent ones are 0."""
    if len(seen) == len(classes):
        return proba
    aligned = np.zeros((len(proba), len(classes)), dtype=np.float64)
    aligned[:, np.searchsorted(classes, seen)] = proba
    return aligned


def align_decision(
    decision: NDArray[np.float64], seen: NDArray[Any], classes: NDArray[Any]
) -> NDArray[np.float64]:
    """Spread margins over all classes: absent ones get the lowest number, one class a constant."""
    if len(seen) == len(classes):
        return decision
    n_rows = len(decision)
    if len(classes) == 2:
        return np.zeros(n_rows)
    if len(seen) == 1:
        decision = np.zeros((n_rows, 1))
    elif decision.ndim == 1:
        decision = np.column_stack([-decision, decision])
    aligned = np.full((n_rows, len(classes)), -np.finfo(np.float64).max)
    aligned[:, np.searchsorted(classes, seen)] = decision
    return aligned


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
        Which predictions the metric can use, best first.
    equals_scorer : bool
        Whether the number is the scorer's to the bit, not only to rounding.
    """

    responses: ClassVar[tuple[str, ...]]
    equals_scorer: ClassVar[bool] = False

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


class _Accuracy(Metric):
    responses = ("predict",)
    equals_scorer = True

    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        return np.mean(predictions == self.y_val, axis=1)


class _BalancedAccuracy(Metric):
    responses = ("predict",)

    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        right = predictions == self.y_val
        recalls = [right[:, self.y_val == code].mean(axis=1) for code in np.unique(self.y_val)]
        return np.mean(recalls, axis=0)


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
        return np.log(np.clip(true, eps, 1 - eps)).mean(axis=1)


class _TrueClassProbabilityMetric(Metric):
    responses = ("predict_proba",)

    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        return _of_true_classes(predictions, self.y_val).mean(axis=1)


class _RocAuc(Metric):
    responses = ("decision_function", "predict_proba")

    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        scores = predictions[:, :, 1] if predictions.ndim == 3 else predictions
        positive = self.y_val == 1
        n_positive = positive.sum()
        rank_sums = rankdata(scores, axis=1)[:, positive].sum(axis=1)
        wins = rank_sums - n_positive * (n_positive + 1) / 2
        return wins / (n_positive * (len(positive) - n_positive))


class R2Metric(Metric):
    """R², with scikit-learn's values for constant targets."""

    responses = ("predict",)
    equals_scorer = True

    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        """See `Metric.__call__`."""
        residual = ((self.y_val - predictions) ** 2).sum(axis=1)
        total = ((self.y_val - self.y_val.mean()) ** 2).sum()
        if total == 0:  # scikit-learn's force_finite
            return np.where(residual == 0, 1.0, 0.0)
        return 1 - residual / total


class _SquashedR2Metric(R2Metric):
    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        return 1 / (2 - super().__call__(predictions))


class _NegMeanSquaredError(Metric):
    responses = ("predict",)

    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        return -((self.y_val - predictions) ** 2).mean(axis=1)


class _NegMeanAbsoluteError(Metric):
    responses = ("predict",)

    def __call__(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        return -np.abs(self.y_val - predictions).mean(axis=1)


_CLASSIFICATION: dict[str, type[Metric]] = {
    "accuracy": _Accuracy,
    "balanced_accuracy": _BalancedAccuracy,
    "f1": _F1,
    "neg_log_loss": _NegLogLoss,
    "roc_auc": _RocAuc,
    "true_class_probability": _TrueClassProbabilityMetric,
}
_REGRESSION: dict[str, type[Metric]] = {
    "r2": R2Metric,
    "squashed_r2": _SquashedR2Metric,
    "neg_mean_squared_error": _NegMeanSquaredError,
    "neg_mean_absolute_error": _NegMeanAbsoluteError,
}


def _identity(scorer: Any) -> tuple[Any, ...] | None:
    """Return what makes two scorers of scikit-learn the same, None for other callables."""
    if not hasattr(scorer, "_score_func"):
        return None
    response = getattr(scorer, "_response_method", None)
    response = tuple(response) if isinstance(response, (list, tuple)) else response
    return (scorer._score_func, scorer._sign, tuple(sorted(scorer._kwargs.items())), response)


def metric_name(scorer: Any, is_classifier: bool) -> str | None:
    """Return under which name a scorer has a batched metric, None where it has none."""
    if scorer is None:
        return "accuracy" if is_classifier else "r2"
    for name in (*_CLASSIFICATION, *_REGRESSION):
        known = _OWN_SCORERS.get(name) or get_scorer(name)
        if scorer is known or (
            _identity(scorer) is not None and _identity(scorer) == _identity(known)
        ):
            return name
    return None


def find_metric(scorer: Any, y_val: NDArray[Any], classes: NDArray[Any] | None) -> Metric | None:
    """Return the batched metric that gives a scorer's numbers, or None where there is none.

    Parameters
    ----------
    scorer : callable or None
        As `resolve_scorer` returns it; None stands for accuracy or R².
    y_val : ndarray of shape (n_val,)
        True labels or targets, as the user gave them.
    classes : ndarray of shape (n_classes,) or None
        Class set of the whole fit; None for regression.
    """
    name = metric_name(scorer, classes is not None)
    if classes is None:
        if name not in _REGRESSION:
            return None
        return _REGRESSION[name](np.asarray(y_val, dtype=np.float64), None)
    if name not in _CLASSIFICATION:
        return None
    codes = np.searchsorted(classes, y_val)
    present = np.unique(codes)
    if name == "roc_auc" and (len(classes) != 2 or len(present) != 2):
        return None
    if name == "f1" and (len(classes) != 2 or not np.any(classes == 1)):
        return None
    if name == "neg_log_loss" and len(present) != len(classes):
        return None
    return _CLASSIFICATION[name](codes, classes)
