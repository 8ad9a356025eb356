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
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from skdvl.parallel.pickling import Packed, unpack

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


class DirectHandle:
    """The object itself: not copied between threads, sent with each task to another process."""

    def __init__(self, shared: Any) -> None:
        self._shared = shared

    def load(self) -> Any:
        """Return what all tasks share."""
        return self._shared

    def close(self) -> None:
        """Nothing to release."""


class FileHandle:
    """A block in a private file that the workers of this machine map into memory."""

    def __init__(self, path: str, token: str) -> None:
        self._path = path
        self._token = token

    @classmethod
    def publish(cls, shared: Any) -> "FileHandle":
        """Write a block into a new private directory."""
        packed = Packed(shared)
        directory = tempfile.mkdtemp(prefix="skdvl-", dir=_directory_with_room(packed.n_bytes))
        path = os.path.join(directory, "shared")
        try:
            packed.write(path)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return cls(path, uuid.uuid4().hex)

    def load(self) -> Any:
        """Return what all tasks share, unpacked once in each process."""
        return _LOADED.get(self._token, self._map)

    def _map(self) -> Any:
        with open(self._path, "rb") as file:
            block = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return unpack(block)

    def close(self) -> None:
        """Delete the file; workers that have mapped it keep what they see."""
        shutil.rmtree(os.path.dirname(self._path), ignore_errors=True)


def _directory_with_room(n_bytes: int) -> str:
    """Prefer memory over a disk where twice the block fits."""
    candidates: Sequence[str] = (os.environ.get("JOBLIB_TEMP_FOLDER", ""), "/dev/shm")
    for directory in candidates:
        with contextlib.suppress(OSError):
            has_room = directory and shutil.disk_usage(directory).free > 2 * n_bytes
            if has_room and os.access(directory, os.W_OK):
                return directory
    return tempfile.gettempdir()
