"""Sampling schemes: how coalitions are drawn, and how values are read out of their utilities."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from skdvl.sampling.log import Chunk, EvaluationLog
from skdvl.semivalues import Semivalue
from skdvl.utilities.base import Utility

__all__ = [
    "ELSEWHERE",
    "SCHEMES",
    "Estimate",
    "Game",
    "SamplingScheme",
    "check_efficiency",
    "next_total",
    "split_into_chunks",
]

SCHEMES: dict[str, type[SamplingScheme]] = {}

_GROWTH = 1.5
ELSEWHERE = (
    "Estimate this semivalue by a method that draws the sizes it needs, such as 'stratified' with "
    "its default law, or 'exact' for leave-one-out."
)


@dataclass(frozen=True)
class Game:
    """What a scheme knows of a utility.

    Attributes
    ----------
    n_players : int
    empty : float
        u(∅).
    full : float
        u(N).
    evals_per_chunk : int
        Evaluations that make a chunk of sensible length for the engine.
    has_cheap_prefixes : bool
        Whether the engine evaluates all prefixes of an order in much less than as many
        coalitions.
    """

    n_players: int
    empty: float
    full: float
    evals_per_chunk: int = 64
    has_cheap_prefixes: bool = False


@dataclass(frozen=True)
class Estimate:
    """Values of the players of one game.

    Attributes
    ----------
    values : ndarray of shape (n_players,)
        In utility units.
    standard_errors : ndarray of shape (n_players,)
        Sampling error of the values, in utility units; 0 where exact.
    degrees_of_freedom : float
        Of Student's t for intervals; infinite where the normal distribution holds.
    interval_caveat : str or None
        Why intervals of these errors should not be trusted, None if they can be.
    is_exact : bool
        Whether the values are known to be free of sampling error. Errors of 0 do not tell: draws
        may look alike by accident.
    """

    values: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    degrees_of_freedom: float = math.inf
    interval_caveat: str | None = None
    is_exact: bool = False


class SamplingScheme(ABC):
    """How coalitions are drawn and values estimated.

    A scheme is stateless: it plans rounds of chunks, draws a chunk's coalitions (or orders of the
    players) from the chunk's seed, and reads values for any semivalue out of the log. Subclasses
    are frozen dataclasses that register themselves by ``name``.

    Attributes
    ----------
    name : str
        The name under which ``method`` finds the scheme.
    is_exact : bool
        Whether the values are free of sampling error once the plan is exhausted.
    is_foreseeable : bool
        Whether plans depend on how many draws there are, and not on their utilities.
    spends_what_is_saved : bool
        Whether evaluations that draws turn out not to need pay for further draws. How many draws
        there are then depends on what was drawn, and the values are biased.
    """

    name: ClassVar[str]
    is_exact: ClassVar[bool] = False
    is_foreseeable: ClassVar[bool] = False
    spends_what_is_saved: ClassVar[bool] = False

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            cls.name = name
            SCHEMES[name] = cls

    @property
    def rows_per_draw(self) -> int:
        """Number of coalitions or orders that make one draw."""
        return 1

    @abstractmethod
    def plan(self, game: Game, target: Semivalue, log: EvaluationLog) -> Sequence[Chunk]:
        """Return the chunks of the next round; none if there is nothing left to draw.

        The plan depends on the game, the target and the complete rounds in the log, never on the
        budget, the number of workers or a clock.
        """

    @abstractmethod
    def draw(self, n_players: int, chunk: Chunk, rng: np.random.Generator) -> NDArray[np.generic]:
        """Return a chunk's draws.

        Returns
        -------
        ndarray of shape (n_draws * rows_per_draw, n_players)
            Coalitions (bool) or orders (int).
        """

    @abstractmethod
    def estimate(self, game: Game, target: Semivalue, log: EvaluationLog) -> Estimate:
        """Estimate a semivalue from all that was evaluated."""

    def evaluate(
        self, draws: NDArray[np.generic], utility: Utility, game: Game
    ) -> NDArray[np.float64]:
        """Return the utilities of draws.

        Returns
        -------
        ndarray of shape (n_rows,) or (n_rows, n_players - 1)
            Of coalitions, or of the prefixes of sizes 1 to n_players - 1 of orders. NaN marks what
            the scheme did not need.
        """
        if draws.dtype == bool:
            return utility(draws)
        return utility.prefixes(draws, np.arange(1, game.n_players))

    def cost_per_draw(self, n_players: int) -> int:
        """Return the most evaluations that one draw can take."""
        return 1

    def least_evals(self, n_players: int, target: Semivalue) -> int:
        """Return from how many evaluations on a game's values are unbiased, without ∅ and N."""
        return self.cost_per_draw(n_players)

    def foreseen(self, game: Game, target: Semivalue, n_draws: int) -> Sequence[Chunk]:
        """Return chunks by which to judge, before the first draw, how well the draws will suit.

        Parameters
        ----------
        game : Game
        target : Semivalue
        n_draws : int
            How many the budget pays for.
        """
        return self.plan(game, target, EvaluationLog(0, 0, game.n_players))

    def efficiency(self, n_players: int, target: Semivalue, chunks: Sequence[Chunk]) -> float:
        """Return how far the drawn sizes suit a semivalue.

        1 is best; an efficiency of 1/k needs about k times the evaluations for the same error.
        """
        return 1.0

    def telling_draws(self, n_players: int, target: Semivalue, chunks: Sequence[Chunk]) -> float:
        """Return about how many of the draws tell of each player, for a semivalue.

        From a few, standard errors are not small but false: they are 0 for a player of whom no
        draw tells.
        """
        n_draws = sum(chunk.n_draws for chunk in chunks)
        return n_draws * self.efficiency(n_players, target, chunks)

    def left_out(self, game: Game, target: Semivalue, log: EvaluationLog) -> float:
        """Return which share of a semivalue's weight is on contributions counted as 0, unseen."""
        return 0.0


