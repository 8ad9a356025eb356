"""The surroundings of the caller, set up again where its work runs."""

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sklearn


def warning_filters_in_force() -> list[tuple]:
    """Return the caller's warning filters, first match first."""
    # Python 3.14 may keep them in a context variable
    in_context = getattr(warnings, "_get_filters", None)
    return list(warnings.filters if in_context is None else in_context())


class _FilterScope:
    """The warning filters of a process that works for others: first in sets, last out restores.

    ``warnings.catch_warnings`` alone would leave wrong filters behind where tasks of a worker
    overlap in threads, as they do on Dask.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._outer: warnings.catch_warnings | None = None

    @contextmanager
    def use(self, filters: Sequence[tuple]) -> Iterator[None]:
        with self._lock:
            self._holders += 1
            if self._holders == 1:
                self._outer = warnings.catch_warnings()
                self._outer.__enter__()
                _set_filters(filters)
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if self._holders == 0 and self._outer is not None:
                    self._outer.__exit__(None, None, None)
                    self._outer = None


def _set_filters(filters: Sequence[tuple]) -> None:
    warnings.resetwarnings()
    for action, message, category, module, line in filters:
        if message is None and module is None:
            warnings.simplefilter(action, category, line, append=True)
        else:
            warnings.filterwarnings(
                action, _text(message), category, _text(module), line, append=True
            )


def _text(pattern: Any) -> str:
    """Return the text of a pattern: filters are kept compiled and set as text."""
    return "" if pattern is None else getattr(pattern, "pattern", pattern)


_FILTERS = _FilterScope()


@contextmanager
def like_the_caller(config: dict[str, Any], filters: Sequence[tuple] | None) -> Iterator[None]:
    """Work under the caller's scikit-learn configuration and, in another process, its filters."""
    with sklearn.config_context(**config):
        if filters is None:
            yield
        else:
            with _FILTERS.use(filters):
                yield
