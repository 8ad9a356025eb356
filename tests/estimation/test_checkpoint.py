import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
import warnings
import zipfile

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from skdvl import RankStability, estimate_values
from skdvl.estimation import rounds
from skdvl.estimation.checkpoint import Checkpoint
from skdvl.estimation.estimate import estimate_games
from skdvl.estimation.scheme_choice import find_schemes
from skdvl.sampling import Permutation, Stratified, reuse_scheme
from skdvl.sampling.members import draw_members
from skdvl.semivalues import BetaShapley, Shapley
from skdvl.utilities import Utility
from skdvl.utilities.fingerprint import FingerprintError

METHODS = sorted(find_schemes())


class Killing(Utility):
    """Kills its process with SIGKILL when asked for the n-th evaluation."""

    def __init__(self, game, after):
        self.game = game
        self.after = after
        self.n_players = game.n_players
        self.evals_per_chunk = game.evals_per_chunk

    def _evaluate(self, coalitions):
        if len(coalitions) >= self.after:
            self.game(coalitions[: self.after - 1])
            os.kill(os.getpid(), signal.SIGKILL)
        self.after -= len(coalitions)
        return self.game(coalitions)

    def fingerprint(self):
        return self.game.fingerprint()


def in_child(function):
    """Run a function in a forked child; return how the child ended."""
    with warnings.catch_warnings():
        # Python 3.12 warns where threads are alive, as those of a pool of earlier tests.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def two_games(noisy_game, tmp_path):
    return [noisy_game(n, seed=n, log=tmp_path / f"log{n}") for n in (10, 8)]


def play(games, **options):
    players = [np.arange(game.n_players) for game in games]
    options = {"max_evals": 1500, "random_state": 0, "semivalue": Shapley()} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimate_games(games, players, games[0].n_players, **options)


def assert_same_result(one, other):
    assert_array_equal(one.values, other.values)
    assert_array_equal(one.standard_errors, other.standard_errors)
    assert one.n_evals == other.n_evals
    assert one.converged == other.converged


def n_evaluated(games, *, forget=True):
    count = sum(len(game.evaluated()) for game in games)
    if forget:
        for game in games:
            game.log.unlink(missing_ok=True)
    return count


# --- killed and started again -----------------------------------------------------------------


def stored_evals(directory, scheme):
    """Return how many evaluations of each game are in the only file of a directory."""
    for path in directory.glob("*.skdvl"):
        return [log.n_evals for log in Checkpoint(directory, path.stem, scheme).load().logs]
    return [0, 0]


