"""What happened while utilities were evaluated, beside the utilities themselves.

Evaluations run in threads and in other processes, so a counter on the utility object would be
lost or raced for. The code that runs a chunk opens a record; utilities write into the record of
their own thread; the record travels back with the chunk's utilities.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from skdvl.caching import CacheInfo

__all__ = ["EvaluationRecord", "current_record", "recording"]


@dataclass
class EvaluationRecord:
    """Refusals and cache traffic of some evaluations.

    Attributes
    ----------
    refused : Counter
        How many coalitions were refused, by ``(message, is_large)``; a coalition is large if it
        has at least half of the players.
    n_large : int
        How many coalitions of at least half of the players were evaluated.
    cache : CacheInfo
        What caches did in other processes than the one that waits for the values.
    cached : dict of bytes to float
        New cache entries, for a cache that processes do not share.
    """

    refused: Counter[tuple[str, bool]] = field(default_factory=Counter)
    n_large: int = 0
    cache: CacheInfo = field(default_factory=CacheInfo)
    cached: dict[bytes, float] = field(default_factory=dict)

    @property
    def n_refused(self) -> int:
        """How many coalitions were refused."""
        return sum(self.refused.values())

    def add(self, other: EvaluationRecord) -> None:
        """Count what another record counted."""
        self.refused.update(other.refused)
        self.n_large += other.n_large
        self.cache += other.cache
        self.cached.update(other.cached)


_current: ContextVar[EvaluationRecord | None] = ContextVar("skdvl_evaluation_record", default=None)


def current_record() -> EvaluationRecord:
    """Return the record that is open in this thread, or one that nobody reads."""
    record = _current.get()
    return EvaluationRecord() if record is None else record


@contextmanager
def recording() -> Iterator[EvaluationRecord]:
    """Open a record for the evaluations inside the ``with`` block."""
    record = EvaluationRecord()
    token = _current.set(record)
    try:
        yield record
    finally:
        _current.reset(token)
