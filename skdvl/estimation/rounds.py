"""The loop of a valuation: plan a round, evaluate it, look whether it is enough."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tqdm import tqdm

from skdvl.estimation.checkpoint import Checkpoint
from skdvl.estimation.games import GameInPlay, SharedWork, combine, evaluate_task, this_process
from skdvl.estimation.stopping import Snapshot, StoppingRule
from skdvl.parallel import TaskRunner
from skdvl.sampling.base import SamplingScheme
from skdvl.sampling.log import EvaluationLog
from skdvl.semivalues import Semivalue
from skdvl.utilities.record import EvaluationRecord

__all__ = ["play_rounds"]

_SECONDS_BETWEEN_SAVES = 10.0


def play_rounds(
    games: Sequence[GameInPlay],
    scheme: SamplingScheme,
    target: Semivalue,
    rule: StoppingRule | None,
    n_players: int,
    *,
    record: EvaluationRecord,
    checkpoint: Checkpoint | None = None,
    n_jobs: int | None = None,
    verbose: int = 0,
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
    record : EvaluationRecord
        Takes up what happened beside the utilities.
    checkpoint : Checkpoint or None
        Where the logs are saved after each round, and every few seconds within one.
    n_jobs : int or None
    verbose : int

    Returns
    -------
    bool
        Whether the rule was met.
    """
    shared = SharedWork(
        [game.utility for game in games],
        [game.game for game in games],
        scheme,
        games[0].log.entropy,
        this_process(),
    )
    snapshots = _past_snapshots(games, scheme, target, n_players) if rule is not None else []
    if rule is not None and any(rule.is_met(snapshots[: r + 1]) for r in range(len(snapshots))):
        return True
    bar = _progress_bar(games, scheme, verbose)
    with bar, TaskRunner(evaluate_task, shared, n_jobs=n_jobs) as runner:
        while tasks := [task for game in games for task in game.next_tasks(scheme, target)]:
            last_save = time.monotonic()
            try:
                for task, (utilities, happened) in zip(tasks, runner.run(tasks), strict=True):
                    game = games[task.fold]
                    before = game.n_evals
                    game.add(task, utilities)
                    record.add(happened)
                    bar.update(game.n_evals - before)
                    if checkpoint and time.monotonic() - last_save > _SECONDS_BETWEEN_SAVES:
                        checkpoint.save(games, record)
                        last_save = time.monotonic()
            finally:
                if checkpoint:
                    checkpoint.save(games, record)
            if rule is not None and all(game.log.is_round_complete for game in games):
                snapshots.append(_snapshot(games, scheme, target, n_players))
                if rule.is_met(snapshots):
                    return True
    return False


def _snapshot(
    games: Sequence[GameInPlay],
    scheme: SamplingScheme,
    target: Semivalue,
    n_players: int,
    logs: Sequence[EvaluationLog] | None = None,
) -> Snapshot:
    logs = [game.log for game in games] if logs is None else logs
    estimates = [
        scheme.estimate(game.game, target, log) for game, log in zip(games, logs, strict=True)
    ]
    combined = combine(estimates, [game.players for game in games], n_players)
    n_evals = sum(2 + log.n_evals for log in logs)
    return Snapshot(combined.values, combined.standard_errors, n_evals, n_players)


def _past_snapshots(
    games: Sequence[GameInPlay], scheme: SamplingScheme, target: Semivalue, n_players: int
) -> list[Snapshot]:
    """Return the snapshots of the complete rounds of resumed logs."""
    n_rounds = min((game.log.n_complete_rounds for game in games if game.log.rounds), default=0)
    return [
        _snapshot(games, scheme, target, n_players, [game.log.first_rounds(r) for game in games])
        for r in range(1, n_rounds + 1)
    ]


def _progress_bar(games: Sequence[GameInPlay], scheme: SamplingScheme, verbose: int) -> tqdm:
    return tqdm(
        total=sum(game.budget for game in games),
        initial=sum(game.n_evals for game in games),
        desc=f"valuing by {scheme.name}",
        unit="eval",
        disable=verbose < 1,
        mininterval=0.5,
    )