@pytest.mark.parametrize("tol", [None, 0.08, RankStability(0.9)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(noisy_game, tmp_path, method, tol):
    games = two_games(noisy_game, tmp_path)
    options = {"method": method, "tol": tol}
    expected = play(games, **options)
    n_evaluated(games)
    # after how many evaluations each round of each game is complete
    ends = [
        np.cumsum([0, *(sum(np.isfinite(e.utilities).sum() for e in r) for r in game.log.rounds)])
        for game in expected.games
    ]
    runs = tmp_path / "runs"
    stored = [0, 0]
    fifth = min(game.n_evals for game in expected.games) // 5
    for after in (2, fifth, fifth, fifth, fifth):  # per game and run, ∅ and N included
        dying = [Killing(game, after) for game in games]
        died = in_child(lambda games=dying: play(games, checkpoint=runs, **options))
        assert died == -signal.SIGKILL
        reached = [n + len(game.evaluated()) - 2 for n, game in zip(stored, games, strict=True)]
        n_evaluated(games)
        n_rounds = min(
            np.searchsorted(e, n, "right") - 1 for e, n in zip(ends, reached, strict=True)
        )
        n_rounds = max(n_rounds, 0)  # killed at ∅ or N
        stored = stored_evals(runs, expected.scheme)
        assert all(n >= e[n_rounds] for n, e in zip(stored, ends, strict=True))
    assert method == "exact" or sum(stored) > 0
    result = play(games, checkpoint=runs, **options)
    assert_same_result(result, expected)
    assert n_evaluated(games) == expected.n_evals - sum(stored)


def test_a_kill_within_a_round_loses_only_what_came_after_the_last_save(noisy_game, tmp_path):
    game = noisy_game(10, log=tmp_path / "log", seconds=1e-4)
    expected = estimate_values(noisy_game(10), method="exact")
    options = {"method": "exact", "checkpoint": tmp_path / "runs"}

    def die():
        rounds._SECONDS_BETWEEN_SAVES = 0.0  # in the child alone
        estimate_values(Killing(game, 700), **options)

    assert in_child(die) == -signal.SIGKILL
    n_evaluated([game])
    (n_stored,) = stored_evals(tmp_path / "runs", expected.scheme)
    assert 0 < n_stored < 700
    assert_same_result(estimate_values(game, **options), expected)
    assert n_evaluated([game]) == 1024 - n_stored


@pytest.mark.parametrize("place", ["write_array", "fsync", "replace", "replaced"])
def test_a_kill_during_a_save_leaves_the_old_file_or_the_new_one(
    noisy_game, tmp_path, place, monkeypatch
):
    game = noisy_game(10, log=tmp_path / "log")
    options = {"method": "stratified", "max_evals": 1000, "random_state": 0}
    expected = estimate_values(game, **options)
    options["checkpoint"] = tmp_path / "runs"

    def die_at(owner, name, call, *, after=False):
        original = getattr(owner, name)
        calls = []

        def dying(*arguments, **named):
            calls.append(name)
            if after and len(calls) == call:
                original(*arguments, **named)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, dying)

    with monkeypatch.context():
        if place == "write_array":
            die_at(np.lib.format, "write_array", 8)
        elif place == "fsync":
            die_at(os, "fsync", 3)
        else:
            die_at(os, "replace", 3, after=place == "replaced")
        assert in_child(lambda: estimate_values(game, **options)) == -signal.SIGKILL
    n_evaluated([game])
    monkeypatch.undo()
    assert_same_result(estimate_values(game, **options), expected)
    assert n_evaluated([game]) < expected.n_evals
    kinds = {path.suffix for path in (tmp_path / "runs").iterdir()}
    assert kinds <= {".skdvl", ".lock"}


SCRIPT = """
import sys
from skdvl import ShapleyValuator
from sklearn.datasets import make_classification
from sklearn.naive_bayes import GaussianNB
X, y = make_classification(60, 4, random_state=0)
options = dict(engine="refit", max_evals=1000, cv=2, random_state=0)
valuator = ShapleyValuator(GaussianNB(), checkpoint=sys.argv[1], **options).fit(X, y)
"""


def test_a_valuator_killed_in_its_interpreter_goes_on_in_this_one(tmp_path, monkeypatch):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, tmp_path])
    while not list(tmp_path.glob("*.skdvl")):
        time.sleep(0.005)
        assert process.poll() is None
    process.kill()
    assert process.wait() == -signal.SIGKILL
    monkeypatch.setattr(sys, "argv", ["", tmp_path])
    resumed, fresh = {}, {}
    exec(SCRIPT, resumed)
    monkeypatch.setattr(sys, "argv", ["", None])
    exec(SCRIPT, fresh)
    assert_array_equal(resumed["valuator"].values_, fresh["valuator"].values_)
    assert resumed["valuator"].n_evals_ == fresh["valuator"].n_evals_
    assert len(list(tmp_path.glob("*.skdvl"))) == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_may_have_other_workers_another_budget_and_tolerance(
    noisy_game, tmp_path, method
):
    games = two_games(noisy_game, tmp_path)
    kept = {"method": method, "checkpoint": tmp_path / "runs"}
    runs = [{"max_evals": 1300, "tol": 0.05}, {"max_evals": 4000}, {"max_evals": 1400, "tol": 0.2}]
    for changed in runs:
        expected = play(games, method=method, **changed)
        n_evaluated(games)
        with joblib.parallel_config(backend="threading", n_jobs=2):
            assert_same_result(play(games, **kept, **changed), expected)
        n_evaluated(games)
    # the smaller run has not cut what the larger one left
    play(games, **kept, **runs[1])
    assert n_evaluated(games) == 4


@pytest.mark.parametrize("method", METHODS)
def test_a_completed_run_returns_at_once(noisy_game, tmp_path, method):
    games = two_games(noisy_game, tmp_path)
    options = {"method": method, "checkpoint": tmp_path / "runs"}
    first = play(games, **options)
    (path,) = (tmp_path / "runs").glob("*.skdvl")
    before = path.stat()
    n_evaluated(games)
    second = play(games, **options)
    assert n_evaluated(games) == 4  # u(∅) and u(N) of two games
    assert_same_result(second, first)
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_a_seed_that_was_drawn_is_drawn_once(noisy_game, tmp_path):
    game = noisy_game(10, log=tmp_path / "log")
    options = {"method": "stratified", "max_evals": 300, "checkpoint": tmp_path / "runs"}
    first = estimate_values(game, **options)
    n_evaluated([game])
    second = estimate_values(game, **options)
    assert_same_result(first, second)
    assert n_evaluated([game]) == 2
    larger = estimate_values(game, **options | {"max_evals": 500})
    assert n_evaluated([game]) == 2 + 200
    fresh = estimate_values(
        game, method="stratified", max_evals=500, random_state=larger.games[0].log.entropy
    )
    assert_same_result(larger, fresh)


