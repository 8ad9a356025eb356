"""Values of the players of any game."""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from skdvl.caching import Cache, CacheInfo, check_cache
from skdvl.estimation.checkpoint import Checkpoint
from skdvl.estimation.games import GameInPlay, open_game
from skdvl.estimation.result import ValuationResult, estimate_all
from skdvl.estimation.rounds import play_rounds
from skdvl.estimation.scheme_choice import check_scheme, choose_scheme
from skdvl.estimation.stopping import StoppingRule, check_rule
from skdvl.parallel import single_threaded
from skdvl.sampling.base import SamplingScheme, check_efficiency
from skdvl.sampling.enumeration import Exact
from skdvl.semivalues import Semivalue, check_semivalue
from skdvl.utilities import CallableUtility, Utility
from skdvl.utilities.cached import CachedUtility
from skdvl.utilities.fingerprint import FingerprintError, fingerprint
from skdvl.utilities.record import EvaluationRecord

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
        "exact", "permutation", "antithetic", "tmc", "stratified", or an instance. "auto" is exact
        where that fits the budget, otherwise "stratified".
    max_evals : int or "auto", default="auto"
        Budget in utility evaluations, never exceeded. "auto" is max(20 · n_players, 1000).
    tol : float, StoppingRule or None, default=None
        Stop when the largest standard error is at most ``tol``, in utility units.
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
        A result for the same games, scheme and seed, to be extended to ``max_evals``.

    Other parameters are those of `estimate_values`.

    Returns
    -------
    ValuationResult
    """
    rule = check_rule(tol)
    total = _budget(max_evals, utilities, n_players)
    scheme = choose_scheme(method, utilities, semivalue, total, max_evals != "auto")
    budgets = _split_budget(scheme, total, max_evals != "auto", utilities, semivalue)
    store = check_cache(cache)
    utilities, stored = _through_cache(utilities, store)
    entropy = _entropy(random_state)
    record = EvaluationRecord()
    before = store.info() if store is not None else CacheInfo()
    with (
        single_threaded(),
        _checkpoint(checkpoint, utilities, scheme, semivalue, random_state, entropy) as file,
    ):
        if previous is not None:
            games = [replace(g, budget=b) for g, b in zip(previous.games, budgets, strict=True)]
            record.add(previous.record)
        else:
            if file is not None and random_state is None:
                entropy = file.stored_entropy() or entropy
            games = [
                open_game(utility, fold, entropy, budget, mine)
                for fold, (utility, budget, mine) in enumerate(
                    zip(utilities, budgets, players, strict=True)
                )
            ]
            if file is not None:
                file.load(games, record)
        _check_pair(games, scheme, semivalue)
        met = play_rounds(
            games,
            scheme,
            semivalue,
            rule,
            n_players,
            record=record,
            checkpoint=file,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        converged = met or _is_exact(games, scheme)
        if rule is not None and not converged:
            warnings.warn(
                f"The standard errors did not reach tol={tol!r} within {total} evaluations. "
                "Increase max_evals or tol.",
                ConvergenceWarning,
                stacklevel=3,
            )
        estimate = estimate_all(games, scheme, semivalue, n_players)
    n_evals = sum(game.n_evals for game in games)
    info = CacheInfo()
    if store is not None:
        store.set_many(record.cached)
        info = store.info() - before + record.cache
        info += CacheInfo(bypassed=0 if stored else n_evals)
    return ValuationResult(estimate, n_evals, converged, semivalue, scheme, games, record, info)


def _is_exact(games: Sequence[GameInPlay], scheme: SamplingScheme) -> bool:
    return all(
        game.game.n_players < 2
        or (scheme.is_exact and bool(game.log.rounds) and game.log.is_round_complete)
        for game in games
    )


def _budget(max_evals: int | str, utilities: Sequence[Utility], n_players: int) -> int:
    if isinstance(max_evals, str):
        if max_evals != "auto":
            raise ValueError(f"max_evals must be 'auto' or a positive integer, got {max_evals!r}.")
        if all(utility.evals_are_cheap for utility in utilities):
            return max(100 * n_players, 1000)
        return max(20 * n_players, 1000)
    if isinstance(max_evals, bool) or not isinstance(max_evals, (int, np.integer)) or max_evals < 1:
        raise ValueError(f"max_evals must be 'auto' or a positive integer, got {max_evals!r}.")
    return int(max_evals)


def _split_budget(
    scheme: SamplingScheme,
    total: int,
    is_explicit: bool,
    utilities: Sequence[Utility],
    target: Semivalue,
) -> list[int]:
    """Give each game its part of the budget, and see that it suffices for a draw."""
    n_games = len(utilities)
    budgets = [total // n_games + (fold < total % n_games) for fold in range(n_games)]
    needed = [
        2 + (scheme.cost_per_draw(utility.n_players) if utility.n_players > 1 else 0)
        for utility in utilities
    ]
    if isinstance(scheme, Exact):
        needed = [scheme.n_evals(utility.n_players, target) for utility in utilities]
        if not is_explicit:
            budgets = needed
    if any(budget < need for budget, need in zip(budgets, needed, strict=True)):
        games = f" for {n_games} folds" if n_games > 1 else ""
        raise ValueError(
            f"max_evals={total} is too small: method={scheme.name!r} needs at least "
            f"max_evals={n_games * max(needed)}{games} ({max(needed)} per game, with the empty "
            "and the full coalition)."
        )
    return budgets


def _through_cache(utilities: Sequence[Utility], cache: Cache | None) -> tuple[list[Utility], bool]:
    """Wrap utilities in the cache; those that compute as fast as a look-up go past it."""
    if cache is None or all(utility.evals_are_cheap for utility in utilities):
        return list(utilities), False
    return [CachedUtility(utility, cache, _required(utility)) for utility in utilities], True


def _required(utility: Utility) -> bytes:
    found = utility.fingerprint()
    if found is None:
        raise FingerprintError(
            f"{type(utility).__name__} has no fingerprint, so its utilities can be neither cached "
            "nor checkpointed. Give the utility, or the callable, a method fingerprint() that "
            "returns bytes which change whenever its results do."
        )
    return found


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
) -> Any:
    """Return the checkpoint file of a run; budget and tolerance have no part in its name."""
    if directory is None:
        return nullcontext()
    seed = None if random_state is None else entropy
    games = [_required(utility) for utility in utilities]
    chunking = [(utility.evals_per_chunk, utility.engine) for utility in utilities]
    name = fingerprint("checkpoint", games, chunking, scheme, target, seed).hex()
    return Checkpoint(directory, name, scheme)


def _check_pair(games: Sequence[GameInPlay], scheme: SamplingScheme, target: Semivalue) -> None:
    """Refuse a scheme that tells nothing about the semivalue, before anything is evaluated."""
    for game in games:
        chunks = [entry.chunk for entry in game.log.entries]
        chunks = chunks or list(scheme.plan(game.game, target, game.log))
        if not chunks:
            continue
        warning = check_efficiency(
            scheme.efficiency(game.game.n_players, target, chunks), scheme.name, target
        )
        if warning:
            warnings.warn(warning, UserWarning, stacklevel=5)
            return
