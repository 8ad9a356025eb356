"""What a valuation found."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from skdvl.caching import CacheInfo
from skdvl.estimation.games import GameInPlay
from skdvl.estimation.rounds import estimate_all
from skdvl.sampling.base import ELSEWHERE, Estimate, Game, SamplingScheme, check_efficiency
from skdvl.sampling.log import Chunk
from skdvl.semivalues import Semivalue, check_semivalue
from skdvl.utilities.record import EvaluationRecord

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ValuationResult", "check_target", "intervals", "revalued", "value_frame"]

_FEWEST_TELLING = 10  # draws for each player: with five, one player in 150 would have none
_NEXT_TO_NOTHING = 0.01


def intervals(estimate: Estimate, level: float) -> NDArray[np.float64]:
    """Return confidence intervals, shape (n_players, 2).

    Warns
    -----
    UserWarning
        If the scheme does not claim intervals for what was evaluated.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level!r}.")
    if estimate.interval_caveat is not None:
        warnings.warn(
            f"These intervals may not cover {level:.0%}: {estimate.interval_caveat}",
            UserWarning,
            stacklevel=3,
        )
    if np.isinf(estimate.degrees_of_freedom):
        quantile = stats.norm.ppf((1 + level) / 2)
    else:
        quantile = stats.t.ppf((1 + level) / 2, estimate.degrees_of_freedom)
    half = quantile * estimate.standard_errors
    return np.column_stack([estimate.values - half, estimate.values + half])


@dataclass(frozen=True, eq=False)
class ValuationResult:
    """Values of players, and all that is needed to read other values out of the same run.

    Attributes
    ----------
    values : ndarray of shape (n_players,)
        In utility units; NaN for players that play in no game.
    standard_errors : ndarray of shape (n_players,)
        Sampling error of the values, in utility units; 0 where exact.
    n_evals : int
        Utility evaluations that the scheme asked for, cache hits included.
    n_refused : int
        Coalitions on which the model failed, among those computed.
    converged : bool
        Whether the values are exact or as precise as the stopping rule asks; not where a
        `TimeLimit` ended the run.
    method : str
        Name of the sampling scheme.
    semivalue : Semivalue
    cache_info : CacheInfo
        What the cache did during this run.
    """

    estimate: Estimate
    n_evals: int
    converged: bool
    semivalue: Semivalue
    scheme: SamplingScheme
    games: Sequence[GameInPlay] = field(repr=False)
    record: EvaluationRecord = field(repr=False)
    cache_info: CacheInfo = field(default_factory=CacheInfo)

    def __repr__(self) -> str:
        exact = "exact" if self.converged and not self.standard_errors.any() else self.method
        return (
            f"<ValuationResult: {self.semivalue} of {len(self.values)} players, {exact}, "
            f"{self.n_evals} evaluations; see values, standard_errors, to_frame()>"
        )

    @property
    def values(self) -> NDArray[np.float64]:
        """Values, shape (n_players,), in utility units."""
        return self.estimate.values

    @property
    def standard_errors(self) -> NDArray[np.float64]:
        """Standard errors of the values, shape (n_players,)."""
        return self.estimate.standard_errors

    @property
    def method(self) -> str:
        """Name of the sampling scheme."""
        return self.scheme.name

    @property
    def n_refused(self) -> int:
        """Number of coalitions on which the model failed."""
        return self.record.n_refused

    def confidence_interval(self, level: float = 0.95) -> NDArray[np.float64]:
        """Return confidence intervals of the values.

        Parameters
        ----------
        level : float, default=0.95

        Returns
        -------
        ndarray of shape (n_players, 2)
            Lower and upper ends.

        Warns
        -----
        UserWarning
            If the scheme does not claim intervals for what was evaluated.
        """
        return intervals(self.estimate, level)

    def revalue(self, semivalue: str | Semivalue) -> ValuationResult:
        """Return another semivalue from what was evaluated, without a further evaluation.

        Parameters
        ----------
        semivalue : str or Semivalue

        Raises
        ------
        ValueError
            If the sizes that were drawn tell too little about it, with the efficiency: below 0.01,
            or below 0.1 while fewer than ten draws tell of each player. Also if nearly all that
            matters for it was left out, as truncated orders leave out late contributions.

        Warns
        -----
        UserWarning
            If they tell little about it: an efficiency below 0.1, or fewer than ten draws that
            tell of each player, so that standard errors may be far off. Also if more than a
            hundredth of its weight is on what was left out.

        Examples
        --------
        >>> import skdvl
        >>> result = skdvl.estimate_values(lambda players: len(players) > 1, n_players=3)
        >>> result.revalue("banzhaf").values
        array([0.5, 0.5, 0.5])
        """
        return revalued(self, semivalue, stacklevel=3)

    def to_frame(self) -> pd.DataFrame:
        """Return value, standard error and rank (1 is the lowest value) of every player."""
        return value_frame(self.values, self.standard_errors)


