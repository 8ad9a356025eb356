"""The loop of a valuation: plan a round, evaluate it, look whether it is enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from skdvl.estimation.games import GameInPlay, Task, combine
from skdvl.estimation.stopping import Snapshot, StoppingRule
from skdvl.sampling.base import Estimate, SamplingScheme
from skdvl.semivalues import Semivalue

__all__ = ["estimate_all", "play_rounds"]

_SECONDS_BETWEEN_SAVES = 10.0

Evaluate = Callable[[Sequence[Task]], Generator[NDArray[np.float64]]]


def play_rounds(
    games: Sequence[GameInPlay],
    scheme: SamplingScheme,
    target: Semivalue,
    rule: StoppingRule | None,
    n_players: int,
    evaluate: Evaluate,
    save: Callable[[], None],
    verbose: int,
) -> bool:
    """Evaluate rounds until the budget is spent, the plan is exhausted or the rule is met.

    All games go out as one stream of tasks; there is a barrier only where a decision is taken.

    Parameters
    ----------
    games : sequence of GameInPlay
        Their logs are extended.
    scheme : SamplingScheme
    target : Semivalue
    rule : StoppingRule or None
    n_players : int
        Number of all players.
    evaluate : callable
        Yields the utilities of tasks, in their order.
    save : callable
        Called after each round that evaluated something, every few seconds within one, and
        before an exception leaves.
    verbose : int

    Returns
    -------
    bool
        Whether the rule was met.
    """
    snapshots: list[Snapshot] = []
    with _progress_bar(games, scheme, verbose) as bar:
        while tasks := [task for game in games for task in game.next_tasks(scheme, target)]:
            unknown = [task for task in tasks if not games[task.fold].recall(task, scheme)]
            if unknown:
                _evaluate(games, unknown, evaluate, save, bar)
            if rule is not None and all(game.log.is_round_complete for game in games):
                found = estimate_all(games, scheme, target, n_players)
                n_evals = sum(game.n_evals for game in games)
                snapshots.append(Snapshot(found.values, found.standard_errors, n_evals, n_players))
                if rule.is_met(snapshots):
                    return True
    return False


def _evaluate(
    games: Sequence[GameInPlay],
    tasks: Sequence[Task],
    evaluate: Evaluate,
    save: Callable[[], None],
    bar: tqdm,
) -> None:
    last_save = time.monotonic()
    try:
        with closing(evaluate(tasks)) as results:
            for task, utilities in zip(tasks, results, strict=True):
                games[task.fold].add(task, utilities)
                bar.update(sum(game.n_evals for game in games) - bar.n)
                if time.monotonic() - last_save > _SECONDS_BETWEEN_SAVES:
                    save()
                    last_save = time.monotonic()
    finally:
        save()


def estimate_all(
    games: Sequence[GameInPlay], scheme: SamplingScheme, target: Semivalue, n_players: int
) -> Estimate:
    """Estimate a semivalue of all games combined."""
    estimates = [scheme.estimate(game.game, target, game.log) for game in games]
    return combine(estimates, [game.players for game in games], n_players)


def _progress_bar(games: Sequence[GameInPlay], scheme: SamplingScheme, verbose: int) -> tqdm:
    return tqdm(
        total=sum(game.budget for game in games),
        initial=sum(game.n_evals for game in games),
        desc=f"valuing by {scheme.name}",
        unit="eval",
        disable=verbose < 1,
        mininterval=0.5,
    )
