"""Rounds whose tasks are known beforehand go out together: no worker waits at their ends."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from skdvl.estimation.games import GameInPlay, Task
from skdvl.sampling.base import SamplingScheme
from skdvl.sampling.log import Entry, EvaluationLog
from skdvl.semivalues import Semivalue

__all__ = ["Evaluate", "LookAhead"]

Evaluate = Callable[..., Generator[NDArray[np.float64]]]


class LookAhead:
    """Evaluates tasks, those of later rounds too while the first are on their way.

    Tasks and their order are those of one round after the other, and so is what is logged.

    Parameters
    ----------
    evaluate : callable
        Called with tasks, and the numbers of those that begin a round; yields the utilities of
        tasks, in their order.
    games : sequence of GameInPlay
    scheme : SamplingScheme
    target : Semivalue
    """

    def __init__(
        self,
        evaluate: Evaluate,
        games: Sequence[GameInPlay],
        scheme: SamplingScheme,
        target: Semivalue,
    ) -> None:
        self._evaluate = evaluate
        self._games = games
        self._scheme = scheme
        self._target = target
        self._foreseen: deque[Task] = deque()
        self._results: Generator[NDArray[np.float64]] | None = None

    def __enter__(self) -> LookAhead:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._results is not None:
            self._results.close()

    def __call__(self, tasks: Sequence[Task]) -> Generator[NDArray[np.float64]]:
        """Yield the utilities of tasks, in their order."""
        if self._results is None:
            rounds = self._foresee()
            self._foreseen.extend(itertools.chain.from_iterable(rounds))
            borders = list(itertools.accumulate(len(tasks) for tasks in rounds))
            self._results = self._evaluate(list(self._foreseen), borders)
        for task in tasks:
            if _key(task) != _key(self._foreseen.popleft()):
                raise RuntimeError(
                    f"{type(self._scheme).__name__} says that it is foreseeable, but {task} was "
                    "not foreseen"
                )
            utilities = next(self._results)
            if not self._foreseen:
                next(self._results, None)  # lets it end in peace
            yield utilities

    def _foresee(self) -> list[list[Task]]:
        """Play the rounds that the budget allows, without utilities; return their tasks."""
        games = [replace(game, log=_outline(game.log)) for game in self._games]
        rounds: list[list[Task]] = []
        while tasks := [
            task for game in games for task in game.next_tasks(self._scheme, self._target)
        ]:
            rounds.append(tasks)
            for task in tasks:
                games[task.fold].pass_over(task, self._scheme)
        return rounds


def _outline(log: EvaluationLog) -> EvaluationLog:
    outline = EvaluationLog(log.entropy, log.fold, log.n_players)
    outline.rounds = [
        [Entry(entry.chunk, entry.n_done) for entry in entries] for entries in log.rounds
    ]
    return outline


def _key(task: Task) -> tuple[int, int, int, int]:
    return task.fold, task.chunk.index, task.first, task.n_draws
