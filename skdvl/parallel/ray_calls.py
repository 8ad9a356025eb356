"""How a call travels to a Ray worker and its outcome back."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from skdvl.parallel.failures import Failure
from skdvl.parallel.pickling import Packed, cloudpickle, unpack

LARGE = 100_000  # bytes; below it Ray sends an argument within the task anyway
_KEPT = 8

_packing = threading.local()  # .references: those met while a call is pickled
_unpacking = threading.local()  # .take: gives an object to a reference while a call is unpickled


class SharedObject:
    """Stands for an object in Ray's object store; comes from ``RayExecutor.share``.

    Pass it to ``submit`` or ``map`` in place of the object, at any depth: the function gets the
    object, its arrays read-only and not copied.
    """

    def __init__(self, reference: Any) -> None:
        self.reference = reference

    def __reduce__(self) -> tuple[Callable, tuple[int]]:
        met = getattr(_packing, "references", None)
        if met is None:
            raise TypeError("an object shared by a RayExecutor travels only through its submit")
        met.append(self.reference)
        return _take, (len(met) - 1,)


def _take(number: int) -> Any:
    return _unpacking.take(number)


class CallPacker:
    """Pickles calls; puts large arguments into the object store, once for the same content.

    The same content, not the same object: what was changed in place between two calls must not
    arrive as it was at the first. The price is a digest, about a second for each gigabyte;
    ``share`` avoids it.
    """

    def __init__(self) -> None:
        self._stored: OrderedDict[bytes, SharedObject] = OrderedDict()

    def pack(self, function: Callable, args: tuple, kwargs: dict) -> tuple[bytes, list[Any]]:
        """Return the pickled call and the references that it needs beside it."""
        payload, references = _dump((function, args, kwargs))
        if len(payload) >= LARGE:
            function = self._lighten(function)
            args = tuple(self._lighten(value) for value in args)
            kwargs = {name: self._lighten(value) for name, value in kwargs.items()}
            payload, references = _dump((function, args, kwargs))
        return payload, references

    def _lighten(self, value: Any) -> Any:
        """Replace a large value by a reference to it."""
        _packing.references = []
        try:
            packed = Packed(value)
            refers_to_others = bool(_packing.references)
        finally:
            _packing.references = None
        # its references are counted anew in each call, so that it must be pickled with the call
        if packed.n_bytes < LARGE or refers_to_others:
            return value
        digest = packed.digest()
        if digest not in self._stored:
            while len(self._stored) >= _KEPT:
                self._stored.popitem(last=False)
            self._stored[digest] = put(packed)
        self._stored.move_to_end(digest)
        return self._stored[digest]


def put(packed: Packed) -> SharedObject:
    """Put an object into the object store."""
    import numpy as np
    import ray

    return SharedObject(ray.put(np.frombuffer(packed.to_bytes(), dtype=np.uint8)))


def _dump(call: tuple) -> tuple[bytes, list[Any]]:
    """Pickle a call; return the references met on the way beside it."""
    _packing.references = []
    try:
        payload = cloudpickle.dumps(call, protocol=5)
        return payload, _packing.references
    finally:
        _packing.references = None


def execute(payload: bytes, *blocks: Any) -> bytes:
    """Run a call on a Ray worker and return its pickled outcome.

    Bytes, because Ray unpickles objects in a thread of its own, where a ``SystemExit`` would be
    lost together with the outcome. The one remote function: one for each user's function would
    be limited to 95 MB and exported each time.
    """
    from ray.exceptions import TaskCancelledError

    try:
        function, args, kwargs = _load(payload, blocks)
        return cloudpickle.dumps((function(*args, **kwargs), None), protocol=5)
    except TaskCancelledError:
        raise
    except BaseException as exception:
        return cloudpickle.dumps((None, Failure.portable(exception)), protocol=5)


def _load(payload: bytes, blocks: tuple) -> Any:
    taken: dict[int, Any] = {}

    def take(number: int) -> Any:
        if number not in taken:
            taken[number] = unpack(blocks[number])
        return taken[number]

    _unpacking.take = take
    try:
        return cloudpickle.loads(payload)
    finally:
        del _unpacking.take
