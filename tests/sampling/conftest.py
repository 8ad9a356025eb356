"""Play a scheme on a game of which everything is known, without the estimation around it."""

import sys

import numpy as np
import pytest
from joblib import Parallel, delayed

from skdvl.parallel.pickling import cloudpickle
from skdvl.sampling import EvaluationLog, Game
from skdvl.utilities import Utility


class TableGame(Utility):
    """Random utilities that grow with size, one per coalition."""

    def __init__(self, n_players, seed=0):
        rng = np.random.default_rng(seed)
        self.n_players = n_players
        self.powers = 2 ** np.arange(n_players)
        sizes = np.array([bin(code).count("1") for code in range(2**n_players)])
        self.table = np.sqrt(sizes) + rng.normal(size=2**n_players)

    def _evaluate(self, coalitions):
        return self.table[coalitions @ self.powers]


class NoisyGame(Utility):
    """Players of different worth, a learning curve, and noise of its own for every coalition."""

    evals_per_chunk = 512

    def __init__(self, n_players, seed=0):
        rng = np.random.default_rng(seed)
        self.n_players = n_players
        self.worths = rng.normal(size=n_players)
        self.keys = rng.normal(size=n_players)

    def _evaluate(self, coalitions):
        sizes = coalitions.sum(axis=1)
        noise = np.sin(1000 * (coalitions @ self.keys)) / np.sqrt(sizes + 1)
        return np.sqrt(sizes) + coalitions @ self.worths / np.maximum(sizes, 1) + noise


def open_game(utility, entropy=0, evals_per_chunk=None):
    """Return the game of a utility and an empty log."""
    n_players = utility.n_players
    empty, full = utility(np.array([[False] * n_players, [True] * n_players]))
    per_chunk = evals_per_chunk or utility.evals_per_chunk
    game = Game(n_players, float(empty), float(full), per_chunk, utility.has_cheap_prefixes)
    return game, EvaluationLog(entropy, 0, n_players)


def extend(scheme, utility, game, target, log, n_draws):
    """Evaluate more draws, as many as there are planned."""
    while n_draws > 0:
        if log.is_round_complete:
            chunks = scheme.plan(game, target, log)
            if not chunks:
                return
            log.begin_round(chunks)
        for entry in log.rounds[-1]:
            chunk = entry.chunk
            n_now = min(n_draws, chunk.n_draws - entry.n_done)
            if n_now:
                draws = log.draws.of(scheme, chunk)
                n_rows = scheme.rows_per_draw
                wanted = draws[entry.n_done * n_rows : (entry.n_done + n_now) * n_rows]
                entry.append(n_now, scheme.evaluate(wanted, utility, game))
                n_draws -= n_now


def play(scheme, utility, target, entropy, n_draws):
    """Return the estimate from the first draws of a scheme."""
    game, log = open_game(utility, entropy)
    extend(scheme, utility, game, target, log, n_draws)
    return scheme.estimate(game, target, log)


def _moments(scheme, utility, target, n_draws, exact, seeds):
    sums = np.zeros((4, utility.n_players))
    for seed in seeds:
        estimate = play(scheme, utility, target, seed, n_draws)
        errors = estimate.values - exact
        covered = np.abs(errors) <= 1.96 * estimate.standard_errors
        sums += errors, errors**2, estimate.standard_errors**2, covered
    return sums


def repeat(scheme, utility, target, n_draws, exact, n_seeds):
    """Return means over seeds of errors, their squares, squared standard errors, and coverage."""
    parts = np.array_split(np.arange(n_seeds), 2)
    sums = Parallel(n_jobs=2)(
        delayed(_moments)(scheme, utility, target, n_draws, exact, part) for part in parts
    )
    return np.sum(sums, axis=0) / n_seeds


@pytest.fixture(scope="session")
def table_games():
    return TableGame


@pytest.fixture(scope="session")
def table_game():
    return TableGame(5)


@pytest.fixture(scope="session")
def noisy_game():
    return NoisyGame(14)


@pytest.fixture(scope="session")
def open_log():
    return open_game


@pytest.fixture(scope="session")
def extend_log():
    return extend


@pytest.fixture(scope="session")
def play_scheme():
    return play


@pytest.fixture(scope="session")
def repeat_scheme():
    """Workers cannot import this file: pytest does not put it on the path."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield repeat
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
