"""How well the members of an ensemble predict the rows that were not in their bootstrap sample."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skdvl.parallel import TaskRunner

__all__ = ["OutOfBag", "RowMoments", "check_row_score", "rows_for", "score_out_of_bag"]

Array = NDArray[np.float64]
RowScore = Callable[[NDArray, NDArray], NDArray]

_MEMBERS_PER_TASK = 16  # fixed, because moments are taken within tasks before they are merged


def _is_right(y: NDArray, predicted: NDArray) -> NDArray:
    return y == predicted


def _negative_squared_error(y: NDArray, predicted: NDArray) -> NDArray:
    return -((y - predicted) ** 2)


def _negative_absolute_error(y: NDArray, predicted: NDArray) -> NDArray:
    return -np.abs(y - predicted)


_TRUE_CLASS_PROBABILITY = "true_class_probability"
_LABEL_SCORES: dict[str, RowScore | str] = {
    "accuracy": _is_right,
    _TRUE_CLASS_PROBABILITY: _TRUE_CLASS_PROBABILITY,
}
_NUMBER_SCORES: dict[str, RowScore | str] = {
    "neg_mean_squared_error": _negative_squared_error,
    "neg_mean_absolute_error": _negative_absolute_error,
}


def check_row_score(scoring: str | RowScore | None, *, is_classifier: bool) -> RowScore | str:
    """Return the function that scores rows one by one.

    Parameters
    ----------
    scoring : str, callable or None
        None: accuracy, or the negative squared error. A callable takes targets and predictions
        and returns one score a row.
    is_classifier : bool

    Returns
    -------
    callable or "true_class_probability"
        The latter needs more than predictions.

    Raises
    ------
    ValueError
        If the name is not that of a mean over rows.
    """
    if callable(scoring):
        return scoring
    scores = _LABEL_SCORES if is_classifier else _NUMBER_SCORES
    if scoring is None:
        return next(iter(scores.values()))
    if scoring not in scores:
        kind = "a classifier" if is_classifier else "a regressor"
        names = ", ".join(repr(name) for name in scores)
        raise ValueError(
            f"scoring={scoring!r} does not score the rows of {kind} one by one; use one of "
            f"{names}, or a function of targets and predictions that returns one score per row."
        )
    return scores[scoring]


@dataclass
class RowMoments:
    """Number, mean and sum of squared deviations of each row's scores.

    Attributes
    ----------
    count, mean, deviation : ndarray of shape (n_rows,)
    """

    count: Array
    mean: Array
    deviation: Array

    @classmethod
    def of(cls, scores: Array, is_there: NDArray[np.bool_]) -> "RowMoments":
        """Take the moments of scores of shape (n_members, n_rows), 0 where there is none."""
        count = is_there.sum(axis=0).astype(np.float64)
        mean = scores.sum(axis=0) / np.maximum(count, 1)
        difference = scores - mean
        difference *= is_there
        return cls(count, mean, np.einsum("ij,ij->j", difference, difference))

    def merge(self, other: "RowMoments") -> None:
        """Add the scores that ``other`` describes; without cancellation (Chan et al., 1979)."""
        count = self.count + other.count
        shift = other.mean - self.mean
        share = other.count / np.maximum(count, 1)
        self.deviation += other.deviation + shift**2 * self.count * share
        self.mean += shift * share
        self.count = count

    def means(self) -> Array:
        """Return the mean of each row; NaN where it has no score."""
        return np.where(self.count > 0, self.mean, np.nan)

    def standard_errors(self) -> Array:
        """Return the standard error of each mean; NaN where there are fewer than two scores."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.sqrt(self.deviation / (self.count - 1) / self.count)


@dataclass(frozen=True)
class OutOfBag:
    """A fitted ensemble and what it was fitted on.

    Attributes
    ----------
    members : list of fitted estimators
        Classifiers that predict codes, as those of scikit-learn's ensembles do, or regressors.
    samples : list of ndarray of int
        The rows that each member was fitted on.
    features : list of ndarray of int, or None
        The columns that each member was fitted on; None: all.
    X : ndarray or sparse matrix of shape (n_rows, n_features)
    y : ndarray of shape (n_rows,)
        Numbers, or labels.
    classes : ndarray of shape (n_classes,) or None
        The labels that codes stand for; None for regressors.
    score : callable or "true_class_probability"
        As `check_row_score` returns it.
    """

    members: list[Any]
    samples: list[NDArray[np.intp]]
    features: list[NDArray[np.intp]] | None
    X: Any
    y: NDArray
    classes: NDArray | None
    score: RowScore | str

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.y)


