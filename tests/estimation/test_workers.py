"""The same bits on every backend and with any number of workers, whatever happens around."""

import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from dataclasses import dataclass, replace

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from skdvl import estimate_values
from skdvl.caching import Cache, CacheWarning, MemcachedCache, MemoryCache
from skdvl.estimation.estimate import estimate_games
from skdvl.estimation.scheme_choice import find_schemes
from skdvl.parallel import TaskRunner
from skdvl.parallel.pickling import cloudpickle
from skdvl.sampling import Permutation
from skdvl.semivalues import Shapley
from skdvl.utilities import CallableUtility
from skdvl.utilities.cached import CachedUtility

METHODS = sorted(find_schemes())
TOLERANCES = [None, 0.3]
N_JOBS = {"sequential": (1,), "threading": (2, 4), "loky": (2, 4), "multiprocessing": (2, 4)}


def play_all(noisy_game, **options):
    """Return what every method finds in two games, with and without a tolerance."""
    games = [noisy_game(9, seed=1), noisy_game(7, seed=2)]
    players = [np.arange(9), np.arange(7)]
    results = {}
    for method in METHODS:
        for tol in TOLERANCES:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                results[method, tol] = estimate_games(
                    games,
                    players,
                    9,
                    semivalue=Shapley(),
                    method=method,
                    tol=tol,
                    max_evals=1000,
                    random_state=0,
                    **options,
                )
    return results


@pytest.fixture(scope="module")
def expected(noisy_game):
    return play_all(noisy_game, n_jobs=1)


def assert_same_results(results, expected):
    for key, result in results.items():
        assert_array_equal(result.values, expected[key].values, err_msg=str(key))
        assert_array_equal(result.standard_errors, expected[key].standard_errors)
        assert result.n_evals == expected[key].n_evals
        assert result.converged == expected[key].converged


@pytest.mark.parametrize(
    ("backend", "n_jobs"), [(name, n) for name, numbers in N_JOBS.items() for n in numbers]
)
def test_the_same_bits_on_every_backend(noisy_game, expected, backend, n_jobs):
    with joblib.parallel_config(backend=backend, n_jobs=n_jobs):
        assert_same_results(play_all(noisy_game), expected)


@pytest.mark.parametrize("method", ["permutation", "stratified"])
def test_no_barrier_where_nothing_is_decided(noisy_game, monkeypatch, method):
    """Only a rule, or laws that are adapted, look at what came back; bits do not tell."""
    runs = []
    run = TaskRunner.run

    def counted(self, payloads, **options):
        runs.append(len(payloads))
        return run(self, payloads, **options)

    monkeypatch.setattr(TaskRunner, "run", counted)
    options = {"method": method, "max_evals": 1000, "random_state": 0, "n_jobs": 2}
    free = estimate_values(noisy_game(12, seed=1), **options)
    n_free = len(runs)
    with pytest.warns(ConvergenceWarning):
        ruled = estimate_values(noisy_game(12, seed=1), tol=1e-9, **options)
    n_rounds = len(ruled.games[0].log.rounds)
    assert n_rounds > 2
    assert len(runs) - n_free == n_rounds
    assert n_free == (1 if method == "permutation" else n_rounds)
    assert_array_equal(free.values, ruled.values)
    chunks = [[e.chunk.index for e in entries] for entries in free.games[0].log.rounds]
    assert chunks == [[e.chunk.index for e in entries] for entries in ruled.games[0].log.rounds]


@dataclass(frozen=True)
class Rash(Permutation):
    """Plans by what it has seen, and says that it does not."""

    def plan(self, game, target, log):
        chunks = super().plan(game, target, log)
        seen = log.entries and log.entries[0].utilities.size
        return [replace(chunk, index=chunk.index + 1) for chunk in chunks] if seen else chunks


def test_a_scheme_that_is_not_foreseeable_is_told(noisy_game):
    with pytest.raises(RuntimeError, match=r"Rash says that it is foreseeable, but chunk \d+"):
        estimate_values(noisy_game(9, seed=1), method=Rash(), max_evals=300, random_state=0)


def test_a_number_of_jobs_wins_over_the_configuration(noisy_game, expected):
    with joblib.parallel_config(backend="threading", n_jobs=2):
        assert_same_results(play_all(noisy_game, n_jobs=3), expected)
    assert_same_results(play_all(noisy_game, n_jobs=2), expected)


