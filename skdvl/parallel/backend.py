"""Any ``concurrent.futures.Executor`` as a joblib backend."""

import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from functools import partial
from typing import Any

from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    register_parallel_backend,
)

from skdvl.parallel import executors
from skdvl.parallel.ray_executor import RayExecutor


class Batch:
    """A batch of joblib's on its way through an executor."""

    def __init__(self, function: Callable, callback: Callable | None) -> None:
        self.function = function
        self.callback = callback
        self.future: Future = Future()  # the executor's, once it has been asked
        self.was_refused = False


class OnExecutor(AutoBatchingMixin, ParallelBackendBase):
    """What joblib backends over an executor have in common."""

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(
        self, *, nesting_level: int | None = None, inner_max_num_threads: int | None = None
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._lock = threading.Lock()
        self._n_jobs = 1
        self._waiting: deque[Batch] = deque()
        self._under_way: set[Batch] = set()

    @abstractmethod
    def executor_for(self, n_jobs: int) -> Executor:
        """Return the executor on which n_jobs batches at once will run."""

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many batches may run at once."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs > 0:
            return n_jobs
        return max(executors.n_workers(self.executor_for(n_jobs)) + 1 + n_jobs, 1)

    def configure(
        self, n_jobs: int = 1, parallel: Any = None, **options_of_other_backends: Any
    ) -> int:
        """Prepare a call of ``joblib.Parallel``; a single job runs where it was asked for."""
        self._n_jobs = self.effective_n_jobs(n_jobs)
        if self._n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        return self._n_jobs

    def submit(self, func: Callable, callback: Callable | None = None) -> Batch:
        """Queue a batch; never raises, for joblib calls this in threads where that is lost."""
        batch = Batch(func, callback)
        with self._lock:
            self._waiting.append(batch)
        self._fill()
        return batch

    def _fill(self) -> None:
        """Give waiting batches to the executor, at most n_jobs at once."""
        while True:
            with self._lock:
                if not self._waiting or len(self._under_way) >= self._n_jobs:
                    return
                batch = self._waiting.popleft()
                self._under_way.add(batch)
            self._start(batch)
            batch.future.add_done_callback(partial(self._end, batch))

    def _start(self, batch: Batch) -> None:
        """Submit to the executor; if it refuses, the batch gets a future that failed."""
        try:
            batch.future = self._send(batch.function)
        except Exception as error:
            batch.was_refused = True
            batch.future.set_exception(error)

    def _send(self, function: Callable) -> Future:
        return self.executor_for(self._n_jobs).submit(function)

    def _end(self, batch: Batch, future: Future) -> None:
        with self._lock:
            if batch not in self._under_way:
                return  # it was given up before
            self._under_way.discard(batch)
        self._fill()
        if batch.callback is not None:
            batch.callback(batch)
        # A cycle: this method is a callback of the future. Dask keeps a result as long as a future
        # lives, and computes it again when the worker dies that has it.
        del batch.future

    def retrieve_result_callback(self, out: Batch) -> Any:
        """Return the results of a batch that ended, or raise what it raised."""
        return out.future.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what has not started; what runs in a foreign executor cannot be stopped."""
        with self._lock:
            self._waiting.clear()
            under_way = [batch.future for batch in self._under_way]
        for future in under_way:
            future.cancel()

    def give_up(self, error: Exception) -> None:
        """Let all that is under way fail at once, whether the executor knows or not."""
        with self._lock:
            self._waiting.clear()
            under_way = list(self._under_way)
        for batch in under_way:
            batch.future = Future()
            batch.future.set_exception(error)
            self._end(batch, batch.future)

    def terminate(self) -> None:
        """End a call of ``joblib.Parallel``: the executor stays as it is."""
        self.reset_batch_stats()


class ExecutorBackend(OnExecutor):
    """A joblib backend over an executor: for skdvl, scikit-learn and all that runs on joblib.

    Parameters
    ----------
    executor : concurrent.futures.Executor
        A RayExecutor, ThreadPoolExecutor, ProcessPoolExecutor, loky's ``get_reusable_executor()``,
        Dask's ``client.get_executor()``, or any other. It stays the caller's: the backend never
        shuts it down. A pool of processes that broke is replaced by one made like it.

    Notes
    -----
    At most ``n_jobs`` batches are in the executor at once, whatever its size. ``n_jobs=-1``, the
    default, is the size of the executor.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> import joblib
    >>> from skdvl.parallel import ExecutorBackend
    >>> with ThreadPoolExecutor(2) as executor:
    ...     with joblib.parallel_config(backend=ExecutorBackend(executor), n_jobs=2):
    ...         print(joblib.Parallel()(joblib.delayed(abs)(-i) for i in range(3)))
    [0, 1, 2]
    """

    def __init__(
        self,
        executor: Executor,
        *,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
    ) -> None:
        if not isinstance(executor, Executor):
            raise TypeError(
                f"executor must be a concurrent.futures.Executor, got {type(executor).__name__}"
            )
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._executor = executors.never_deduplicating(executor)
        self.uses_threads = self.supports_sharedmem = executors.is_threads(executor)

    def executor_for(self, n_jobs: int) -> Executor:
        """Return the executor, or the one that took its place when it broke."""
        return self._executor

    def _send(self, function: Callable) -> Future:
        executor = self._executor
        try:
            return executor.submit(function)
        except BrokenExecutor:
            return self._in_place_of(executor).submit(function)

    def _in_place_of(self, broken: Executor) -> Executor:
        """Return the pool that replaces a broken one, made by the first thread that asks."""
        with self._lock:
            if self._executor is broken:
                self._executor = executors.replacement(broken) or broken
            return self._executor


class RayBackend(OnExecutor):
    """What ``joblib.parallel_config(backend="ray_executor", ...)`` gives: a RayExecutor of its own.

    Parameters
    ----------
    **ray_options
        Those of :class:`RayExecutor`, except max_workers: that is n_jobs.
    """

    def __init__(
        self,
        *,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        **ray_options: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._ray_options = ray_options
        self._opening = threading.Lock()
        self._executor: RayExecutor | None = None

    def executor_for(self, n_jobs: int) -> Executor:
        """Return the RayExecutor, joined or started at the first need."""
        with self._opening:
            if self._executor is None:
                self._executor = RayExecutor(n_jobs if n_jobs > 0 else None, **self._ray_options)
            return self._executor

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what has not started and end what runs, as joblib's own processes are ended."""
        super().abort_everything(ensure_ready)
        with self._opening:
            if self._executor is not None:
                self._executor.abort()


register_parallel_backend("ray_executor", RayBackend)
