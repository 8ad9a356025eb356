"""Values of training rows for the K-nearest-neighbour prediction of others."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skdvl.parallel import TaskRunner
from skdvl.valuators.neighbor_games import SquaredErrorGame, VoteGame
from skdvl.valuators.neighbor_order import Distances

__all__ = ["NeighborProblem", "value_neighbors"]

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
Rows = NDArray[np.intp]
Weights = str | Callable[[Array], Array]

_ROWS_PER_TASK = 128  # fixed, because sums are taken within tasks before they are taken over tasks


@dataclass(frozen=True)
class NeighborProblem:
    """What is predicted, from what, and how neighbours are weighed.

    Attributes
    ----------
    distances : Distances
        From the rows that are predicted to the training rows.
    targets : ndarray of shape (n_train,)
        Numbers, or codes of labels.
    wanted : ndarray of shape (n_rows,)
        The same for the rows that are predicted.
    missing : ndarray of shape (n_rows,) or None
        What a neighbour that is missing is taken to say; None where targets are labels.
    n_neighbors : int
    weights : "uniform", "distance" or callable
    """

    distances: Distances
    targets: NDArray
    wanted: NDArray
    missing: Array | None
    n_neighbors: int
    weights: Weights

    @property
    def n_players(self) -> int:
        """Number of training rows that take part in one prediction."""
        return self.distances.n_train - self.distances.leave_one_out

    @property
    def empty_score(self) -> float:
        """Mean utility of the empty coalition."""
        return 0.0 if self.missing is None else -float(np.mean((self.missing - self.wanted) ** 2))


def value_neighbors(problem: NeighborProblem, n_jobs: int | None = None) -> tuple[Array, float]:
    """Return the value of each training row and the utility of all, means over predicted rows.

    Parameters
    ----------
    problem : NeighborProblem
    n_jobs : int or None, default=None
        As in joblib. The result is the same to the bit.

    Returns
    -------
    values : ndarray of shape (n_train,)
    score : float
    """
    n_rows = len(problem.wanted)
    # rows of the same label follow each other: what depends on the label is computed once for them
    rows = np.arange(n_rows) if problem.missing is not None else _sorted_by(problem.wanted)
    tasks = [rows[start : start + _ROWS_PER_TASK] for start in range(0, n_rows, _ROWS_PER_TASK)]
    values = np.zeros(problem.distances.n_train)
    score = 0.0
    with TaskRunner(_value_rows, problem, n_jobs=n_jobs) as runner:
        for task_values, task_score in runner.run(tasks):
            values += task_values
            score += task_score
    return values / n_rows, score / n_rows


def _sorted_by(labels: NDArray) -> Rows:
    return np.argsort(labels, kind="stable")


def _value_rows(problem: NeighborProblem, rows: Rows) -> tuple[Array, float]:
    """Return the sums over some predicted rows of the values and of the utilities of all."""
    n_train = problem.distances.n_train
    votes = _votes_for(problem)
    by_code = np.zeros(2 * n_train)
    score = 0.0
    for here, codes, distances in problem.distances.sorted_codes(rows, votes.codes_of):
        players = codes[:, : problem.n_players]
        values, scores = votes.value(here, players, distances)
        by_code += np.bincount(players.ravel(), values.ravel(), minlength=2 * n_train)
        score += float(scores.sum())
    return by_code.reshape(n_train, 2).sum(axis=1) * votes.unit, score


class _Votes(ABC):
    """What neighbours say, and what that is worth.

    Parameters
    ----------
    problem : NeighborProblem

    Attributes
    ----------
    unit : float
        What the values are multiples of.
    """

    unit = 1.0

    def __init__(self, problem: NeighborProblem) -> None:
        self.problem = problem
        self.codes = 2 * np.arange(problem.distances.n_train)

    def codes_of(self, row: int) -> Codes:
        """Return what travels with the training rows while they are sorted for one row."""
        return self.codes

    @abstractmethod
    def value(self, rows: Rows, codes: Codes, distances: Array | None) -> tuple[NDArray, Array]:
        """Return the values (b, n_players) of players in sorted order, and the scores (b,)."""


class _Labels(_Votes):
    """A neighbour votes 1 where its label is the right one."""

    unit = VoteGame.unit

    def __init__(self, problem: NeighborProblem) -> None:
        super().__init__(problem)
        self.game = VoteGame(problem.n_players, problem.n_neighbors)
        self.label: int | None = None

    def codes_of(self, row: int) -> Codes:
        label = self.problem.wanted[row]
        if label != self.label:
            self.label = label
            self.codes = self.codes & ~1 | (self.problem.targets == label)
        return self.codes

    def value(self, rows: Rows, codes: Codes, distances: Array | None) -> tuple[NDArray, Array]:
        near = codes[:, : self.problem.n_neighbors] & 1
        return self.game.values_of_bits(codes), self.game.scores(near)


class _WeightedLabels(_Votes):
    """A neighbour votes with its weight where its label is the right one."""

    def __init__(self, problem: NeighborProblem) -> None:
        super().__init__(problem)
        self.game = VoteGame(problem.n_players, problem.n_neighbors)

    def value(self, rows: Rows, codes: Codes, distances: Array | None) -> tuple[Array, Array]:
        is_right = self.problem.targets == self.problem.wanted[rows, np.newaxis]
        said = _weigh(self.problem.weights, distances) * is_right
        votes = np.take_along_axis(said, codes >> 1, axis=1)
        return self.game.values(votes), self.game.scores(votes)


class _Targets(_Votes):
    """A neighbour says its target, or less of it if its weight is below one."""

    def __init__(self, problem: NeighborProblem) -> None:
        super().__init__(problem)
        self.game = SquaredErrorGame(problem.n_players, problem.n_neighbors)

    def value(self, rows: Rows, codes: Codes, distances: Array | None) -> tuple[Array, Array]:
        assert self.problem.missing is not None
        missing = self.problem.missing[rows]
        said = self.problem.targets - missing[:, np.newaxis]
        if self.problem.weights != "uniform":
            said *= _weigh(self.problem.weights, distances)
        said = np.take_along_axis(said, codes >> 1, axis=1)
        wanted = self.problem.wanted[rows] - missing
        return self.game.values(said, wanted), self.game.scores(said, wanted)


def _votes_for(problem: NeighborProblem) -> _Votes:
    if problem.missing is not None:
        return _Targets(problem)
    return _Labels(problem) if problem.weights == "uniform" else _WeightedLabels(problem)


def _weigh(weights: Weights, distances: Array | None) -> Array:
    """Return the weight of each training row, in the order of the training rows."""
    assert distances is not None
    if not callable(weights):
        # relative to the nearest: inverse distances know no scale; at distance 0 only equals count
        nearest = distances.min(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(nearest > 0, nearest / distances, distances == 0)
    weighed = np.asarray(weights(distances), dtype=np.float64)
    if weighed.shape != distances.shape:
        raise ValueError(
            f"weights returned an array of shape {weighed.shape} for distances of shape "
            f"{distances.shape}."
        )
    weighed = np.where(np.isfinite(distances), weighed, 0)  # a row that predicts itself has no say
    if not np.isfinite(weighed).all():
        raise ValueError("weights returned a weight that is not a finite number.")
    return weighed
