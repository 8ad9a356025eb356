"""When a valuation has seen enough."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

__all__ = [
    "RankStability",
    "Snapshot",
    "StandardErrorBelow",
    "StoppingRule",
    "TimeLimit",
    "check_rule",
]

_MIN_EVALS = 4  # per player, before a rule may trust what it sees
_FEWEST_EVALS = 100  # in all: of few players all draws may be alike

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What is known at the end of a round.

    Attributes
    ----------
    values, standard_errors : ndarray of shape (n_players,)
        All games combined, in utility units; NaN for players that play in no game.
    n_evals : int
        Utility evaluations so far.
    n_players : int
    seconds : float
        Time spent since the first evaluation of this call. What an earlier run evaluated, and a
        warm start or a checkpoint brings back, takes none.
    half_values : tuple of two ndarrays of shape (n_players,)
        Values by one half of the draws alone and by the other alone, all games combined. NaN
        where a half has no draws. Computed where it is asked for.
    """

    values: Floats
    standard_errors: Floats
    n_evals: int
    n_players: int
    seconds: float = 0.0
    estimate_halves: Callable[[], tuple[Floats, Floats]] | None = field(default=None, repr=False)

    @cached_property
    def half_values(self) -> tuple[Floats, Floats]:
        """Values by either half of the draws."""
        if self.estimate_halves is None:
            unknown = np.full(self.n_players, np.nan)
            return unknown, unknown
        return self.estimate_halves()


class StoppingRule(ABC):
    """Decides after each round whether to stop; rules combine with ``&`` and ``|``.

    A rule is a function of the rounds' snapshots alone, so that the same seed stops at the same
    place on any number of workers and after a resumption. It keeps no state.

    Examples
    --------
    Both that the errors are small and that the ranking stands, or an hour:

    >>> from skdvl import RankStability, StandardErrorBelow, TimeLimit
    >>> StandardErrorBelow(0.01) & RankStability(0.9) | TimeLimit(3600)
    (StandardErrorBelow(tol=0.01) & RankStability(correlation=0.9)) | TimeLimit(seconds=3600)
    """

    @abstractmethod
    def is_met(self, rounds: Sequence[Snapshot]) -> bool:
        """Tell whether to stop.

        Parameters
        ----------
        rounds : sequence of Snapshot
            One per complete round, the latest last.
        """

    def progress(self, rounds: Sequence[Snapshot]) -> float:
        """Estimate which share of the evaluations that the rule takes are made, for progress bars.

        Returns
        -------
        float
            Between 0 and 1; 0 where nothing can be said.
        """
        return 0.0

    @property
    def is_limit(self) -> bool:
        """Whether the rule only ends the run, and says nothing about the values."""
        return False

    def has_converged(self, rounds: Sequence[Snapshot]) -> bool:
        """Tell of a rule that is met whether the values are why, and not a limit."""
        return not self.is_limit

    def __and__(self, other: object) -> StoppingRule:
        return _Both(self, other) if isinstance(other, StoppingRule) else NotImplemented

    def __or__(self, other: object) -> StoppingRule:
        return _Either(self, other) if isinstance(other, StoppingRule) else NotImplemented


@dataclass(frozen=True, repr=False)
class _Both(StoppingRule):
    left: StoppingRule
    right: StoppingRule

    def is_met(self, rounds: Sequence[Snapshot]) -> bool:
        return self.left.is_met(rounds) and self.right.is_met(rounds)

    def progress(self, rounds: Sequence[Snapshot]) -> float:
        return min(self.left.progress(rounds), self.right.progress(rounds))

    @property
    def is_limit(self) -> bool:
        return self.left.is_limit and self.right.is_limit

    def has_converged(self, rounds: Sequence[Snapshot]) -> bool:
        return self.left.has_converged(rounds) or self.right.has_converged(rounds)

    def __repr__(self) -> str:
        return f"{_in_brackets(self.left)} & {_in_brackets(self.right)}"


