"""A model trained without the rows of lowest value."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone, is_classifier
from sklearn.base import _fit_context as fit_context
from sklearn.utils import get_tags
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metadata_routing import _raise_for_params as raise_for_params
from sklearn.utils.metadata_routing import _routing_enabled as routing_enabled
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from skdvl.selection.remembered import fit_remembered
from skdvl.selection.support import KEEP_CONSTRAINTS, support_mask
from skdvl.utilities.fold import take_rows
from skdvl.valuators import DataValuator, ShapleyValuator
from skdvl.valuators.valued_model import is_composite

__all__ = ["CleanedEstimator"]


def _inner_has(method: str) -> Any:
    """Tell whether the fitted model, or before fitting the given one, has a method."""

    def check(self: CleanedEstimator) -> bool:
        getattr(getattr(self, "estimator_", self.estimator), method)
        return True

    return check


class CleanedEstimator(MetaEstimatorMixin, BaseEstimator):
    """A model that is trained without the samples of lowest value.

    Values the training samples, drops the worst, fits the estimator on the rest. It is a
    classifier or a regressor as its estimator is, and works in Pipeline and GridSearchCV.

    Parameters
    ----------
    estimator : estimator object
        The model to train.
    valuator : DataValuator or None, default=None
        Values the samples. None is ``ShapleyValuator(estimator, random_state=0)``.
    keep : float, default=0.9
        Share of the samples that stay, in (0, 1]: the ceil(keep · n) of highest value.
    threshold : float or None, default=None
        If given, samples of at least this value stay instead.
    memory : str, joblib.Memory or None, default=None
        Keeps valuations, so that a grid over ``keep`` or over the model's parameters values each
        fold once. Needs a valuator with an integer ``random_state``.

    Attributes
    ----------
    estimator_ : estimator object
        The model trained on the samples that stayed.
    valuator_ : DataValuator
        The fitted valuator.
    support_mask_ : ndarray of bool, shape (n_samples,)
        Which samples stayed.
    classes_ : ndarray of shape (n_classes,)
        Class labels, if the estimator is a classifier.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from skdvl import CleanedEstimator
    >>> X, y = make_classification(n_samples=60, random_state=0)
    >>> model = CleanedEstimator(GaussianNB(), keep=0.8).fit(X, y)
    >>> int(model.support_mask_.sum()), model.predict(X[:3]).shape
    (48, (3,))
    """

    _doc_link_module = "skdvl"
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "estimator": [HasMethods(["fit"])],
        "valuator": [HasMethods(["fit", "to_frame"]), None],
        "memory": [str, HasMethods(["cache"]), None],
        **KEEP_CONSTRAINTS,
    }

    def __init__(
        self,
        estimator: Any,
        valuator: DataValuator | None = None,
        *,
        keep: float = 0.9,
        threshold: float | None = None,
        memory: Any = None,
    ) -> None:
        self.estimator = estimator
        self.valuator = valuator
        self.keep = keep
        self.threshold = threshold
        self.memory = memory

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any, **params: Any) -> CleanedEstimator:
        """Value the samples, drop the worst, fit the estimator on the rest.

        Parameters
        ----------
        X : array-like, sparse matrix or frame of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        **params : dict
            Routed to the valuator and the estimator, if metadata routing is enabled.

        Returns
        -------
        self
        """
        raise_for_params(params, self, "fit")
        for_valuator, for_estimator = {}, {}
        if routing_enabled():
            routed = process_routing(self, "fit", **params)
            for_valuator, for_estimator = routed.valuator.fit, routed.estimator.fit
        self.valuator_ = fit_remembered(self._valuator(), X, y, for_valuator, self.memory)
        labels = self.valuator_.to_frame()["label"].to_numpy()
        classes = labels if is_classifier(self.estimator) else None
        values = self.valuator_.values_
        self.support_mask_ = support_mask(values, classes, self.keep, self.threshold)
        self.n_features_in_ = self.valuator_.n_features_in_
        self.__dict__.pop("feature_names_in_", None)  # of an earlier fit
        if hasattr(self.valuator_, "feature_names_in_"):
            self.feature_names_in_ = self.valuator_.feature_names_in_
        rows = np.flatnonzero(self.support_mask_)
        X_all = X if hasattr(X, "shape") else np.asarray(X)
        metadata = {name: _kept(value, rows, len(labels)) for name, value in for_estimator.items()}
        self.estimator_ = clone(self.estimator)
        self.estimator_.fit(take_rows(X_all, rows), labels[rows], **metadata)
        return self

    def _valuator(self) -> DataValuator:
        if self.valuator is not None:
            return self.valuator
        return ShapleyValuator(self.estimator, random_state=0)

    @available_if(_inner_has("predict"))
    def predict(self, X: Any, **params: Any) -> Any:
        """Predict with the model trained on the samples that stayed.

        Parameters
        ----------
        X : array-like, sparse matrix or frame of shape (n_samples, n_features)
        **params : dict
            Passed to the estimator's ``predict``.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        return self._delegate("predict", X, **params)

    @available_if(_inner_has("predict_proba"))
    def predict_proba(self, X: Any, **params: Any) -> Any:
        """Return the model's class probabilities, see `predict`."""
        return self._delegate("predict_proba", X, **params)

    @available_if(_inner_has("predict_log_proba"))
    def predict_log_proba(self, X: Any, **params: Any) -> Any:
        """Return the logarithms of the model's class probabilities, see `predict`."""
        return self._delegate("predict_log_proba", X, **params)

    @available_if(_inner_has("decision_function"))
    def decision_function(self, X: Any, **params: Any) -> Any:
        """Return the model's decision function, see `predict`."""
        return self._delegate("decision_function", X, **params)

    @available_if(_inner_has("transform"))
    def transform(self, X: Any, **params: Any) -> Any:
        """Transform with the model trained on the samples that stayed, see `predict`."""
        return self._delegate("transform", X, **params)

    @available_if(_inner_has("score"))
    def score(self, X: Any, y: Any, **params: Any) -> float:
        """Return the model's score on data of which nothing is dropped.

        Parameters
        ----------
        X : array-like, sparse matrix or frame of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        **params : dict
            Passed to the estimator's ``score``.

        Returns
        -------
        float
        """
        return float(self._delegate("score", X, y, **params))

    def _delegate(self, method: str, X: Any, *args: Any, **params: Any) -> Any:
        check_is_fitted(self)
        tags = get_tags(self).input_tags
        may_miss = tags.allow_nan or is_composite(self.estimator_)
        validate_data(
            self,
            X,
            reset=False,
            skip_check_array=hasattr(X, "columns"),
            accept_sparse=tags.sparse,
            ensure_all_finite="allow-nan" if may_miss else True,
            dtype=None,
        )
        return getattr(self.estimator_, method)(X, *args, **params)

    @property
    def classes_(self) -> NDArray[Any]:
        """Class labels."""
        return self.estimator_.classes_

    def get_metadata_routing(self) -> MetadataRouter:
        """Return how metadata is routed to valuator and estimator.

        Returns
        -------
        MetadataRouter
        """
        mapping = MethodMapping().add(caller="fit", callee="fit")
        with_score = MethodMapping().add(caller="fit", callee="fit")
        with_score = with_score.add(caller="predict", callee="predict")
        with_score = with_score.add(caller="score", callee="score")
        return (
            MetadataRouter(owner=self)
            .add(estimator=self.estimator, method_mapping=with_score)
            .add(valuator=self._valuator(), method_mapping=mapping)
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        valued = get_tags(self._valuator()).input_tags
        tags.estimator_type = inner.estimator_type
        tags.classifier_tags = deepcopy(inner.classifier_tags)
        tags.regressor_tags = deepcopy(inner.regressor_tags)
        if tags.classifier_tags is not None:
            tags.classifier_tags.multi_label = False
        tags.target_tags.required = True
        tags.target_tags.positive_only = inner.target_tags.positive_only
        for name in ("sparse", "allow_nan", "categorical", "string"):
            both = getattr(inner.input_tags, name) and getattr(valued, name)
            setattr(tags.input_tags, name, both)
        tags.input_tags.positive_only = inner.input_tags.positive_only or valued.positive_only
        return tags


def _kept(metadata: Any, rows: NDArray[np.intp], n_samples: int) -> Any:
    """Return the rows that stay of metadata with one entry per sample, other metadata whole."""
    if isinstance(metadata, str) or not hasattr(metadata, "__len__"):
        return metadata
    return take_rows(np.asarray(metadata), rows) if len(metadata) == n_samples else metadata
