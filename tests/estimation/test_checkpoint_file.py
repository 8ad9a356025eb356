"""The file of a run: what is in it, and that what is not its own is refused and left alone."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest

from skdvl import estimate_values
from skdvl.estimation.checkpoint import Checkpoint
from skdvl.estimation.scheme_choice import find_schemes
from skdvl.sampling import Permutation, Stratified, reuse_scheme
from skdvl.sampling.members import draw_members
from skdvl.semivalues import BetaShapley
from skdvl.utilities.fingerprint import FingerprintError

METHODS = sorted(find_schemes())


def one_run(noisy_game, directory, method="stratified", n_players=10, **options):
    options = {"max_evals": 200, "random_state": 0} | options
    game = noisy_game(n_players)
    result = estimate_values(game, method=method, checkpoint=directory, **options)
    (path,) = directory.glob("*.skdvl")
    return path, result


@pytest.mark.parametrize("method", METHODS)
def test_nothing_in_the_file_is_pickled(noisy_game, tmp_path, method):
    path, _ = one_run(noisy_game, tmp_path, method, max_evals=1024)
    with zipfile.ZipFile(path) as archive:
        assert set(archive.namelist()) == {
            "meta.json",
            "chunks0.npy",
            "laws0.npy",
            "utilities0.npy",
        }
        json.loads(archive.read("meta.json"))
        for name in archive.namelist()[1:]:
            array = np.load(io.BytesIO(archive.read(name)), allow_pickle=False)
            assert array.dtype.kind in "if"


def test_equal_runs_leave_equal_files(noisy_game, tmp_path):
    first, _ = one_run(noisy_game, tmp_path / "a")
    second, _ = one_run(noisy_game, tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()


def test_laws_are_stored_once(noisy_game, tmp_path):
    path, result = one_run(noisy_game, tmp_path, n_players=1000, max_evals=20_000)
    n_rounds = len(result.games[0].log.rounds)
    with zipfile.ZipFile(path) as archive:
        laws = np.load(io.BytesIO(archive.read("laws0.npy")))
    assert laws.shape[1] == 1001
    assert len(laws) <= 3 * n_rounds
    assert result.games[0].log.n_chunks > 10 * len(laws)
    # eight bytes per utility, and little else
    assert path.stat().st_size < 8 * 20_000 + laws.nbytes + 100 * result.games[0].log.n_chunks


@pytest.mark.parametrize("method", ["permutation", "stratified"])
def test_a_damaged_file_is_refused_and_left_as_it_is(noisy_game, tmp_path, method):
    path, _ = one_run(noisy_game, tmp_path, method, max_evals=60)
    scheme = {"permutation": Permutation(), "stratified": Stratified()}[method]
    intact = path.read_bytes()

    def load():
        return Checkpoint(tmp_path, path.stem, scheme).load()

    def content(run):
        entries = run.logs[0].entries
        return [run.entropy, *((e.chunk.index, e.n_done, e.utilities.tolist()) for e in entries)]

    expected = content(load())
    n_refused = 0
    messages = set()
    for position in range(0, len(intact), 3):
        damaged = bytearray(intact)
        damaged[position] ^= 0x41
        path.write_bytes(damaged)
        try:
            found = content(load())
        except ValueError as error:
            messages.add(str(error).split(" (")[0])
            n_refused += 1
        else:
            assert found == expected  # in the rubbish between the members of a zip
        assert path.read_bytes() == damaged
    assert n_refused > 0.8 * len(intact) / 3
    assert all(message.startswith(f"The checkpoint {path}") for message in messages)
    for length in range(0, len(intact), 100):
        path.write_bytes(intact[:length])
        with pytest.raises(ValueError, match="cannot be read"):
            load()
    path.write_bytes(intact[:-1])
    with pytest.raises(ValueError, match=r"cannot be read.*delete it to start anew"):
        one_run(noisy_game, tmp_path, method, max_evals=60)
    assert path.read_bytes() == intact[:-1]


def rewritten(path, **changes):
    """Rewrite a file with some members changed; None leaves one out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members |= changes
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)


