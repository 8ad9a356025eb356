"""How the tasks of a fit reach their workers under the joblib backend in force."""

import concurrent.futures
import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import get_context
from typing import Any

import joblib
from joblib.externals import loky
from joblib.parallel import get_active_backend

from skdvl.parallel import executors
from skdvl.parallel.backend import OnExecutor, RayBackend
from skdvl.parallel.ray_cluster import ensure_ray
from skdvl.parallel.ray_executor import RayExecutor
from skdvl.parallel.sharing import (
    CarriedHandle,
    DaskHandle,
    DirectHandle,
    FileHandle,
    Handle,
    RayHandle,
)
from skdvl.parallel.task_backend import TaskBackend
from skdvl.parallel.tasks import Work


@dataclass
class Route:
    """The way of a fit's tasks, open from the start to the end of the fit."""

    n_workers: int
    publish: Callable[[], Handle]
    overhead: float  # seconds that sending a task costs, measured on two slow cores
    executor: Executor | None = None  # None: joblib sends the tasks itself
    streams: bool = True  # results come one by one, not all at the end of a call of joblib
    is_default: bool = False  # nobody chose the backend
    owned: Executor | None = None  # what was started for this fit alone
    by_name: RayBackend | None = None  # the backend that owns the executor, if one does
    releases: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def handle(self) -> Handle:
        """What each task carries; published when the first task is sent."""
        handle = self.publish()
        self.releases.callback(handle.close)
        return handle

    @property
    def is_ray(self) -> bool:
        """Whether the tasks run on Ray."""
        return self.executor is not None and executors.is_ray(self.executor)

    @property
    def max_retries(self) -> float:
        """How often the executor was told to run again what lost its worker."""
        return 0 if self.executor is None else executors.n_retries(self.executor)

    @property
    def has_losses(self) -> bool:
        """Whether the call under way lost a task: suspects are tried before more is sent."""
        return isinstance(self.backend, TaskBackend) and self.backend.has_losses

    @cached_property
    def backend(self) -> TaskBackend | str | None:
        """The backend for ``joblib.Parallel``; None: the one in force."""
        if self.executor is not None:
            return TaskBackend(self.executor, self.n_workers)
        # a single job is no reason for Dask's backend to stay in this process
        return "sequential" if self.n_workers == 1 else None

    def close(self, *, by_force: bool) -> None:
        """Release the data and what was started; by force: without waiting for what runs."""
        self.releases.close()
        if self.by_name is not None and by_force:
            self.by_name.abort_everything()
        if self.owned is not None and by_force:
            executors.kill(self.owned)
        elif self.owned is not None:
            self.owned.shutdown()


def open_route(function: Callable, shared: Any, n_jobs: int | None) -> Route:
    """Find the way for tasks that call ``function(shared, payload)``.

    joblib's own backends for Ray, Dask and multiprocessing are entered by another door, to the
    same workers: through an executor on them. By joblib's door a killed worker means waiting for
    ever (multiprocessing, Dask) or losing all that is under way (Ray), and the data travel to
    Ray and Dask once for each batch.
    """
    backend, _ = get_active_backend()
    kind = f"{type(backend).__module__}.{type(backend).__qualname__}"
    n_asked = joblib.Parallel(n_jobs=n_jobs).n_jobs

    def work(*, here: bool) -> Work:
        return Work(function, shared, in_this_process=here)

    if n_asked == 1 or executors.inside_dask_worker():
        return _in_this_process(1, work)
    if kind == "joblib._dask.DaskDistributedBackend":
        executor = backend.client.get_executor(pure=False, **backend.submit_kwargs)
        return _through(executor, n_asked, work)
    if kind == "ray.util.joblib.ray_backend.RayBackend":
        return _through_own(_ray_like(backend, n_asked), n_asked, work)
    if isinstance(backend, OnExecutor):
        route = _through(backend.executor_for(n_asked), n_asked, work)
        route.by_name = backend if isinstance(backend, RayBackend) else None
        return route
    n_workers = backend.effective_n_jobs(n_asked)
    if n_workers == 1:
        return _in_this_process(1, work)
    if kind == "joblib._parallel_backends.MultiprocessingBackend":
        return _through_own(_processes_like_joblib(n_workers), n_workers, work)
    if kind == "joblib._parallel_backends.LokyBackend":
        return _through_loky(n_workers, work)
    streams = backend.supports_return_generator
    if getattr(backend, "supports_sharedmem", False):
        return _in_this_process(n_workers, work, streams=streams)
    return Route(n_workers, lambda: CarriedHandle(work(here=False)), 5e-3, streams=streams)


def _in_this_process(n_workers: int, work: Callable[..., Work], streams: bool = True) -> Route:
    return Route(n_workers, lambda: DirectHandle(work(here=True)), 2e-4, streams=streams)


def _through(executor: Any, n_asked: int, work: Callable[..., Work]) -> Route:
    """Return the way through an executor."""
    executors.require_workers(executor)
    size = executors.n_workers(executor)
    n_workers = n_asked if n_asked > 0 else max(size + 1 + n_asked, 1)

    def publish() -> Handle:
        if executors.is_threads(executor):
            return DirectHandle(work(here=True))
        if executors.is_ray(executor):
            return RayHandle(work(here=False), executor)
        if executors.is_dask(executor):
            return DaskHandle(work(here=False), executor._client)
        if executors.is_process_pool(executor):
            return FileHandle(work(here=False))
        return CarriedHandle(work(here=False))

    return Route(n_workers, publish, executors.seconds_per_call(executor), executor)


def _through_own(executor: Executor, n_asked: int, work: Callable[..., Work]) -> Route:
    """Return the way through an executor that ends with the fit."""
    route = _through(executor, n_asked, work)
    route.owned = executor
    return route


def _processes_like_joblib(n_workers: int) -> Executor:
    """Return a pool whose processes start as those of joblib's multiprocessing backend do."""
    method = os.environ.get("JOBLIB_START_METHOD", "").strip() or None
    return concurrent.futures.ProcessPoolExecutor(n_workers, mp_context=get_context(method))


def _ray_like(backend: Any, n_asked: int) -> RayExecutor:
    """Return an executor that asks what Ray's joblib backend was told to ask for its actors."""
    ensure_ray(n_asked)  # and leaves it running, as that backend does
    asked = dict(backend.ray_remote_args or {})
    known = ("num_cpus", "num_gpus", "memory", "resources", "runtime_env")
    request = {name: asked.pop(name) for name in known if name in asked}
    if asked:
        warnings.warn(
            f"ray_remote_args {sorted(asked)} concern actors; skdvl runs tasks and ignores them",
            RuntimeWarning,
            stacklevel=2,
        )
    return RayExecutor(n_asked if n_asked > 0 else None, **request)


_joblibs_pool = threading.Lock()  # held by the fit that uses joblib's pool


def _through_loky(n_workers: int, work: Callable[..., Work]) -> Route:
    """Return the way through joblib's pool, or through a new one where another fit uses that.

    joblib has one pool for the process, which a call with other settings or one that is aborted
    takes away from all others.
    """
    if not _joblibs_pool.acquire(blocking=False):
        return _through_own(loky.ProcessPoolExecutor(n_workers), n_workers, work)
    chosen_for_threads, _ = get_active_backend(prefer="threads")
    route = Route(n_workers, lambda: FileHandle(work(here=False)), 8e-4)
    # what is preferred counts only where no backend was chosen
    route.is_default = bool(getattr(chosen_for_threads, "uses_threads", False))
    route.releases.callback(_joblibs_pool.release)
    return route
