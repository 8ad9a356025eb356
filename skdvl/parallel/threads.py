"""One limiter of the process that holds BLAS and OpenMP at a single thread.

``threadpoolctl.threadpool_limits`` restores what it found on entry, so two of them that overlap in
two threads undo each other: the first one out hands all cores back while the second still computes,
the second one out leaves the process at one thread for ever. Results then depend on timing, because
Ridge and KMeans differ in their last bits between one and two threads.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController


class _Limiter:
    """Counts who needs one thread: the first in sets the limits, the last out restores them.

    BLAS libraries keep one number for the whole process, OpenMP keeps one for each thread
    (``omp_set_num_threads`` changes the calling thread only), so the former are counted over the
    process and the latter in each thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._local = threading.local()
        self._holders = 0
        self._found: dict[str, tuple[Any, int]] = {}
        self._n_modules = -1
        self._process_wide: list[Any] = []
        self._per_thread: list[Any] = []

    def enter(self) -> None:
        depth = getattr(self._local, "depth", 0)
        self._local.depth = depth + 1
        if depth:
            return
        with self._lock:
            self._find_libraries()
            self._holders += 1
            # set again even where another thread holds the limit already: somebody else's limiter
            # may have restored "its" number in between
            for library in self._process_wide:
                n_threads = library.get_num_threads()
                if n_threads not in (None, 1):
                    self._found.setdefault(library.filepath, (library, n_threads))
                    _set_for_process(library, 1)
        self._local.found = []
        for library in self._per_thread:
            n_threads = library.get_num_threads()
            if n_threads not in (None, 1):
                self._local.found.append((library, n_threads))
                library.set_num_threads(1)

    def exit(self) -> None:
        self._local.depth -= 1
        if self._local.depth:
            return
        for library, n_threads in self._local.found:
            library.set_num_threads(n_threads)
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                for library, n_threads in self._found.values():
                    _set_for_process(library, n_threads)
                self._found.clear()

    def _find_libraries(self) -> None:
        """Look for loaded libraries (1 ms), if a module was imported since the last look."""
        n_modules = len(sys.modules)
        if n_modules == self._n_modules:
            return
        self._n_modules = n_modules
        self._process_wide, self._per_thread = [], []
        for library in ThreadpoolController().lib_controllers:
            follows_openmp = (
                library.user_api == "openmp" or getattr(library, "threading_layer", "") == "openmp"
            )
            (self._per_thread if follows_openmp else self._process_wide).append(library)

    def after_fork(self) -> None:
        """Let no lock that another thread held at the fork stay held in the child."""
        self._lock = threading.Lock()


def _set_for_process(library: Any, n_threads: int) -> None:
    """Set the number of threads of a library whose number belongs to the whole process.

    threadpoolctl >= 3.8 lets only one thread change OpenBLAS and silently ignores the others. The
    last one out may be another thread than the first one in, so that ownership is given up.
    """
    give_up_ownership = getattr(library, "clear_controlling_thread", None)
    if give_up_ownership is not None:
        give_up_ownership(force=True)
    library.set_num_threads(n_threads)
    if give_up_ownership is not None:
        give_up_ownership(force=True)


_LIMITER = _Limiter()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_LIMITER.after_fork)


@contextmanager
def single_threaded() -> Iterator[None]:
    """Hold BLAS and OpenMP at one thread inside the block.

    Re-entrant and safe in overlapping threads; entering it again inside the block costs about a
    microsecond. BLAS is held for the whole process, OpenMP for the calling thread.

    Examples
    --------
    >>> import numpy as np
    >>> from skdvl.parallel import single_threaded
    >>> with single_threaded():
    ...     product = np.ones((2, 2)) @ np.ones((2, 2))
    """
    _LIMITER.enter()
    try:
        yield
    finally:
        _LIMITER.exit()