def test_two_fits_in_two_threads(noisy_game, expected):
    found = {}

    def fit(name):
        found[name] = play_all(noisy_game)

    threads = [threading.Thread(target=fit, args=(name,)) for name in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same_results(found["one"], expected)
    assert_same_results(found["other"], expected)


class Failing:
    """Raises on the coalition of the first three players."""

    def __init__(self, error):
        self.error = error

    def __call__(self, players):
        if players.tolist() == [0, 1, 2]:
            raise self.error("not these three")
        return float(len(players))


@pytest.mark.parametrize("backend", ["sequential", "threading", "loky"])
def test_an_error_of_the_utility_reaches_the_caller(backend):
    utility = CallableUtility(Failing(LookupError), 8)
    with (
        joblib.parallel_config(backend=backend, n_jobs=1 if backend == "sequential" else 2),
        pytest.raises(LookupError, match="not these three"),
    ):
        estimate_values(utility, method="exact")


class Interrupting:
    """Sends the process Ctrl+C after some evaluations."""

    def __init__(self, game, after):
        self.game = game
        self.after = after
        self.home = os.getpid()

    def __call__(self, players):
        self.after -= 1
        if self.after == 0 and os.getpid() == self.home:
            signal.raise_signal(signal.SIGINT)
        coalition = np.zeros((1, self.game.n_players), dtype=bool)
        coalition[0, players] = True
        return self.game(coalition)[0]

    def fingerprint(self):
        return self.game.fingerprint()


@pytest.mark.parametrize("method", ["exact", "permutation", "tmc", "stratified"])
def test_an_interrupted_run_goes_on_from_its_checkpoint(noisy_game, tmp_path, method):
    game = noisy_game(10, log=tmp_path / "log")
    options = {"method": method, "max_evals": 1024, "random_state": 0}
    expected = estimate_values(CallableUtility(Interrupting(game, 0), 10), **options)
    n_needed = len(game.evaluated())
    game.log.unlink()
    options["checkpoint"] = tmp_path
    with pytest.raises(KeyboardInterrupt):
        estimate_values(CallableUtility(Interrupting(game, 500), 10), **options)
    result = estimate_values(CallableUtility(Interrupting(game, 0), 10), **options)
    assert_array_equal(result.values, expected.values)
    assert result.n_evals == expected.n_evals
    # only what was under way is repeated, and ∅ and N
    assert n_needed <= len(game.evaluated()) < n_needed + 500


@pytest.mark.parametrize(
    "backend",
    [
        "loky",
        "multiprocessing",
        pytest.param("dask", marks=pytest.mark.dask),
        pytest.param("ray joblib", marks=pytest.mark.ray),
        pytest.param("RayExecutor", marks=pytest.mark.ray),
    ],
)
def test_memory_travels_to_worker_processes_and_back(noisy_game, tmp_path, open_backend, backend):
    game = noisy_game(8, log=tmp_path / "log")
    expected = estimate_values(noisy_game(8), method="exact")
    cache = MemoryCache()
    options = {"method": "exact", "cache": cache}
    with open_backend(backend):
        first = estimate_values(game, **options)
        assert len(game.evaluated()) == 256
        second = estimate_values(game, **options)
    assert len(game.evaluated()) == 256
    here = estimate_values(game, **options)
    for result in (first, second, here):
        assert_array_equal(result.values, expected.values)
        assert result.n_evals == 256
    assert (first.cache_info.hits, first.cache_info.misses) == (0, 256)
    assert first.cache_info.sets == 256
    for result in (second, here):
        assert (result.cache_info.hits, result.cache_info.misses) == (256, 0)
        assert result.cache_info.sets == 0


class OutOfOrder(Cache):
    def get_many(self, keys):
        raise OSError("out of order")

    def set_many(self, items):
        raise OSError("out of order")


@pytest.mark.parametrize(
    "backend", ["loky", "multiprocessing", pytest.param("RayExecutor", marks=pytest.mark.ray)]
)
def test_a_server_that_is_away_is_told_once(noisy_game, open_backend, backend):
    expected = estimate_values(noisy_game(8), method="exact")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"  # bound, and nobody listens
        cache = MemcachedCache([address])
        with open_backend(backend), pytest.warns(CacheWarning) as told:
            result = estimate_values(noisy_game(8), method="exact", cache=cache)
    assert len(told) == 1
    assert_array_equal(result.values, expected.values)
    assert result.cache_info.errors > 0
    assert result.cache_info.sets == 0


def test_a_copy_elsewhere_leaves_warnings_to_where_it_comes_from(noisy_game):
    """In a process that is no child of multiprocessing's, as those of Ray are."""
    utility = CachedUtility(noisy_game(8), OutOfOrder())
    full = np.ones((1, 8), dtype=bool)
    code = "import pickle, sys; print(float(pickle.load(sys.stdin.buffer)([[True] * 8])[0]))"
    elsewhere = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        input=cloudpickle.dumps(utility),
        capture_output=True,
        check=False,
    )
    assert elsewhere.stderr == b""
    assert float(elsewhere.stdout) == noisy_game(8)(full)[0]
    with pytest.warns(CacheWarning, match="out of order"):
        utility(full)


def test_statistics_of_two_fits_do_not_mix(noisy_game):
    cache = MemoryCache()
    barrier = threading.Barrier(2)
    found = {}

    def fit(seed):
        barrier.wait()
        found[seed] = estimate_values(noisy_game(10, seed), method="exact", cache=cache)

    threads = [threading.Thread(target=fit, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in found.values():
        assert (result.cache_info.hits, result.cache_info.misses) == (0, 1024)
