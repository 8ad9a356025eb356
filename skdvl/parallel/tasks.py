"""What runs on a worker: some payloads of a fit, in the surroundings of the caller."""

import time
from collections.abc import Callable
from typing import Any

import sklearn

from skdvl.parallel.context import like_the_caller, warning_filters_in_force
from skdvl.parallel.failures import Failure
from skdvl.parallel.sharing import Handle
from skdvl.parallel.threads import single_threaded


class Work:
    """What every task of a fit needs: it is what a handle stands for.

    ``in_this_process`` says that tasks run in threads of the caller's process, under its warning
    filters and with its own exceptions.
    """

    def __init__(self, function: Callable, shared: Any, *, in_this_process: bool) -> None:
        self.function = function
        self.shared = shared
        self.config = sklearn.get_config()
        self.filters = None if in_this_process else warning_filters_in_force()


class Outcome:
    """What a task brings back: results in the order of its payloads, or a failure."""

    def __init__(self, numbers: list[int], results: list | Failure, seconds: float) -> None:
        self.numbers = numbers
        self.results = results
        self.seconds = seconds


class Task:
    """Some payloads, to be called where a worker is.

    An exception is a value here (see :class:`Failure`), so that whatever the backend raises is
    its own.
    """

    def __init__(self, handle: Handle, numbers: list[int], payloads: list[Any]) -> None:
        self.handle = handle
        self.numbers = numbers
        self.payloads = payloads

    def __call__(self) -> Outcome:
        """Run the payloads."""
        start = time.perf_counter()
        pass_on = Failure.portable
        results: list | Failure
        try:
            work = self.handle.load()
            if work.filters is None:
                pass_on = Failure.here
            with like_the_caller(work.config, work.filters), single_threaded():
                results = [work.function(work.shared, payload) for payload in self.payloads]
        except BaseException as exception:
            results = pass_on(exception)
        return Outcome(self.numbers, results, time.perf_counter() - start)
