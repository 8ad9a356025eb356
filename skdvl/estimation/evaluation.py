"""How tasks become utilities: sent to workers, drawn and evaluated there, brought home."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skdvl.caching import Cache, CacheInfo
from skdvl.estimation.games import Task
from skdvl.parallel import TaskRunner
from skdvl.sampling.base import Game, SamplingScheme
from skdvl.sampling.log import Draws
from skdvl.utilities.base import Utility
from skdvl.utilities.cached import CachedUtility
from skdvl.utilities.record import EvaluationRecord, recording

__all__ = ["Evaluator", "SharedWork", "evaluate_task", "traffic_since"]


@dataclass(frozen=True)
class SharedWork:
    """What all tasks of a valuation share; it reaches each worker once.

    Attributes
    ----------
    utilities : sequence of Utility
    games : sequence of Game
    scheme : SamplingScheme
    draws : sequence of Draws
        Those of the logs: what is drawn in this process for an evaluation is not drawn again
        when values are read out.
    """

    utilities: Sequence[Utility]
    games: Sequence[Game]
    scheme: SamplingScheme
    draws: Sequence[Draws]

    def __getstate__(self) -> dict[str, Any]:
        """Let other processes keep no draws: they read no values out."""
        return {**self.__dict__, "draws": [draws.not_kept() for draws in self.draws]}


def evaluate_task(shared: SharedWork, task: Task) -> tuple[NDArray[np.float64], EvaluationRecord]:
    """Draw a task's coalitions and evaluate them."""
    game, utility = shared.games[task.fold], shared.utilities[task.fold]
    rows_per_draw = shared.scheme.rows_per_draw
    draws = shared.draws[task.fold].of(shared.scheme, task.chunk)
    rows = slice(task.first * rows_per_draw, (task.first + task.n_draws) * rows_per_draw)
    with recording() as record:
        if not isinstance(utility, CachedUtility) or utility.is_at_home:
            return shared.scheme.evaluate(draws[rows], utility, game), record
        before = utility.cache.info()
        found = shared.scheme.evaluate(draws[rows], utility, game)
        traffic = traffic_since(before, utility.cache.info())
        if not utility.cache.shared_between_processes:
            traffic = replace(traffic, sets=0)  # they travel home, and are counted there
        record.cache += traffic
        return found, record


def traffic_since(before: CacheInfo, now: CacheInfo) -> CacheInfo:
    """Return what a cache did, but for hits and misses: records count those, fit by fit."""
    return replace(now - before, hits=0, misses=0)


class Evaluator:
    """Evaluates tasks on the workers that joblib gives.

    Nothing is sent anywhere before the first task: a run that was completed before needs no
    workers.

    Parameters
    ----------
    shared : SharedWork
    record : EvaluationRecord
        Takes up what happened beside the utilities.
    store : Cache or None
        Takes up the entries that came back from processes that do not share it.
    n_jobs : int or None
    """

    def __init__(
        self,
        shared: SharedWork,
        record: EvaluationRecord,
        store: Cache | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.shared = shared
        self.record = record
        self.store = store
        self.n_jobs = n_jobs
        self._stack = ExitStack()
        self._runner: TaskRunner[Task, tuple[NDArray[np.float64], EvaluationRecord]] | None = None

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def __call__(
        self, tasks: Sequence[Task], borders: Sequence[int] = ()
    ) -> Generator[NDArray[np.float64]]:
        """Yield the utilities of tasks, in their order; at a border a round begins."""
        if self._runner is None:
            runner = TaskRunner(evaluate_task, self.shared, n_jobs=self.n_jobs)
            self._runner = self._stack.enter_context(runner)
        with closing(self._runner.run(tasks, borders=borders)) as results:
            for utilities, happened in results:
                if self.store is not None and happened.cached:
                    self.store.set_many(happened.cached)
                    happened.cached.clear()
                self.record.add(happened)
                yield utilities
