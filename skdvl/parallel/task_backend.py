"""The joblib backend under a TaskRunner that works through an executor."""

import threading
import time
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from typing import Any

from skdvl.parallel import executors
from skdvl.parallel.backend import Batch, ExecutorBackend
from skdvl.parallel.failures import Lost, Unsent, WorkerLostError
from skdvl.parallel.tasks import Task

_WATCH_SECONDS = 1.0
_PATIENCE_SECONDS = 22.0  # a nanny takes 2 to 17 seconds to start a worker again


class TaskBackend(ExecutorBackend):
    """Gives the loss of a worker back as a value, in place of the results of its task.

    As an exception it would make joblib drop all else that is under way.
    """

    def __init__(self, executor: Executor, n_workers: int) -> None:
        super().__init__(executor, nesting_level=0)
        self._n_workers = n_workers
        self._seconds_deserted = 0.0  # without any worker, since the last result came
        self.has_losses = False  # of the call under way
        self.tries_once = False  # a lost task is not tried again by Ray itself
        self._retrying = {n: executors.retrying(executor, n) for n in (0, 1)}

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        """Prepare a call of ``joblib.Parallel``.

        With one worker too, tasks go to it: joblib is told two, or it would run them here.
        """
        self.parallel = parallel
        self._n_jobs = self._n_workers
        return self.effective_n_jobs(n_jobs)

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many tasks joblib keeps going."""
        return max(self._n_workers, 2)

    def start_call(self) -> None:
        """Begin to watch a cluster that does not tell when its last worker is gone."""
        self._call_ended = threading.Event()
        self.has_losses = False
        if executors.is_dask(self._executor):
            threading.Thread(target=self._watch, args=(self._call_ended,), daemon=True).start()

    def stop_call(self) -> None:
        """End watching."""
        self._call_ended.set()

    def _send(self, function: Any) -> Future:
        if self.has_losses:
            unsent: Future = Future()
            unsent.set_result([Unsent(task.numbers) for task in _tasks(function)])
            return unsent
        if executors.is_ray(self._executor):
            # once more beside the others, as many tasks may be lost with a node; what dies again
            # is under suspicion, and four rounds of starting workers would pass until that is known
            return self._retrying[0 if self.tries_once else 1].submit(function)
        return super()._send(function)

    def _watch(self, ended: threading.Event) -> None:
        """Give up where workers stay away, or come back only to die again, for too long."""
        last_look = time.monotonic()
        while not ended.wait(_WATCH_SECONDS):
            has_workers = executors.has_workers(self._executor)
            seconds = time.monotonic() - last_look
            last_look += seconds
            if has_workers:
                continue
            self._seconds_deserted += seconds
            if self._seconds_deserted > _PATIENCE_SECONDS:
                self.give_up(_dask_is_gone())
                return

    def retrieve_result_callback(self, out: Batch) -> Any:
        """Return the outcomes of a batch, or which tasks were lost."""
        if out.was_refused:
            # an end for joblib, which would go on to send tasks to an executor that takes none
            return out.future.result()
        try:
            outcomes = out.future.result()
        except CancelledError:
            if not executors.is_dask(self._executor):
                raise
            raise _dask_is_gone() from None  # what a client does that has lost its scheduler
        except BrokenExecutor as error:
            n_attempts = getattr(error, "n_attempts", 1)
            if n_attempts is None:
                raise
            return self._lost(out, error, n_attempts, is_certain=isinstance(error, WorkerLostError))
        except Exception as error:
            if type(error).__name__ != "KilledWorker":
                raise
            # Dask's, after attempts of its own; it counts all that a dead worker had before it
            n_attempts = error.allowed_failures + 1  # type: ignore[attr-defined]
            return self._lost(out, error, n_attempts, is_certain=False)
        self._seconds_deserted = 0.0
        return outcomes

    def _lost(
        self, batch: Batch, error: BaseException, n_attempts: int, *, is_certain: bool
    ) -> list[Lost]:
        self.has_losses = True
        return [
            Lost(task.numbers, error, n_attempts, is_certain=is_certain)
            for task in _tasks(batch.function)
        ]


def _tasks(function: Any) -> list[Task]:
    """Return what a batch of joblib's calls: its items are (function, args, kwargs)."""
    return [task for task, _, _ in function.items]


def _dask_is_gone() -> WorkerLostError:
    lost = WorkerLostError("no worker is left in the Dask cluster, or its scheduler is lost")
    lost.n_attempts = None
    return lost
