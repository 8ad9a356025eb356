"""What all tasks of a fit share reaches each worker once.

A task carries a *handle*. What it stands for is packed once into one block of bytes (pickle
protocol 5, arrays out of band) that lies in a private file, in Ray's object store or in the memory
of Dask's workers. A worker unpacks it once, its arrays being read-only views of that block, and
keeps it for the tasks that follow.
"""

import contextlib
import mmap
import os
import shutil
import tempfile
import threading
import uuid
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from joblib.externals.loky.backend import resource_tracker

from skdvl.parallel.executors import DASK_ANSWER_SECONDS, DASK_IS_SILENT
from skdvl.parallel.pickling import Packed, unpack

_DASK_ATTEMPTS = 3
_KEPT = 2  # blocks a worker keeps: two fits that overlap do not push each other out


class _Loaded:
    """What this worker has unpacked, by token; the least recently used goes first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Any] = OrderedDict()

    def get(self, token: str, load: Any) -> Any:
        # loading happens under the lock: two threads of a Dask worker must not unpack it twice
        with self._lock:
            if token not in self._kept:
                while len(self._kept) >= _KEPT:
                    self._kept.popitem(last=False)
                self._kept[token] = load()
            self._kept.move_to_end(token)
            return self._kept[token]

    def after_fork(self) -> None:
        self._lock = threading.Lock()


_LOADED = _Loaded()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_LOADED.after_fork)


class Handle(ABC):
    """What a task carries in place of what all tasks share."""

    @abstractmethod
    def load(self) -> Any:
        """Return what all tasks share, where the task runs."""

    def close(self) -> None:
        """Release what was published."""
        return


class DirectHandle(Handle):
    """The object itself, for threads of this process: nothing is copied."""

    def __init__(self, shared: Any) -> None:
        self._shared = shared

    def load(self) -> Any:
        """Return what all tasks share."""
        return self._shared


class CarriedHandle(Handle):
    """The whole block in each task, for backends that no more is known of."""

    def __init__(self, shared: Any) -> None:
        self._block = bytes(Packed(shared).to_bytes())
        self._token = uuid.uuid4().hex

    def load(self) -> Any:
        """Return what all tasks share, unpacked once in each process."""
        return _LOADED.get(self._token, lambda: unpack(self._block))


class FileHandle(Handle):
    """A block in a private file that the workers of this machine map into memory.

    It may lie in memory itself. Should this process be killed, loky's tracker of resources, which
    looks after joblib's files as well, deletes it.
    """

    def __init__(self, shared: Any) -> None:
        packed = Packed(shared)
        self._token = uuid.uuid4().hex
        directory = tempfile.mkdtemp(prefix="skdvl-", dir=_directory_with_room(packed.n_bytes))
        resource_tracker.register(directory, "folder")
        self._path = os.path.join(directory, "shared")
        try:
            packed.write(self._path)
        except BaseException:
            self.close()
            raise

    def load(self) -> Any:
        """Return what all tasks share, unpacked once in each process."""
        return _LOADED.get(self._token, self._map)

    def _map(self) -> Any:
        with open(self._path, "rb") as file:
            block = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return unpack(block)

    def close(self) -> None:
        """Delete the file; workers that have mapped it keep what they see."""
        directory = os.path.dirname(self._path)
        shutil.rmtree(directory, ignore_errors=True)
        resource_tracker.unregister(directory, "folder")


class RayHandle(Handle):
    """A block in Ray's object store, which each node fetches once."""

    def __init__(self, shared: Any, executor: Any) -> None:
        self._token = uuid.uuid4().hex
        block = Packed(shared).to_bytes()
        # as an array, which a worker sees without a copy
        self._block = executor.share(np.frombuffer(block, dtype=np.uint8))

    def load(self) -> Any:
        """Return what all tasks share, unpacked once in each process."""
        return _LOADED.get(self._token, lambda: unpack(self._block))

    def close(self) -> None:
        """Let the object store forget the block."""
        self._block = None


class DaskHandle(Handle):
    """A block in the memory of Dask's workers, sent to each of them once.

    It goes as a plugin, which workers that come later get too. As data it would lie with the
    worker that had them first: tasks would queue there while other workers are idle, and with the
    last worker that has them scattered data die and take all tasks along.
    """

    def __init__(self, shared: Any, client: Any) -> None:
        from distributed import WorkerPlugin

        class Block(WorkerPlugin):
            def __init__(self, block: bytearray) -> None:
                self.block = block

        self._client = client
        self._token = f"skdvl-{uuid.uuid4().hex}"
        block = Block(Packed(shared).to_bytes())
        for attempts_left in reversed(range(_DASK_ATTEMPTS)):
            try:
                client.register_plugin(block, self._token)
                break
            except OSError:  # a worker died in the meantime
                if not attempts_left:
                    raise

    def __reduce__(self) -> tuple:
        return _DaskHandleOnWorker, (self._token,)

    def load(self) -> Any:
        """Say that this handle is of use on workers only."""
        raise RuntimeError("a task for Dask cannot run in the process that sent it")

    def close(self) -> None:
        """Let the cluster forget the block."""
        if self._client.status != "running":  # the cluster is gone
            return
        with contextlib.suppress(*DASK_IS_SILENT):
            forget = self._client.scheduler.unregister_worker_plugin
            self._client.sync(forget, name=self._token, callback_timeout=DASK_ANSWER_SECONDS)


class _DaskHandleOnWorker(Handle):
    def __init__(self, token: str) -> None:
        self._token = token

    def load(self) -> Any:
        from distributed import get_worker

        plugins: dict[str, Any] = get_worker().plugins
        return _LOADED.get(self._token, lambda: unpack(plugins[self._token].block))


def _directory_with_room(n_bytes: int) -> str:
    """Prefer memory over a disk where twice the block fits."""
    candidates: Sequence[str] = (os.environ.get("JOBLIB_TEMP_FOLDER", ""), "/dev/shm")
    for directory in candidates:
        with contextlib.suppress(OSError):
            has_room = directory and shutil.disk_usage(directory).free > 2 * n_bytes
            if has_room and os.access(directory, os.W_OK):
                return directory
    return tempfile.gettempdir()
