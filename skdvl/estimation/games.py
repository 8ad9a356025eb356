"""The games of a valuation while they are played: what is known, what is to be evaluated next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skdvl.sampling.base import Estimate, Game, SamplingScheme
from skdvl.sampling.draw_table import whole_sizes
from skdvl.sampling.log import Chunk, Entry, EvaluationLog
from skdvl.semivalues import Semivalue
from skdvl.utilities.base import Utility

__all__ = ["GameInPlay", "Task", "combine", "open_game"]


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

    It does not hold the utility: results keep their games, and are to stay small.

    Attributes
    ----------
    game : Game
    log : EvaluationLog
    budget : int
        Evaluations that may be spent, with those of ∅ and N.
    players : ndarray of int, shape (game.n_players,)
        Where the game's players stand among all players.
    engine : str
        What computes the utilities.
    known : EvaluationLog or None
        What an earlier run evaluated of the same draws. It is read instead of evaluating again
        and changes nothing else: budgets, rounds and stopping rules take their course as if
        everything were computed now.
    n_evals : int
        Evaluations spent.
    """

    game: Game
    log: EvaluationLog
    budget: int
    players: NDArray[np.intp]
    engine: str
    known: EvaluationLog | None = None
    n_evals: int = 2

    @property
    def all_known(self) -> EvaluationLog:
        """Return what this run and an earlier one evaluated."""
        return self.log if self.known is None else self.log.joined_with(self.known)

    def next_tasks(self, scheme: SamplingScheme, target: Semivalue) -> list[Task]:
        """Return what the budget allows of the current round; plan one if the last is complete.

        Sizes are enumerated as far as the budget pays for whole ones, since of a size that is
        enumerated in part nothing is known; the rest of it goes to the draws of the round.
        """
        affordable = self.n_affordable(scheme)
        if affordable < 1:
            return []
        if self.log.is_round_complete:
            chunks = self._plan(scheme, target)
            if not chunks:
                return []
            self.log.begin_round(chunks)
        tasks = []
        entries = self.log.rounds[-1]
        enumerated = [(entry.chunk, entry.n_done) for entry in entries if entry.chunk.half < 0]
        n_to_enumerate = whole_sizes(self.game.n_players, enumerated, affordable)
        for position, entry in enumerate(entries):
            n_draws = min(entry.chunk.n_draws - entry.n_done, affordable)
            if entry.chunk.half < 0:
                n_draws = min(n_draws, n_to_enumerate)
                n_to_enumerate -= n_draws
            affordable -= n_draws
            first, stop = entry.n_done, entry.n_done + n_draws
            known = min(max(self._n_known(position), first), stop)
            for start, end in ((first, known), (known, stop)):
                if start < end:
                    tasks.append(Task(self.log.fold, entry.chunk, start, end - start))
        return tasks

    def n_affordable(self, scheme: SamplingScheme) -> int:
        """Return for how many more draws the budget pays, whatever they turn out to cost."""
        cost = scheme.cost_per_draw(self.game.n_players)
        spent = self.n_evals if scheme.spends_what_is_saved else 2 + self.log.n_draws * cost
        return (self.budget - spent) // cost

    def recall(self, task: Task, scheme: SamplingScheme) -> bool:
        """Log a task from what an earlier run evaluated; tell whether it was known."""
        position = self._position(task.chunk)
        stop = task.first + task.n_draws
        if self._n_known(position) < stop:
            return False
        assert self.known is not None
        utilities = self.known.rounds[len(self.log.rounds) - 1][position].utilities
        rows = slice(task.first * scheme.rows_per_draw, stop * scheme.rows_per_draw)
        self.add(task, utilities[rows])
        return True

    def add(self, task: Task, utilities: NDArray[np.float64]) -> None:
        """Log the utilities of a task."""
        entry: Entry = self.log.rounds[-1][self._position(task.chunk)]
        entry.append(task.n_draws, utilities)
        self.n_evals += utilities.size - int(np.isnan(utilities).sum())

    def pass_over(self, task: Task, scheme: SamplingScheme) -> None:
        """Count the draws of a task as done, without their utilities."""
        self.log.rounds[-1][self._position(task.chunk)].n_done += task.n_draws
        self.n_evals += task.n_draws * scheme.cost_per_draw(self.game.n_players)

    def settle(self) -> None:
        """Let go of an earlier run that tells no more than this one."""
        if self.all_known.n_draws == self.log.n_draws:
            self.known = None

    def _plan(self, scheme: SamplingScheme, target: Semivalue) -> Sequence[Chunk]:
        done = len(self.log.rounds)
        if self.known is not None and done < len(self.known.rounds):
            return [entry.chunk for entry in self.known.rounds[done]]
        return scheme.plan(self.game, target, self.log)

    def _n_known(self, position: int) -> int:
        """Return how many draws of a chunk of the current round an earlier run evaluated."""
        if self.known is None or len(self.known.rounds) < len(self.log.rounds):
            return 0
        return self.known.rounds[len(self.log.rounds) - 1][position].n_done

    def _position(self, chunk: Chunk) -> int:
        return chunk.index - self.log.rounds[-1][0].chunk.index


def open_game(
    utility: Utility,
    engine: str,
    budget: int,
    players: NDArray[np.intp],
    log: EvaluationLog,
    known: EvaluationLog | None,
) -> GameInPlay:
    """Evaluate u(∅) and u(N)."""
    n_players = utility.n_players
    ends = np.zeros((2, n_players), dtype=bool)
    ends[1] = True
    empty, full = utility(ends)
    game = Game(
        n_players, float(empty), float(full), utility.evals_per_chunk, utility.has_cheap_prefixes
    )
    return GameInPlay(game, log, budget, players, engine, known)


def combine(
    estimates: Sequence[Estimate], players: Sequence[NDArray[np.intp]], n_players: int
) -> Estimate:
    r"""Combine the estimates of K games that are averaged.

    The utility of a valuation is the mean of its games' utilities, and a player is a null player
    where it does not play: values are (1/K) · sum of the games' values, standard errors
    (1/K) · sqrt(sum of squares). Degrees of freedom by Satterthwaite's formula, the least of all
    players'.

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
    is_exact = all(estimate.is_exact for estimate in estimates)
    caveat = caveats[0] if caveats else None
    return Estimate(values, np.sqrt(variances), freedom, caveat, is_exact)
