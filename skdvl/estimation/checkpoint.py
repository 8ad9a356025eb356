"""The log on disk: a run that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from skdvl.estimation.games import GameInPlay
from skdvl.sampling.base import SamplingScheme
from skdvl.sampling.log import Chunk, Entry, EvaluationLog
from skdvl.utilities.record import EvaluationRecord

__all__ = ["Checkpoint"]

_FORMAT = 1


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
        self.directory = Path(directory)
        self.scheme = scheme
        self._digests: dict[int, str] = {}
        self.path = self.directory / f"{name}.skdvl"
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Checkpoint:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = (self.directory / f"{self.path.stem}.lock").open("ab")
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

    def stored_entropy(self) -> int | None:
        """Return the entropy of the stored run, None where there is no file yet."""
        if not self.path.exists():
            return None
        return int(self._read()[0]["entropy"])

    def load(self, games: Sequence[GameInPlay], record: EvaluationRecord) -> None:
        """Fill the games' empty logs with what was stored.

        Raises
        ------
        ValueError
            If the file is damaged, or was written with another version of numpy whose random
            draws differ. The file is left as it is.
        """
        if not self.path.exists():
            return
        meta, arrays = self._read()
        if len(meta["folds"]) != len(games):
            raise ValueError(f"The checkpoint {self.path} belongs to another valuation.")
        for game, fold in zip(games, meta["folds"], strict=True):
            game.log = _restore(fold, arrays, meta["entropy"], game)
            if self._digest_of_draws(game.log) != fold["draws"]:
                raise ValueError(
                    f"The checkpoint {self.path} was written with numpy {meta['numpy']}, whose "
                    f"random draws are not those of numpy {np.__version__}. Use that version, or "
                    "another directory."
                )
            game.n_evals = 2 + game.log.n_evals
        record.refused.update(
            {(message, large): count for message, large, count in meta["refused"]}
        )
        record.n_large += meta["n_large"]

    def save(self, games: Sequence[GameInPlay], record: EvaluationRecord) -> None:
        """Write the logs, atomically."""
        arrays: dict[str, NDArray[Any]] = {}
        for game in games:
            _describe(game.log, arrays)
        folds = [
            {"n_players": game.log.n_players, "draws": self._digest_of_draws(game.log)}
            for game in games
        ]
        meta = {
            "format": _FORMAT,
            "numpy": np.__version__,
            "entropy": str(games[0].log.entropy),
            "folds": folds,
            "refused": [[message, large, n] for (message, large), n in record.refused.items()],
            "n_large": record.n_large,
        }
        handle, temporary = tempfile.mkstemp(dir=self.directory, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
                archive.writestr("meta.json", json.dumps(meta))
                for name, array in arrays.items():
                    buffer = io.BytesIO()
                    np.save(buffer, array, allow_pickle=False)
                    archive.writestr(f"{name}.npy", buffer.getvalue())
            os.replace(temporary, self.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _digest_of_draws(self, log: EvaluationLog) -> str:
        """Digest the first draws of a log; numpy does not promise them across versions."""
        if log.fold not in self._digests:
            if not log.n_chunks:
                return ""
            chunk = log.rounds[0][0].chunk
            draws = self.scheme.draw(log.n_players, chunk, chunk.rng(log.entropy))
            draws = draws.astype(np.int64)
            self._digests[log.fold] = hashlib.blake2b(draws.tobytes(), digest_size=16).hexdigest()
        return self._digests[log.fold]

    def _read(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                meta = json.loads(archive.read("meta.json"))
                arrays = {
                    name.removesuffix(".npy"): np.load(
                        io.BytesIO(archive.read(name)), allow_pickle=False
                    )
                    for name in archive.namelist()
                    if name.endswith(".npy")
                }
            if meta["format"] != _FORMAT:
                raise ValueError(f"format {meta['format']!r} is not known to this version")
            meta["entropy"] = int(meta["entropy"])
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"The checkpoint {self.path} cannot be read ({error}). It was left as it is: "
                "delete it to start anew, or use another directory."
            ) from error
        return meta, arrays


def _describe(log: EvaluationLog, arrays: dict[str, NDArray[Any]]) -> None:
    """Put a log's content into ``arrays``."""
    laws: list[NDArray[np.float64]] = []
    places: dict[int, int] = {}
    table = []
    for number, entries in enumerate(log.rounds):
        for entry in entries:
            chunk = entry.chunk
            law = -1
            if chunk.law is not None:
                if id(chunk.law) not in places:
                    places[id(chunk.law)] = len(laws)
                    laws.append(chunk.law)
                law = places[id(chunk.law)]
            table.append(
                (number, chunk.stream, chunk.index, chunk.half, chunk.start, chunk.n_draws, law)
                + (entry.n_done, len(entry.utilities) if entry.n_done else 0)
            )
    evaluated = [entry.utilities for entry in log.entries]
    arrays[f"chunks{log.fold}"] = np.array(table, dtype=np.int64).reshape(-1, 9)
    arrays[f"laws{log.fold}"] = np.array(laws).reshape(len(laws), -1)
    arrays[f"utilities{log.fold}"] = np.concatenate(evaluated) if evaluated else np.empty(0)


def _restore(
    fold: dict[str, Any], arrays: dict[str, NDArray[Any]], entropy: int, game: GameInPlay
) -> EvaluationLog:
    number = game.log.fold
    if fold["n_players"] != game.game.n_players:
        raise ValueError("The checkpoint belongs to another valuation.")
    log = EvaluationLog(entropy, number, game.game.n_players)
    laws = list(arrays[f"laws{number}"])
    utilities = arrays[f"utilities{number}"]
    used = 0
    for row in arrays[f"chunks{number}"].tolist():
        which, stream, index, half, start, n_draws, law, n_done, n_rows = row
        chunk = Chunk(stream, number, index, half, start, n_draws, laws[law] if law >= 0 else None)
        while len(log.rounds) <= which:
            log.rounds.append([])
        entry = Entry(chunk)
        if n_done:
            found = utilities[used : used + n_rows]
            used += n_rows
            entry.append(n_done, found)
        log.rounds[which].append(entry)
    return log


def _lock_file(file: IO[bytes]) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined] # Windows
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
