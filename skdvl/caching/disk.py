"""A cache in a directory, shared by the processes of a machine and by later runs."""

import os
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import final

from skdvl.caching.database import DATABASE, FOLDER, DiskStore, aside_of, database_class, is_damage
from skdvl.caching.external import ExternalCache, Store


@final
class DiskCache(ExternalCache, name="disk"):
    r"""Keep utilities in a directory, in an SQLite database behind `diskcache`.

    It serves several processes at once and survives them, also if they are killed. Everything
    that it writes lies in one private subfolder of the directory (mode 0700), so the directory
    may hold anything else as well. Not for network file systems: SQLite's write-ahead log needs
    memory that all its users share.

    Neither keys nor values are ever pickled or unpickled. A damaged database is moved aside, to
    ``skdvl-utilities-1.damaged``, and a new one is begun; without permission or on a full disk
    the computation goes on without the cache (see `ExternalCache`).

    Parameters
    ----------
    directory : path, default=None
        None is the environment variable ``SKDVL_CACHE_DIR``, or else the user's cache directory:
        ``$XDG_CACHE_HOME/skdvl`` or ``~/.cache/skdvl``, ``~/Library/Caches/skdvl`` on macOS,
        ``%LOCALAPPDATA%\skdvl\Cache`` on Windows.
    size_limit : int, default=2**30
        Size of the database in bytes (about 110 per entry) from which on the entries stored first
        are dropped.
    timeout : float, default=5.0
        Seconds to wait for another process that is writing.

    Raises
    ------
    ImportError
        If diskcache is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from skdvl.caching import DiskCache
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     with DiskCache(directory) as cache:
    ...         cache.set_many({b"0123456789abcdef": 1 / 3})
    ...     with DiskCache(directory) as later:
    ...         later.get_many([b"0123456789abcdef"])
    {b'0123456789abcdef': 0.3333333333333333}
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        size_limit: int = 2**30,
        timeout: float = 5.0,
    ) -> None:
        if size_limit < 1:
            raise ValueError(f"size_limit must be positive, got {size_limit}")
        if timeout <= 0:
            raise ValueError(f"timeout must be positive, got {timeout}")
        database_class()  # without diskcache, fail here and not with a warning later
        # Resolved now, so that worker processes with another environment or working directory
        # use the same one.
        self.directory = os.path.abspath(directory or default_directory())
        self.size_limit = size_limit
        self.timeout = timeout

    def connect(self) -> Sequence[Store]:  # noqa: D102 - inherited
        return [DiskStore(Path(self.directory), self.size_limit, self.timeout)]


@dataclass(frozen=True)
class DirectoryInfo:
    """What lies in a cache directory.

    Attributes
    ----------
    directory : str
        The directory.
    entries : int
        Number of utilities kept.
    bytes : int
        Size of everything that the cache has written there, a damaged database included.
    damaged : bool
        Whether a damaged database lies there, or one was moved aside.
    """

    directory: str
    entries: int
    bytes: int
    damaged: bool


def inspect(directory: str | os.PathLike[str] | None = None) -> DirectoryInfo:
    """Look into the directory of a `DiskCache`, without changing anything.

    Parameters
    ----------
    directory : path, default=None
        As for `DiskCache`.

    Returns
    -------
    DirectoryInfo

    Examples
    --------
    >>> import tempfile
    >>> from skdvl.caching import DiskCache, inspect
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     with DiskCache(directory) as cache:
    ...         cache.set_many({b"0123456789abcdef": 0.5})
    ...     inspect(directory).entries
    1
    """
    top = Path(os.path.abspath(directory or default_directory()))
    entries, damaged = 0, aside_of(top).exists()
    database = top / FOLDER / DATABASE
    if database.exists():
        try:
            with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
                ((entries,),) = connection.execute("SELECT COUNT(*) FROM Cache")
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            damaged = True
    files = [p for folder in (top / FOLDER, aside_of(top)) for p in folder.glob("*") if p.is_file()]
    return DirectoryInfo(str(top), entries, sum(p.stat().st_size for p in files), damaged)


def clear(directory: str | os.PathLike[str] | None = None) -> None:
    """Drop everything that caches have stored in a directory, and nothing else that lies there.

    Other processes may be using it; they go on with an empty cache.

    Parameters
    ----------
    directory : path, default=None
        As for `DiskCache`.

    Examples
    --------
    >>> import tempfile
    >>> from skdvl.caching import DiskCache, clear, inspect
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     with DiskCache(directory) as cache:
    ...         cache.set_many({b"0123456789abcdef": 0.5})
    ...     clear(directory)
    ...     inspect(directory).entries
    0
    """
    with DiskCache(directory) as cache:
        cache.clear()


def default_directory() -> Path:
    """Return where a `DiskCache` keeps its entries if it is not told."""
    if chosen := os.environ.get("SKDVL_CACHE_DIR"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return (
            Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local").expanduser() / "skdvl/Cache"
        )
    if sys.platform == "darwin":
        return Path("~/Library/Caches/skdvl").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "skdvl"
