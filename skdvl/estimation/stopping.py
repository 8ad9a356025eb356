"""When a valuation has seen enough."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from numpy.typing import NDArray

__all__ = ["Snapshot", "StandardErrorBelow", "StoppingRule", "check_rule"]


@dataclass(frozen=True)
class Snapshot:
    """What is known at the end of a round.

    Attributes
    ----------
    values, standard_errors : ndarray of shape (n_players,)
        All games combined, in utility units.
    n_evals : int
        Utility evaluations so far.
    n_players : int
    """

    values: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    n_evals: int
    n_players: int


class StoppingRule(ABC):
    """Decides after each round whether to stop; rules combine with ``&`` and ``|``.

    A rule is a function of the rounds' snapshots alone, so that the same seed stops at the same
    place on any number of workers and after a resumption.
    """

    @abstractmethod
    def is_met(self, rounds: Sequence[Snapshot]) -> bool:
        """Tell whether to stop.

        Parameters
        ----------
        rounds : sequence of Snapshot
            One per complete round, the latest last.
        """

    def __and__(self, other: StoppingRule) -> StoppingRule:
        return _Both(self, other)

    def __or__(self, other: StoppingRule) -> StoppingRule:
        return _Either(self, other)


@dataclass(frozen=True)
class _Both(StoppingRule):
    left: StoppingRule
    right: StoppingRule

    def is_met(self, rounds: Sequence[Snapshot]) -> bool:
        return self.left.is_met(rounds) and self.right.is_met(rounds)


@dataclass(frozen=True)
class _Either(StoppingRule):
    left: StoppingRule
    right: StoppingRule

    def is_met(self, rounds: Sequence[Snapshot]) -> bool:
        return self.left.is_met(rounds) or self.right.is_met(rounds)


@dataclass(frozen=True)
class StandardErrorBelow(StoppingRule):
    """Stop when the largest standard error is at most ``tol`` in two rounds running.

    Not before four evaluations per player. A standard error can be 0 by accident early on, so
    each counts as at least half of their root mean square.

    Parameters
    ----------
    tol : float
        In utility units, positive.

    Examples
    --------
    >>> import skdvl
    >>> from skdvl.estimation import StandardErrorBelow
    >>> result = skdvl.estimate_values(lambda players: len(players) ** 0.5, n_players=30,
    ...                                tol=StandardErrorBelow(0.05), random_state=0)
    >>> result.converged
    True
    """

    tol: float

    def __post_init__(self) -> None:
        if not isinstance(self.tol, Real) or not self.tol > 0:
            raise ValueError(f"tol must be a positive number in utility units, got {self.tol!r}")

    def is_met(self, rounds: Sequence[Snapshot]) -> bool:
        """See `StoppingRule.is_met`."""
        if len(rounds) < 2 or rounds[-1].n_evals < 4 * rounds[-1].n_players:
            return False
        return all(self._is_precise(snapshot) for snapshot in rounds[-2:])

    def _is_precise(self, snapshot: Snapshot) -> bool:
        errors = snapshot.standard_errors[~np.isnan(snapshot.values)]
        return bool(max(errors.max(), 0.5 * np.sqrt(np.mean(errors**2))) <= self.tol)


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