def check_efficiency(efficiency: float, scheme: str, target: Semivalue) -> str | None:
    """Refuse a hopeless pair of scheme and semivalue; return a warning for a poor one.

    Raises
    ------
    ValueError
        If the efficiency is below 0.01.
    """
    if efficiency >= 0.1:
        return None
    needs = "infinitely many" if efficiency == 0 else f"about {1 / efficiency:.0f} times the"
    message = (
        f"method={scheme!r} draws coalition sizes that tell little about {target!r}: "
        f"efficiency {efficiency:.2g}, so it needs {needs} evaluations for the same error."
    )
    if efficiency < 0.01:
        raise ValueError(f"{message} {ELSEWHERE}")
    return message


def next_total(n_done: int, first: int) -> int:
    """Return after how many draws the next round ends: rounds grow geometrically."""
    return max(first, math.ceil(_GROWTH * n_done))


def split_into_chunks(
    log: EvaluationLog,
    n_draws: int,
    per_chunk: int,
    laws: Sequence[NDArray[np.float64] | None] = (None, None),
    halves: tuple[int, int] = (0, 1),
    before: Sequence[Chunk] = (),
) -> list[Chunk]:
    """Split the next draws of a log into chunks that belong to the two halves in turn.

    There are as many chunks of the one half as of the other, all of about the same length.

    Parameters
    ----------
    log : EvaluationLog
        Its rounds are complete.
    n_draws : int
        How many draws.
    per_chunk : int
        How many draws a chunk may have.
    laws : sequence of two laws
        For the two halves.
    halves : tuple of two int
        What to call them.
    before : sequence of Chunk
        Other chunks of the round, which come first.
    """
    first, start = log.n_chunks + len(before), log.n_draws
    n_chunks = min(2 * math.ceil(n_draws / (2 * per_chunk)), n_draws)
    borders = [start + n_draws * number // n_chunks for number in range(n_chunks + 1)]
    return [
        Chunk(
            stream=0,
            fold=log.fold,
            index=first + number,
            half=halves[number % 2],
            start=borders[number],
            n_draws=borders[number + 1] - borders[number],
            law=laws[number % 2],
        )
        for number in range(n_chunks)
    ]