@dataclass(frozen=True, repr=False)
class _Either(StoppingRule):
    left: StoppingRule
    right: StoppingRule

    def is_met(self, rounds: Sequence[Snapshot]) -> bool:
        return self.left.is_met(rounds) or self.right.is_met(rounds)

    def progress(self, rounds: Sequence[Snapshot]) -> float:
        return max(self.left.progress(rounds), self.right.progress(rounds))

    @property
    def is_limit(self) -> bool:
        return self.left.is_limit and self.right.is_limit

    def has_converged(self, rounds: Sequence[Snapshot]) -> bool:
        met = [rule for rule in (self.left, self.right) if rule.is_met(rounds)]
        return any(rule.has_converged(rounds) for rule in met)

    def __repr__(self) -> str:
        return f"{_in_brackets(self.left)} | {_in_brackets(self.right)}"


def _in_brackets(rule: StoppingRule) -> str:
    return f"({rule!r})" if isinstance(rule, (_Both, _Either)) else repr(rule)


class _PrecisionRule(StoppingRule):
    """Base of the rules that are met when two rounds running are precise enough.

    Not before four evaluations per player and a hundred in all: what is known earlier may look
    precise by accident.
    """

    @abstractmethod
    def _is_precise(self, snapshot: Snapshot) -> bool:
        """Tell whether the values of a round are precise enough."""

    @abstractmethod
    def _share(self, snapshot: Snapshot) -> float:
        """Estimate which share of the evaluations that precision takes a round has made."""

    def is_met(self, rounds: Sequence[Snapshot]) -> bool:
        """See `StoppingRule.is_met`."""
        if len(rounds) < 2 or rounds[-1].n_evals < _fewest_evals(rounds[-1]):
            return False
        return all(self._is_precise(snapshot) for snapshot in rounds[-2:])

    def progress(self, rounds: Sequence[Snapshot]) -> float:
        """See `StoppingRule.progress`."""
        if not rounds:
            return 0.0
        share = self._share(rounds[-1])
        fewest = rounds[-1].n_evals / _fewest_evals(rounds[-1])
        return 0.0 if math.isnan(share) else max(0.0, min(share, fewest, 1.0))


def _fewest_evals(snapshot: Snapshot) -> int:
    return max(_MIN_EVALS * snapshot.n_players, _FEWEST_EVALS)


@dataclass(frozen=True)
class StandardErrorBelow(_PrecisionRule):
    """Stop when the largest standard error is at most ``tol`` in two rounds running.

    Not before four evaluations per player and a hundred in all. A standard error can be 0 by
    accident early on, so each counts as at least half of their root mean square.

    Parameters
    ----------
    tol : float
        In utility units, positive.

    Examples
    --------
    >>> import skdvl
    >>> result = skdvl.estimate_values(lambda players: len(players) ** 0.5, n_players=30,
    ...                                tol=skdvl.StandardErrorBelow(0.05), random_state=0)
    >>> result.converged
    True
    """

    tol: float

    def __post_init__(self) -> None:
        if not isinstance(self.tol, Real) or not self.tol > 0:
            raise ValueError(f"tol must be a positive number in utility units, got {self.tol!r}")

    def _is_precise(self, snapshot: Snapshot) -> bool:
        return _largest_error(snapshot) <= self.tol

    def _share(self, snapshot: Snapshot) -> float:
        # errors fall as one over the root of the number of evaluations
        error = _largest_error(snapshot)
        return math.inf if error == 0 else (self.tol / error) ** 2


def _largest_error(snapshot: Snapshot) -> float:
    errors = snapshot.standard_errors[~np.isnan(snapshot.values)]
    return float(max(errors.max(), 0.5 * np.sqrt(np.mean(errors**2))))


