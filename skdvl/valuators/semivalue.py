"""Any semivalue of training samples."""

from __future__ import annotations

from typing import Any, ClassVar

from skdvl.caching import Cache
from skdvl.estimation.stopping import StoppingRule
from skdvl.sampling.base import SamplingScheme
from skdvl.semivalues import Semivalue, check_semivalue
from skdvl.valuators.retraining import RetrainingValuator

__all__ = ["SemivalueValuator"]


class SemivalueValuator(RetrainingValuator):
    r"""Any semivalue of each training sample.

    Parameters
    ----------
    estimator : estimator object
        The classifier or regressor under which samples are valued; it is cloned.
    semivalue : str or Semivalue, default="shapley"
        "shapley", "banzhaf", "beta_shapley", "loo", or an instance such as
        ``DeltaShapley(1, 50)``.
    method : str or SamplingScheme, default="auto"
        How coalitions are drawn: "exact", "stratified", "regression", "permutation",
        "antithetic", "tmc", "owen", "msr", "group_testing", or an instance of
        `skdvl.sampling.SamplingScheme`. "auto" takes "exact" where enumerating all coalitions
        fits the budget, otherwise "stratified".
    scoring : str, callable or None, default=None
        What a model is judged by: "true_class_probability" or "squashed_r2", a name of
        scikit-learn's, or a callable ``(estimator, X, y) -> float``. None is the estimator's
        own score.
    cv : int, splitter, iterable or None, default=None
        Folds on which models are trained and scored where `fit` gets no ``X_val``. None: five
        shuffled folds, stratified for classes, always the same.
    max_evals : int or "auto", default="auto"
        Budget in utility evaluations over all folds, never exceeded. "auto": 20 per player where
        models are refitted, 100 per player with an incremental engine, at least 1000.
    tol : float, StoppingRule or None, default=None
        When to stop before the budget is spent. A number: when the largest standard error is at
        most that, in utility units. Or `StandardErrorBelow`, `RankStability` and `TimeLimit`,
        combined by ``&`` and ``|``.
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
    warm_start : bool, default=False
        Extend the previous fit to ``max_evals`` evaluations in all.
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
        Whether the values are exact or as precise as ``tol`` asks; not where a `TimeLimit` ended
        the fit.
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
    >>> from skdvl import SemivalueValuator
    >>> X, y = make_classification(n_samples=60, random_state=0)
    >>> y[:3] = 1 - y[:3]
    >>> valuator = SemivalueValuator(GaussianNB(), semivalue="banzhaf", random_state=0).fit(X, y)
    >>> valuator.values_.shape
    (60,)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **RetrainingValuator._parameter_constraints,
        "semivalue": [str, Semivalue],
    }

    def __init__(
        self,
        estimator: Any,
        *,
        semivalue: str | Semivalue = "shapley",
        method: str | SamplingScheme = "auto",
        scoring: Any = None,
        cv: Any = None,
        max_evals: int | str = "auto",
        tol: float | StoppingRule | None = None,
        engine: str = "auto",
        cache: str | Cache | None = None,
        empty_score: float | str = "auto",
        error_score: float | str = "auto",
        checkpoint: Any = None,
        warm_start: bool = False,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            estimator,
            method=method,
            scoring=scoring,
            cv=cv,
            max_evals=max_evals,
            tol=tol,
            engine=engine,
            cache=cache,
            empty_score=empty_score,
            error_score=error_score,
            checkpoint=checkpoint,
            warm_start=warm_start,
            n_jobs=n_jobs,
            random_state=random_state,
            verbose=verbose,
        )
        self.semivalue = semivalue

    @property
    def _semivalue(self) -> Semivalue:
        return check_semivalue(self.semivalue)
