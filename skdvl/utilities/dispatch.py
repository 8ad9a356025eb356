"""Which engine computes a fold's utilities."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from sklearn.pipeline import Pipeline

from skdvl.utilities import incremental
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.base import IncrementalUtility, registered_engines
from skdvl.utilities.refit import RefitUtility
from skdvl.utilities.stateless_steps import split_stateless_steps
from skdvl.utilities.supervised import FallbackRule, SupervisedUtility

__all__ = ["find_engines", "followed_scoring", "has_own_score", "make_utility"]


_PLAIN_SCORES = (
    ("sklearn.base", "ClassifierMixin.score"),
    ("sklearn.base", "RegressorMixin.score"),
    # accuracy; they have a method of their own because their X may be None
    ("sklearn.neighbors._classification", "KNeighborsClassifier.score"),
    ("sklearn.neighbors._classification", "RadiusNeighborsClassifier.score"),
)


def find_engines() -> tuple[type[IncrementalUtility], ...]:
    """Import every file of the engines' folder and return the engines registered there."""
    _import_engines()
    return registered_engines()


@cache
def _import_engines() -> None:
    for module in pkgutil.iter_modules(incremental.__path__):
        importlib.import_module(f"{incremental.__name__}.{module.name}")


def has_own_score(estimator: Any) -> bool:
    """Tell whether ``estimator.score`` is another number than accuracy or R²."""
    if isinstance(estimator, Pipeline):
        return has_own_score(estimator.steps[-1][1])
    score = getattr(type(estimator), "score", None)
    if score is None:  # looked up in another estimator, as FrozenEstimator does
        return True
    return (score.__module__, score.__qualname__) not in _PLAIN_SCORES


def followed_scoring(estimator: Any) -> Any:
    """Return the ``scoring`` that the ``score`` of a search or another estimator goes by.

    With it a dummy model can be judged in the same units. None where there is none.
    """
    if isinstance(estimator, Pipeline):
        return followed_scoring(estimator.steps[-1][1])
    if not type(estimator).__module__.startswith("sklearn.") or not has_own_score(estimator):
        return None
    scoring, refit = getattr(estimator, "scoring", None), getattr(estimator, "refit", None)
    if isinstance(refit, str):  # one of several
        if isinstance(scoring, dict):
            return scoring.get(refit)
        return refit if isinstance(scoring, (list, tuple, set)) else None
    return scoring if isinstance(scoring, str) or callable(scoring) else None


def make_utility(
    estimator: Any,
    fold: Fold,
    judge: Judge,
    fallback: FallbackRule,
    engine: str = "auto",
) -> tuple[SupervisedUtility, list[str]]:
    """Return the utility of a fold, and why the engines that were passed over do not serve.

    Parameters
    ----------
    estimator : estimator object
    fold : Fold
    judge : Judge
    fallback : FallbackRule
    engine : {"auto", "refit"}
        "auto" takes an exact incremental engine where one gives the utilities of refitting.

    Returns
    -------
    utility : SupervisedUtility
    reasons : list of str
        Empty if an engine serves, or was not asked for.
    """
    reasons: list[str] = []
    if engine == "auto":
        last, transformed, whole = split_stateless_steps(estimator, fold)
        for candidate in find_engines():
            if not candidate.is_family(last):
                continue
            reason = candidate.why_not(last, transformed, judge)
            if reason is None:
                judge = judge.of_transformed(transformed)
                return candidate(last, transformed, judge, fallback), []
            reasons.append(f"{candidate.engine}: {reason}")
        if not reasons:
            reasons.append(whole or f"no engine serves {type(last).__name__}")
    return RefitUtility(estimator, fold, judge, fallback), reasons
