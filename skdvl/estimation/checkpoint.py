"""The log on disk: a run that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import io
import json
import os
import weakref
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from skdvl.sampling.base import SamplingScheme
from skdvl.sampling.log import Chunk, Entry, EvaluationLog
from skdvl.utilities.record import EvaluationRecord

__all__ = ["Checkpoint", "StoredRun"]

_FORMAT = 1
_FIRST_TIME = (1980, 1, 1, 0, 0, 0)  # equal runs leave equal files


@dataclass(frozen=True)
class StoredRun:
    """What a checkpoint holds.

    Attributes
    ----------
    entropy : int
    logs : sequence of EvaluationLog
        One per game.
    record : EvaluationRecord
        Refusals among what was computed.
    """

    entropy: int
    logs: Sequence[EvaluationLog]
    record: EvaluationRecord


class Checkpoint:
    """One file that holds the logs of all games of a valuation.

    The file is a zip of numpy arrays and one JSON text; nothing in it is ever unpickled. It is
    replaced as a whole, so that a kill leaves the old or the new one. A lock beside it keeps a
    second live process out; the operating system drops the lock with its owner.

    Parameters
    ----------
    directory : str or path
        Made if it does not exist.
    name : str
        Fingerprint of game, scheme, semivalue and seed.
    scheme : SamplingScheme
        Draws the coalitions again, to see that this version of numpy draws the same ones.
    """

    def __init__(
        self, directory: str | os.PathLike[str], name: str, scheme: SamplingScheme
    ) -> None:
        self.path = Path(directory) / f"{name}.skdvl"
        self.scheme = scheme
        self._digests: dict[int, str] = {}
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Checkpoint:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self.path.with_suffix(".lock").open("ab")
        try:
            _lock_file(self._lock)
        except OSError:
            self._lock.close()
            raise RuntimeError(
                f"Another live process is writing the checkpoint {self.path}. Wait for it, or use "
                "another directory."
            ) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            self._lock.close()

    def load(self) -> StoredRun | None:
        """Return what was stored, None where there is no file yet.

        Raises
        ------
        ValueError
            If the file is damaged, belongs to another valuation, or was written with another
            version of numpy whose random draws differ. It is left as it is.
        """
        if not self.path.exists():
            return None
        try:
            with zipfile.ZipFile(self.path) as archive:
                meta = json.loads(archive.read("meta.json"))
                if meta["format"] != _FORMAT:
                    raise ValueError(f"format {meta['format']!r} is not known to this version")
                logs = [_restore(archive, fold, meta) for fold in range(len(meta["folds"]))]
            refused = {(message, large): n for message, large, n in meta["refused"]}
            record = EvaluationRecord(n_large=meta["n_large"])
            record.refused.update(refused)
        except MemoryError:
            raise
        except Exception as error:  # a damaged zip raises anything from EOFError to RuntimeError
            raise ValueError(
                f"The checkpoint {self.path} cannot be read ({type(error).__name__}: {error}). It "
                "was left as it is: delete it to start anew, or use another directory."
            ) from error
        if meta["name"] != self.path.stem:
            raise ValueError(
                f"The checkpoint {self.path} belongs to another valuation: it was renamed. It was "
                "left as it is; use another directory."
            )
        if [self._digest_of_draws(log) for log in logs] != [f["draws"] for f in meta["folds"]]:
            raise ValueError(
                f"The checkpoint {self.path} was written with numpy {meta['numpy']}, whose "
                f"random draws are not those of numpy {np.__version__}. Use that version, or "
                "another directory."
            )
        return StoredRun(int(meta["entropy"]), logs, record)

    def save(self, logs: Sequence[EvaluationLog], record: EvaluationRecord) -> None:
        """Write the logs, atomically."""
        meta = {
            "format": _FORMAT,
            "name": self.path.stem,
            "numpy": np.__version__,
            "entropy": str(logs[0].entropy),
            "folds": [
                {"n_players": log.n_players, "draws": self._digest_of_draws(log)} for log in logs
            ],
            "refused": [[message, large, n] for (message, large), n in record.refused.items()],
            "n_large": record.n_large,
        }
        # the lock keeps other processes off this name; a kill leaves at most one such file
        unfinished = self.path.with_suffix(".part")
        with unfinished.open("wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr(zipfile.ZipInfo("meta.json", _FIRST_TIME), json.dumps(meta))
                for log in logs:
                    for name, array in _describe(log).items():
                        info = zipfile.ZipInfo(name, _FIRST_TIME)
                        with archive.open(info, "w", force_zip64=True) as member:
                            np.lib.format.write_array(member, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, self.path)

    def _digest_of_draws(self, log: EvaluationLog) -> str:
        """Digest the first random draws of a log; numpy does not promise them across versions."""
        chunk = next((entry.chunk for entry in log.entries if entry.chunk.half >= 0), None)
        if chunk is None:
            return ""
        if log.fold not in self._digests:
            draws = self.scheme.draw(log.n_players, chunk, chunk.rng(log.entropy))
            draws = draws.astype(np.int64)
            self._digests[log.fold] = hashlib.sha256(draws.tobytes()).hexdigest()
        return self._digests[log.fold]


def _describe(log: EvaluationLog) -> dict[str, NDArray[Any]]:
    """Return a log's content as arrays, by file name; a law that chunks share is kept once."""
    laws: list[NDArray[np.float64]] = []
    places: dict[int, int] = {}
    table = []
    for number, entries in enumerate(log.rounds):
        for entry in entries:
            chunk = entry.chunk
            law = -1
            if chunk.law is not None:
                # by identity: read-outs that go by it sum in the same order after a restart
                if id(chunk.law) not in places:
                    places[id(chunk.law)] = len(laws)
                    laws.append(chunk.law)
                law = places[id(chunk.law)]
            seed = (number, chunk.stream, chunk.index, chunk.half)
            table.append(
                (*seed, chunk.start, chunk.n_draws, law, entry.n_done, len(entry.utilities))
            )
    evaluated = [entry.utilities for entry in log.entries]
    return {
        f"chunks{log.fold}.npy": np.array(table, dtype=np.int64).reshape(-1, 9),
        f"laws{log.fold}.npy": np.array(laws).reshape(len(laws), log.n_players + 1),
        f"utilities{log.fold}.npy": np.concatenate(evaluated) if evaluated else np.empty(0),
    }


def _restore(archive: zipfile.ZipFile, fold: int, meta: dict[str, Any]) -> EvaluationLog:
    table, laws, utilities = (
        np.load(io.BytesIO(archive.read(f"{name}{fold}.npy")), allow_pickle=False)
        for name in ("chunks", "laws", "utilities")
    )
    log = EvaluationLog(int(meta["entropy"]), fold, meta["folds"][fold]["n_players"])
    laws = list(laws)
    used = 0
    for number, stream, index, half, start, n_draws, law, n_done, n_rows in table.tolist():
        if number == len(log.rounds):
            log.rounds.append([])
        entry = Entry(
            Chunk(stream, fold, index, half, start, n_draws, laws[law] if law >= 0 else None)
        )
        if n_done:
            entry.append(n_done, utilities[used : used + n_rows])
            used += n_rows
        log.rounds[number].append(entry)
    return log


_LOCKS: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()


def _close_inherited_locks() -> None:
    """Close a forked child's copies: workers that outlive a killed run must not keep its lock."""
    for file in list(_LOCKS):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited_locks)


def _lock_file(file: IO[bytes]) -> None:
    _LOCKS.add(file)
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined] # Windows
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
