"""What was evaluated: the one source of values, errors, revaluation, warm starts and resuming."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Chunk", "Drawer", "Draws", "Entry", "EvaluationLog"]

_MAX_KEPT_BYTES = 256 * 2**20
_MAX_KEPT_ORDERS = 2**20  # bytes: they take 64 times the room of as many coalitions


@dataclass(frozen=True, eq=False)
class Chunk:
    """A run of draws with a seed of its own.

    Attributes
    ----------
    stream : int
        What is estimated: 0 for the values of the players.
    fold : int
        Number of the game among those played together.
    index : int
        Position among the chunks of this game; with stream and fold it is the seed.
    half : int
        0 or 1: which half of the draws it belongs to; 2 or 3 for draws of the two halves by laws
        that they set for each other; -1 for an enumeration, which belongs to no half.
    start : int
        Number of draws in the chunks before this one; of coalitions, where sizes are enumerated.
    n_draws : int
        Number of draws.
    law : ndarray of shape (n_players + 1,) or None
        Distribution of the sizes of the drawn coalitions, or for enumeration an indicator of the
        enumerated sizes; None for orders.
    """

    stream: int
    fold: int
    index: int
    half: int
    start: int
    n_draws: int
    law: NDArray[np.float64] | None = None

    def __getstate__(self) -> tuple[object, ...]:
        """Return the fields, of the law only where it changes: it comes in steps."""
        state = (self.stream, self.fold, self.index, self.half, self.start, self.n_draws)
        if self.law is None:
            return (*state, None)
        starts = np.append(0, np.flatnonzero(np.diff(self.law)) + 1)
        return (*state, (starts, self.law[starts], len(self.law)))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        *numbers, packed = state
        names = ("stream", "fold", "index", "half", "start", "n_draws")
        self.__dict__.update(zip(names, numbers, strict=True))
        law = None
        if packed is not None:
            starts, steps, length = packed
            law = np.repeat(steps, np.diff(np.append(starts, length)))
        self.__dict__["law"] = law

    def rng(self, entropy: int) -> np.random.Generator:
        """Return the chunk's generator, always in its first state."""
        key = (self.stream, self.fold, self.index)
        seed = np.random.SeedSequence(entropy, spawn_key=key)
        return np.random.Generator(np.random.PCG64(seed))


class Draws:
    """The draws of a game's chunks: derived from their seeds, kept as bits while there is room.

    Parameters
    ----------
    n_players : int
    entropy : int
        What all seeds derive from.
    max_bytes : int
        How much is kept, as long as there are coalitions; of orders, a megabyte.
    """

    def __init__(self, n_players: int, entropy: int, max_bytes: int = _MAX_KEPT_BYTES) -> None:
        self.n_players = n_players
        self.entropy = entropy
        self.max_bytes = max_bytes
        self._kept: dict[int, NDArray[np.generic]] = {}
        self._kept_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave the kept draws behind: they may be 256 MB, and are drawn again."""
        return {**self.__dict__, "_kept": {}, "_kept_bytes": 0}

    def of(self, scheme: Drawer, chunk: Chunk) -> NDArray[np.generic]:
        """Return all draws of a chunk."""
        kept = self._kept.get(chunk.index)
        if kept is not None and kept.dtype == np.intp:
            return kept.copy()
        if kept is not None:
            return np.unpackbits(kept.view(np.uint8), axis=1, count=self.n_players).view(bool)
        draws = scheme.draw(self.n_players, chunk, chunk.rng(self.entropy))
        are_orders = draws.dtype != bool
        max_bytes = min(self.max_bytes, _MAX_KEPT_ORDERS) if are_orders else self.max_bytes
        if self._kept_bytes < max_bytes:
            kept = draws.astype(np.intp) if are_orders else np.packbits(draws.view(bool), axis=1)
            self._kept[chunk.index] = kept
            self._kept_bytes += kept.nbytes
        return draws

    def not_kept(self) -> Draws:
        """Return the same draws for a process that asks for each once."""
        return Draws(self.n_players, self.entropy, max_bytes=0)


class Drawer(Protocol):
    """What derives the draws of a chunk from its seed: all that the log asks of a scheme."""

    def draw(self, n_players: int, chunk: Chunk, rng: np.random.Generator) -> NDArray[np.generic]:
        """Return a chunk's draws."""
        ...


@dataclass
class Entry:
    """A chunk and the utilities evaluated of it so far, in the order of its draws.

    Attributes
    ----------
    chunk : Chunk
    n_done : int
        Number of draws evaluated.
    utilities : ndarray of shape (n_rows, ...)
        One row per coalition or order.
    """

    chunk: Chunk
    n_done: int = 0
    utilities: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @property
    def is_complete(self) -> bool:
        """Whether every draw of the chunk was evaluated."""
        return self.n_done == self.chunk.n_draws

    def append(self, n_draws: int, utilities: NDArray[np.float64]) -> None:
        """Add the utilities of the next draws."""
        if self.n_done + n_draws > self.chunk.n_draws:
            raise ValueError("more draws than the chunk has")
        first = self.n_done == 0
        self.utilities = utilities if first else np.concatenate([self.utilities, utilities])
        self.n_done += n_draws