def with_meta(path, **changes):
    with zipfile.ZipFile(path) as archive:
        meta = json.loads(archive.read("meta.json"))
    rewritten(path, **{"meta.json": json.dumps(meta | changes)})
    return path.read_bytes()


def test_files_that_are_no_checkpoints_are_refused(noisy_game, tmp_path):
    path, _ = one_run(noisy_game, tmp_path)
    intact = path.read_bytes()
    planted = tmp_path / "planted"

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(planted),)

    pickled = io.BytesIO()
    np.save(pickled, np.array([Bomb()], dtype=object), allow_pickle=True)
    attempts = {
        "text": lambda: path.write_text("my notes"),
        "pickle": lambda: path.write_bytes(pickle.dumps(Bomb())),
        "another format": lambda: with_meta(path, format=99),
        "no meta": lambda: rewritten(path, **{"meta.json": None}),
        "no utilities": lambda: rewritten(path, **{"utilities0.npy": None}),
        "pickled array": lambda: rewritten(path, **{"utilities0.npy": pickled.getvalue()}),
        "a table of texts": lambda: rewritten(path, **{"chunks0.npy": b"0 1 2"}),
    }
    for attempt in attempts.values():
        path.write_bytes(intact)
        attempt()
        foreign = path.read_bytes()
        with pytest.raises(ValueError, match="cannot be read"):
            one_run(noisy_game, tmp_path)
        assert path.read_bytes() == foreign
    assert not planted.exists()


def test_the_file_of_another_valuation_is_refused(noisy_game, tmp_path):
    path, _ = one_run(noisy_game, tmp_path / "a")
    other, _ = one_run(noisy_game, tmp_path / "b", random_state=1)
    path.write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match="belongs to another valuation"):
        one_run(noisy_game, tmp_path / "a")
    assert path.read_bytes() == other.read_bytes()


def test_draws_of_another_version_of_numpy_are_refused(assert_same_result, noisy_game, tmp_path):
    path, _ = one_run(noisy_game, tmp_path)
    folds = [{"n_players": 10, "draws": "0" * 64}]
    written = with_meta(path, numpy="9.9.9", folds=folds)
    with pytest.raises(ValueError, match=r"written with numpy 9\.9\.9.*random draws"):
        one_run(noisy_game, tmp_path)
    assert path.read_bytes() == written
    # a version that draws the same is welcome
    path.unlink()
    path, expected = one_run(noisy_game, tmp_path)
    with_meta(path, numpy="9.9.9")
    assert_same_result(one_run(noisy_game, tmp_path)[1], expected)


def test_other_draws_are_noticed_behind_an_enumeration(
    assert_same_result, noisy_game, tmp_path, monkeypatch
):
    options = {"method": "stratified", "semivalue": BetaShapley(16, 1)}
    path, result = one_run(noisy_game, tmp_path, **options)
    halves = [entry.chunk.half for entry in result.games[0].log.entries]
    assert halves[0] < 0
    assert max(halves) >= 0
    written = path.read_bytes()
    assert_same_result(one_run(noisy_game, tmp_path, **options)[1], result)
    monkeypatch.setattr(
        reuse_scheme, "draw_members", lambda *given: draw_members(*given)[:, ::-1].copy()
    )
    with pytest.raises(ValueError, match="random draws"):
        one_run(noisy_game, tmp_path, **options)
    assert path.read_bytes() == written


def test_an_unwritable_place_says_so_at_once(noisy_game, tmp_path):
    (tmp_path / "file").write_text("")
    game = noisy_game(10, log=tmp_path / "log")
    with pytest.raises(OSError, match="file"):
        estimate_values(game, checkpoint=tmp_path / "file")
    assert game.evaluated() == []


def test_a_utility_without_a_fingerprint_is_refused(tmp_path):
    with pytest.raises(FingerprintError, match=r"fingerprint\(\)"):
        estimate_values(len, n_players=5, checkpoint=tmp_path)
