"""How coalitions are drawn for the reuse read-out: sizes by a law, which utilities may change."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skdvl.sampling.base import Game, SamplingScheme, next_total, split_into_chunks
from skdvl.sampling.draw_table import N_BLOCKS, DrawTable, block_lengths, enumerated_sizes
from skdvl.sampling.enumeration import enumerated_coalitions
from skdvl.sampling.laws import LAWS, Law, adapted_law, error_weights, prior_law
from skdvl.sampling.log import Chunk, EvaluationLog
from skdvl.sampling.members import draw_members
from skdvl.sampling.reuse import reuse_efficiency, reuse_telling_draws
from skdvl.semivalues import Semivalue

__all__ = ["AdaptiveScheme", "ReuseScheme", "draw_coalitions"]

_FIRST_ROUND = 2  # draws per player
_PILOT = 4  # draws per player before laws are adapted


class ReuseScheme(SamplingScheme):
    """Base of the schemes that draw coalitions of random sizes and use each for all players."""

    @abstractmethod
    def law_of_sizes(self, n_players: int, target: Semivalue) -> Law:
        """Return the law by which sizes are drawn, shape (n_players + 1,), with sum one."""

    def plan(self, game: Game, target: Semivalue, log: EvaluationLog) -> Sequence[Chunk]:
        """Plan the next round: up to 2n draws, 4n, then half as many again as there are."""
        if game.n_players < 2:
            return ()
        law = self.law_of_sizes(game.n_players, target)
        return split_into_chunks(log, next_draws(self, log), game.evals_per_chunk, (law, law))

    def draw(self, n_players: int, chunk: Chunk, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Return uniform random coalitions of the sizes that the law gives, or all of them."""
        assert chunk.law is not None
        if chunk.half < 0:
            return enumerated_coalitions(n_players, chunk)
        return draw_coalitions(n_players, chunk.law, chunk.n_draws, rng)

    def efficiency(self, n_players: int, target: Semivalue, chunks: Sequence[Chunk]) -> float:
        """Return (sum s)² / sum(s² / r), with r the mean law of the chunks."""
        return reuse_efficiency(n_players, target, chunks, self.rows_per_draw)

    def telling_draws(self, n_players: int, target: Semivalue, chunks: Sequence[Chunk]) -> float:
        """Count the draws that have a player on the smaller side; see `SamplingScheme`."""
        return reuse_telling_draws(n_players, target, chunks, self.rows_per_draw)


