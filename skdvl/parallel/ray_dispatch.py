"""The thread of a RayExecutor: starts calls, at most so many at once, and settles their futures."""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from typing import Any

from skdvl.parallel.failures import WorkerLostError
from skdvl.parallel.pickling import cloudpickle
from skdvl.parallel.ray_calls import CallPacker, execute
from skdvl.parallel.ray_cluster import (
    Lease,
    answers,
    import_ray,
    may_grow,
    n_that_fit,
    require_room,
)

_BEAT = 0.5  # seconds between two looks at this process: has it lost Ray, does it end
_CHECK = 5.0  # seconds between two looks at the cluster
# Seconds that the head, or room for a request, may be missing. Ray itself ends this process, past
# any exception, when the head is gone for 60.
_PATIENCE = 25.0
# Calls handed to Ray beyond max_workers where the cluster's own resources let no more than
# max_workers run: a round trip takes 2 ms, and the next call then waits beside its worker.
_AHEAD = 2
ABORT = object()  # the event that ends all calls, and not the executor
_LOGGER = logging.getLogger("concurrent.futures")

Shape = tuple[tuple[str, float], ...]  # how much of what a call asks for


@dataclass(eq=False)
class Request:
    """What each call asks of a node."""

    num_cpus: float = 1
    num_gpus: float = 0
    memory: float | None = None
    resources: dict[str, float] | None = None
    max_retries: int = 3
    runtime_env: dict | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.max_retries, int) or self.max_retries < -1:
            raise ValueError(
                "max_retries must be an integer of at least 0, or -1 for any number of them, got "
                f"{self.max_retries!r}"
            )

    def but(self, changes: dict[str, Any]) -> "Request":
        """Return this request with some changes."""
        names = Request.__dataclass_fields__
        request = Request(**{**{name: getattr(self, name) for name in names}, **changes})
        if request.amounts == self.amounts:
            request.n_fit = self.n_fit  # a cluster that has lost its room meanwhile may get it back
        return request

    @cached_property
    def amounts(self) -> dict[str, float]:
        """What must be free on one node, by Ray's names."""
        asked = {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": self.memory or 0}
        asked.update(self.resources or {})
        return {name: amount for name, amount in asked.items() if amount}

    @cached_property
    def shape(self) -> Shape:
        """The amounts, to compare requests by."""
        return tuple(sorted(self.amounts.items()))

    @cached_property
    def n_fit(self) -> int:
        """How many such calls the cluster can run at once; refuses what it can never run."""
        return require_room(self.amounts)

    @cached_property
    def remote(self) -> Any:
        """The remote function that runs any call under this request."""
        options = {
            "num_cpus": self.num_cpus,
            "num_gpus": self.num_gpus,
            "memory": self.memory,
            "resources": self.resources,
            "max_retries": self.max_retries,
            "runtime_env": self.runtime_env,
        }
        set_options = {name: value for name, value in options.items() if value is not None}
        return _remote_execute().options(**set_options)


@cache
def _remote_execute() -> Any:
    """Return the one remote function, which Ray exports once to each cluster."""
    return import_ray().remote(execute)


class Call:
    """A call on its way; ``reference`` is Ray's while it runs."""

    def __init__(
        self, request: Request, function: Callable, args: tuple, kwargs: dict[str, Any]
    ) -> None:
        self.request = request
        self.what: tuple | None = (function, args, kwargs)
        self.future: Future = Future()
        self.reference: Any = None


@dataclass
class State:
    """What an executor shares with its thread, so that the thread does not keep the executor."""

    lease: Lease
    max_workers: int
    # calls to start, (call, outcome) of those that ended, ABORT, None for a change of the flags
    events: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    lock: threading.Lock = field(default_factory=threading.Lock)
    shut_down: bool = False
    cancel: bool = False
    kill: bool = False
    broken: str | None = None


class Dispatcher:
    """Serves the events of one executor, all in one thread.

    Its methods keep no reference to a call, its future or its result longer than they run: what
    a user has dropped must be freed although this thread lives on.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._pending: deque[Call] = deque()
        self._running: set[Call] = set()
        self._packer = CallPacker()
        self._cluster_may_grow = may_grow()
        self._next_beat = self._next_check = 0.0
        self._head_missing_since: float | None = None
        self._no_room_since: dict[Shape, float] = {}

    def serve(self) -> None:
        """Run until the executor is shut down, or forgotten, and all is settled."""
        try:
            while not self._is_done():
                try:
                    self._serve_one()
                except Exception as error:
                    # Ray may be shut down between any two lines
                    gone = not self._state.lease.is_alive()
                    self._break(_SHUT_DOWN if gone else f"{type(error).__name__}: {error}")
        finally:
            self._state.lease.release()

    def _is_done(self) -> bool:
        ending = self._state.shut_down or not threading.main_thread().is_alive()
        return ending and not self._pending and not self._running and self._state.events.empty()

    def _serve_one(self) -> None:
        try:
            event = self._state.events.get(timeout=_BEAT)
        except queue.Empty:
            pass
        else:
            if event is None:
                self._obey()
            elif event is ABORT:
                self._cancel_pending()
                self._end_running()
            elif isinstance(event, Call):
                self._pending.append(event)
            else:
                self._settle(*event)
            event = None  # what follows takes its time, and would keep the call's result alive
        self._start()
        if self._running and time.monotonic() >= self._next_beat:
            self._look_around()

    def _start(self) -> None:
        """Hand calls to Ray, in the order of their arrival."""
        while self._pending and len(self._running) < self._limit(self._pending[0].request):
            self._start_one(self._pending.popleft())

    def _limit(self, request: Request) -> int:
        limit = self._state.max_workers
        # of calls that ask for nothing Ray runs any number at once
        is_full = bool(request.amounts) and request.n_fit <= limit
        cluster_is_the_limit = is_full and not self._cluster_may_grow
        if cluster_is_the_limit and all(c.request.shape == request.shape for c in self._running):
            limit += _AHEAD
        return limit

    def _start_one(self, call: Call) -> None:
        if not call.future.set_running_or_notify_cancel():
            return
        if self._state.broken is not None:
            _resolve(call.future.set_exception, BrokenExecutor(self._state.broken))
            return
        if not self._state.lease.is_alive():  # Ray would silently start another cluster
            _resolve(call.future.set_exception, BrokenExecutor(_SHUT_DOWN))
            return
        function, args, kwargs = call.what  # type: ignore[misc]  # None only once started
        call.what = None
        try:
            payload, references = self._packer.pack(function, args, kwargs)
            call.reference = call.request.remote.remote(payload, *references)
        except Exception as error:  # what cannot be pickled
            _resolve(call.future.set_exception, error)
            return
        self._running.add(call)
        call.reference.future().add_done_callback(partial(_enqueue, self._state.events, call))

    def _settle(self, call: Call, outcome: Future) -> None:
        if call not in self._running:  # ended by force before
            return
        self._running.discard(call)
        call.reference = None
        error = outcome.exception()
        if error is not None:
            _resolve(call.future.set_exception, _translated(error, call.request))
            return
        try:
            value, failure = cloudpickle.loads(outcome.result())
        except BaseException as error:  # the user's own __setstate__ may raise anything
            _resolve(call.future.set_exception, error)
            return
        if failure is None:
            _resolve(call.future.set_result, value)
        else:
            _resolve(call.future.set_exception, failure.to_exception())

    def _obey(self) -> None:
        """Act on a shutdown."""
        if self._state.cancel:
            self._cancel_pending()
        if self._state.kill:
            self._end_running()

    def _cancel_pending(self) -> None:
        while self._pending:
            call = self._pending.popleft()
            _resolve(call.future.cancel)
            call.future.set_running_or_notify_cancel()

    def _end_running(self) -> None:
        ray = import_ray()
        while self._running:
            call = self._running.pop()
            if self._state.lease.is_alive():
                ray.cancel(call.reference, force=True)
            _resolve(call.future.set_exception, CancelledError())

    def _look_around(self) -> None:
        """Find out why calls may never end: Ray does not tell."""
        now = time.monotonic()
        self._next_beat = now + _BEAT
        if not self._state.lease.is_alive():
            self._break(_SHUT_DOWN)
        elif now >= self._next_check:
            self._look_at_cluster(now)
            self._next_check = time.monotonic() + _CHECK

    def _look_at_cluster(self, now: float) -> None:
        head = import_ray().get_runtime_context().gcs_address
        if not answers(head):
            self._head_missing_since = self._head_missing_since or now
            if now - self._head_missing_since > _PATIENCE:
                self._break(f"the head of the Ray cluster at {head} does not answer")
            return
        self._head_missing_since = None
        for shape in {call.request.shape for call in self._running}:
            n_fit = n_that_fit(dict(shape))
            for call in self._running:
                if call.request.shape == shape:
                    call.request.n_fit = n_fit
            if n_fit or self._cluster_may_grow:
                self._no_room_since.pop(shape, None)
            elif now - self._no_room_since.setdefault(shape, now) > _PATIENCE:
                self._give_up(shape)

    def _give_up(self, shape: Shape) -> None:
        """End the calls for which the cluster has lost its last node with enough room."""
        message = f"no node is left in the Ray cluster that offers {dict(shape)}"
        for call in [call for call in self._running if call.request.shape == shape]:
            self._running.discard(call)
            import_ray().cancel(call.reference)
            _resolve(call.future.set_exception, WorkerLostError(message))

    def _break(self, reason: str) -> None:
        with self._state.lock:
            self._state.broken = reason
        while self._running:
            _resolve(self._running.pop().future.set_exception, BrokenExecutor(reason))
        self._start()  # settles what is pending


def _resolve(resolve: Callable, *args: Any) -> None:
    """Resolve a future; what its callbacks raise is theirs.

    The standard library logs their exceptions and lets the others pass: `sys.exit()` in one would
    end the thread that serves all calls.
    """
    try:
        resolve(*args)
    except Exception:  # none of a callback's
        raise
    except BaseException:
        _LOGGER.exception("exception calling callback")


_SHUT_DOWN = "ray.shutdown() was called while a RayExecutor was using Ray"


def _enqueue(events: queue.SimpleQueue, call: Call, outcome: Future) -> None:
    events.put((call, outcome))


def _translated(error: BaseException, request: Request) -> BaseException:
    """Return a lost worker as a WorkerLostError, a cancelled task as CancelledError."""
    from ray import exceptions

    if isinstance(error, exceptions.TaskCancelledError):
        return CancelledError()
    losses = (
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.ObjectLostError,
        exceptions.OutOfMemoryError,
        exceptions.LocalRayletDiedError,
        exceptions.RaySystemError,
    )
    if not isinstance(error, losses):
        return error
    n_attempts = request.max_retries + 1
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
    lost = WorkerLostError(
        f"{type(error).__name__} in each of {n_attempts} attempts on Ray: {first_line}"
    )
    lost.n_attempts = n_attempts
    lost.__cause__ = error
    return lost