class EvaluationLog:
    """Append-only record of the utilities of one game.

    Coalitions are not stored: they are drawn again from the seeds wherever they are needed.

    Parameters
    ----------
    entropy : int
        What all seeds derive from.
    fold : int
        Number of the game among those played together.
    n_players : int

    Attributes
    ----------
    draws : Draws
        What the chunks in it drew.
    rounds : list of list of Entry
        Between two rounds a scheme may look at what came back; a round may be incomplete only if
        it is the last.
    """

    def __init__(self, entropy: int, fold: int, n_players: int) -> None:
        self.entropy = entropy
        self.fold = fold
        self.n_players = n_players
        self.draws = Draws(n_players, entropy)
        self.rounds: list[list[Entry]] = []

    def begin_round(self, chunks: Sequence[Chunk]) -> None:
        """Plan a round."""
        if not self.is_round_complete:
            raise ValueError("the last round is not complete")
        self.rounds.append([Entry(chunk) for chunk in chunks])

    @property
    def is_round_complete(self) -> bool:
        """Whether the last round is complete; so it is before the first one."""
        return not self.rounds or all(entry.is_complete for entry in self.rounds[-1])

    def joined_with(self, other: EvaluationLog) -> EvaluationLog:
        """Return a log of all that is in this one or in another one of the same draws."""
        part = self._without_entries()
        for mine, others in zip_longest(self.rounds, other.rounds, fillvalue=()):
            part.rounds.append(
                [
                    max((e for e in pair if e is not None), key=lambda entry: entry.n_done)
                    for pair in zip_longest(mine, others)
                ]
            )
        return part

    def of_pilot(self) -> EvaluationLog:
        """Return a log of the draws by laws that no utility had a part in."""
        part = self._without_entries()
        part.rounds = [[e for e in entries if e.chunk.half in (0, 1)] for entries in self.rounds]
        return part

    def only_half(self, which: int, n_rounds: int) -> EvaluationLog:
        """Return the log that one half of the draws would have left alone.

        The later draws by an adapted law are in it, since the other half set that law, and the
        enumerations, which belong to no half. What is left is halved again, for the schemes
        whose halves set weights for each other.

        Parameters
        ----------
        which : {0, 1}
        n_rounds : int
            How many of the rounds are looked at.
        """
        part = self._without_entries()
        n_sampled = 0
        for entries in self.rounds[:n_rounds]:
            part.rounds.append([])
            for entry in entries:
                chunk = entry.chunk
                if chunk.half >= 0 and chunk.half % 2 != which:
                    continue
                if chunk.half >= 0:
                    chunk = replace(chunk, half=n_sampled % 2)
                    n_sampled += 1
                part.rounds[-1].append(Entry(chunk, entry.n_done, entry.utilities))
        return part

    def _without_entries(self) -> EvaluationLog:
        part = EvaluationLog(self.entropy, self.fold, self.n_players)
        part.draws = self.draws
        return part

    @property
    def is_sampled(self) -> bool:
        """Whether there are draws other than enumerations."""
        return any(entry.chunk.half >= 0 for entry in self.entries)

    @property
    def n_evals(self) -> int:
        """Number of evaluations; a scheme marks by NaN what it did not need."""
        return sum(
            entry.utilities.size - int(np.count_nonzero(np.isnan(entry.utilities)))
            for entry in self.entries
        )

    @property
    def entries(self) -> list[Entry]:
        """Entries with evaluated draws, in the order of their chunks."""
        return [entry for entries in self.rounds for entry in entries if entry.n_done]

    @property
    def evaluated_chunks(self) -> list[Chunk]:
        """Chunks as far as they were evaluated."""
        return [
            entry.chunk if entry.is_complete else replace(entry.chunk, n_draws=entry.n_done)
            for entry in self.entries
        ]

    @property
    def n_chunks(self) -> int:
        """Number of planned chunks."""
        return sum(len(entries) for entries in self.rounds)

    @property
    def n_draws(self) -> int:
        """Number of evaluated draws."""
        return sum(entry.n_done for entry in self.entries)

    def replay(
        self, scheme: Drawer, enumerated: bool | None = None
    ) -> Iterator[tuple[Chunk, NDArray[np.generic], NDArray[np.float64]]]:
        """Yield each chunk with the draws that were evaluated and their utilities.

        Parameters
        ----------
        scheme : Drawer
            The one that the log was written by.
        enumerated : bool or None, default=None
            True for the enumerations beside random draws only, False for the draws only.

        Yields
        ------
        chunk : Chunk
        draws : ndarray of bool or int, shape (n_rows, n_players)
        utilities : ndarray of shape (n_rows, ...)
        """
        for entry in self.entries:
            if enumerated not in (None, entry.chunk.half < 0):
                continue
            draws = self.draws.of(scheme, entry.chunk)
            yield entry.chunk, draws[: len(entry.utilities)], entry.utilities