@dataclass(frozen=True)
class AdaptiveScheme(ReuseScheme):
    """Base of the schemes whose law of sizes follows the utilities that were seen.

    Parameters
    ----------
    law : str, default="mixed"
        Name of the law by which sizes are drawn before utilities are known.
    adaptive : bool, default=True
        Whether that changes after four evaluations per player.
    """

    law: str = "mixed"
    adaptive: bool = True

    def __post_init__(self) -> None:
        if self.law not in LAWS:
            raise ValueError(f"law={self.law!r} is not known; known are {sorted(LAWS)}")

    def law_of_sizes(self, n_players: int, target: Semivalue) -> Law:
        """Return the law before utilities are known."""
        return prior_law(n_players, target, self.law)

    def foreseen(self, game: Game, target: Semivalue, n_draws: int) -> Sequence[Chunk]:
        """Return chunks of the laws to come, adapted as if utilities of all sizes varied alike."""
        chunks = super().foreseen(game, target, n_draws)
        enumerations = [chunk for chunk in chunks if chunk.half < 0]
        n_adapted = n_draws - _PILOT * game.n_players // self.rows_per_draw
        if not self.adaptive or n_adapted <= 0 or len(enumerations) == len(chunks):
            return chunks
        prior = chunks[-1].law
        assert prior is not None
        weights = error_weights(game.n_players, target)
        law = adapted_law(prior, weights, np.ones_like(weights))
        pilot = replace(chunks[-1], n_draws=n_draws - n_adapted)
        return [*enumerations, pilot, replace(pilot, law=law, n_draws=n_adapted)]

    def least_evals(self, n_players: int, target: Semivalue) -> int:
        """Return the length of the first round's enumeration, and one draw of the other sizes.

        Of a size whose enumeration is cut short nothing is known, unless it was drawn before.
        """
        law = self.law_of_sizes(n_players, target)
        due = self._due_sizes(law, 0, _FIRST_ROUND * n_players, np.zeros(n_players + 1, dtype=bool))
        n_due = sum(math.comb(n_players, k) for k in np.flatnonzero(due).tolist())
        return n_due + self.rows_per_draw * int((law[~due] > 0).any())

    def _due_sizes(
        self, law: Law, n_before: int, n_draws: int, done: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        if self.rows_per_draw > 1:  # half of all pairs would not be of the sizes that are due
            return np.zeros_like(done)
        return sizes_to_enumerate(law, n_before, n_draws, done)

    def plan(self, game: Game, target: Semivalue, log: EvaluationLog) -> Sequence[Chunk]:
        """Plan the next round; sizes of which few coalitions are left undrawn are enumerated."""
        if game.n_players < 2:
            return ()
        n_draws = next_draws(self, log)
        law = self.law_of_sizes(game.n_players, target)
        done = enumerated_sizes(log, planned=True)
        due = self._due_sizes(law, log.n_draws, n_draws, done)
        chunks = enumerate_sizes(game, log, due)
        halves = (0, 1)
        laws = (law, law)
        if self.adaptive and log.n_draws >= _PILOT * game.n_players // self.rows_per_draw:
            halves = (2, 3)
            laws = adapted_laws(self, game, target, log)
        rest = [np.where(done | due, 0.0, law) for law in laws]
        if not all(law.any() for law in rest):
            return chunks
        rest = [law / law.sum() for law in rest]
        return chunks + split_into_chunks(
            log,
            n_draws,
            max(1, game.evals_per_chunk // self.rows_per_draw),
            rest,
            halves,
            before=chunks,
        )


def next_draws(scheme: SamplingScheme, log: EvaluationLog) -> int:
    """Return how many draws the next round has: up to 2n rows in all, 4n, then by half as many."""
    n_rows = scheme.rows_per_draw
    pilot = _PILOT * log.n_players // n_rows
    if 0 < log.n_draws < pilot:
        return pilot - log.n_draws
    return next_total(log.n_draws, _FIRST_ROUND * log.n_players // n_rows) - log.n_draws


def sizes_to_enumerate(
    law: Law, n_before: int, n_draws: int, done: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return which more sizes have no more coalitions than draws are expected of them.

    Draws that an enumerated size does not need go to the others, of which some may then be due.
    All that is enumerated takes no more than the round's draws: a budget that cannot pay for it
    goes to these.
    """
    n_players = len(law) - 1
    due = np.zeros_like(done)
    n_left = n_draws
    while True:
        rest = np.where(done | due, 0.0, law)
        if not rest.any():
            return due
        expected = rest * n_before + rest / rest.sum() * n_draws
        found = False
        enough = np.flatnonzero(expected >= n_players).tolist()
        for n_coalitions, k in sorted((math.comb(n_players, k), k) for k in enough):
            if n_coalitions <= min(expected[k], n_left):
                due[k] = found = True
                n_left -= n_coalitions
        if not found:
            return due


def enumerate_sizes(game: Game, log: EvaluationLog, sizes: NDArray[np.bool_]) -> list[Chunk]:
    """Return chunks with all coalitions of some sizes."""
    n_left = sum(math.comb(game.n_players, int(k)) for k in np.flatnonzero(sizes))
    law = sizes.astype(np.float64)
    return [
        Chunk(
            0,
            log.fold,
            log.n_chunks + number,
            -1,
            start,
            min(game.evals_per_chunk, n_left - start),
            law,
        )
        for number, start in enumerate(range(0, n_left, game.evals_per_chunk))
    ]


def adapted_laws(
    scheme: SamplingScheme, game: Game, target: Semivalue, log: EvaluationLog
) -> tuple[Law, Law]:
    """Return the laws that the two halves of the pilot set for each other, once."""
    last = {entry.chunk.half: entry.chunk.law for entry in log.entries}
    set_before = [law for half in (2, 3) if (law := last.get(half)) is not None]
    if len(set_before) == 2:
        return set_before[0], set_before[1]
    weights = error_weights(game.n_players, target)
    table = DrawTable.of(scheme, game, log.of_pilot(), keeps_halves_apart=True)
    squares = table.spreads(table.curves()) ** 2
    one, other = (
        adapted_law(
            expected / np.count_nonzero(table.groups == half),
            weights,
            np.sqrt(np.mean(squares[half * N_BLOCKS : (half + 1) * N_BLOCKS], axis=0)),
        )
        for half, expected in enumerate(table.of_group)
    )
    return other, one


def draw_coalitions(
    n_players: int, law: Law, n_draws: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw coalitions: members uniformly, sizes systematically from a law.

    The draws of a chunk belong in turn to the blocks of the read-out. Sizes are systematic within
    a block and independent between blocks: what the other blocks tell about a size must not
    depend on how often this block has it. They come in random order, so that where a budget ends
    within a chunk, what was evaluated is a random part of it.
    """
    reached = np.cumsum(law)
    lengths = block_lengths(n_draws)
    longest = int(lengths[0, 0])
    keys = rng.random((N_BLOCKS, longest))
    keys[lengths[:, 0] < longest, -1] = 2.0  # what is no draw comes last
    points = (keys.argsort(axis=1) + rng.random((N_BLOCKS, 1))) / np.maximum(lengths, 1)
    points = points.T.ravel()[:n_draws] * reached[-1]
    largest = law.nonzero()[0][-1]
    sizes = np.minimum(reached.searchsorted(points, side="right"), largest)
    return draw_members(n_players, sizes, rng)