@dataclass(frozen=True)
class RankStability(_PrecisionRule):
    r"""Stop when the two halves of the draws rank the players alike in two rounds running.

    Each chunk of draws belongs to one of two halves, alternately. At the end of a round each half
    alone gives the players values, as the scheme would read them out of those draws and nothing
    else; where models are judged on folds, a half's values are means over the folds. What is
    compared is Spearman's rank correlation r between the values of the one half and those of the
    other, ties by their mean rank, players without a value left out. The rule is met when r is at
    least ``correlation`` in two consecutive rounds, the last of them with at least four
    evaluations per player.

    The values that are returned come from both halves, and are steadier than either: they
    correlate by about 2r / (1 + r) with those of another run as long, and by about the root of
    that with the exact values (Spearman and Brown's formula). Coalition sizes of which a scheme
    enumerates all coalitions are known to both halves. Where a half's values are all the same
    there is no ranking, and the rule is not met.

    Parameters
    ----------
    correlation : float, default=0.9
        Between 0 and 1.

    References
    ----------
    .. [1] Spearman (1910). "Correlation calculated from faulty data." British Journal of
       Psychology 3.

    Examples
    --------
    >>> import skdvl
    >>> result = skdvl.estimate_values(lambda players: players.sum() ** 0.5, n_players=30,
    ...                                tol=skdvl.RankStability(0.8), random_state=0)
    >>> result.converged
    True
    """

    correlation: float = 0.9

    def __post_init__(self) -> None:
        if not isinstance(self.correlation, Real) or not 0 < self.correlation < 1:
            raise ValueError(f"correlation must lie between 0 and 1, got {self.correlation!r}")

    def _is_precise(self, snapshot: Snapshot) -> bool:
        return _rank_correlation(*snapshot.half_values) >= self.correlation

    def _share(self, snapshot: Snapshot) -> float:
        # r / (1 - r) is the players' spread over the noise: it grows with the evaluations
        found = _rank_correlation(*snapshot.half_values)
        if found >= 1:
            return math.inf
        return found / (1 - found) * (1 - self.correlation) / self.correlation


def _rank_correlation(one: Floats, other: Floats) -> float:
    """Return Spearman's rank correlation; NaN where one of the two ranks nothing."""
    has_value = ~(np.isnan(one) | np.isnan(other))
    if has_value.sum() < 2:
        return math.nan
    ranks = [rankdata(values[has_value]) for values in (one, other)]
    ranks = [rank - rank.mean() for rank in ranks]
    spread = math.sqrt(np.sum(ranks[0] ** 2) * np.sum(ranks[1] ** 2))
    return float(np.sum(ranks[0] * ranks[1]) / spread) if spread > 0 else math.nan


@dataclass(frozen=True)
class TimeLimit(StoppingRule):
    """Stop at the end of the first round that ends after a time.

    Rounds are not broken off. Most have half as many evaluations as all before them, the second as
    many, and where sizes are enumerated it can be one and a half times as many: by so much the time
    can be exceeded. Exact enumeration is a single round.

    This is the one rule that breaks the law of the same bits: where it ends a run, the same seed
    gives other values on a slower machine, with other workers, and after a resumption. What it
    ended has not converged, and ``converged_`` says so. A run that is started again, from a
    checkpoint or by a warm start, has the whole time anew; what was evaluated before takes none.

    Parameters
    ----------
    seconds : float
        Since the first evaluation after those of the empty and the full coalition; positive.

    Examples
    --------
    >>> import skdvl
    >>> result = skdvl.estimate_values(lambda players: players.sum() ** 0.5, n_players=30,
    ...                                tol=skdvl.TimeLimit(1e-9), random_state=0)
    >>> result.n_evals, result.converged
    (62, False)
    """

    seconds: float

    def __post_init__(self) -> None:
        if not isinstance(self.seconds, Real) or not self.seconds > 0:
            raise ValueError(f"seconds must be a positive number, got {self.seconds!r}")

    @property
    def is_limit(self) -> bool:
        """True: time says nothing about the values."""
        return True

    def is_met(self, rounds: Sequence[Snapshot]) -> bool:
        """See `StoppingRule.is_met`."""
        return bool(rounds) and rounds[-1].seconds >= self.seconds

    def progress(self, rounds: Sequence[Snapshot]) -> float:
        """See `StoppingRule.progress`."""
        return min(rounds[-1].seconds / self.seconds, 1.0) if rounds else 0.0


def check_rule(tol: float | StoppingRule | None) -> StoppingRule | None:
    """Return the rule that ``tol`` stands for.

    Raises
    ------
    ValueError
        If it is neither a positive number, nor a rule, nor None.
    """
    if tol is None or isinstance(tol, StoppingRule):
        return tol
    return StandardErrorBelow(tol)
