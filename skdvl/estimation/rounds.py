"""The loop of a valuation: plan a round, evaluate it, look whether it is enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from skdvl.estimation.games import GameInPlay, Task, combine
from skdvl.estimation.look_ahead import Evaluate, LookAhead
from skdvl.estimation.stopping import Snapshot, StoppingRule
from skdvl.sampling.base import Estimate, SamplingScheme
from skdvl.semivalues import Semivalue

__all__ = ["estimate_all", "play_rounds"]

_SECONDS_BETWEEN_SAVES = 10.0


def play_rounds(
    games: Sequence[GameInPlay],
    scheme: SamplingScheme,
    target: Semivalue,
    rule: StoppingRule | None,
    n_players: int,
    evaluate: Evaluate,
    save: Callable[[], None],
    verbose: int,
) -> tuple[bool, bool]:
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
        1 shows one progress bar: of the budget, or of the evaluations that the rule will take.

    Returns
    -------
    met : bool
        Whether the rule ended the run.
    converged : bool
        Whether it did so because of the values.
    """
    snapshots: list[Snapshot] = []
    started: float | None = None
    with ExitStack() as stack:
        bar = stack.enter_context(_progress_bar(games, scheme, verbose))
        if rule is None and scheme.is_foreseeable and all(game.known is None for game in games):
            evaluate = stack.enter_context(LookAhead(evaluate, games, scheme, target))
        while tasks := [task for game in games for task in game.next_tasks(scheme, target)]:
            unknown = [task for task in tasks if not games[task.fold].recall(task, scheme)]
            if unknown:
                started = time.monotonic() if started is None else started
                _evaluate(games, unknown, evaluate, save, bar)
            _advance(bar, games)
            if rule is not None and not _is_within_a_round(games, scheme, target):
                seconds = 0.0 if started is None else time.monotonic() - started
                snapshots.append(_look(games, scheme, target, n_players, seconds))
                if rule.is_met(snapshots):
                    _foresee(bar, games, 1.0)
                    return True, rule.has_converged(snapshots)
                _foresee(bar, games, rule.progress(snapshots))
    return False, False


def _is_within_a_round(
    games: Sequence[GameInPlay], scheme: SamplingScheme, target: Semivalue
) -> bool:
    """Tell whether a game has a round that is not complete, and the budget to go on with it.

    It may be so where truncated orders cost less than was set aside. What the budget cuts short is
    the last round, and counts as one.
    """
    return any(not game.log.is_round_complete and game.next_tasks(scheme, target) for game in games)


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
                _advance(bar, games)
                if time.monotonic() - last_save > _SECONDS_BETWEEN_SAVES:
                    save()
                    last_save = time.monotonic()
    finally:
        save()


def _look(
    games: Sequence[GameInPlay],
    scheme: SamplingScheme,
    target: Semivalue,
    n_players: int,
    seconds: float,
) -> Snapshot:
    """Return what is known at the end of a round, and how to find out what a half alone knows."""
    found = estimate_all(games, scheme, target, n_players)
    n_evals = sum(game.n_evals for game in games)
    n_rounds = [len(game.log.rounds) for game in games]  # later ones are not to be looked at

    def estimate_halves() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        one, other = (
            [
                _estimate_half(game, scheme, target, which, n)
                for game, n in zip(games, n_rounds, strict=True)
            ]
            for which in (0, 1)
        )
        players = [game.players for game in games]
        return combine(one, players, n_players).values, combine(other, players, n_players).values

    return Snapshot(
        found.values, found.standard_errors, n_evals, n_players, seconds, estimate_halves
    )


def _estimate_half(
    game: GameInPlay, scheme: SamplingScheme, target: Semivalue, which: int, n_rounds: int
) -> Estimate:
    half = game.log.only_half(which, n_rounds)
    if game.log.is_sampled and not half.is_sampled:
        unknown = np.full(game.game.n_players, np.nan)
        return Estimate(unknown, unknown)
    return scheme.estimate(game.game, target, half)


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


def _advance(bar: tqdm, games: Sequence[GameInPlay]) -> None:
    n_evals = sum(game.n_evals for game in games)
    bar.total = max(bar.total, n_evals)
    bar.update(n_evals - bar.n)


def _foresee(bar: tqdm, games: Sequence[GameInPlay], share: float) -> None:
    """Let the bar end where the rule will, if the share of evaluations made is right."""
    n_evals = sum(game.n_evals for game in games)
    budget = sum(game.budget for game in games)
    bar.total = min(budget, round(n_evals / share)) if share * budget > n_evals else budget
    bar.refresh()
