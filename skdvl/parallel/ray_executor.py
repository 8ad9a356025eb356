"""A ``concurrent.futures.Executor`` whose workers are those of a Ray cluster."""

import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from functools import partial
from typing import Any, TypeVar

from skdvl.parallel.pickling import Packed
from skdvl.parallel.ray_calls import SharedObject, put
from skdvl.parallel.ray_cluster import Lease
from skdvl.parallel.ray_dispatch import ABORT, Call, Dispatcher, Request, State

T = TypeVar("T")

_KILL_SECONDS = 5.0  # how long to wait for the end of an executor that was ended by force


class RayExecutor(Executor):
    """Run calls as tasks of a Ray cluster, behind the interface of ``concurrent.futures``.

    Parameters
    ----------
    max_workers : int or None, default=None
        How many calls run at once; None: as many as fit the cluster now.
    address : str or None, default=None
        ``"host:port"`` of a cluster's head, ``"auto"``, ``"local"``. None: Ray as this process
        has initialised it, else what ``RAY_ADDRESS`` names, else a new local cluster, which the
        executor stops at its end.
    num_cpus, num_gpus : float, default=1 and 0
        What each call reserves on its node; fractions share a device.
    memory : float or None, default=None
        Bytes that each call reserves (for admission only; nothing holds a call to it).
    resources : dict or None, default=None
        Custom resources, such as ``{"licence": 1}``.
    max_retries : int, default=3
        How often Ray runs a call again whose worker or node died.
    runtime_env : dict or None, default=None
        Ray's description of the workers' environment.

    Raises
    ------
    ImportError
        If Ray is not installed.
    ConnectionError
        Within five seconds, if no cluster answers at the address.
    ValueError
        If no node can ever meet the request (a RuntimeWarning where the cluster may grow).

    Notes
    -----
    A call whose worker died too often ends in a :class:`WorkerLostError`, the others go on. If
    the cluster is lost, all calls end in a ``BrokenExecutor``.

    Examples
    --------
    >>> from skdvl.parallel import RayExecutor
    >>> with RayExecutor(max_workers=2) as executor:  # doctest: +SKIP
    ...     print(list(executor.map(pow, [1, 2, 3], [2, 2, 2])))
    [1, 4, 9]
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        address: str | None = None,
        num_cpus: float = 1,
        num_gpus: float = 0,
        memory: float | None = None,
        resources: dict[str, float] | None = None,
        max_retries: int = 3,
        runtime_env: dict | None = None,
    ) -> None:
        if max_workers is not None and max_workers < 1:
            raise ValueError(f"max_workers must be greater than 0, got {max_workers}")
        self._request = Request(num_cpus, num_gpus, memory, resources, max_retries, runtime_env)
        lease = Lease(address, (max_workers or 1) * num_cpus)
        try:
            n_fit = self._request.n_fit
        except BaseException:
            lease.release()
            raise
        self._state = State(lease, max_workers or n_fit)
        # not a daemon: an ending interpreter waits for it, and what is pending is still done
        self._thread = threading.Thread(target=Dispatcher(self._state).serve, name="RayExecutor")
        self._thread.start()
        weakref.finalize(self, _stop, self._state).atexit = False

    @property
    def max_workers(self) -> int:
        """How many calls run at once."""
        return self._state.max_workers

    @property
    def max_retries(self) -> int:
        """How often Ray runs a call again whose worker died."""
        return self._request.max_retries

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Schedule ``fn(*args, **kwargs)``; see ``concurrent.futures.Executor.submit``."""
        return self._enqueue(Call(self._request, fn, args, kwargs))

    def _enqueue(self, call: Call) -> Future:
        state = self._state
        with state.lock:
            if state.broken is not None:
                raise BrokenExecutor(state.broken)
            if state.shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if not threading.main_thread().is_alive():
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            state.events.put(call)
        return call.future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable,
        timeout: float | None = None,
        chunksize: int = 1,
        **buffering: Any,
    ) -> Iterator[T]:
        """Map as ``Executor.map`` does; ``chunksize`` calls travel as one task.

        ``buffersize`` is passed on where this Python knows it (3.14).
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return Executor.map(self, fn, *iterables, timeout=timeout, **buffering)
        chunks = _chunks(zip(*iterables, strict=False), chunksize)
        done = Executor.map(self, partial(_run_chunk, fn), chunks, timeout=timeout, **buffering)
        return itertools.chain.from_iterable(done)

    def share(self, obj: Any) -> SharedObject:
        """Put an object into the object store, to be passed to any number of calls."""
        return put(Packed(obj))

    def options(self, **request: Any) -> "RayExecutorOptions":
        """Return this executor asking for other resources per call.

        Parameters
        ----------
        **request
            Any of num_cpus, num_gpus, memory, resources, max_retries, runtime_env.

        Examples
        --------
        >>> executor.options(num_gpus=0.5).submit(train)  # doctest: +SKIP
        """
        return RayExecutorOptions(self, self._request.but(request))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the executor; see ``concurrent.futures.Executor.shutdown``."""
        with self._state.lock:
            self._state.shut_down = True
            self._state.cancel |= cancel_futures
        self._state.events.put(None)
        if wait and threading.current_thread() is not self._thread:
            try:
                self._thread.join()
            except KeyboardInterrupt:
                self.kill_workers()
                raise

    def kill_workers(self) -> None:
        """End the executor at once: cancel what is pending, end what runs by force.

        Named as in Python 3.14's ProcessPoolExecutor.
        """
        self._state.kill = True
        self.shutdown(wait=False, cancel_futures=True)
        self._thread.join(_KILL_SECONDS)

    def abort(self) -> None:
        """Cancel what is pending and end what runs by force; the executor takes further calls."""
        self._state.events.put(ABORT)

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        """Wait for all calls; after a KeyboardInterrupt or SystemExit end them at once."""
        if exc_type is None or issubclass(exc_type, Exception):
            self.shutdown(wait=True)
        else:
            self.kill_workers()


class RayExecutorOptions(Executor):
    """A :class:`RayExecutor` that asks for other resources; comes from its ``options``."""

    def __init__(self, executor: RayExecutor, request: Request) -> None:
        self._executor = executor
        self._request = request
        self.max_workers = min(executor.max_workers, request.n_fit)
        self.max_retries = request.max_retries
        self.share = executor.share

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Schedule ``fn(*args, **kwargs)`` with these resources."""
        return self._executor._enqueue(Call(self._request, fn, args, kwargs))

    map = RayExecutor.map

    def options(self, **request: Any) -> "RayExecutorOptions":
        """Return the executor with further changes; see :meth:`RayExecutor.options`."""
        return RayExecutorOptions(self._executor, self._request.but(request))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the executor itself, whatever options it goes by."""
        self._executor.shutdown(wait, cancel_futures=cancel_futures)


def _chunks(calls: Iterator[tuple], size: int) -> Iterator[list[tuple]]:
    while chunk := list(itertools.islice(calls, size)):
        yield chunk


def _run_chunk(function: Callable, chunk: list[tuple]) -> list:
    return [function(*args) for args in chunk]


def _stop(state: State) -> None:
    """Let the thread of a forgotten executor finish its work and end."""
    state.shut_down = True
    state.events.put(None)
