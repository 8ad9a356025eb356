"""Values of the players of any game."""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from skdvl.caching import Cache, CacheInfo, check_cache
from skdvl.estimation.budget import check_budget, split_budget
from skdvl.estimation.checkpoint import Checkpoint, StoredRun
from skdvl.estimation.evaluation import Evaluator, SharedWork, traffic_since
from skdvl.estimation.games import GameInPlay, open_game
from skdvl.estimation.result import ValuationResult, check_target
from skdvl.estimation.rounds import estimate_all, play_rounds
from skdvl.estimation.scheme_choice import choose_scheme
from skdvl.estimation.stopping import StoppingRule, check_rule
from skdvl.parallel import single_threaded
from skdvl.sampling.base import SamplingScheme
from skdvl.sampling.log import EvaluationLog
from skdvl.semivalues import Semivalue, check_semivalue
from skdvl.utilities import CallableUtility, Utility
from skdvl.utilities.cached import CachedUtility, read_through
from skdvl.utilities.fingerprint import fingerprint, required_fingerprint
from skdvl.utilities.record import EvaluationRecord, recording

__all__ = ["estimate_games", "estimate_values"]


def estimate_values(
    utility: Utility | Callable[[NDArray[np.intp]], float],
    *,
    n_players: int | None = None,
    semivalue: str | Semivalue = "shapley",
    method: str | SamplingScheme = "auto",
    max_evals: int | str = "auto",
    tol: float | StoppingRule | None = None,
    cache: Cache | str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    n_jobs: int | None = None,
    random_state: int | np.random.RandomState | None = None,
    verbose: int = 0,
) -> ValuationResult:
    """Estimate a semivalue of every player of a game.

    Parameters
    ----------
    utility : Utility or callable
        A callable takes the ascending indices of a coalition's players, possibly none, and
        returns its utility.
    n_players : int, optional
        Needed for a callable.
    semivalue : str or Semivalue, default="shapley"
        "shapley", "banzhaf", "beta_shapley", "loo", or an instance.
    method : str or SamplingScheme, default="auto"
        "exact", "stratified", "regression", "permutation", "antithetic", "tmc", "owen", "msr",
        "group_testing", or an instance of `skdvl.sampling.SamplingScheme`. "auto" takes "exact"
        where enumerating all coalitions fits the budget, otherwise "stratified".
    max_evals : int or "auto", default="auto"
        Budget in utility evaluations, never exceeded. "auto" is max(20 · n_players, 1000).
    tol : float, StoppingRule or None, default=None
        When to stop before the budget is spent. A number: when the largest standard error is at
        most that, in utility units. Or `StandardErrorBelow`, `RankStability` and `TimeLimit`,
        combined by ``&`` and ``|``.
    cache : None, str or Cache, default=None
        Where utilities are looked up; the utility needs a fingerprint.
    checkpoint : path, optional
        Directory in which the run is saved as it goes; the utility needs a fingerprint.
    n_jobs : int or None, default=None
        None follows ``joblib.parallel_config``.
    random_state : int, RandomState instance or None, default=None
        Decides which coalitions are drawn.
    verbose : int, default=0
        1 shows progress.

    Returns
    -------
    ValuationResult

    Raises
    ------
    ValueError
        If a parameter is out of range, the budget is too small, or the method is hopeless for
        the semivalue.

    Examples
    --------
    Two left gloves and one right one; a pair is worth 1:

    >>> import skdvl
    >>> def pairs(players):
    ...     return min(sum(players < 2), sum(players == 2))
    >>> skdvl.estimate_values(pairs, n_players=3).values
    array([0.166..., 0.166..., 0.666...])
    """
    if not isinstance(utility, Utility):
        if not callable(utility):
            raise TypeError(f"utility must be a Utility or a callable, got {utility!r}.")
        if n_players is None:
            raise ValueError("n_players is needed where the utility is a plain callable.")
        if isinstance(n_players, bool) or not isinstance(n_players, (int, np.integer)):
            raise TypeError(f"n_players must be an integer, got {n_players!r}.")
        utility = CallableUtility(utility, n_players)
    elif n_players not in (None, utility.n_players):
        raise ValueError(f"n_players={n_players}, but the utility has {utility.n_players} players.")
    if utility.n_players < 1:
        raise ValueError("There must be at least one player.")
    return estimate_games(
        [utility],
        [np.arange(utility.n_players)],
        utility.n_players,
        semivalue=check_semivalue(semivalue),
        method=method,
        max_evals=max_evals,
        tol=tol,
        cache=cache,
        checkpoint=checkpoint,
        n_jobs=n_jobs,
        random_state=random_state,
        verbose=verbose,
    )


