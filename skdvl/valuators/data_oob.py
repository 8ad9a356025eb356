"""Data-OOB: what the members of an ensemble say of the rows that they were not fitted on."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from skdvl.sampling.base import Estimate
from skdvl.valuators.bagged_frames import OnFrames
from skdvl.valuators.base import DataValuator, index_of
from skdvl.valuators.out_of_bag import OutOfBag, check_row_score, rows_for, score_out_of_bag
from skdvl.valuators.valued_model import needs_frames

__all__ = ["DataOOBValuator"]

_N_ESTIMATORS = 200
_CAVEAT = "where few members disagree, the errors of so few scores are not normal."


class DataOOBValuator(DataValuator):
    r"""Data-OOB: a sample is worth how well models that have not seen it predict it.

    Each member of a bootstrap ensemble leaves out about 37 % of the samples. The value of sample i
    is its mean score by the members b that left it out [1]_,

    .. math:: \phi_i = \frac{\sum_b [i \notin S_b] \, s(y_i, f_b(x_i))}{\sum_b [i \notin S_b]}.

    One fit of one ensemble values all samples: far cheaper than any Shapley value. It is a
    different question, though: a low value says that the label surprises, not that the sample does
    harm.

    Parameters
    ----------
    estimator : estimator object, default=None
        A forest or a bagging ensemble, of which a clone is fitted; or any classifier or regressor,
        which is then bagged; or an ensemble that is fitted on the very data to value, as
        ``FrozenEstimator(ensemble)``. None: a random forest, of regression trees if the targets
        are of floating-point type.
    n_estimators : int, default=None
        Number of members. None: as many as the ensemble says itself, else 200.
    scoring : str or callable, default=None
        Score of a row. For labels "accuracy" (None), which is 0 or 1, or
        "true_class_probability"; for numbers "neg_mean_squared_error" (None) or
        "neg_mean_absolute_error". A callable takes targets and predictions of shape (n_rows,) and
        returns scores of that shape.
    n_jobs : int, default=None
        As in `joblib.parallel_config`; for the fit of an ensemble that does not say, and for the
        valuation. Values are the same to the bit.
    random_state : int, RandomState instance or None, default=None
        Decides the bootstrap samples of an ensemble that does not say.
    verbose : int, default=0
        Passed on to the ensemble.

    Attributes
    ----------
    values_ : ndarray of shape (n_samples,)
        Value of each sample, in units of the score; NaN if no member left it out.
    standard_errors_ : ndarray of shape (n_samples,)
        Standard error of each value over members; NaN if fewer than two left it out.
    n_out_of_bag_ : ndarray of int, shape (n_samples,)
        How many members left the sample out.
    estimator_ : estimator object
        The fitted ensemble.
    classes_ : ndarray of shape (n_classes,)
        Labels; only for classifiers.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features; only if X has names that are all strings.

    References
    ----------
    .. [1] Kwon, Zou (2023). "Data-OOB: out-of-bag estimate as a simple and efficient data value."
       ICML.

    Examples
    --------
    Three labels are wrong, and have the lowest values:

    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from skdvl import DataOOBValuator
    >>> X, y = load_iris(return_X_y=True)
    >>> y[[5, 42, 77]] = [1, 2, 0]
    >>> valuator = DataOOBValuator(random_state=0).fit(X, y)
    >>> np.sort(np.argsort(valuator.values_)[:3])
    array([ 5, 42, 77])

    Of a forest that is fitted already:

    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn.frozen import FrozenEstimator
    >>> forest = RandomForestClassifier(200, random_state=0).fit(X, y)
    >>> same = DataOOBValuator(FrozenEstimator(forest)).fit(X, y)
    >>> bool((same.values_ == valuator.values_).all())
    True
    """

    def __init__(
        self,
        estimator: Any = None,
        *,
        n_estimators: int | None = None,
        scoring: str | Callable[[NDArray, NDArray], NDArray] | None = None,
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.n_estimators = n_estimators
        self.scoring = scoring
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @property
    def _label(self) -> str:
        return "data_oob_value"

    def fit(self, X: Any, y: Any) -> "DataOOBValuator":
        """Fit the ensemble, unless it is frozen, and value the samples.

        Parameters
        ----------
        X : array-like, sparse matrix or frame of shape (n_samples, n_features)
            Samples to value.
        y : array-like of shape (n_samples,)
            Their targets.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If the ensemble leaves no sample out, or was not fitted on these data.

        Warns
        -----
        UserWarning
            If there are samples that no member left out.
        """
        index = index_of(X)
        self._default = _forest_for(y)
        X, y = self._validate(X, y, reset=True)
        self.estimator_ = self._fitted_ensemble(X, y)
        problem = self._problem(X, y)
        moments = score_out_of_bag(problem, self.n_jobs)
        self.n_out_of_bag_ = moments.count.astype(np.intp)
        self._check_left_out()
        estimate = Estimate(
            moments.means(),
            moments.standard_errors(),
            # one number for all samples has to be that of the sample that is known least about
            degrees_of_freedom=max(1.0, moments.count[moments.count > 0].min() - 1),
            interval_caveat=_CAVEAT if problem.classes is not None else None,
        )
        self._settle(X, y, estimate, index)
        return self

    def _valued_estimator(self) -> Any:
        if self.estimator is not None:
            return self.estimator
        return getattr(self, "_default", RandomForestClassifier())

    def _fitted_ensemble(self, X: Any, y: NDArray) -> Any:
        base = self._valued_estimator()
        if not (is_classifier(base) or is_regressor(base)):
            raise ValueError(
                f"estimator must be a classifier or a regressor, got {type(base).__name__}."
            )
        if isinstance(base, FrozenEstimator):
            return self._check_frozen(base.estimator, X)
        if _is_ensemble(base):
            ensemble = clone(base)
            params = {} if self.n_estimators is None else {"n_estimators": self.n_estimators}
            if self.estimator is None and self.n_estimators is None:
                params["n_estimators"] = _N_ESTIMATORS
        else:
            bagging = BaggingClassifier if is_classifier(base) else BaggingRegressor
            # an array is all that is left of a frame in scikit-learn's bagging
            by_name = hasattr(X, "columns") and needs_frames(base)
            ensemble = bagging(OnFrames(clone(base), X[:0]) if by_name else clone(base))
            params = {"n_estimators": self.n_estimators or _N_ESTIMATORS}
        for name in ("n_jobs", "random_state"):
            if getattr(ensemble, name) is None:
                params[name] = getattr(self, name)
        if self.verbose:
            params["verbose"] = self.verbose
        return ensemble.set_params(**params).fit(X, y)

    def _check_frozen(self, ensemble: Any, X: Any) -> Any:
        if not _is_ensemble(ensemble):
            raise ValueError(
                "A frozen estimator must be a forest or a bagging ensemble, got "
                f"{type(ensemble).__name__}."
            )
        if self.n_estimators not in (None, ensemble.n_estimators):
            raise ValueError(
                f"n_estimators={self.n_estimators}, but the frozen ensemble has "
                f"{ensemble.n_estimators} members."
            )
        check_is_fitted(ensemble)
        if ensemble.n_features_in_ != X.shape[1]:
            raise ValueError(
                f"The frozen ensemble was fitted on {ensemble.n_features_in_} features, but X has "
                f"{X.shape[1]}: a frozen ensemble values the data it was fitted on."
            )
        return ensemble

    def _problem(self, X: Any, y: NDArray) -> OutOfBag:
        ensemble = self.estimator_
        classes = getattr(ensemble, "classes_", None)
        self.__dict__.pop("classes_", None)  # of an earlier fit
        if classes is not None:
            self.classes_ = classes
        samples = ensemble.estimators_samples_
        is_known = classes is None or np.isin(y, classes).all()
        if not is_known or max(rows.max(initial=0) for rows in samples) >= len(y):
            raise ValueError("The frozen ensemble was not fitted on these data.")
        return OutOfBag(
            members=ensemble.estimators_,
            samples=samples,
            features=_features_of(ensemble, X.shape[1]),
            X=rows_for(ensemble.estimators_, X),
            y=y,
            classes=classes,
            score=check_row_score(self.scoring, is_classifier=classes is not None),
        )

    def _check_left_out(self) -> None:
        never = int((self.n_out_of_bag_ == 0).sum())
        if never == len(self.n_out_of_bag_):
            raise ValueError(
                "The ensemble leaves no sample out, so there is nothing to judge by. "
                "Use bootstrap=True."
            )
        if never:
            warnings.warn(
                f"No member left out {never} of the {len(self.n_out_of_bag_)} samples, so their "
                "values are NaN. Use a larger n_estimators.",
                UserWarning,
                stacklevel=3,
            )


def _forest_for(y: Any) -> Any:
    """Return the forest that is used where no estimator is given."""
    is_number = np.asarray(y).dtype.kind == "f"
    return RandomForestRegressor() if is_number else RandomForestClassifier()


def _is_ensemble(estimator: Any) -> bool:
    return hasattr(type(estimator), "estimators_samples_")


def _features_of(ensemble: Any, n_features: int) -> list[NDArray[np.intp]] | None:
    """Return the columns that each member looks at, None if all look at all."""
    features = getattr(ensemble, "estimators_features_", None)
    everything = np.arange(n_features)
    if features is None or all(np.array_equal(own, everything) for own in features):
        return None
    return features
