"""Models that ask for columns by name, in ensembles that pass arrays on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if

__all__ = ["OnFrames"]


def _has_probabilities(model: OnFrames) -> bool:
    return hasattr(getattr(model, "estimator_", model.estimator), "predict_proba")


class OnFrames(MetaEstimatorMixin, BaseEstimator):
    """Give a model its frames back: names and types of columns.

    Bagging of scikit-learn makes an array of a frame before its members see it, and a
    ColumnTransformer in a member does not find its columns.

    Parameters
    ----------
    estimator : estimator object
        Fitted on frames.
    template : frame
        Without rows; of pandas or polars.
    """

    def __init__(self, estimator: Any, template: Any) -> None:
        self.estimator = estimator
        self.template = template

    def fit(self, X: NDArray[Any], y: NDArray[Any]) -> OnFrames:
        """Fit a clone of the estimator on the frame that X was."""
        self.estimator_ = clone(self.estimator).fit(self._frame(X), y)
        if hasattr(self.estimator_, "classes_"):
            self.classes_ = self.estimator_.classes_
        return self

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return what the model predicts."""
        return np.asarray(self.estimator_.predict(self._frame(X)))

    @available_if(_has_probabilities)
    def predict_proba(self, X: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probabilities that the model predicts."""
        return np.asarray(self.estimator_.predict_proba(self._frame(X)))

    def _frame(self, X: NDArray[Any]) -> Any:
        if isinstance(self.template, pd.DataFrame):
            frame = pd.DataFrame(X).astype(dict(enumerate(self.template.dtypes)))
            return frame.set_axis(self.template.columns, axis=1)  # names may repeat
        columns = dict(zip(self.template.columns, X.T.tolist(), strict=True))
        return type(self.template)(columns, schema=self.template.schema)

    def __sklearn_tags__(self) -> Any:
        return get_tags(self.estimator)
