"""Rows of low value dropped in a resampling pipeline."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.base import _fit_context as fit_context
from sklearn.utils import get_tags
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.validation import check_is_fitted

from skdvl.selection.support import KEEP_CONSTRAINTS, support_mask
from skdvl.utilities.fold import take_rows
from skdvl.valuators import DataValuator

__all__ = ["SampleSelector"]


class SampleSelector(BaseEstimator):
    """Drop the samples of lowest value, in imbalanced-learn's protocol.

    A step of ``imblearn.pipeline.Pipeline``, which calls `fit_resample` while fitting and skips
    the step in prediction. scikit-learn's own Pipeline has no steps that drop rows: there,
    `CleanedEstimator` does it.

    Parameters
    ----------
    valuator : DataValuator
        Values the samples; it is cloned.
    keep : float, default=0.9
        Share of the samples that stay, in (0, 1].
    threshold : float or None, default=None
        If given, samples of at least this value stay instead.

    Attributes
    ----------
    sample_indices_ : ndarray of shape (n_kept,)
        Rows that stay, ascending.
    valuator_ : DataValuator
        The fitted valuator.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from skdvl import SampleSelector, ShapleyValuator
    >>> X, y = make_classification(n_samples=60, random_state=0)
    >>> selector = SampleSelector(ShapleyValuator(GaussianNB(), random_state=0), keep=0.8)
    >>> X_kept, y_kept = selector.fit_resample(X, y)
    >>> X_kept.shape
    (48, 20)
    """

    _doc_link_module = "skdvl"
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "valuator": [HasMethods(["fit", "to_frame"])],
        **KEEP_CONSTRAINTS,
    }

    def __init__(
        self, valuator: DataValuator, *, keep: float = 0.9, threshold: float | None = None
    ) -> None:
        self.valuator = valuator
        self.keep = keep
        self.threshold = threshold

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any, **params: Any) -> SampleSelector:
        """Value the samples and choose those that stay.

        Parameters
        ----------
        X : array-like, sparse matrix or frame of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        **params : dict
            Passed to the valuator's ``fit``, such as ``X_val`` and ``y_val``.

        Returns
        -------
        self
        """
        self.valuator_ = clone(self.valuator).fit(X, y, **params)
        labels = np.asarray(y) if hasattr(self.valuator_, "classes_") else None
        self._support = support_mask(self.valuator_.values_, labels, self.keep, self.threshold)
        self.sample_indices_ = np.flatnonzero(self._support)
        self.n_features_in_ = self.valuator_.n_features_in_
        self.__dict__.pop("feature_names_in_", None)  # of an earlier fit
        if hasattr(self.valuator_, "feature_names_in_"):
            self.feature_names_in_ = self.valuator_.feature_names_in_
        return self

    def fit_resample(self, X: Any, y: Any, **params: Any) -> tuple[Any, Any]:
        """Value the samples and return those that stay.

        Parameters
        ----------
        X : array-like, sparse matrix or frame of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        **params : dict
            Passed to the valuator's ``fit``.

        Returns
        -------
        X_resampled : same kind as X, with ``len(sample_indices_)`` rows
        y_resampled : same kind as y
        """
        self.fit(X, y, **params)
        y = y if hasattr(y, "shape") else np.asarray(y)
        X = X if hasattr(X, "shape") else np.asarray(X)
        return take_rows(X, self.sample_indices_), take_rows(y, self.sample_indices_)

    def get_support(self, indices: bool = False) -> NDArray[Any]:
        """Return which samples stay.

        Parameters
        ----------
        indices : bool, default=False
            Return row numbers instead of a mask.

        Returns
        -------
        ndarray of bool, shape (n_samples,), or of int
        """
        check_is_fitted(self)
        return self.sample_indices_ if indices else self._support

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags = deepcopy(get_tags(self.valuator).input_tags)
        tags.target_tags.required = True
        return tags
