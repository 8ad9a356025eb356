"""The database behind `DiskCache`: diskcache without pickles, long waits and lasting damage."""

import functools
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from typing import Any

from skdvl.caching.codec import ENCODED_SIZE
from skdvl.caching.external import Store

FOLDER = "skdvl-utilities-1"
DATABASE = "cache.db"
SLICE = 10_000  # rows deleted in one transaction, 40 ms: other writers wait that long


class DatabaseDamaged(OSError):
    """The database could not be read as one, and was moved aside."""


class DiskStore(Store):
    """The database of one directory: opened on first use, reopened when it was replaced."""

    def __init__(self, directory: Path, size_limit: int, timeout: float) -> None:
        self._directory = directory
        self._size_limit = size_limit
        self._timeout = timeout
        self._lock = threading.RLock()
        self._database: Any = None
        self._identity: tuple[int, int] | None = None

    def read(self, keys: list[bytes]) -> Mapping[bytes, object]:
        """Return what is stored under those of `keys` that are there."""
        with self._opened() as database:
            found = {key: database.get(key) for key in keys}
        return {key: data for key, data in found.items() if data is not None}

    def write(self, items: dict[bytes, bytes]) -> None:
        """Store all of `items` in one transaction; then keep to the size limit."""
        with self._opened() as database:
            with database.transact():
                for key, data in items.items():
                    database.set(key, data)
            # Not diskcache's own culling: it deletes ten rows with every set, but the file only
            # shrinks when the transaction ends, so one block of 1000 deletes 10 000 entries, up
            # to those it has just written.
            if database.volume() > self._size_limit:
                older = max(0, len(database) - len(items))
                self._drop_oldest(database, min(2 * len(items), older))

    def clear(self) -> None:
        """Drop every entry, and a database that was moved aside."""
        if (self._directory / FOLDER).exists():
            with suppress(DatabaseDamaged), self._opened() as database:
                while self._drop_oldest(database, SLICE):
                    pass
        if aside_of(self._directory).exists():
            rmtree(aside_of(self._directory))

    def close(self) -> None:
        """Close the database; the next use opens it again."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    @staticmethod
    def _drop_oldest(database: Any, count: int) -> int:
        # Rows are numbered as they come, so no index on the time of storing has to be kept up.
        oldest = "SELECT rowid FROM Cache ORDER BY rowid LIMIT ?"
        with database.transact():
            deleted = database._sql(f"DELETE FROM Cache WHERE rowid IN ({oldest})", (count,))
        return int(deleted.rowcount)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        identity = _identity(self._directory)
        database = None
        try:
            with self._lock:
                database = self._open()
                identity = self._identity
            yield database
        except Exception as error:
            if is_damage(error):
                self._leave(identity, error)
            elif database is not None:
                # Not closed: opening again writes, but a full disk can still be read.
                database.end_transaction()
            raise

    def _leave(self, identity: tuple[int, int] | None, error: Exception) -> None:
        """Close a damaged database and move it aside."""
        with self._lock:
            self.close()
            # Only the file in which the damage was seen: another process or thread may have moved
            # it aside already, and what lies there now is sound.
            if identity != _identity(self._directory):
                return
            # The whole folder in one step: were the database renamed alone, whoever opens a new
            # one at that moment would find the old write-ahead log beside it.
            aside = aside_of(self._directory)
            rmtree(aside, ignore_errors=True)
            os.rename(self._directory / FOLDER, aside)
        raise DatabaseDamaged(
            f"the database was damaged ({error}); it was moved to {aside}"
        ) from error

    def _open(self) -> Any:
        if self._database is not None:
            if self._identity == _identity(self._directory):
                return self._database
            self.close()  # another process has moved it aside
        # As far as they do not exist, the directory and the folder are made private.
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        os.makedirs(self._directory / FOLDER, mode=0o700, exist_ok=True)
        self._database = database_class()(str(self._directory / FOLDER), self._timeout)
        self._identity = _identity(self._directory)
        return self._database


def aside_of(directory: Path) -> Path:
    """Return where the database of a directory goes when it is damaged."""
    return directory / f"{FOLDER}.damaged"


def _identity(directory: Path) -> tuple[int, int] | None:
    """Return what tells the present database file from one that was there before."""
    try:
        status = os.stat(directory / FOLDER / DATABASE)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_damage(error: Exception) -> bool:
    """Return whether the database is to blame, and not its surroundings (locked, read-only, full).

    SQLite's own codes would be surer, but Python has them only from 3.11 on.
    """
    if isinstance(error.__context__, sqlite3.Error) and "cannot rollback" in str(error):
        return is_damage(error.__context__)  # SQLite had rolled back already when diskcache tried
    surroundings = ("locked", "busy", "readonly", "full", "unable to open", "disk I/O error")
    return type(error) in (sqlite3.DatabaseError, sqlite3.OperationalError) and not any(
        word in str(error) for word in surroundings
    )


@functools.cache
def database_class() -> Any:
    """Return the class of the database, ``(directory, timeout)``: diskcache's, made safe.

    Raises
    ------
    ImportError
        If diskcache is not installed.
    """
    try:
        import diskcache
    except ImportError as error:
        raise ImportError(
            'DiskCache needs diskcache; install it with: pip install "skdvl[disk]"'
        ) from error

    class Database(diskcache.Cache):
        """Opens within `timeout`; diskcache alone waits up to 60 seconds for a writer."""

        def __init__(self, directory: str, timeout: float) -> None:
            self._open_until: float | None = time.monotonic() + timeout
            try:
                super().__init__(
                    directory,
                    timeout=timeout,
                    disk=_bytes_disk_class(),
                    eviction_policy="none",
                    cull_limit=0,
                    statistics=0,
                    tag_index=0,
                    sqlite_journal_mode="wal",
                    # A database that another process truncates while it is mapped into memory
                    # would end this one with SIGBUS.
                    sqlite_mmap_size=0,
                )
            except BaseException:
                self.close()
                raise
            self._open_until = None

        def end_transaction(self) -> None:
            # diskcache leaves a transaction open whose COMMIT fails, and then can begin no other.
            if self._con.in_transaction:
                self._con.execute("ROLLBACK")

        @property
        def _sql(self) -> Callable[..., Any]:
            execute: Callable[..., Any] = self._con.execute
            if self._open_until is None:
                return execute
            return functools.partial(self._execute_in_time, execute, self._open_until)

        @staticmethod
        def _execute_in_time(execute: Callable[..., Any], until: float, *statement: Any) -> Any:
            try:
                return execute(*statement)
            except sqlite3.OperationalError as error:
                # diskcache repeats the statement for as long as the message is exactly this.
                if str(error) == "database is locked" and time.monotonic() > until:
                    raise sqlite3.OperationalError("database is locked by a writer") from error
                raise

    return Database


def _bytes_disk_class() -> Any:
    import diskcache

    class BytesDisk(diskcache.Disk):
        """Stores and accepts bytes alone.

        diskcache unpickles what a row says is a pickle (CVE-2025-69872), and so does its
        JSONDisk, which the advisory recommends. Every method that could is replaced.
        """

        def put(self, key: object) -> tuple[Any, bool]:
            if type(key) is not bytes:
                raise TypeError(f"keys are bytes, got {type(key).__name__}")
            return sqlite3.Binary(key), True

        def get(self, key: object, raw: object) -> object:
            return key

        def store(self, value: object, read: bool, key: object = None) -> tuple[Any, ...]:
            if type(value) is not bytes or len(value) != ENCODED_SIZE:
                raise TypeError(f"values are {ENCODED_SIZE} bytes, got {value!r}")
            return 0, diskcache.core.MODE_RAW, None, sqlite3.Binary(value)

        def fetch(self, mode: object, filename: object, value: object, read: object) -> object:
            return value if mode == diskcache.core.MODE_RAW and filename is None else None

        def remove(self, file_path: object) -> None:
            """Leave alone what a planted row points at."""

    return BytesDisk
