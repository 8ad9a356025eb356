"""Play a scheme on a game of which everything is known, without the estimation around it."""

import sys

import numpy as np
import pytest
from joblib import Parallel, delayed

from skdvl.estimation.evaluation import SharedWork, evaluate_task
from skdvl.estimation.games import open_game
from skdvl.parallel.pickling import cloudpickle
from skdvl.sampling import EvaluationLog
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


def play(scheme, utility, target, entropy, n_draws):
    """Return the estimate from what a budget for so many draws buys."""
    n_players = utility.n_players
    budget = 2 + n_draws * scheme.cost_per_draw(n_players)
    log = EvaluationLog(entropy, 0, n_players)
    in_play = open_game(utility, utility.engine, budget, np.arange(n_players), log, None)
    shared = SharedWork([utility], [in_play.game], scheme, [log.draws])
    while tasks := in_play.next_tasks(scheme, target):
        for task in tasks:
            in_play.add(task, evaluate_task(shared, task)[0])
    return scheme.estimate(in_play.game, target, log)


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
def play_scheme():
    return play


@pytest.fixture(scope="session")
def repeat_scheme():
    """Workers cannot import this file: pytest does not put it on the path."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield repeat
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
