"""The engine that works for every estimator: train on the coalition, score, as often as asked."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.base import clone

from skdvl.utilities.fold import Fold, Judge, take_rows
from skdvl.utilities.supervised import FallbackRule, SupervisedUtility

__all__ = ["RefitUtility", "can_refit_in_place"]


# scikit-learn's estimators that go on with the generator of their last fit
_KEEP_THEIR_GENERATOR = ("BernoulliRBM", "IterativeImputer")


def can_refit_in_place(estimator: Any) -> bool:
    """Tell whether fitting the same object again gives, bit for bit, what a clone would give.

    So it is for scikit-learn's own estimators, unless one of them starts warm or draws from a
    random generator that it holds. Of other projects' estimators nothing is known.
    """
    parts = [estimator, *estimator.get_params(deep=True).values()]
    for part in parts:
        if type(part).__name__ in _KEEP_THEIR_GENERATOR:
            return False
        if isinstance(part, np.random.RandomState):
            return False
        if hasattr(part, "fit") and not type(part).__module__.startswith("sklearn."):
            return False
    return not any(
        name.split("__")[-1] == "warm_start" and value
        for name, value in estimator.get_params(deep=True).items()
    )


class RefitUtility(SupervisedUtility):
    """u(S): the score of a clone of the estimator, trained on S.

    Parameters
    ----------
    estimator : estimator object
        Its random states are integers, so that u is a function.
    fold : Fold
    judge : Judge
    fallback : FallbackRule
    """

    engine: ClassVar[str] = "refit"

    def __init__(self, estimator: Any, fold: Fold, judge: Judge, fallback: FallbackRule) -> None:
        super().__init__(estimator, fold, judge, fallback)
        self._in_place = can_refit_in_place(estimator)
        self._models = threading.local()

    def _score(self, rows: NDArray[np.bool_]) -> tuple[NDArray[np.float64], dict[int, str]]:
        scores = np.full(len(rows), np.nan)
        errors: dict[int, str] = {}
        # The parameters passed scikit-learn's validation with the full data. Its checks for NaN
        # stay on: some of what it refuses on small coalitions, it refuses by them.
        with sklearn.config_context(skip_parameter_validation=True):
            for j, row_set in enumerate(rows):
                try:
                    scores[j] = self._refit(np.flatnonzero(row_set))
                except MemoryError:
                    raise
                except Exception as error:
                    errors[j] = f"{type(error).__name__}: {error}"
        return scores, errors

    def _refit(self, rows: NDArray[np.intp]) -> float:
        model = self._model()
        model.fit(take_rows(self.fold.X, rows), self.fold.y[rows])
        return self.judge.judge_model(model)

    def _model(self) -> Any:
        if not self._in_place:
            return clone(self.estimator)
        model = getattr(self._models, "model", None)  # threads must not fit the same object
        if model is None:
            model = self._models.model = clone(self.estimator)
        return model

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_models"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._models = threading.local()