def revalued(
    result: ValuationResult, semivalue: str | Semivalue, stacklevel: int
) -> ValuationResult:
    """See `ValuationResult.revalue`; ``stacklevel`` is where a warning points."""
    target = check_semivalue(semivalue)
    if target == result.semivalue:
        return result
    games, scheme = result.games, result.scheme
    drawn = ((game.game, game.log.evaluated_chunks) for game in games)
    warning = _judge_efficiency(drawn, scheme, target)
    estimate = estimate_all(games, scheme, target, len(result.values))
    left_out = _left_out(games, scheme, target)
    too_few = None if estimate.is_exact else _few_telling_draws(games, scheme, target)
    if warning is not None and too_few is not None:
        raise ValueError(f"{too_few} {warning} {ELSEWHERE}")
    if said := " ".join(filter(None, [left_out, warning or too_few])):
        warnings.warn(said, UserWarning, stacklevel=stacklevel)
    if caveat := left_out or too_few:
        estimate = replace(estimate, interval_caveat=caveat)
    # if a rule was met, it was for the other semivalue
    return replace(result, estimate=estimate, converged=estimate.is_exact, semivalue=target)


def check_target(
    games: Sequence[GameInPlay], scheme: SamplingScheme, target: Semivalue
) -> str | None:
    """Refuse a semivalue that a scheme will tell nothing about; return a warning if little."""
    planned = (
        (game.game, scheme.foreseen(game.game, target, game.n_affordable(scheme))) for game in games
    )
    return _judge_efficiency(planned, scheme, target)


def _judge_efficiency(
    drawn: Iterable[tuple[Game, Sequence[Chunk]]], scheme: SamplingScheme, target: Semivalue
) -> str | None:
    warned = [
        check_efficiency(scheme.efficiency(game.n_players, target, chunks), scheme.name, target)
        for game, chunks in drawn
        if chunks
    ]
    return next(filter(None, warned), None)


def _left_out(games: Sequence[GameInPlay], scheme: SamplingScheme, target: Semivalue) -> str | None:
    """Say of a semivalue how much of it a scheme left out, unless that is next to nothing."""
    left_out = max(scheme.left_out(game.game, target, game.log) for game in games)
    if left_out <= _NEXT_TO_NOTHING:
        return None
    said = (
        f"method={scheme.name!r} left out contributions with {left_out:.1%} of the weight of "
        f"{target!r} and counts them as 0; standard errors do not show what that does to values."
    )
    if left_out >= 1 - _NEXT_TO_NOTHING:
        raise ValueError(f"{said} {ELSEWHERE}")
    return said


def _few_telling_draws(
    games: Sequence[GameInPlay], scheme: SamplingScheme, target: Semivalue
) -> str | None:
    """Say of a semivalue for which so few of the draws count that errors may be false."""
    for game in games:
        chunks = game.log.evaluated_chunks
        n_telling = scheme.telling_draws(game.game.n_players, target, chunks)
        if n_telling < _FEWEST_TELLING:
            return (
                f"method={scheme.name!r} has drawn too little that tells about {target!r}: "
                f"{n_telling:.2g} draws for each player, of the {_FEWEST_TELLING} that a standard "
                "error takes."
            )
    return None


def value_frame(
    values: NDArray[np.float64], standard_errors: NDArray[np.float64], index: Any = None
) -> pd.DataFrame:
    """Return a frame of values; ranks start at 1 for the lowest value, ties in row order."""
    import pandas as pd  # half a second that a fit does not need

    ranks = pd.Series(values, index=index).rank(method="first").astype("Int64")
    return pd.DataFrame(
        {"value": values, "standard_error": standard_errors, "rank": ranks.to_numpy()}, index=index
    )
