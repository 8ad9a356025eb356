"""Valuators by retraining: the game of a supervised model, played on folds or held-out rows."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import MetaEstimatorMixin, clone, is_classifier, is_regressor
from sklearn.base import _fit_context as fit_context
from sklearn.exceptions import FitFailedWarning
from sklearn.utils import check_array
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from skdvl.caching import Cache
from skdvl.estimation.budget import check_budget
from skdvl.estimation.estimate import estimate_games
from skdvl.estimation.result import ValuationResult, revalued
from skdvl.estimation.scheme_choice import check_scheme
from skdvl.estimation.stopping import StoppingRule
from skdvl.metrics import resolve_scorer
from skdvl.parallel import single_threaded
from skdvl.sampling.base import Estimate, SamplingScheme
from skdvl.semivalues import Semivalue
from skdvl.utilities.dispatch import followed_scoring, has_own_score, make_utility
from skdvl.utilities.fingerprint import FingerprintError, fingerprint
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.supervised import FallbackRule, SupervisedUtility
from skdvl.valuators.base import DataValuator, index_of, naming_its_class, refuse_missing
from skdvl.valuators.folds import Players, held_out_fold, make_folds
from skdvl.valuators.valued_model import (
    as_the_model_takes_it,
    check_kind,
    check_score,
    with_integer_seeds,
)

__all__ = ["RetrainingValuator"]

_SCORE_LIKE = [Interval(Real, None, None, closed="neither"), StrOptions({"auto"})]


class RetrainingValuator(MetaEstimatorMixin, DataValuator):
    """Base of the valuators that train the model on many subsets.

    The utility of a coalition is the score of the model trained on it: on held-out rows if
    ``X_val`` is given, otherwise averaged over the folds of ``cv``, where a row is a null player
    in a fold that does not train on it.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "estimator": [HasMethods(["fit", "predict"])],
        "method": [str, SamplingScheme],
        "scoring": [str, callable, None],
        "cv": ["cv_object"],
        "max_evals": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "tol": [Interval(Real, 0, None, closed="neither"), StoppingRule, None],
        "engine": [StrOptions({"auto", "refit"})],
        "cache": [str, Cache, None],
        "empty_score": _SCORE_LIKE,
        "error_score": [*_SCORE_LIKE, StrOptions({"auto", "raise"})],
        "checkpoint": "no_validation",
        "warm_start": ["boolean"],
        "n_jobs": [None, Integral],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    @naming_its_class
    def __init__(
        self,
        estimator: Any,
        *,
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
        self.estimator = estimator
        self.method = method
        self.scoring = scoring
        self.cv = cv
        self.max_evals = max_evals
        self.tol = tol
        self.engine = engine
        self.cache = cache
        self.empty_score = empty_score
        self.error_score = error_score
        self.checkpoint = checkpoint
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @property
    @abstractmethod
    def _semivalue(self) -> Semivalue:
        """Return the semivalue that is estimated."""

    @property
    def _label(self) -> str:
        return self._semivalue.label

    @naming_its_class
    @fit_context(prefer_skip_nested_validation=False)
    def fit(
        self, X: Any, y: Any, *, X_val: Any = None, y_val: Any = None, groups: Any = None
    ) -> RetrainingValuator:
        """Value the samples.

        Parameters
        ----------
        X : array-like, sparse matrix or frame of shape (n_samples, n_features)
            Training samples.
        y : array-like of shape (n_samples,)
            Their labels or targets.
        X_val, y_val : array-like, default=None
            Held-out samples on which models are scored, instead of by cross-validation. Beware
            that scikit-learn's cross-validation slices every array with as many rows as X.
        groups : array-like of shape (n_samples,), default=None
            Labels of the samples' owners: then the owners are the players, and a sample's value
            is its owner's divided by the owner's number of samples.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For bad input, and if the scorer fails on a fold's full model.
        """
        index = index_of(X)
        X, y = self._validate(X, y, reset=True)
        X_val, y_val = self._validate_held_out(X_val, y_val)
        base = with_integer_seeds(self.estimator)
        check_kind(base)
        resolve_scorer(self.scoring, base)  # unknown names are told before anything is fitted
        if self.method != "auto":
            check_scheme(self.method)
        if hasattr(X, "tocsr"):
            X = X.tocsr()
        if hasattr(X_val, "tocsr"):
            X_val = X_val.tocsr()
        classes = None
        if is_classifier(base):
            self.classes_ = classes = np.unique(y)
        else:
            self.__dict__.pop("classes_", None)  # of an earlier fit
        if X_val is not None:
            _check_labels(y_val, classes)
        with single_threaded():
            self.estimator_ = clone(base).fit(X, y)
            players = Players.rows(len(y)) if groups is None else Players.groups(groups, len(y))
            data = as_the_model_takes_it(base, X)
            if X_val is not None:
                held_out = as_the_model_takes_it(base, X_val)
                folds, mine = held_out_fold(data, y, held_out, y_val, classes, players)
            else:
                folds, mine = make_folds(data, y, self.cv, classes, players, groups)
            utilities = [self._utility(base, fold) for fold in folds]
        run = self._identify(utilities) if self.warm_start else None
        total = check_budget(self.max_evals, utilities, players.n_players)
        previous = self._previous_run(run, total)
        result = self._estimate_games(utilities, mine, players.n_players, previous)
        self._keep(result, X, y, players, index)
        self._run = run
        return self

    def revalue(self, semivalue: str | Semivalue) -> pd.DataFrame:
        """Return another semivalue from what was evaluated, without a further evaluation.

        Parameters
        ----------
        semivalue : str or Semivalue
            "shapley", "banzhaf", "beta_shapley", "loo", or an instance.

        Returns
        -------
        DataFrame
            As `to_frame` returns it.

        Raises
        ------
        ValueError
            If the coalition sizes that were drawn tell too little about the semivalue.
        """
        check_is_fitted(self)
        result = revalued(self._result, semivalue, stacklevel=3)
        return self._frame_of(_spread(result.estimate, self._players))

    def _validate_held_out(self, X_val: Any, y_val: Any) -> tuple[Any, Any]:
        if X_val is None and y_val is None:
            return None, None
        if y_val is None:
            raise ValueError("X_val is provided, but y_val was not provided.")
        if X_val is None:
            raise ValueError("y_val is provided, but X_val was not provided.")
        if self.cv is not None:
            raise ValueError(
                "X_val is provided together with cv. Models are scored either on X_val or by "
                "cross-validation: leave one of them out."
            )
        X_val = self._validate(X_val, reset=False)
        y_val = column_or_1d(y_val, warn=True)
        check_consistent_length(X_val, y_val)
        refuse_missing(y_val, "y_val")
        if is_regressor(self.estimator):
            y_val = check_array(y_val, ensure_2d=False, input_name="y_val")
        return X_val, y_val

    def _utility(self, base: Any, fold: Fold) -> SupervisedUtility:
        """Return a fold's utility, after its full model was fitted and scored once, uncaught."""
        followed = followed_scoring(base) if self.scoring is None else self.scoring
        scorer = resolve_scorer(followed, base)
        judge = Judge(fold, scorer, scorer is None and has_own_score(base))
        full_model = clone(base).fit(fold.X, fold.y)
        check_score(judge, full_model, self.scoring, type(self).__name__)
        fallback = FallbackRule(judge, self.empty_score, self.error_score)
        utility, reasons = make_utility(base, fold, judge, fallback, self.engine)
        if self.verbose and fold.number == 0 and self.engine == "auto":
            why = f" ({'; '.join(reasons)})" if reasons else ""
            print(f"[{type(self).__name__}] engine: {utility.engine}{why}")
        return utility

    def _estimate_games(
        self,
        utilities: list[SupervisedUtility],
        mine: list[NDArray[np.intp]],
        n_players: int,
        previous: ValuationResult | None,
    ) -> ValuationResult:
        result = estimate_games(
            utilities,
            mine,
            n_players,
            semivalue=self._semivalue,
            method=self.method,
            max_evals=self.max_evals,
            tol=self.tol,
            cache=self.cache,
            checkpoint=self.checkpoint,
            n_jobs=self.n_jobs,
            random_state=self.random_state,
            verbose=self.verbose,
            previous=previous,
            stacklevel=6,
        )
        record = result.record
        refused = sum(count for (_, large), count in record.refused.items() if large)
        if 2 * refused > record.n_large:
            message = record.refused.most_common(1)[0][0][0]
            warnings.warn(
                f"The model failed on {refused} of {record.n_large} coalitions of at least half "
                f"of the players; they got the score of a dummy model. Most often: {message}",
                FitFailedWarning,
                stacklevel=5,
            )
        return result

    def _identify(self, utilities: list[SupervisedUtility]) -> bytes:
        """Return a digest of the games and of how they are sampled."""
        seed = self.random_state
        if isinstance(seed, Integral):
            seed = int(seed)
        elif seed is not None:
            seed = "drawn"
        try:
            games = [utility.fingerprint() for utility in utilities]
            return fingerprint(games, self._semivalue, self.method, seed)
        except FingerprintError as error:
            raise FingerprintError(
                f"warm_start=True must be able to tell that a fit is of the same game: {error}"
            ) from error

    def _previous_run(self, run: bytes | None, total: int) -> ValuationResult | None:
        """Return the run to extend, and see that it is one of the same games."""
        # A fit without warm_start is not identified, which would take a digest of the data. After
        # it a run starts anew, to the same bits.
        if run is None or getattr(self, "_run", None) is None:
            return None
        previous: ValuationResult = self._result
        if run != self._run:
            raise ValueError(
                "warm_start=True extends the previous fit, but the data or a parameter that "
                "decides the game or its sampling have changed. Set warm_start=False to "
                "start anew."
            )
        may_exceed = self.max_evals == "auto" and previous.scheme.is_exact
        if total < previous.n_evals and not may_exceed:
            raise ValueError(
                f"max_evals={self.max_evals!r} allows {total} evaluations, less than the "
                f"{previous.n_evals} of the previous fit. With warm_start=True it is the total."
            )
        return previous

    def _keep(
        self, result: ValuationResult, X: Any, y: NDArray[Any], players: Players, index: Any
    ) -> None:
        self._result = result
        self._players = players
        self._settle(X, y, _spread(result.estimate, players), index)
        self.n_evals_ = result.n_evals
        self.n_refused_ = result.n_refused
        self.converged_ = result.converged
        self.score_ = float(np.mean([game.game.full for game in result.games]))
        self.empty_score_ = float(np.mean([game.game.empty for game in result.games]))
        self.method_ = result.method
        engines = {game.engine for game in result.games}
        self.engine_ = engines.pop() if len(engines) == 1 else ", ".join(sorted(engines))
        self.cache_info_ = result.cache_info
        for name in ("group_labels_", "group_values_", "group_standard_errors_"):
            self.__dict__.pop(name, None)  # of an earlier fit
        if players.labels is not None:
            order = players.sorted_labels()
            self.group_labels_ = players.labels[order]
            self.group_values_ = result.values[order]
            self.group_standard_errors_ = result.standard_errors[order]


def _spread(estimate: Estimate, players: Players) -> Estimate:
    """Give each sample its player's value divided by the player's number of samples."""
    if players.labels is None:
        return estimate
    sizes = np.bincount(players.of_row)[players.of_row]
    return replace(
        estimate,
        values=estimate.values[players.of_row] / sizes,
        standard_errors=estimate.standard_errors[players.of_row] / sizes,
    )


def _check_labels(y_val: NDArray[Any], classes: NDArray[Any] | None) -> None:
    if classes is None:
        return
    unknown = np.setdiff1d(y_val, classes)
    if len(unknown):
        raise ValueError(
            f"y_val has labels that y lacks: {unknown.tolist()}. No model could ever predict them."
        )
