"""The one door through which work runs on joblib."""

import contextlib
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from typing import Any, Generic, TypeVar

import joblib
import sklearn
from joblib.parallel import get_active_backend

from skdvl.parallel.context import like_the_caller, warning_filters_in_force
from skdvl.parallel.failures import Failure, WorkerLostError
from skdvl.parallel.sharing import DirectHandle, FileHandle
from skdvl.parallel.threads import single_threaded

P = TypeVar("P")
R = TypeVar("R")


class TaskRunner(Generic[P, R]):
    """Run a function over payloads on the joblib backend in force.

    Inside ``with``, ``shared`` lies where the workers can reach it, and each worker gets it once.

    Parameters
    ----------
    function : callable
        Called as ``function(shared, payload)``; defined at the top of a module. It always runs
        with BLAS and OpenMP at one thread.
    shared : object
        What all calls share. Its arrays arrive read-only in other processes.
    n_jobs : int or None, default=None
        As in scikit-learn: None follows ``joblib.parallel_config``, a number wins over it.
    max_retries : int, default=3
        How often a payload whose worker died is tried again.

    Examples
    --------
    >>> import operator
    >>> from skdvl.parallel import TaskRunner
    >>> with TaskRunner(operator.add, 10) as runner:
    ...     print(list(runner.run([1, 2, 3])))
    [11, 12, 13]
    """

    def __init__(
        self,
        function: Callable[[Any, P], R],
        shared: Any,
        *,
        n_jobs: int | None = None,
        max_retries: int = 3,
    ) -> None:
        self.function = function
        self.shared = shared
        self.n_jobs = n_jobs
        self.max_retries = max_retries

    def __enter__(self) -> "TaskRunner[P, R]":
        backend, _ = get_active_backend()
        self._n_workers = _n_workers(self.n_jobs)
        config = sklearn.get_config()
        if self._n_workers == 1 or getattr(backend, "supports_sharedmem", False):
            work = _Work(self.function, self.shared, config, None)
            self._handle: Any = DirectHandle(work)
        else:
            work = _Work(self.function, self.shared, config, warning_filters_in_force())
            self._handle = FileHandle.publish(work)
        return self

    def __exit__(self, *exception: object) -> None:
        self._handle.close()

    def run(self, payloads: Sequence[P], *, describe: Callable[[P], str] = str) -> Iterator[R]:
        """Yield the results in the order of the payloads, each as early as it can.

        Parameters
        ----------
        payloads : sequence
            One call each; a call never depends on how payloads are grouped into tasks.
        describe : callable, default=str
            Names a payload in an error.

        Yields
        ------
        object
            ``function(shared, payload)``.

        Raises
        ------
        WorkerLostError
            If a payload lost its worker ``max_retries`` times more after the first.
        """
        waiting: dict[int, R] = {}
        n_yielded = 0
        with contextlib.closing(self._outcomes(payloads, describe)) as outcomes:
            for number, result in outcomes:
                waiting[number] = result
                while n_yielded in waiting:
                    yield waiting.pop(n_yielded)
                    n_yielded += 1

    def _outcomes(
        self, payloads: Sequence[P], describe: Callable[[P], str]
    ) -> Generator[tuple[int, R]]:
        """Yield (number of a payload, its result) as they come; lost ones are tried alone."""
        waiting = deque(range(len(payloads)))
        losses: dict[int, int] = {}  # of payloads whose worker died and that have no result yet
        while waiting or losses:
            # the pool breaks as a whole and blames all that was under way, so suspects go alone
            numbers = deque([min(losses)]) if losses else waiting
            in_flight: set[int] = set()
            try:
                for number, result in self._pass(payloads, numbers, in_flight):
                    in_flight.discard(number)
                    losses.pop(number, None)
                    yield number, result
            except BrokenExecutor as error:
                for number in in_flight:
                    losses[number] = losses.get(number, 0) + 1
                    if losses[number] > self.max_retries:
                        raise WorkerLostError(
                            f"{describe(payloads[number])} lost its worker "
                            f"{losses[number]} times: {error}"
                        ) from error

    def _pass(
        self, payloads: Sequence[P], numbers: deque[int], in_flight: set[int]
    ) -> Generator[tuple[int, R]]:
        """Run payloads by one call of joblib, noting which are under way."""

        def tasks() -> Iterator[Any]:
            while numbers:
                number = numbers.popleft()
                in_flight.add(number)
                yield joblib.delayed(_run_group)(self._handle, [number], [payloads[number]])

        with contextlib.closing(self._call(tasks)) as outcomes:
            for numbers_done, results, _ in outcomes:
                if isinstance(results, Failure):
                    results.throw()
                yield from zip(numbers_done, results, strict=True)

    def _call(self, tasks: Callable[[], Iterator[Any]]) -> Generator[Any]:
        backend, _ = get_active_backend()
        if self._n_workers == 1 or backend.supports_return_generator:
            parallel = joblib.Parallel(
                n_jobs=self._n_workers, return_as="generator_unordered", batch_size=1
            )
            outcomes = parallel(tasks())
            try:
                yield from outcomes
            finally:
                with warnings.catch_warnings():
                    # joblib says how many tasks an early end cancels; that is what it is for
                    warnings.simplefilter("ignore", UserWarning)
                    outcomes.close()
        else:
            todo = list(tasks())
            wave = 2 * self._n_workers
            for start in range(0, len(todo), wave):
                yield from joblib.Parallel(n_jobs=self._n_workers, batch_size=1)(
                    todo[start : start + wave]
                )


class _Work:
    """What every task of a fit needs: shipped once."""

    def __init__(
        self, function: Callable, shared: Any, config: dict, filters: list[tuple] | None
    ) -> None:
        self.function = function
        self.shared = shared
        self.config = config
        self.filters = filters


def _run_group(handle: Any, numbers: list[int], payloads: list[Any]) -> tuple:
    """Run some payloads where a worker is: their numbers, results (or a Failure) and seconds."""
    start = time.perf_counter()
    work = handle.load()
    elsewhere = work.filters is not None
    results: Any
    try:
        with like_the_caller(work.config, work.filters), single_threaded():
            results = [work.function(work.shared, payload) for payload in payloads]
    except BaseException as exception:
        results = Failure.portable(exception) if elsewhere else Failure.here(exception)
    return numbers, results, time.perf_counter() - start


def _n_workers(n_jobs: int | None) -> int:
    """Resolve n_jobs as ``joblib.Parallel`` would here."""
    backend, _ = get_active_backend()
    return int(backend.effective_n_jobs(joblib.Parallel(n_jobs=n_jobs).n_jobs))