def rows_for(members: list[Any], X: Any) -> Any:
    """Return X in the form in which rows are taken out of it and passed to members.

    Trees compare in single precision, so that rows for them are rounded once instead of at each
    call.
    """
    if hasattr(X, "tocsr"):
        return X.tocsr()
    X = np.asarray(X)
    rounded = X.astype(np.float32) if X.dtype.kind in "biuf" else X
    return rounded if all(_is_plain_tree(member, rounded) for member in members) else X


def score_out_of_bag(problem: OutOfBag, n_jobs: int | None = None) -> RowMoments:
    """Score each row by the members that were not fitted on it.

    Parameters
    ----------
    problem : OutOfBag
    n_jobs : int or None, default=None
        As in joblib. The result is the same to the bit.

    Returns
    -------
    RowMoments
    """
    numbers = np.arange(len(problem.members))
    tasks = [numbers[i : i + _MEMBERS_PER_TASK] for i in range(0, len(numbers), _MEMBERS_PER_TASK)]
    moments = RowMoments(*np.zeros((3, problem.n_rows)))
    with TaskRunner(_score_members, problem, n_jobs=n_jobs) as runner:
        for task_moments in runner.run(tasks):
            moments.merge(task_moments)
    return moments


def _score_members(problem: OutOfBag, numbers: NDArray[np.intp]) -> RowMoments:
    scores = np.zeros((len(numbers), problem.n_rows))
    is_out = np.ones(scores.shape, dtype=bool)
    for i, number in enumerate(numbers):
        is_out[i, problem.samples[number]] = False
        rows = np.flatnonzero(is_out[i])
        if len(rows):
            scores[i, rows] = _score_rows(problem, number, rows)
    return RowMoments.of(scores, is_out)


def _score_rows(problem: OutOfBag, number: int, rows: NDArray[np.intp]) -> Array:
    """Score the rows that one member was not fitted on."""
    member = problem.members[number]
    X = problem.X[rows]
    if problem.features is not None:
        X = X[:, problem.features[number]]
    y = problem.y[rows]
    if problem.classes is not None and problem.score == _TRUE_CLASS_PROBABILITY:
        return _probability_of(np.searchsorted(problem.classes, y), member, X)
    predicted = _predict(member, X)
    if problem.classes is not None:
        predicted = problem.classes[predicted.astype(np.intp)]
    assert callable(problem.score)
    scores = np.asarray(problem.score(y, predicted), dtype=np.float64)
    if scores.shape != rows.shape or not np.isfinite(scores).all():
        raise ValueError(
            f"scoring must give one finite score per row; for {len(rows)} rows it gave an array "
            f"of shape {scores.shape}{' with NaN or infinity' if scores.shape else ''}."
        )
    return scores


def _predict(member: Any, X: Any) -> NDArray:
    """Return what a member predicts: a number, or the code of a label."""
    if not _is_plain_tree(member, X):
        return member.predict(X)
    leaf_values = member.tree_.value[:, 0, :]
    if isinstance(member, DecisionTreeClassifier):
        by_leaf = member.classes_[leaf_values.argmax(axis=1)]
    else:
        by_leaf = leaf_values[:, 0]
    return by_leaf[member.tree_.apply(X)]


def _probability_of(codes: NDArray[np.intp], member: Any, X: Any) -> Array:
    """Return the predicted probability of each row's own class, 0 if the member never saw it."""
    if _is_plain_tree(member, X):
        proba = member.tree_.value[:, 0, :][member.tree_.apply(X)]
    else:
        proba = member.predict_proba(X)
    column = np.searchsorted(member.classes_, codes)
    column[column == len(member.classes_)] = 0
    is_known = member.classes_[column] == codes
    return np.where(is_known, proba[np.arange(len(codes)), column], 0.0)


def _is_plain_tree(member: Any, X: Any) -> bool:
    """Tell whether a member's leaves can be read directly, from rows as trees hold them.

    That saves the checks that a tree makes at each call, which take as long as the descent of 700
    rows.
    """
    predict = getattr(type(member), "predict", None)
    is_tree = predict in (DecisionTreeClassifier.predict, DecisionTreeRegressor.predict)
    return is_tree and not issparse(X) and X.dtype == np.float32
