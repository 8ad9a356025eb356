"""How predictions are judged: skdvl's two scorers, the view that scorers see, which metric serves.

Where a scorer has a batched metric, see `skdvl.batched_metrics`, that judges; every other scorer
is called once per model through a `PredictionView`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.metrics import check_scoring, get_scorer

from skdvl.batched_metrics import CLASSIFICATION, REGRESSION, Metric, SquashedR2Metric

__all__ = [
    "PredictionView",
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
    _response_method = "predict_proba"  # as scikit-learn's scorers say what they need

    def __call__(self, estimator: Any, X: ArrayLike, y: ArrayLike) -> float:
        proba = estimator.predict_proba(X)
        labels, classes = np.asarray(y), np.asarray(estimator.classes_)
        columns = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
        is_known = classes[columns] == labels  # a class that the model never saw has probability 0
        return float(np.mean(proba[np.arange(len(columns)), columns] * is_known))

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
        return float(SquashedR2Metric(target, None)(predicted)[0])

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
            raise AttributeError(
                f"the model under valuation has no attribute {name!r}: a scorer should ask it for "
                "predict, predict_proba or decision_function alone"
            )
        return getattr(model, name)

    def __getitem__(self, step: Any) -> Any:
        """Return a step of a pipeline."""
        return self.model[step]

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
    for name in (*CLASSIFICATION, *REGRESSION):
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
        if name not in REGRESSION:
            return None
        return REGRESSION[name](np.asarray(y_val, dtype=np.float64), None)
    if name not in CLASSIFICATION:
        return None
    codes = np.searchsorted(classes, y_val)
    present = np.unique(codes)
    if name == "roc_auc" and (len(classes) != 2 or len(present) != 2):
        return None
    if name == "f1" and (len(classes) != 2 or not np.any(classes == 1)):
        return None
    if name == "neg_log_loss" and len(present) != len(classes):
        return None
    return CLASSIFICATION[name](codes, classes)
