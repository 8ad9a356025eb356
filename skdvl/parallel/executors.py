"""What must be known of other people's executors beyond their common interface."""

import asyncio
import concurrent.futures
import math
import sys
from concurrent.futures import Executor
from typing import Any

import joblib

_LOKY = "joblib.externals.loky"
_DASK_SECONDS = 10
DASK_ANSWER_SECONDS = 3  # within which a scheduler that lives tells what it knows
DASK_IS_SILENT = (OSError, asyncio.TimeoutError)


def is_threads(executor: Executor) -> bool:
    """Say whether calls run in this process."""
    return isinstance(executor, concurrent.futures.ThreadPoolExecutor)


def is_ray(executor: Executor) -> bool:
    """Say whether calls run on Ray, by a RayExecutor."""
    return type(executor).__module__ == "skdvl.parallel.ray_executor"


def is_dask(executor: Executor) -> bool:
    """Say whether calls run on Dask, by ``client.get_executor()``."""
    return type(executor).__module__ == "distributed.cfexecutor"


def is_process_pool(executor: Executor) -> bool:
    """Say whether calls run in processes of this machine: the standard library's or loky's."""
    names = ("concurrent.futures.process", "loky.process_executor", f"{_LOKY}.process_executor")
    pools = tuple(sys.modules[name].ProcessPoolExecutor for name in names if name in sys.modules)
    return isinstance(executor, pools)


def n_workers(executor: Any) -> int:
    """Return how many calls an executor runs at once."""
    if is_dask(executor):
        return sum(executor._client.ncores().values())
    # the standard library keeps it to itself under a name that everybody uses
    width = getattr(executor, "max_workers", None) or getattr(executor, "_max_workers", None)
    return width or joblib.cpu_count()


def never_deduplicating(executor: Any) -> Any:
    """Return an executor of the same workers that runs equal calls each time.

    Dask's returns the result of the first of two equal calls for both, be they random or not,
    unless told that they are not pure.
    """
    if is_dask(executor) and executor._kwargs.get("pure", True):
        return executor._client.get_executor(**{**executor._kwargs, "pure": False})
    return executor


def retrying(executor: Any, max_retries: int) -> Any:
    """Return an executor of the same workers that runs a lost call again no more often than that.

    Dask has no such choice for a single call; pools of processes never run one again.
    """
    if not is_ray(executor):
        return executor
    return executor.options(max_retries=min(max_retries, n_retries(executor)))


def n_retries(executor: Any) -> float:
    """Return how often calls whose worker died are run again, where the executor was told so."""
    if not is_ray(executor):
        return 0
    return executor.max_retries if executor.max_retries >= 0 else math.inf


def replacement(executor: Any) -> Executor | None:
    """Return a new pool made like a broken one, None for what cannot break or be made anew.

    A pool of processes breaks as a whole when one of them dies, and stays broken.
    """
    if not is_process_pool(executor):
        return None
    if isinstance(executor, concurrent.futures.ProcessPoolExecutor):
        return concurrent.futures.ProcessPoolExecutor(
            max_workers=executor._max_workers,  # type: ignore[attr-defined]  # not in the stubs
            mp_context=executor._mp_context,
            initializer=executor._initializer,
            initargs=executor._initargs,
        )
    # not loky's get_reusable_executor: it waits for the end of the broken pool, in whose own
    # thread we may be called
    family = next(kind for kind in type(executor).__mro__ if kind.__name__ == "ProcessPoolExecutor")
    return family(
        max_workers=executor._max_workers,
        context=executor._context,
        timeout=executor._timeout,
        initializer=executor._initializer,
        initargs=executor._initargs,
        env=executor._env,
    )


def require_workers(executor: Any) -> None:
    """Raise a RuntimeError if a Dask cluster has no worker within ten seconds.

    It would wait for ever, and joblib's Dask backend would compute in this process.
    """
    if not is_dask(executor):
        return
    try:
        executor._client.wait_for_workers(1, timeout=_DASK_SECONDS)
    except asyncio.TimeoutError as error:
        raise RuntimeError(
            f"the Dask cluster {executor._client} has no worker after {_DASK_SECONDS} seconds"
        ) from error


def has_workers(executor: Any) -> bool:
    """Say whether a Dask cluster can be reached and has a worker now."""
    client = executor._client
    if client.status != "running":  # it would try to reach the scheduler for half a minute
        return False
    try:
        # a public method would give what was known last where the scheduler does not answer
        return bool(client.sync(client.scheduler.ncores, callback_timeout=DASK_ANSWER_SECONDS))
    except DASK_IS_SILENT:
        return False


def inside_dask_worker() -> bool:
    """Say whether this is a task on a Dask worker.

    It occupies a thread of the worker; were it to wait for tasks of its own, all threads of a
    cluster could come to wait for each other.
    """
    if "distributed" not in sys.modules:
        return False
    try:
        sys.modules["distributed"].get_worker()
    except ValueError:
        return False
    return True


def seconds_per_call(executor: Executor) -> float:
    """Return what a call costs beyond its work, as measured on two slow cores."""
    if is_threads(executor):
        return 2e-4
    if is_process_pool(executor):
        return 8e-4
    return 3e-3 if is_ray(executor) else 6e-3


def kill(executor: Any) -> None:
    """End an executor that we started at once, with what runs in it."""
    if hasattr(executor, "kill_workers"):  # Ray's, and pools from Python 3.14
        executor.kill_workers()
    elif isinstance(executor, concurrent.futures.ProcessPoolExecutor):
        processes = list((getattr(executor, "_processes", None) or {}).values())
        executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
    else:  # loky's
        executor.shutdown(kill_workers=True)