def estimate_games(
    utilities: Sequence[Utility],
    players: Sequence[NDArray[np.intp]],
    n_players: int,
    *,
    semivalue: Semivalue,
    method: str | SamplingScheme = "auto",
    max_evals: int | str = "auto",
    tol: float | StoppingRule | None = None,
    cache: Cache | str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    n_jobs: int | None = None,
    random_state: int | np.random.RandomState | None = None,
    verbose: int = 0,
    previous: ValuationResult | None = None,
    stacklevel: int = 3,
) -> ValuationResult:
    """Estimate a semivalue of the mean of several games over the same players.

    Parameters
    ----------
    utilities : sequence of Utility
        One per game.
    players : sequence of ndarray of int
        For each game, where its players stand among all players.
    n_players : int
        Number of all players.
    previous : ValuationResult or None
        A result for the same games, method, semivalue and seed, to be extended to ``max_evals``:
        what it evaluated is not evaluated again, and the values are those of a fresh run.
    stacklevel : int
        Where warnings point.

    Other parameters are those of `estimate_values`.

    Returns
    -------
    ValuationResult
    """
    rule = check_rule(tol)
    is_explicit = max_evals != "auto"
    total = check_budget(max_evals, utilities, n_players)
    scheme = choose_scheme(method, utilities, semivalue, total, is_explicit)
    budgets = split_budget(scheme, total, is_explicit, utilities, semivalue)
    store = check_cache(cache)
    before = store.info() if store is not None else CacheInfo()
    read = [read_through(store, utility) for utility in utilities]
    entropy = _entropy(random_state) if previous is None else previous.games[0].log.entropy
    record = EvaluationRecord()
    with (
        single_threaded(),
        _checkpoint(checkpoint, utilities, scheme, semivalue, random_state, entropy) as file,
    ):
        earlier = _earlier_run(previous, scheme, file)
        if earlier is not None:
            entropy = earlier.entropy
            record.add(earlier.record)
        with recording() as happened:
            games = [
                open_game(
                    utility,
                    utilities[fold].engine,
                    budgets[fold],
                    players[fold],
                    EvaluationLog(entropy, fold, utility.n_players),
                    None if earlier is None else earlier.logs[fold],
                )
                for fold, utility in enumerate(read)
            ]
        record.add(happened)
        warning = check_target(games, scheme, semivalue)
        if warning is not None:
            warnings.warn(warning, UserWarning, stacklevel=stacklevel)
        shared = SharedWork(
            read, [game.game for game in games], scheme, [game.log.draws for game in games]
        )

        def save() -> None:
            if file is not None:
                file.save([game.all_known for game in games], record)

        with (
            Evaluator(shared, record, store, n_jobs) as evaluate,
            _telling_what_is_kept(games, file),
        ):
            met, has_converged = play_rounds(
                games, scheme, semivalue, rule, n_players, evaluate, save, verbose
            )
        estimate = estimate_all(games, scheme, semivalue, n_players)
    for game in games:
        game.settle()
    converged = has_converged or estimate.is_exact
    if rule is not None and not (met or converged or rule.is_limit):
        warnings.warn(
            f"The values did not reach tol={tol!r} within {total} evaluations. Increase "
            "max_evals, or ask for less precision.",
            ConvergenceWarning,
            stacklevel=stacklevel,
        )
    n_evals = sum(game.n_evals for game in games)
    info = CacheInfo() if store is None else _cache_info(store, before, record, games, read)
    return ValuationResult(estimate, n_evals, converged, semivalue, scheme, games, record, info)


