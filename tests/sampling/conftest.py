"""Play a scheme on a game of which everything is known, without the estimation around it."""

import numpy as np
import pytest

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


def play(scheme, utility, target, entropy, n_draws):
    """Return the estimate from the first draws of a scheme."""
    n_players = utility.n_players
    empty, full = utility(np.array([[False] * n_players, [True] * n_players]))
    game = Game(n_players, float(empty), float(full))
    log = EvaluationLog(entropy, 0, n_players)
    left = n_draws
    while left > 0:
        chunks = scheme.plan(game, target, log)
        if not chunks:
            break
        log.begin_round(chunks)
        for entry in log.rounds[-1]:
            chunk = entry.chunk
            n_now = min(left, chunk.n_draws)
            if n_now:
                draws = scheme.draw(n_players, chunk, chunk.rng(entropy))
                wanted = draws[: n_now * scheme.rows_per_draw]
                entry.append(n_now, scheme.evaluate(wanted, utility, game))
                left -= n_now
    return scheme.estimate(game, target, log)


@pytest.fixture(scope="session")
def table_game():
    return TableGame(5)


@pytest.fixture(scope="session")
def play_scheme():
    return play
