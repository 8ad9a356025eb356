"""Leave-one-out values of training samples."""

from __future__ import annotations

from typing import Any, ClassVar

from skdvl.caching import Cache
from skdvl.semivalues import LOO, Semivalue
from skdvl.valuators.retraining import RetrainingValuator

__all__ = ["LeaveOneOutValuator"]


class LeaveOneOutValuator(RetrainingValuator):
    r"""Leave-one-out value of each training sample, exact: u(N) - u(N without i).

    Takes n + 2 evaluations per fold. Cheap, but one sample among many rarely changes a score:
    most values are 0 or noise, see the user guide.

    Parameters
    ----------
    estimator : estimator object
        The classifier or regressor under which samples are valued; it is cloned.
    scoring : str, callable or None, default=None
        What a model is judged by: "true_class_probability" or "squashed_r2", a name of
        scikit-learn's, or a callable ``(estimator, X, y) -> float``. None is the estimator's
        own score.
    cv : int, splitter, iterable or None, default=None
        Folds on which models are trained and scored where `fit` gets no ``X_val``. None: five
        shuffled folds, stratified for classes, always the same.
    engine : {"auto", "refit"}, default="auto"
        "auto" computes utilities without refitting where an exact engine gives the same numbers.
    cache : None, "memory", "disk", "memcached" or Cache, default=None
        Where utilities of refitted models are kept.
    empty_score : float or "auto", default="auto"
        Utility of no data; "auto" is the score of a dummy model that knows the class shares, or
        the mean target.
    error_score : float, "auto" or "raise", default="auto"
        Utility of a coalition on which the model fails; "auto" is the score of a dummy model
        trained on that coalition.
    checkpoint : path or None, default=None
        Directory in which the run is saved as it goes; the same call goes on where a killed one
        was.
    n_jobs : int or None, default=None
        Number of workers; None follows ``joblib.parallel_config``. Values do not depend on it.
    random_state : int, RandomState instance or None, default=None
        Decides which coalitions are drawn, never the game.
    verbose : int, default=0
        1 shows progress.

    Attributes
    ----------
    values_ : ndarray of shape (n_samples,)
        Value of each sample, in utility units.
    standard_errors_ : ndarray of shape (n_samples,)
        Sampling error of the values, for these folds; 0 where exact.
    n_evals_ : int
        Utility evaluations, cache hits included.
    n_refused_ : int
        Coalitions on which the model failed, among those computed: not those looked up.
    converged_ : bool
        True: the values are exact.
    score_, empty_score_ : float
        Utility of all samples and of none, means over folds.
    estimator_ : estimator object
        The model trained on all samples.
    method_, engine_ : str
        Sampling scheme and engine that were used.
    cache_info_ : CacheInfo
        What the cache did during the fit.
    group_labels_, group_values_, group_standard_errors_ : ndarray of shape (n_groups,)
        With ``groups``: sorted labels, values of the groups and their errors.
    classes_ : ndarray of shape (n_classes,)
        Class labels, if the estimator is a classifier.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, where X has such.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from skdvl import LeaveOneOutValuator
    >>> X, y = make_classification(n_samples=60, random_state=0)
    >>> y[:3] = 1 - y[:3]
    >>> valuator = LeaveOneOutValuator(GaussianNB(), random_state=0).fit(X, y)
    >>> valuator.values_.shape
    (60,)
    """

    method = "auto"
    max_evals = "auto"
    tol = None
    warm_start = False

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        name: constraint
        for name, constraint in RetrainingValuator._parameter_constraints.items()
        if name not in ("method", "max_evals", "tol", "warm_start")
    }

    def __init__(
        self,
        estimator: Any,
        *,
        scoring: Any = None,
        cv: Any = None,
        engine: str = "auto",
        cache: str | Cache | None = None,
        empty_score: float | str = "auto",
        error_score: float | str = "auto",
        checkpoint: Any = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.scoring = scoring
        self.cv = cv
        self.engine = engine
        self.cache = cache
        self.empty_score = empty_score
        self.error_score = error_score
        self.checkpoint = checkpoint
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @property
    def _semivalue(self) -> Semivalue:
        return LOO()
