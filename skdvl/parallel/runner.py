"""The one door through which work runs on joblib."""

import itertools
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import closing
from typing import Any, Generic, TypeVar

import joblib

from skdvl.parallel.failures import Failure, Lost, Unsent, WorkerLostError
from skdvl.parallel.grouping import Grouping
from skdvl.parallel.routes import Route, open_route
from skdvl.parallel.sharing import DirectHandle
from skdvl.parallel.task_backend import TaskBackend
from skdvl.parallel.tasks import Outcome, Task, Work

P = TypeVar("P")
R = TypeVar("R")


class TaskRunner(Generic[P, R]):
    """Run a function over payloads on the joblib backend in force.

    Inside ``with``, ``shared`` lies where the workers can reach it, and each worker gets it once.
    Several payloads may travel as one task, by the time that they take; a result never depends
    on that. Only what a dead worker took with it runs again.

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
        How often a payload whose worker died is tried again; a `RayExecutor` may be told more.

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
        self._route = open_route(self.function, self.shared, self.n_jobs)
        self._grouping = Grouping(self._route.overhead, self._route.n_workers)
        self._was_cut_short = False  # by an exception, or by a caller who took enough
        return self

    def __exit__(self, *exception: object) -> None:
        self._route.close(by_force=self._was_cut_short)

    def run(
        self,
        payloads: Sequence[P],
        *,
        describe: Callable[[P], str] = str,
        seconds: float | None = None,
        borders: Sequence[int] = (),
    ) -> Generator[R]:
        """Yield the results in the order of the payloads, each as early as it can.

        Parameters
        ----------
        payloads : sequence
            One call each.
        describe : callable, default=str
            Names a payload in an error.
        seconds : float or None, default=None
            What a payload takes at most, by a guess. Where nobody chose a backend, processes are
            started once it is known that they pay; the guess can spare a long first payload from
            being that which tells.
        borders : sequence of int, default=()
            Numbers of payloads that never travel together with the one before them, ascending:
            what lies before a border is complete no later than it would be alone.

        Yields
        ------
        object
            ``function(shared, payload)``.

        Raises
        ------
        WorkerLostError
            If a payload lost its worker more often than it may.
        """
        done: dict[int, R] = {}
        n_yielded = 0
        self._was_cut_short = True
        with closing(self._outcomes(payloads, describe, seconds, borders)) as outcomes:
            for outcome in outcomes:
                if isinstance(outcome.results, Failure):
                    raise outcome.results.to_exception()
                self._grouping.measure(len(outcome.numbers), outcome.seconds)
                done.update(zip(outcome.numbers, outcome.results, strict=True))
                while n_yielded in done:
                    yield done.pop(n_yielded)
                    n_yielded += 1
        self._was_cut_short = False

    def _outcomes(
        self,
        payloads: Sequence[P],
        describe: Callable[[P], str],
        seconds: float | None,
        borders: Sequence[int],
    ) -> Generator[Outcome]:
        """Yield the outcomes of all payloads as they come."""
        waiting = deque(range(len(payloads)))
        if self._route.is_default:
            yield from self._while_no_pool_pays(payloads, waiting, seconds)
        n_losses: dict[int, int] = {}  # of payloads whose worker died and that have no result yet
        while waiting or n_losses:
            # a pool breaks as a whole and blames all that was under way, so suspects go alone
            alone = bool(n_losses)
            numbers = deque([min(n_losses)]) if alone else waiting
            losses = []
            with closing(self._call(payloads, numbers, borders, alone=alone)) as outcomes:
                for outcome in outcomes:
                    if isinstance(outcome, Lost):
                        if outcome.is_certain:  # what follows may die as often, one by one
                            self._count(outcome, True, n_losses, payloads, describe)
                        else:
                            losses.append(outcome)
                        continue
                    for number in outcome.numbers:
                        n_losses.pop(number, None)
                    yield outcome
            for loss in losses:
                self._count(loss, alone or len(losses) == 1, n_losses, payloads, describe)

    def _count(
        self,
        loss: Lost,
        is_to_blame: bool,
        n_losses: dict[int, int],
        payloads: Sequence[P],
        describe: Callable[[P], str],
    ) -> None:
        """Add a loss to those of its payloads; raise an error if it is one too many."""
        if loss.n_attempts is None:
            raise _worker_lost(describe(payloads[loss.numbers[0]]), loss)
        n_attempts = loss.n_attempts if is_to_blame else 1
        # what the backend tried again as one piece does not tell which of several kills
        is_told = len(loss.numbers) == 1 or n_attempts == 1
        for number in loss.numbers:
            n_losses[number] = n_losses.get(number, 0) + n_attempts
            if is_told and n_losses[number] > max(self.max_retries, self._route.max_retries):
                raise _worker_lost(describe(payloads[number]), loss, n_losses[number])

    def _while_no_pool_pays(
        self, payloads: Sequence[P], waiting: deque[int], guess: float | None
    ) -> Iterator[Outcome]:
        """Run payloads here while starting processes would take longer than it saves.

        Only where nobody chose a backend. What remains is judged by the payloads of this round
        alone, since more rounds may not come.
        """
        handle = DirectHandle(Work(self.function, self.shared, in_this_process=True))
        known = None if guess is None else guess / _CAUTION
        if self._grouping.seconds is not None:
            known = self._grouping.seconds
        start = time.perf_counter()
        while waiting and not _pool.pays(known, len(waiting), self._route):
            number = waiting.popleft()
            # models inside follow the context too, and must not start the pool in their turn
            with joblib.parallel_config(n_jobs=1):
                outcome = Task(handle, [number], [payloads[number]])()
            yield outcome
            # a first call may be slow for reasons of its own: a tenth of what is at stake tells
            if time.perf_counter() - start > 0.1 * _pool.cost():
                known = self._grouping.seconds
        if waiting:
            _pool.note_use()

    def _call(
        self, payloads: Sequence[P], waiting: deque[int], borders: Sequence[int], *, alone: bool
    ) -> Generator[Outcome | Lost]:
        """Send the waiting payloads through joblib; yield what comes back, losses too.

        After a loss what is under way still ends, and the rest goes on waiting.
        """
        under_way: set[int] = set()
        if isinstance(self._route.backend, TaskBackend):
            self._route.backend.tries_once = alone

        def tasks() -> Iterator[tuple[Task, tuple, dict]]:
            while waiting and not self._route.has_losses:
                room = next((end - waiting[0] for end in borders if end > waiting[0]), len(waiting))
                size = min(self._grouping.size(len(waiting)), room)
                numbers = [waiting.popleft() for _ in range(size)]
                under_way.update(numbers)
                task = Task(self._route.handle, numbers, [payloads[k] for k in numbers])
                yield task, (), {}  # what joblib.delayed makes of a call

        try:
            with closing(_joblib(self._route, tasks())) as outcomes:
                for outcome in outcomes:
                    under_way.difference_update(outcome.numbers)
                    if isinstance(outcome, Unsent):
                        numbers = sorted([*outcome.numbers, *waiting])
                        waiting.clear()
                        waiting.extend(numbers)
                    else:
                        yield outcome
        except RuntimeError as error:
            if not _is_lost_pool(error):
                raise
            n_attempts = getattr(error, "n_attempts", 1)
            yield Lost(sorted(under_way), error, n_attempts, is_certain=False)


def _joblib(route: Route, tasks: Iterator[tuple]) -> Generator[Any]:
    """Call joblib.Parallel, in waves where it gives results only at the end of a call."""
    options: dict[str, Any] = {"n_jobs": route.n_workers, "batch_size": 1}
    # A task in reserve for every two workers, none on Ray: if all die, what is under way dies piece
    # by piece.
    options["pre_dispatch"] = "n_jobs" if route.is_ray else "1.5 * n_jobs"
    if route.backend is not None:
        options["backend"] = route.backend
    if not route.streams:
        while wave := list(itertools.islice(tasks, 2 * route.n_workers)):
            yield from joblib.Parallel(**options)(wave)
        return
    outcomes = joblib.Parallel(return_as="generator_unordered", **options)(tasks)
    try:
        # `yield from` would close them before the warning is silenced
        for outcome in outcomes:  # noqa: UP028
            yield outcome
    finally:
        with warnings.catch_warnings():
            # joblib says how many tasks an early end cancels; that is what it is for
            warnings.simplefilter("ignore", UserWarning)
            outcomes.close()


def _is_lost_pool(error: RuntimeError) -> bool:
    """Say whether joblib lost its pool: it broke, or another user of joblib took it away."""
    if isinstance(error, BrokenExecutor):
        return True
    return type(error.__context__).__name__ == "ShutdownExecutorError"


def _worker_lost(name: str, loss: Lost, n_losses: int | None = None) -> WorkerLostError:
    times = "" if n_losses is None else f" {n_losses} times, the last time"
    error = WorkerLostError(
        f"{name} lost its worker{times} by {type(loss.error).__name__}: {loss.error}"
    )
    error.n_attempts = n_losses
    error.__cause__ = loss.error
    return error


_CAUTION = 4  # how far below a guess of an upper bound the truth may lie


class _Pool:
    """What is known of joblib's pool of processes, which outlives a fit."""

    start_seconds = 2.0  # until new processes have imported what they need, on two slow cores
    call_seconds = 0.02  # for a call of joblib while the processes live
    idle_seconds = 250.0  # after 300 joblib ends idle processes

    def __init__(self) -> None:
        self._last_use = float("-inf")

    def note_use(self) -> None:
        """Remember that processes live from now on."""
        self._last_use = time.monotonic()

    def cost(self) -> float:
        """Return the seconds before the first result comes."""
        is_warm = time.monotonic() - self._last_use < self.idle_seconds
        return self.call_seconds if is_warm else self.start_seconds

    def pays(self, seconds: float | None, n_waiting: int, route: Route) -> bool:
        """Say whether the pool would end the waiting payloads sooner than this process."""
        if seconds is None:
            return False
        n_busy = min(route.n_workers, n_waiting)
        return seconds * n_waiting * (1 - 1 / n_busy) > self.cost()


_pool = _Pool()
