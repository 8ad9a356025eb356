"""One fold of a supervised game: what is learned from, and how it is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import _safe_indexing

from skdvl.batched_metrics import Metric, R2Metric
from skdvl.metrics import PredictionView, align_decision, align_proba, find_metric

__all__ = ["Fold", "Judge", "take_rows"]


def take_rows(data: Any, rows: NDArray[Any]) -> Any:
    """Return rows of an array, sparse matrix or frame."""
    # Both cases are _safe_indexing's as well, which costs 30 times as much on small arrays.
    if isinstance(data, np.ndarray):
        return data[rows]
    if hasattr(data, "tocsr"):
        return data.tocsr()[rows]
    return _safe_indexing(data, rows)


@dataclass(frozen=True)
class Fold:
    """Training and validation rows of one fold.

    Attributes
    ----------
    number : int
        Which fold, for error messages.
    X, y : array-like of shape (n_rows, ...), (n_rows,)
        Training rows, in the order of the user's data, and the user's own labels.
    X_val, y_val : array-like
        Validation rows.
    classes : ndarray of shape (n_classes,) or None
        Class set of the whole fit; None where the estimator is no classifier.
    player_of_row : ndarray of int, shape (n_rows,), or None
        Which player each training row belongs to; None where each row is its own.
    """

    number: int
    X: Any
    y: NDArray[Any]
    X_val: Any
    y_val: NDArray[Any]
    classes: NDArray[Any] | None = None
    player_of_row: NDArray[np.intp] | None = None

    @property
    def n_rows(self) -> int:
        """Number of training rows."""
        return len(self.y)

    @property
    def n_players(self) -> int:
        """Number of players."""
        if self.player_of_row is None:
            return self.n_rows
        return int(self.player_of_row.max()) + 1

    @cached_property
    def codes(self) -> NDArray[np.intp]:
        """Positions of the training labels in ``classes``."""
        assert self.classes is not None
        return np.searchsorted(self.classes, self.y)


class Judge:
    """Scores predictions for one fold's validation rows.

    Parameters
    ----------
    fold : Fold
    scorer : callable or None
        As `skdvl.metrics.resolve_scorer` returns it.
    own_score : bool
        With ``scorer=None``: whether the estimator has a ``score`` of its own, other than
        accuracy or R².

    Attributes
    ----------
    metric : Metric or None
        The batched metric, where there is one that gives the scorer's numbers.
    """

    def __init__(self, fold: Fold, scorer: Callable[..., float] | None, own_score: bool) -> None:
        self.fold = fold
        self.scorer = scorer
        self.own_score = own_score
        self.kind = "regressor" if fold.classes is None else "classifier"
        self.metric: Metric | None = (
            None if own_score else find_metric(scorer, fold.y_val, fold.classes)
        )

    def of_transformed(self, fold: Fold) -> Judge:
        """Return the same judge for models that predict from transformed rows."""
        return Judge(fold, self.scorer, self.own_score)

    @property
    def is_r2(self) -> bool:
        """Whether the score is made of R², which needs two validation rows."""
        return isinstance(self.metric, R2Metric) or (
            self.scorer is None and self.fold.classes is None and not self.own_score
        )

    @property
    def responses(self) -> tuple[str, ...] | None:
        """Predictions that the score needs, best first; None where that cannot be known."""
        if self.metric is not None:
            return self.metric.responses
        response = getattr(self.scorer, "_response_method", None)
        if response is None or response == "default":
            return ("predict",) if response == "default" else None
        return (response,) if isinstance(response, str) else tuple(response)

    def judge_model(self, model: Any) -> float:
        """Score a fitted model."""
        if self.metric is not None:
            # A scorer gives the same bits, and takes longer than a small model takes to be fitted.
            prediction = self._prediction(model, self.metric)
            if prediction is not None:
                return self.metric.judge_one(prediction)
        if self.scorer is None:
            return float(model.score(self.fold.X_val, self.fold.y_val))
        return self._ask_scorer(self._view(model))

    def judge_predictions(self, response: str, predictions: NDArray[Any]) -> NDArray[np.float64]:
        """Score stacked predictions.

        Parameters
        ----------
        response : str
            Which of ``responses`` they are.
        predictions : ndarray of shape (n_models, n_val, ...)
            As `skdvl.metrics.Metric` takes them.
        """
        if self.metric is not None:
            return self.metric(predictions)
        scores = np.empty(len(predictions))
        for j, prediction in enumerate(predictions):
            if response == "predict" and self.fold.classes is not None:
                prediction = self.fold.classes[prediction]
            view = PredictionView(self.kind, self.fold.classes, {response: _constant(prediction)})
            scores[j] = self._ask_scorer(view)
        return scores

    def _metric_of_constants(self) -> Metric | None:
        """Where the estimator has a score of its own, that of scikit-learn's dummy estimators."""
        if self.own_score:
            return find_metric(None, self.fold.y_val, self.fold.classes)
        return self.metric

    def judge_targets(self, targets: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score predictions of one target each for all validation rows, shape (n_models,)."""
        predictions = np.repeat(targets[:, np.newaxis], len(self.fold.y_val), axis=1)
        metric = self._metric_of_constants()
        if metric is not None:
            return metric(predictions)
        views = [PredictionView(self.kind, None, {"predict": _constant(p)}) for p in predictions]
        return np.array([self._ask_scorer(view) for view in views])

    def judge_proba(self, prediction: NDArray[np.float64]) -> float:
        """Score the same class probabilities for all validation rows, shape (n_classes,)."""
        n_val, classes = len(self.fold.y_val), self.fold.classes
        assert classes is not None
        metric = self._metric_of_constants()
        proba = np.tile(prediction, (n_val, 1))
        code = int(np.argmax(prediction))
        if metric is not None:
            if "predict" in metric.responses:
                return float(metric(np.full((1, n_val), code))[0])
            return float(metric(proba[np.newaxis])[0])
        margins = np.zeros(n_val) if len(classes) == 2 else np.zeros(proba.shape)
        responses = {
            "predict": _constant(np.full(n_val, classes[code])),
            "predict_proba": _constant(proba),
            "decision_function": _constant(margins),
        }
        return self._ask_scorer(PredictionView(self.kind, classes, responses))

    def _ask_scorer(self, view: PredictionView) -> float:
        assert self.scorer is not None
        return float(self.scorer(view, self.fold.X_val, self.fold.y_val))

    def _prediction(self, model: Any, metric: Metric) -> NDArray[Any] | None:
        """Return the prediction that a metric judges, None where it takes a scorer's care."""
        fold, classes = self.fold, self.fold.classes
        view = self._view(model)
        response = next((name for name in metric.responses if name in view.responses), None)
        if response is None:
            return None
        predicted = np.asarray(view.responses[response](fold.X_val))
        if response == "predict" and predicted.shape != fold.y_val.shape:
            return None
        if response == "predict" and classes is not None:
            codes = np.minimum(np.searchsorted(classes, predicted), len(classes) - 1)
            return codes if np.array_equal(classes[codes], predicted) else None
        return predicted if predicted.dtype == np.float64 else None  # of others it keeps the type

    def _view(self, model: Any) -> PredictionView:
        classes = self.fold.classes
        seen = getattr(model, "classes_", classes)
        responses: dict[str, Callable[[Any], NDArray[Any]]] = {"predict": model.predict}
        if classes is not None and isinstance(seen, np.ndarray):
            for name, align in (
                ("predict_proba", align_proba),
                ("decision_function", align_decision),
            ):
                if hasattr(model, name):
                    responses[name] = _aligned(getattr(model, name), align, seen, classes)
        return PredictionView(self.kind, classes, responses, model)


def _constant(prediction: NDArray[Any]) -> Callable[[Any], NDArray[Any]]:
    return lambda X: prediction


def _aligned(
    method: Callable[[Any], Any], align: Callable[..., Any], seen: Any, classes: Any
) -> Callable[[Any], NDArray[Any]]:
    def respond(X: Any) -> NDArray[Any]:
        found = np.asarray(method(X))
        # not left to the scorer: of two classes' probabilities scikit-learn's look at one only
        if np.isnan(found).any():
            raise ValueError("the model predicts NaN")
        return np.asarray(align(found, seen, classes))

    return respond
