"""Silence for the warnings of coalition fits.

Fitting thousands of small subsets makes a model warn thousands of times, and under ``-W error``
a warning would turn into a refused coalition, so that values depended on the warning filter.
``warnings.catch_warnings`` alone does not do: it changes the whole process, and two threads that
leave it in the other order restore the wrong filters.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_warnings"]

_lock = threading.Lock()
_depth = 0
_saved: warnings.catch_warnings[None] | None = None


def _renew_lock() -> None:
    """Give a forked child a free lock: another thread of the parent may have held it."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """Ignore warnings inside the ``with`` block; the first in sets, the last out restores."""
    global _depth, _saved
    with _lock:
        if _depth == 0:
            _saved = warnings.catch_warnings()
            _saved.__enter__()
            warnings.simplefilter("ignore")
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0 and _saved is not None:
                _saved.__exit__(None, None, None)
                _saved = None
