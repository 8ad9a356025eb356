"""How many evaluations may be spent, and on which game."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skdvl.sampling.base import SamplingScheme
from skdvl.sampling.enumeration import Exact
from skdvl.semivalues import Semivalue
from skdvl.utilities import Utility

__all__ = ["check_budget", "split_budget"]


def check_budget(max_evals: int | str, utilities: Sequence[Utility], n_players: int) -> int:
    """Return the budget that ``max_evals`` stands for.

    Raises
    ------
    ValueError
        If it is neither "auto" nor a positive integer.
    """
    if isinstance(max_evals, str) and max_evals == "auto":
        per_player = 100 if all(utility.evals_are_cheap for utility in utilities) else 20
        return max(per_player * n_players, 1000)
    is_integer = isinstance(max_evals, (int, np.integer)) and not isinstance(max_evals, bool)
    if not is_integer or int(max_evals) < 1:
        raise ValueError(f"max_evals must be 'auto' or a positive integer, got {max_evals!r}.")
    return int(max_evals)


def split_budget(
    scheme: SamplingScheme,
    total: int,
    is_explicit: bool,
    utilities: Sequence[Utility],
    target: Semivalue,
) -> list[int]:
    """Give each game its part of the budget, and see that it suffices for an unbiased estimate.

    Game f of K gets total // K, the first total % K one more. An enumeration gets what it needs.

    Raises
    ------
    ValueError
        If a game's part is too small for that; says which budget would do.
    """
    n_games = len(utilities)
    if isinstance(scheme, Exact):
        needed = [scheme.n_evals(utility.n_players, target) for utility in utilities]
        if sum(needed) <= total or not is_explicit:
            return needed
        enough = sum(needed)
    else:
        needed = [
            2 + (scheme.least_evals(utility.n_players, target) if utility.n_players > 1 else 0)
            for utility in utilities
        ]
        if _suffices(total, needed):
            return _parts(total, n_games)
        start = n_games * (max(needed) - 1) + 1
        enough = next(total for total in range(start, start + n_games) if _suffices(total, needed))
    games = f" for {n_games} folds" if n_games > 1 else ""
    raise ValueError(
        f"max_evals={total} is too small: method={scheme.name!r} needs at least "
        f"max_evals={enough}{games}, with the empty and the full coalition."
    )


def _parts(total: int, n_games: int) -> list[int]:
    return [total // n_games + (fold < total % n_games) for fold in range(n_games)]


def _suffices(total: int, needed: Sequence[int]) -> bool:
    parts = _parts(total, len(needed))
    return all(part >= need for part, need in zip(parts, needed, strict=True))
