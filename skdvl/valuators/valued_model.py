"""The model that is valued: what is asked of it before any game is played."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.utils import get_tags

from skdvl.utilities.fold import Judge

__all__ = [
    "as_the_model_takes_it",
    "check_kind",
    "check_score",
    "input_tags_of",
    "is_composite",
    "needs_frames",
    "with_integer_seeds",
]


def input_tags_of(estimator: Any) -> Any:
    """Return what X an estimator takes, by its tags; texts and missing values if it may."""
    tags = copy(get_tags(estimator).input_tags)
    if is_composite(estimator):
        tags.allow_nan = tags.string = True
    return tags


def is_composite(estimator: Any) -> bool:
    """Tell whether others inside an estimator see the data first.

    A pipeline's tags do not tell that it begins by imputing or encoding, so missing values and
    texts are left to it.
    """
    return any(hasattr(value, "fit") for value in estimator.get_params(deep=True).values())


def check_kind(estimator: Any) -> None:
    """Refuse what neither classifies nor regresses: what no data are worth would be unknown."""
    if not (is_classifier(estimator) or is_regressor(estimator)):
        raise ValueError(
            f"{type(estimator).__name__} is neither a classifier nor a regressor, by its tags. "
            "Samples are valued by how well a model predicts y: a class of your own should "
            "inherit from ClassifierMixin or RegressorMixin, before BaseEstimator."
        )


def with_integer_seeds(estimator: Any) -> Any:
    """Return a clone whose random states are integers, so that a utility is a function.

    Raises
    ------
    ValueError
        If a splitter inside would shuffle anew in every fit.
    """
    seeded = clone(estimator)
    seeds: dict[str, int] = {}
    for name, value in seeded.get_params(deep=True).items():
        shuffles = hasattr(value, "get_n_splits") and getattr(value, "shuffle", True)
        if shuffles and getattr(value, "random_state", 0) is None:
            raise ValueError(
                f"{name}={value!r} splits anew in every fit, so that the same rows would have "
                "other utilities each time. Give it an integer random_state."
            )
        if name == "random_state" or name.endswith("__random_state"):
            if value is None:
                seeds[name] = 0
            elif isinstance(value, np.random.RandomState):
                seeds[name] = int(value.randint(np.iinfo(np.int32).max))
    return seeded.set_params(**seeds) if seeds else seeded


def check_score(judge: Judge, full_model: Any, scoring: Any, valuator: str) -> None:
    """Score a fold's full model once, uncaught.

    Parameters
    ----------
    judge : Judge
    full_model : estimator object
        Trained on all of the fold's rows.
    scoring : str, callable or None
        As the user gave it.
    valuator : str
        Name of the valuator's class.

    Raises
    ------
    ValueError
        If that fails; says what to do.
    """
    fold = judge.fold
    name = "the estimator's score" if scoring is None else f"scoring={scoring!r}"
    if judge.responses == ("predict_proba",) and not hasattr(full_model, "predict_proba"):
        remedy = "a scoring of targets, such as 'squashed_r2'"
        if fold.classes is not None:
            remedy = (
                "a model with predict_proba, for example one that is wrapped in "
                "CalibratedClassifierCV, or a scoring of labels, such as 'accuracy'"
            )
        raise ValueError(
            f"{name} needs predict_proba, which {type(full_model).__name__} does not have. "
            f"Use {remedy}."
        )
    try:
        score = judge.judge_model(full_model)
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"Fold {fold.number}: {name} fails on the model trained on all of the fold's "
            f"rows: {type(error).__name__}: {error}"
        ) from error
    if judge.is_r2 and len(fold.y_val) < 2:
        score = np.nan
    if not np.isfinite(score):
        advice = ""
        if len(fold.y_val) < 2:
            advice = (
                f" It is not defined on a single validation row: give {valuator} "
                "scoring='neg_mean_squared_error', or fewer folds or other held-out rows, so that "
                "at least two are scored."
            )
        raise ValueError(
            f"Fold {fold.number}: {name} is {score} for the model trained on all of the "
            f"fold's rows.{advice}"
        )


def as_the_model_takes_it(estimator: Any, X: Any) -> Any:
    """Return a frame of numbers as an array, unless the estimator may look at its columns' names.

    Slicing and validating an array costs half as much.
    """
    if not hasattr(X, "columns") or needs_frames(estimator):
        return X
    array = np.asarray(X)
    return array if array.dtype.kind in "biuf" else X


def needs_frames(estimator: Any) -> bool:
    """Tell whether a frame's column names may matter to the estimator."""
    parameters = list(estimator.get_params(deep=True).values())
    nested = any(hasattr(value, "get_params") for value in parameters)
    named = any(_has_texts(value) for value in parameters)
    return nested or named or not type(estimator).__module__.startswith("sklearn.")


def _has_texts(value: Any) -> bool:
    """Tell whether a parameter is a container of texts, such as ``monotonic_cst={"age": 1}``."""
    is_container = isinstance(value, (dict, list, tuple, set, np.ndarray))
    return is_container and any(isinstance(item, str) for item in value)
