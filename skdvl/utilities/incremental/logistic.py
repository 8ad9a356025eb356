"""Logistic regression with an L2 penalty, at the exact optimum.

scikit-learn's lbfgs stops near the optimum, where a few in a hundred utilities differ from the
optimum's by a validation row; this engine gives the optimum itself. Columns are centred, which an
intercept that is not penalised makes up for, and scaled, which the penalties take into account.

So do they where a `StandardScaler` comes first, though it scales each set of rows in its own way:
the penalties are then the set's variances. Elsewhere a step that learns from the rows is refitted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skdvl.metrics import align_decision, align_proba
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.base import Errors, IncrementalUtility, PrefixErrors
from skdvl.utilities.incremental.class_scores import predict_from_difference, predict_from_scores
from skdvl.utilities.incremental.conjugate import ConjugateSoftmaxSlots
from skdvl.utilities.incremental.newton import BinarySlots, approach
from skdvl.utilities.incremental.optima import Floats, Slots, Tracks, gram_inverses, matmul_by_row
from skdvl.utilities.incremental.penalties import FixedPenalty, Penalty, ScaledPenalty
from skdvl.utilities.incremental.softmax import NewtonSoftmaxSlots

__all__ = ["LogisticUtility"]

_MAX_COLUMNS = 100  # beyond, an inverse Hessian costs as much as lbfgs
_MAX_NUMBERS = 3 * 10**5  # rows times columns (times classes), likewise
_MAX_DENSE = 80  # coefficients of all classes up to which their Hessian is inverted
_MAX_CONDITION = 1e11  # beyond, rounding errors show in the sixth digit
_TRACK_STEPS = 6  # prefixes that are solved one after the other; fewer fill slots with few orders
_CELLS = 2**20  # numbers in a working array: 8 MB


class _Problem(NamedTuple):
    """Scaled rows, with a column of ones for an intercept, and the penalties of the columns."""

    Z: Floats
    Z_val_t: Floats
    penalty: Penalty


class LogisticUtility(IncrementalUtility):
    """Utilities of `LogisticRegression` with an L2 penalty and the solver lbfgs.

    It may be the last step of a pipeline whose first step is a `StandardScaler`.

    The coefficients are those of the exact optimum, to 1e-7 in relative terms, while lbfgs stops
    at ``tol``. Hence only ``tol <= 1e-4`` and ``max_iter >= 100`` are served, where the user can
    be taken to mean the optimum.
    """

    engine = "logistic (exact optimum)"
    serves = ("LogisticRegression",)
    responses = ("predict", "predict_proba", "decision_function")
    tie = 1e-5
    block_size = 1024
    pads_blocks = False
    has_cheap_prefixes = True
    evals_per_chunk = 4096  # forty orders of a hundred rows: numpy's overhead is shared by slots

    def __init__(self, estimator: Any, fold: Fold, judge: Judge, fallback: Any) -> None:
        super().__init__(estimator, fold, judge, fallback)
        assert fold.classes is not None
        self.scaler, self.model = _parts(estimator)
        self._refusals: dict[bytes, str] = {}  # what scikit-learn says of sets of one class
        self.n_classes = len(fold.classes)
        self.is_binary = self.n_classes == 2
        self.class_weight = _class_weights(self.model.class_weight, fold.classes)

    @classmethod
    def examples(cls) -> list[Any]:
        """Return estimators that cover the parameters the engine serves."""
        return [
            LogisticRegression(),
            LogisticRegression(C=0.01, fit_intercept=False),
            LogisticRegression(C=100, class_weight="balanced"),
            make_pipeline(StandardScaler(), LogisticRegression()),
            make_pipeline(StandardScaler(with_mean=False), LogisticRegression(C=10)),
        ]

    @classmethod
    def reference(cls, estimator: Any) -> Any:
        """Return the estimator, asked for a closer approach to the optimum."""
        estimator = clone(estimator)
        _parts(estimator)[1].set_params(tol=1e-9, max_iter=100_000)
        return estimator

    @classmethod
    def closeness(cls, X: NDArray[np.float64]) -> float:
        """Return how far a score may be off; lbfgs itself gives no more digits."""
        return 1e-6

    @classmethod
    def is_family(cls, estimator: Any) -> bool:
        """Tell whether it is a logistic regression, perhaps after a scaler."""
        return super().is_family(_parts(estimator)[1])

    @classmethod
    def why_not(cls, estimator: Any, fold: Fold, judge: Judge) -> str | None:
        """Return why the engine would not give the utilities of refitting, None if it would."""
        scaler, model = _parts(estimator)
        reason = super().why_not(estimator, fold, judge) or _why_not_parameters(model)
        if reason is not None:
            return reason
        if scaler is not None and not model.fit_intercept:
            return "without an intercept, centring by the scaler matters"
        assert fold.classes is not None
        weights = _class_weights(model.class_weight, fold.classes)
        if weights is None or (not isinstance(weights, str) and not (weights > 0).all()):
            return "class_weight does not give each class a positive weight"
        if len(fold.classes) < 2:
            return "there is one class only"
        X = np.asarray(fold.X, dtype=np.float64)
        if X.shape[1] > _MAX_COLUMNS:
            return f"refitting is faster with more than {_MAX_COLUMNS} columns"
        n_outputs = 1 if len(fold.classes) == 2 else len(fold.classes)
        if X.size * n_outputs > _MAX_NUMBERS:
            return "refitting is faster with so many rows, columns and classes"
        largest = 1.0 if isinstance(weights, str) else float(weights.max())
        if not _scales(scaler):
            largest *= float(np.max(_spread(X, model.fit_intercept)[1], initial=0) ** 2)
        if largest * model.C * len(X) > _MAX_CONDITION:
            return "the penalty is so weak for the scale of the columns that rounding would show"
        return None

    @cached_property
    def _problem(self) -> _Problem:
        has_intercept = self.model.fit_intercept
        centre, scale = _spread(self.X, has_intercept)
        divisor = np.where(scale > 0, scale, 1)
        Z, Z_val = (self.X - centre) / divisor, (self.X_val - centre) / divisor
        Z[:, scale == 0] = 0
        weights = np.full(len(scale), 1 / self.model.C)
        if not _scales(self.scaler):
            weights /= divisor**2
        if has_intercept:
            Z, Z_val = (np.column_stack([data, np.ones(len(data))]) for data in (Z, Z_val))
            weights, centre, divisor = (
                np.append(column, value)
                for column, value in ((weights, 0), (centre, 0), (divisor, 1))
            )
        penalty: Penalty = FixedPenalty(weights)
        if _scales(self.scaler):
            penalty = ScaledPenalty(weights, Z, centre, divisor)
        return _Problem(np.ascontiguousarray(Z), np.ascontiguousarray(Z_val.T), penalty)

    def __getstate__(self) -> dict[str, Any]:
        derived = ("_problem", "_shared_inverses")
        return {key: value for key, value in self.__dict__.items() if key not in derived}

    @cached_property
    def _anchors(self) -> Floats:
        """Optima of all rows, each at twice the penalty of the one before, by level.

        A set of half the rows is about as much swayed by the penalty as all rows are by twice of
        it; sets are started from there.
        """
        Z, _, penalty = self._problem
        everyone = self._tracks_of_sets(np.ones((1, len(Z)), dtype=bool))
        n_outputs = 1 if self.is_binary else self.n_classes
        anchors = np.zeros((_level(1, len(Z)) + 1, n_outputs * Z.shape[1]))
        last = anchors[:1]
        for level, anchor in enumerate(anchors):
            optimum = self._solve(everyone, last, penalty.times(2.0**level))[:, 0]
            if np.isfinite(optimum).all():
                anchor[:] = last = optimum
        return anchors

    @cached_property
    def _shared_inverses(self) -> Floats:
        """Inverse Hessians at the anchors, (n_levels, q, q), of as many rows as sets there have."""
        Z, _, penalty = self._problem
        everyone = self._tracks_of_sets(np.ones((1, len(Z)), dtype=bool))
        weights = everyone.weights(np.zeros(1, dtype=np.intp), np.zeros(1, dtype=np.intp))
        proba = expit(self._anchors @ Z.T)
        curvatures = weights * proba * (1 - proba) * 0.5 ** np.arange(len(proba))[:, np.newaxis]
        penalties = np.broadcast_to(penalty.of_sets(weights), self._anchors.shape)
        return gram_inverses(Z, curvatures, penalties)

    def _starts(self, tracks: Tracks, steps: NDArray[np.intp]) -> Floats:
        """Return where each track's set of some step is started from."""
        each = np.arange(len(steps))
        sizes = tracks.members(each, steps).sum(axis=1)
        level = _level(np.maximum(sizes, 1), len(self.X))
        starts = self._anchors[level]
        if not self.is_binary:
            return starts
        Z, _, penalty = self._problem
        weights = tracks.weights(each, steps)
        penalties = penalty.of_sets(weights)
        targets = self.fold.codes.astype(np.float64)
        return approach(starts, weights, penalties, level, self._shared_inverses, Z, targets)

    def _tracks_of_sets(self, rows: NDArray[np.bool_]) -> Tracks:
        return Tracks.of_sets(rows, self.fold.codes, self.n_classes, self.class_weight)

    def _solve(self, tracks: Tracks, starts: Floats, penalty: Penalty) -> Floats:
        """Return the optima, shape (n_tracks, n_steps, n_coefs), NaN where there is none."""
        Z = self._problem.Z
        n_outputs = 1 if self.is_binary else self.n_classes
        n_coefs = n_outputs * Z.shape[1]
        solver: Callable[..., Slots] = BinarySlots
        if not self.is_binary:
            solver = NewtonSoftmaxSlots if n_coefs <= _MAX_DENSE else ConjugateSoftmaxSlots
        n_slots = max(4, min(64, _CELLS // (4 * n_outputs * len(Z))))
        return solver(tracks, starts, Z, penalty, n_slots).solve()

    def _predict(self, rows: NDArray[np.bool_], response: str) -> tuple[NDArray[Any], Errors]:
        tracks = self._tracks_of_sets(rows)
        starts = self._starts(tracks, np.zeros(len(rows), dtype=np.intp))
        optima = self._solve(tracks, starts, self._problem.penalty)
        return self._predict_at(optima[:, 0], rows, response)

    def _score_prefixes(
        self, orders: NDArray[np.intp], sizes: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], PrefixErrors]:
        scores = np.empty(sizes.shape)
        errors: PrefixErrors = {}
        n_rows, n_columns = self._problem.Z.shape
        n_optima = sizes.shape[1] * self.n_classes * n_columns
        # before the slots take them, all tracks are started at once, in half a dozen arrays
        n_started = 6 * max(1, sizes.shape[1] // _TRACK_STEPS) * n_rows
        together = max(1, 8 * _CELLS // max(n_optima, n_started))
        for start in range(0, len(orders), together):
            block = slice(start, start + together)
            positions = np.argsort(orders[block], axis=1)
            optima = self._solve_prefixes(positions, sizes[block])
            for j in range(len(optima)):
                at = start + j
                scores[at], failed = self._score_track(positions[j], sizes[at], optima[j])
                errors.update({(at, k): error for k, error in failed.items()})
        return scores, errors

    def _solve_prefixes(self, positions: NDArray[np.intp], sizes: NDArray[np.intp]) -> Floats:
        """Return the optima of prefixes, each order in parts, so that few orders fill the slots."""
        n_orders, n_sizes = sizes.shape
        n_parts = max(1, n_sizes // _TRACK_STEPS)
        length = -(-n_sizes // n_parts)
        padded = np.pad(sizes, ((0, 0), (0, n_parts * length - n_sizes)), mode="edge")
        tracks = Tracks(
            np.repeat(positions, n_parts, axis=0),
            padded.reshape(-1, length),
            self.fold.codes,
            self.n_classes,
            self.class_weight,
        )
        begun = np.minimum(tracks.first, length - 1)
        optima = self._solve(tracks, self._starts(tracks, begun), self._problem.penalty)
        return optima.reshape(n_orders, n_parts * length, -1)[:, :n_sizes]

    def _score_track(
        self, positions: NDArray[np.intp], sizes: NDArray[np.intp], optima: Floats
    ) -> tuple[NDArray[np.float64], Errors]:
        scores = np.empty(len(optima))
        errors: Errors = {}
        together = max(1, _CELLS // (self.n_classes * len(self.X_val)))
        for start in range(0, len(optima), together):
            steps = slice(start, start + together)
            rows = positions < sizes[steps, np.newaxis]
            predictions, failed = self._predict_at(optima[steps], rows, self.response)
            scores[steps] = self._judge(predictions, failed)
            errors.update({start + k: error for k, error in failed.items()})
        return scores, errors

    def _predict_at(
        self, optima: Floats, rows: NDArray[np.bool_], response: str
    ) -> tuple[NDArray[Any], Errors]:
        """Predict with the models that have these coefficients, fitted on these rows."""
        is_present = rows @ np.eye(self.n_classes, dtype=bool)[self.fold.codes]
        predictions = self._respond(optima, is_present, response)
        errors: Errors = {}
        for j in np.flatnonzero(np.isnan(optima[:, 0])).tolist():
            present = is_present[j].tobytes()
            if present in self._refusals:
                errors[j] = self._refusals[present]
                continue
            try:
                predictions[j] = self._refit(rows[j], response)
            except MemoryError:
                raise
            except Exception as error:
                errors[j] = f"{type(error).__name__}: {error}"
                if is_present[j].sum() == 1:
                    self._refusals[present] = errors[j]
        return predictions, errors

    def _respond(
        self, optima: Floats, is_present: NDArray[np.bool_], response: str
    ) -> NDArray[Any]:
        Z_val_t = self._problem.Z_val_t
        if self.is_binary:
            return predict_from_difference(matmul_by_row(optima, Z_val_t), response)
        scores = matmul_by_row(optima.reshape(-1, len(Z_val_t)), Z_val_t)
        scores = scores.reshape(len(optima), self.n_classes, -1)
        if response == "decision_function":
            scores[is_present.sum(axis=1) == 2] *= 2
            scores[~is_present] = -np.finfo(np.float64).max
            return np.ascontiguousarray(np.moveaxis(scores, 1, 2))
        scores[~is_present] = -np.inf
        return predict_from_scores(iter(np.moveaxis(scores, 1, 0)), self.n_classes, response)

    def _refit(self, rows: NDArray[np.bool_], response: str) -> NDArray[Any]:
        """Predict as scikit-learn does, for the set that it refuses or that is not solved."""
        classes = self.fold.classes
        assert classes is not None
        model = clone(self.estimator).fit(self.X[rows], self.fold.y[rows])
        if response == "predict":
            return np.searchsorted(classes, model.predict(self.X_val))
        align = align_proba if response == "predict_proba" else align_decision
        return align(getattr(model, response)(self.X_val), model.classes_, classes)


def _level(sizes: Any, n_rows: int) -> Any:
    """Return how often, about, all rows are to be halved to leave sets of some size."""
    return np.rint(np.log2(n_rows / np.asarray(sizes))).astype(np.intp)


def _parts(estimator: Any) -> tuple[Any, Any]:
    """Return scaler, or None, and model; a pipeline of other steps is returned as the model."""
    if type(estimator) is not Pipeline:
        return None, estimator
    steps = [step for _, step in estimator.steps if step not in (None, "passthrough")]
    if len(steps) == 2 and type(steps[0]) is StandardScaler:
        return steps[0], steps[1]
    return None, estimator


def _scales(scaler: Any) -> bool:
    """Tell whether columns are scaled; centring alone does the intercept's work."""
    return scaler is not None and scaler.with_std


def _why_not_parameters(estimator: Any) -> str | None:
    # Before scikit-learn 1.8 the penalty is "l2" by default; from then on "deprecated", which
    # leaves the choice to l1_ratio and C; at last it will be gone.
    if getattr(estimator, "penalty", "l2") not in ("l2", "deprecated"):
        return f"the penalty is {estimator.penalty!r}"
    if getattr(estimator, "l1_ratio", None) not in (None, 0):
        return f"l1_ratio is {estimator.l1_ratio!r}"
    if getattr(estimator, "multi_class", "auto") not in ("auto", "deprecated"):
        return f"multi_class is {estimator.multi_class!r}"
    if not 0 < estimator.C < np.inf:
        return f"C is {estimator.C!r}"
    if estimator.solver != "lbfgs" or estimator.dual:
        return f"the solver is {estimator.solver!r}"
    if not estimator.tol <= 1e-4 or not estimator.max_iter >= 100:
        return "tol > 1e-4 or max_iter < 100: the optimum is not asked for"
    return None


def _class_weights(class_weight: Any, classes: NDArray[Any]) -> Any:
    """Return the weights by class, or "balanced"; None where scikit-learn may refuse them."""
    if class_weight is None:
        return np.ones(len(classes))
    if isinstance(class_weight, str):
        return class_weight
    labels = classes.tolist()
    if not all(label in class_weight for label in labels):
        return None
    return np.array([class_weight[label] for label in labels], dtype=np.float64)


def _spread(X: Floats, has_intercept: bool) -> tuple[Floats, Floats]:
    """Return centre and spread of the columns; the spread of constant ones is 0 if centred."""
    if not has_intercept:
        return np.zeros(X.shape[1]), np.sqrt(np.mean(X * X, axis=0))
    return X.mean(axis=0), np.where(np.ptp(X, axis=0) > 0, X.std(axis=0), 0)
