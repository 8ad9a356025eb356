"""The scikit-learn face that all valuators share."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin, is_classifier, is_regressor
from sklearn.utils import check_consistent_length, column_or_1d, get_tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data

from skdvl.estimation.result import intervals, value_frame
from skdvl.sampling.base import Estimate
from skdvl.valuators.row_lookup import RowLookup
from skdvl.valuators.valued_model import input_tags_of

__all__ = ["DataValuator", "index_of", "naming_its_class", "refuse_missing"]

_Method = TypeVar("_Method", bound=Callable[..., Any])


class DataValuator(TransformerMixin, BaseEstimator, ABC):
    """Base of the valuators: one value per training sample.

    Subclasses implement ``fit``, which ends with `_settle`, and say how their column is called.

    Attributes
    ----------
    values_ : ndarray of shape (n_samples,)
        Value of each training sample, in utility units.
    standard_errors_ : ndarray of shape (n_samples,)
        Sampling error of the values, in utility units; 0 where they are exact.
    """

    _doc_link_module = "skdvl"

    @abstractmethod
    def fit(self, X: Any, y: Any) -> DataValuator:
        """Value the samples."""

    @property
    @abstractmethod
    def _label(self) -> str:
        """Return the name of the column that `transform` returns."""

    def transform(self, X: Any) -> NDArray[np.float64]:
        """Return the values of rows that were seen in `fit`.

        Parameters
        ----------
        X : array-like, sparse matrix or frame of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, 1)
            A row is found by its content; equal training rows give the mean of their values. A
            row that was not seen gets NaN: what a sample is worth depends on its label, and a
            guess without it was measured to tell nothing.
        """
        check_is_fitted(self)
        X = self._validate(X, reset=False, maybe_missing=self._lookup.has_missing)
        return self._lookup.find(X)[:, np.newaxis]

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> NDArray[np.float64]:
        """Value the samples and return the values as a column.

        Parameters
        ----------
        X : array-like, sparse matrix or frame of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        **fit_params : dict
            Passed to ``fit``.

        Returns
        -------
        ndarray of shape (n_samples, 1)
        """
        return self.fit(X, y, **fit_params).transform(X)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """Return the name of the column of values.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Checked against the names seen in `fit`, otherwise not used.

        Returns
        -------
        ndarray of shape (1,)
        """
        check_is_fitted(self)
        _check_feature_names_in(self, input_features, generate_names=False)
        return np.asarray([self._label], dtype=object)

    def to_frame(self) -> pd.DataFrame:
        """Return value, standard error, rank and label of every sample.

        Returns
        -------
        DataFrame
            With the index of the training data. Rank 1 is the lowest value; ties in row order.
        """
        check_is_fitted(self)
        return self._frame_of(self._estimate)

    def confidence_interval(self, level: float = 0.95) -> NDArray[np.float64]:
        """Return confidence intervals of the values.

        Parameters
        ----------
        level : float, default=0.95

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper ends.

        Warns
        -----
        UserWarning
            If the sampling scheme does not claim intervals for what was evaluated.
        """
        check_is_fitted(self)
        return intervals(self._estimate, level)

    def _frame_of(self, estimate: Estimate) -> pd.DataFrame:
        frame = value_frame(estimate.values, estimate.standard_errors, self._index)
        return frame.assign(label=self._labels)

    def _validate(
        self, X: Any, y: Any = "no_validation", *, reset: bool, maybe_missing: bool = True
    ) -> Any:
        """Check X, or X and y, as the model that is valued takes them.

        Where only the model knows whether it takes missing values, ``maybe_missing`` says whether
        it is going to be asked.
        """
        base = self._valued_estimator()
        tags = get_tags(self).input_tags if base is None else input_tags_of(base)
        options: dict[str, Any] = {
            "accept_sparse": ("csr", "csc", "coo") if tags.sparse else False,
            "ensure_all_finite": "allow-nan" if tags.allow_nan else True,
        }
        if not maybe_missing and not get_tags(self).input_tags.allow_nan:
            options["ensure_all_finite"] = True
        if tags.string or tags.categorical:
            options["dtype"] = None
        if reset:
            options["ensure_min_samples"] = 2
        if hasattr(X, "columns"):
            # a frame goes to the model as it is: a ColumnTransformer asks for its columns by name
            validate_data(self, X, y, reset=reset, skip_check_array=True)
            if reset and len(X) < 2:
                raise ValueError(
                    f"Found array with {len(X)} sample(s) (shape={X.shape}) while a minimum of 2 "
                    f"is required by {type(self).__name__}."
                )
            return X if isinstance(y, str) else (X, self._validate_target(X, y))
        if isinstance(y, str):
            return validate_data(self, X, reset=reset, **options)
        numeric = base is not None and is_regressor(base)
        X, y = validate_data(self, X, y, reset=reset, y_numeric=numeric, **options)
        refuse_missing(y, "y")
        if base is None or is_classifier(base):
            check_classification_targets(y)
        return X, y

    def _validate_target(self, X: Any, y: Any) -> NDArray[Any]:
        base = self._valued_estimator()
        y = column_or_1d(y, warn=True)
        check_consistent_length(X, y)
        refuse_missing(y, "y")
        if base is None or is_classifier(base):
            check_classification_targets(y)
        elif is_regressor(base):
            y = y.astype(np.float64)
        return y

    def _valued_estimator(self) -> Any:
        """Return the estimator whose input decides what may be passed, None if there is none."""
        return getattr(self, "estimator", None)

    def _settle(self, X: Any, labels: Any, estimate: Estimate, index: Any) -> None:
        """Keep what the public attributes and methods need."""
        self._estimate = estimate
        self._labels = labels
        self._index = index
        self._lookup = RowLookup(X, estimate.values)
        self.values_ = estimate.values
        self.standard_errors_ = estimate.standard_errors

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        base = self._valued_estimator()
        if base is not None:
            inner = get_tags(base).input_tags
            for name in ("sparse", "allow_nan", "positive_only", "categorical", "string"):
                setattr(tags.input_tags, name, getattr(inner, name))
        tags.target_tags.required = True
        return tags


def naming_its_class(method: _Method) -> _Method:
    """Let the TypeErrors of wrong arguments name the class of the object.

    Python's own name the class in which the method is written.
    """
    signature = inspect.signature(method)

    @wraps(method)
    def checked(self: Any, *arguments: Any, **named: Any) -> Any:
        try:
            signature.bind(self, *arguments, **named)
        except TypeError as error:
            call = f"{type(self).__name__}.{method.__name__}()"
            raise TypeError(f"{call} {error}") from None
        return method(self, *arguments, **named)

    return checked  # type: ignore[return-value] # wraps keeps the signature


def refuse_missing(y: NDArray[Any], name: str) -> None:
    """Raise a ValueError if a label or target is missing: None and NA too, not only NaN."""
    n_missing = int(pd.isna(y).sum())
    if n_missing:
        raise ValueError(
            f"Input {name} contains NaN: {n_missing} of {len(y)} labels or targets are missing. "
            "Drop these rows."
        )


def index_of(X: Any) -> Any:
    """Return the index of a pandas frame, None for other containers."""
    index = getattr(X, "index", None)
    return index if isinstance(index, pd.Index) else None
