"""The games of a valuation while they are played: utility, log, budget."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skdvl.caching import CacheInfo
from skdvl.sampling.base import Estimate, Game, SamplingScheme
from skdvl.sampling.log import Chunk, Entry, EvaluationLog
from skdvl.semivalues import Semivalue
from skdvl.utilities.base import Utility
from skdvl.utilities.cached import CachedUtility
from skdvl.utilities.record import EvaluationRecord, recording

__all__ = [
    "GameInPlay",
    "SharedWork",
    "Task",
    "combine",
    "evaluate_task",
    "open_game",
    "this_process",
]

_TOKEN = uuid.uuid4().hex


@dataclass(frozen=True, eq=False)
class Task:
    """Draws of a chunk to be evaluated.

    Attributes
    ----------
    fold : int
        Number of the game.
    chunk : Chunk
    first, n_draws : int
        The range of draws.
    """

    fold: int
    chunk: Chunk
    first: int
    n_draws: int

    def __str__(self) -> str:
        return f"chunk {self.chunk.index} of fold {self.fold}"


@dataclass
class GameInPlay:
    """One of the games that are played together.

    Attributes
    ----------
    utility : Utility
    game : Game
    log : EvaluationLog
    budget : int
        Evaluations that may be spent, with those of ∅ and N.
    players : ndarray of int, shape (game.n_players,)
        Where the game's players stand among all players.
    n_evals : int
        Evaluations spent.
    """

    utility: Utility
    game: Game
    log: EvaluationLog
    budget: int
    players: NDArray[np.intp]
    n_evals: int = 2

    def next_tasks(self, scheme: SamplingScheme, target: Semivalue) -> list[Task]:
        """Return what the budget allows of the current round; plan one if the last is complete."""
        cost = scheme.cost_per_draw(self.game.n_players)
        affordable = (self.budget - self.n_evals) // cost
        if affordable < 1:
            return []
        if self.log.is_round_complete:
            chunks = scheme.plan(self.game, target, self.log)
            if not chunks:
                return []
            self.log.begin_round(chunks)
        tasks = []
        for entry in self.log.rounds[-1]:
            n_draws = min(entry.chunk.n_draws - entry.n_done, affordable)
            if n_draws:
                tasks.append(Task(self.log.fold, entry.chunk, entry.n_done, n_draws))
                affordable -= n_draws
        return tasks

    def add(self, task: Task, utilities: NDArray[np.float64]) -> None:
        """Log the utilities of a task."""
        entry = self._entry(task.chunk)
        entry.append(task.n_draws, utilities)
        self.n_evals += utilities.size - int(np.isnan(utilities).sum())

    def _entry(self, chunk: Chunk) -> Entry:
        entries = self.log.rounds[-1]
        return entries[chunk.index - entries[0].chunk.index]


def open_game(
    utility: Utility, fold: int, entropy: int, budget: int, players: NDArray[np.intp]
) -> GameInPlay:
    """Evaluate u(∅) and u(N) and open an empty log."""
    n_players = utility.n_players
    ends = np.zeros((2, n_players), dtype=bool)
    ends[1] = True
    empty, full = utility(ends)
    game = Game(
        n_players, float(empty), float(full), utility.evals_per_chunk, utility.has_cheap_prefixes
    )
    return GameInPlay(utility, game, EvaluationLog(entropy, fold, n_players), budget, players)


def combine(
    estimates: Sequence[Estimate], players: Sequence[NDArray[np.intp]], n_players: int
) -> Estimate:
    r"""Combine the estimates of K games that are averaged.

    The utility of a valuation is the mean of its games' utilities, and a player is a null player
    where it does not play: values are (1/K) · sum of the games' values, standard errors
    (1/K) · sqrt(sum of squares). Degrees of freedom by Satterthwaite's formula.

    Returns
    -------
    Estimate
        NaN for players that play in no game.
    """
    n_games = len(estimates)
    values, variances = np.zeros(n_players), np.zeros(n_players)
    spread = np.zeros(n_players)
    plays = np.zeros(n_players, dtype=bool)
    for estimate, mine in zip(estimates, players, strict=True):
        values[mine] += estimate.values / n_games
        part = (estimate.standard_errors / n_games) ** 2
        variances[mine] += part
        spread[mine] += part**2 / estimate.degrees_of_freedom
        plays[mine] = True
    values[~plays] = variances[~plays] = np.nan
    known = plays & (spread > 0)
    freedom = float(np.min(variances[known] ** 2 / spread[known])) if known.any() else np.inf
    caveats = [e.interval_caveat for e in estimates if e.interval_caveat is not None]
    return Estimate(values, np.sqrt(variances), freedom, caveats[0] if caveats else None)


@dataclass(frozen=True)
class SharedWork:
    """What all tasks of a valuation share; it reaches each worker once.

    Attributes
    ----------
    utilities : sequence of Utility
    games : sequence of Game
    scheme : SamplingScheme
    entropy : int
    home : tuple
        The process that waits for the results.
    """

    utilities: Sequence[Utility]
    games: Sequence[Game]
    scheme: SamplingScheme
    entropy: int
    home: tuple[str, int]


def this_process() -> tuple[str, int]:
    """Return what tells this process from all others, forks and other machines included."""
    return _TOKEN, os.getpid()


def evaluate_task(shared: SharedWork, task: Task) -> tuple[NDArray[np.float64], EvaluationRecord]:
    """Draw a task's coalitions and evaluate them; runs in a worker."""
    game, utility = shared.games[task.fold], shared.utilities[task.fold]
    rows_per_draw = shared.scheme.rows_per_draw
    draws = shared.scheme.draw(game.n_players, task.chunk, task.chunk.rng(shared.entropy))
    start, stop = task.first, task.first + task.n_draws
    cache = utility.cache if isinstance(utility, CachedUtility) else None
    before = cache.info() if cache is not None else CacheInfo()
    with recording() as record:
        found = shared.scheme.evaluate(
            draws[start * rows_per_draw : stop * rows_per_draw], utility, game
        )
    if cache is not None:
        if shared.home == this_process():
            record.cached.clear()  # they are in the very cache that they would be added to
        else:
            record.cache = cache.info() - before
            if not cache.shared_between_processes:
                record.cache = replace(record.cache, sets=0)  # counted where they are kept
    return found, record