@contextmanager
def _telling_what_is_kept(games: Sequence[GameInPlay], file: Checkpoint | None) -> Generator[None]:
    """Say in a KeyboardInterrupt what becomes of the work done so far."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        done = f"interrupted after {sum(game.n_evals for game in games)} evaluations"
        if file is None:
            interruption.args = (
                f"{done}, which are lost. With checkpoint=directory a run is saved as it goes, "
                "and the same call goes on where it was.",
            )
        else:
            interruption.args = (f"{done}, saved in {file.path}: the same call goes on there.",)
        raise


def _cache_info(
    store: Cache,
    before: CacheInfo,
    record: EvaluationRecord,
    games: Sequence[GameInPlay],
    read: Sequence[Utility],
) -> CacheInfo:
    """Return what the cache did in all processes, and warn here if it failed in others."""
    if record.cache.errors:
        store.warn("it failed in worker processes")
    is_cached = [isinstance(utility, CachedUtility) for utility in read]
    passed = sum(g.n_evals for g, cached in zip(games, is_cached, strict=True) if not cached)
    return record.cache + traffic_since(before, store.info()) + CacheInfo(bypassed=passed)


def _earlier_run(
    previous: ValuationResult | None, scheme: SamplingScheme, file: Checkpoint | None
) -> StoredRun | None:
    """Return what was evaluated before, in this process or a killed one."""
    stored = file.load() if file is not None else None
    if previous is None:
        return stored
    logs = [game.all_known for game in previous.games]
    if previous.scheme != scheme:  # "auto" takes another one for another budget
        logs = [EvaluationLog(log.entropy, log.fold, log.n_players) for log in logs]
    refused = EvaluationRecord(refused=previous.record.refused, n_large=previous.record.n_large)
    run = StoredRun(logs[0].entropy, logs, refused)
    if file is None or stored is None:
        return run
    if stored.entropy != run.entropy:
        raise ValueError(
            f"The checkpoint {file.path} belongs to a run with other seeds than the one to be "
            "extended. Use another directory, or an integer random_state."
        )
    longer = max(run, stored, key=lambda earlier: sum(log.n_draws for log in earlier.logs))
    logs = [one.joined_with(other) for one, other in zip(run.logs, stored.logs, strict=True)]
    return replace(longer, logs=logs)


def _entropy(random_state: int | np.random.RandomState | None) -> int:
    if random_state is None:
        return secrets.randbits(127)
    if isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool):
        if random_state < 0:
            raise ValueError(f"random_state must not be negative, got {random_state}.")
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def _checkpoint(
    directory: str | os.PathLike[str] | None,
    utilities: Sequence[Utility],
    scheme: SamplingScheme,
    target: Semivalue,
    random_state: Any,
    entropy: int,
) -> AbstractContextManager[Checkpoint | None]:
    """Return the checkpoint file of a run; budget and tolerance have no part in its name."""
    if directory is None:
        return nullcontext()
    if not isinstance(directory, str | os.PathLike):
        raise TypeError(
            f"checkpoint must be the path of a directory, or None for no checkpoint; got "
            f"{directory!r}."
        )
    seed = None if random_state is None else entropy
    games = [
        (required_fingerprint(utility), utility.n_players, utility.evals_per_chunk, utility.engine)
        for utility in utilities
    ]
    name = fingerprint("checkpoint", games, scheme, target, seed).hex()
    return Checkpoint(directory, name, scheme)
