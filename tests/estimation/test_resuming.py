"""A run that was killed, or has ended, goes on from its file as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
import warnings

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
from skdvl.semivalues import Shapley
from skdvl.utilities import Utility

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


def two_games(noisy_game, tmp_path):
    return [noisy_game(n, seed=n, log=tmp_path / f"log{n}") for n in (10, 8)]


def play(games, **options):
    players = [np.arange(game.n_players) for game in games]
    options = {"max_evals": 1500, "random_state": 0, "semivalue": Shapley()} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimate_games(games, players, games[0].n_players, **options)


def n_evaluated(games, *, forget=True):
    count = sum(len(game.evaluated()) for game in games)
    if forget:
        for game in games:
            game.log.unlink(missing_ok=True)
    return count


def stored_evals(directory, scheme):
    """Return how many evaluations of each game are in the only file of a directory."""
    for path in directory.glob("*.skdvl"):
        return [log.n_evals for log in Checkpoint(directory, path.stem, scheme).load().logs]
    return [0, 0]


@pytest.mark.parametrize("tol", [None, 0.08, RankStability(0.9)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    in_child, assert_same_result, noisy_game, tmp_path, method, tol
):
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


def test_a_kill_within_a_round_loses_only_what_came_after_the_last_save(
    in_child, assert_same_result, noisy_game, tmp_path
):
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
    in_child, assert_same_result, noisy_game, tmp_path, place, monkeypatch
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
    assert_same_result, noisy_game, tmp_path, method
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
def test_a_completed_run_returns_at_once(assert_same_result, noisy_game, tmp_path, method):
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


def test_a_seed_that_was_drawn_is_drawn_once(assert_same_result, noisy_game, tmp_path):
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
        options = {"utility": noisy_game(10), "method": "stratified", "max_evals": 200}
        options |= {"random_state": 0, "checkpoint": tmp_path} | change
        estimate_values(options.pop("utility"), **options)
        names.append({path.name for path in tmp_path.glob("*.skdvl")})
    assert [len(name) for name in names] == [1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7]


def test_extending_a_result_and_a_file_reads_whichever_is_longer(
    assert_same_result, noisy_game, tmp_path
):
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


def test_nothing_is_lost_between_budgets_of_which_none_contains_the_other(noisy_game, tmp_path):
    """A budget ends within an enumeration, a larger one pays for it and draws less."""
    game = noisy_game(10, log=tmp_path / "log")
    by_itself = {
        n: estimate_values(noisy_game(10), method="stratified", max_evals=n, random_state=0)
        for n in (31, 33)
    }
    draws = {
        n: {e.chunk.index: e.n_done for e in r.games[0].log.entries} for n, r in by_itself.items()
    }
    assert any(draws[31].get(index, 0) < n for index, n in draws[33].items())
    assert any(draws[33].get(index, 0) < n for index, n in draws[31].items())
    n_before, previous = 0, None
    for max_evals in (31, 33, 31, 33, 31):
        options = {"method": "stratified", "max_evals": max_evals, "random_state": 0}
        found = estimate_values(game, checkpoint=tmp_path, **options)
        previous = play([noisy_game(10)], previous=previous, **options)
        for result in (found, previous):
            assert_array_equal(result.values, by_itself[max_evals].values)
            assert_array_equal(result.standard_errors, by_itself[max_evals].standard_errors)
        n_before, n_new = len(game.evaluated()), len(game.evaluated()) - n_before
        if max_evals == 31 and n_before > 40:
            assert n_new == 2  # ∅ and N
    everything = draws[31] | {i: max(n, draws[31].get(i, 0)) for i, n in draws[33].items()}
    assert len(game.evaluated()) == 5 * 2 + sum(everything.values())
    kept = previous.games[0].all_known
    assert {entry.chunk.index: entry.n_done for entry in kept.entries} == everything