def test_every_game_method_semivalue_and_seed_has_a_file_of_its_own(noisy_game, tmp_path):
    changes = [
        {},
        {"random_state": 1},
        {"random_state": None},
        {"method": "permutation"},
        {"semivalue": "banzhaf"},
        {"utility": noisy_game(10, seed=5)},
        {"utility": noisy_game(11)},
        {"max_evals": 50},
        {"tol": 10.0},
        {"n_jobs": 1},
        {"cache": "memory"},
    ]
    names = []
    for change in changes:
        options = {"utility": noisy_game(10), "method": "stratified", "max_evals": 60}
        options |= {"random_state": 0, "checkpoint": tmp_path} | change
        estimate_values(options.pop("utility"), **options)
        names.append({path.name for path in tmp_path.glob("*.skdvl")})
    assert [len(name) for name in names] == [1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7]


def test_extending_a_result_and_a_file_reads_whichever_is_longer(noisy_game, tmp_path):
    game = noisy_game(10, log=tmp_path / "log")
    options = {"method": "stratified", "semivalue": Shapley(), "random_state": 0}

    def run(max_evals, **more):
        return estimate_games([game], [np.arange(10)], 10, max_evals=max_evals, **options, **more)

    runs = tmp_path / "runs"
    short, long = run(100), run(300)
    for previous, stored in ((short, 300), (long, 100)):
        run(stored, checkpoint=runs / str(stored))
        n_evaluated([game])
        last = run(500, previous=previous, checkpoint=runs / str(stored))
        assert n_evaluated([game]) == 2 + 200
        assert_same_result(last, run(500))
        n_evaluated([game])


def test_a_result_and_a_file_of_different_seeds_do_not_mix(noisy_game, tmp_path):
    game = noisy_game(10)
    options = {"method": "stratified", "semivalue": Shapley(), "max_evals": 100}
    first = estimate_games([game], [np.arange(10)], 10, **options)
    options["checkpoint"] = tmp_path
    estimate_games([game], [np.arange(10)], 10, **options)
    with pytest.raises(ValueError, match="other seeds"):
        estimate_games([game], [np.arange(10)], 10, previous=first, **options)


def test_refusals_are_counted_on(noisy_game, tmp_path):
    from skdvl.utilities.record import current_record

    class Refusing(type(noisy_game(2))):
        def _evaluate(self, coalitions):
            record = current_record()
            record.refused["too small", False] += int((coalitions.sum(axis=1) < 3).sum())
            record.n_large += int((coalitions.sum(axis=1) >= 3).sum())
            return super()._evaluate(coalitions)

    options = {"method": "exact", "checkpoint": tmp_path}
    first = estimate_values(Refusing(6), **options)
    assert first.n_refused == 1 + 6 + 15
    assert first.record.n_large == 64 - 22
    again = estimate_values(Refusing(6), **options)
    assert again.n_refused - first.n_refused == 1  # the empty coalition, evaluated anew


# --- the file ---------------------------------------------------------------------------------


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


def test_draws_of_another_version_of_numpy_are_refused(noisy_game, tmp_path):
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


def test_other_draws_are_noticed_behind_an_enumeration(noisy_game, tmp_path, monkeypatch):
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


# --- the lock ---------------------------------------------------------------------------------


def test_a_second_live_process_is_refused_until_the_first_is_dead(noisy_game, tmp_path):
    slow = noisy_game(10, log=tmp_path / "log", seconds=0.05)
    options = {"method": "stratified", "max_evals": 500, "random_state": 0}
    options["checkpoint"] = tmp_path / "runs"
    pid = os.fork()
    if pid == 0:
        estimate_values(slow, **options)
        os._exit(1)
    while not slow.evaluated():
        time.sleep(0.01)
    with pytest.raises(RuntimeError, match="Another live process"):
        estimate_values(noisy_game(10), **options)
    estimate_values(noisy_game(10), **options | {"random_state": 1})
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert estimate_values(noisy_game(10), **options).n_evals == 500


def test_the_same_process_has_one_run_at_a_time(tmp_path):
    with Checkpoint(tmp_path, "one", Stratified()):
        with (
            pytest.raises(RuntimeError, match="Another live process"),
            Checkpoint(tmp_path, "one", Stratified()),
        ):
            pass
        with Checkpoint(tmp_path, "two", Stratified()):
            pass
    with Checkpoint(tmp_path, "one", Stratified()):
        pass


def test_workers_that_outlive_a_killed_run_do_not_keep_its_lock(tmp_path):
    orphan = tmp_path / "orphan"

    def die():
        with Checkpoint(tmp_path, "one", Stratified()):
            if os.fork() == 0:  # as the workers of the multiprocessing backend
                orphan.write_text(str(os.getpid()))
                time.sleep(60)
                os._exit(0)
            while not orphan.exists() or not orphan.read_text():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(die) == -signal.SIGKILL
    try:
        with Checkpoint(tmp_path, "one", Stratified()):
            pass
    finally:
        os.kill(int(orphan.read_text()), signal.SIGKILL)
