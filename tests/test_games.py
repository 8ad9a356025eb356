"""Known games against enumeration, and against the numbers that were published for them."""

import numpy as np
import pytest

from skdvl.semivalues import LOO, SEMIVALUES, DeltaShapley, check_semivalue
from skdvl.testing import (
    ELECTORAL_WEIGHTS,
    KNOWN_GAMES,
    AirportGame,
    MinerGame,
    OrderedPairsGame,
    ShoesGame,
    SpanningTreeGame,
    SymmetricVotingGame,
    WeightedVotingGame,
    exact_values,
)

EXAMPLES = [example for cls in SEMIVALUES.values() for example in cls.examples()]


def game_id(game):
    return f"{type(game).__name__}-{game.n_players}"


games = pytest.mark.parametrize("game", KNOWN_GAMES, ids=game_id)
small_games = pytest.mark.parametrize(
    "game", [game for game in KNOWN_GAMES if game.n_players <= 10], ids=game_id
)

# Castro, Gómez, Tejada (2009), section 4.2: a state's electors and its Shapley value
PUBLISHED_ELECTORAL_VALUES = {
    45: 0.08831,
    41: 0.07973,
    27: 0.05096,
    26: 0.04898,
    25: 0.047,
    21: 0.03917,
    17: 0.03147,
    14: 0.02577,
    13: 0.02388,
    12: 0.022,
    11: 0.02013,
    10: 0.01827,
    9: 0.01641,
    8: 0.01456,
    7: 0.01272,
    6: 0.01088,
    5: 0.009053,
    4: 0.00723,
    3: 0.005412,
}


@small_games
@pytest.mark.parametrize("semivalue", EXAMPLES, ids=repr)
def test_closed_forms_agree_with_enumeration(game, semivalue):
    np.testing.assert_allclose(
        game.values(semivalue), exact_values(game, semivalue), rtol=1e-13, atol=1e-15
    )


@games
def test_shapley_values_are_efficient(game):
    full, empty = game.worth(np.arange(game.n_players)), game.worth([])
    assert empty == 0
    assert game.shapley_values().sum() == pytest.approx(full, rel=1e-13)


@games
def test_leave_one_out_takes_the_marginals_from_the_full_coalition(game):
    n = game.n_players
    full = game(np.ones((1, n), dtype=bool))
    np.testing.assert_allclose(game.values(LOO()), full - game(~np.eye(n, dtype=bool)), rtol=1e-13)


@games
def test_one_coalition_and_many_have_the_same_utility(game):
    rng = np.random.default_rng(0)
    coalitions = rng.random((20, game.n_players)) < rng.random((20, 1))
    utilities = game(coalitions)
    assert utilities.dtype == np.float64
    assert [game.worth(np.flatnonzero(c)) for c in coalitions] == utilities.tolist()


def test_fingerprints_tell_games_apart():
    assert len({game.fingerprint() for game in KNOWN_GAMES}) == len(KNOWN_GAMES)
    assert ShoesGame(3, 4).fingerprint() == ShoesGame(3, 4).fingerprint()


@pytest.mark.parametrize(("n_players", "value"), [(4, 0.375), (6, 0.3125)])
def test_published_symmetric_voting(n_players, value):
    game = SymmetricVotingGame(n_players)
    np.testing.assert_array_equal(game.shapley_values(), np.full(n_players, 1 / n_players))
    np.testing.assert_allclose(game.banzhaf_values(), np.full(n_players, value), rtol=1e-14)


@pytest.mark.parametrize(
    ("left", "right", "left_value", "right_value"),
    [
        (1, 1, 1 / 2, 1 / 2),
        (2, 1, 1 / 6, 2 / 3),
        (1, 2, 2 / 3, 1 / 6),
        (2, 4, 11 / 15, 2 / 15),
        (3, 2, 0.2333333, 0.65),
        (3, 4, 0.638095, 0.271429),
        (10, 5, 0.088412, 0.823177),
    ],
)
def test_published_shoes(left, right, left_value, right_value):
    expected = np.repeat([left_value, right_value], [left, right])
    np.testing.assert_allclose(ShoesGame(left, right).shapley_values(), expected, atol=5e-7)


@pytest.mark.parametrize(
    ("left", "right", "left_value", "right_value"),
    [(2, 1, 0.25, 0.75), (2, 4, 0.8125, 0.1875), (3, 2, 0.3125, 0.6875), (3, 4, 0.65625, 0.34375)],
)
def test_published_shoes_banzhaf(left, right, left_value, right_value):
    expected = np.repeat([left_value, right_value], [left, right])
    np.testing.assert_allclose(ShoesGame(left, right).banzhaf_values(), expected, rtol=1e-14)


def test_published_electoral_college():
    assert (len(ELECTORAL_WEIGHTS), sum(ELECTORAL_WEIGHTS)) == (51, 538)
    published = [PUBLISHED_ELECTORAL_VALUES[weight] for weight in ELECTORAL_WEIGHTS]
    values = WeightedVotingGame().shapley_values()
    np.testing.assert_allclose(values, published, atol=5e-6)  # four figures were printed


def test_published_airport():
    published = [0.01, 0.020869565, 0.033369565, 0.046883079, 0.063549745]
    published += [0.082780515, 0.106036329, 0.139369662, 0.189369662, 0.289369662]
    expected = np.repeat(published, (8, 12, 6, 14, 8, 9, 13, 10, 10, 10))
    np.testing.assert_allclose(AirportGame().shapley_values(), expected, atol=1e-9)
    assert AirportGame().shapley_values().sum() == pytest.approx(10, rel=1e-14)


def test_published_spanning_tree():
    np.testing.assert_allclose(SpanningTreeGame().shapley_values(), np.full(100, 2), rtol=1e-14)
    assert SpanningTreeGame().worth(np.arange(100)) == 200
    assert SpanningTreeGame().worth([5]) == 101


@pytest.mark.parametrize("n_players", [3, 4, 5])
def test_published_miners(n_players):
    expected = np.full(n_players, n_players // 2 / n_players)
    np.testing.assert_allclose(MinerGame(n_players).shapley_values(), expected, rtol=1e-14)
    np.testing.assert_allclose(MinerGame(n_players).banzhaf_values(), 0.5, rtol=1e-14)


@pytest.mark.parametrize(("lower", "upper"), [(0, 0), (1, 4), (2, 3)])
def test_published_delta_shapley(lower, upper):
    value = (upper**2 - lower**2 + upper + lower) / (upper - lower + 1)
    np.testing.assert_allclose(OrderedPairsGame(5).values(DeltaShapley(lower, upper)), value)


def test_enumeration_takes_callables_on_player_indices():
    seen = []

    def pairs(players):
        seen.append(tuple(players))
        return len(players) * (len(players) - 1)

    values = exact_values(pairs, "banzhaf", n_players=3)
    np.testing.assert_array_equal(values, [2, 2, 2])
    assert sorted(seen) == [(), (0,), (0, 1), (0, 1, 2), (0, 2), (1,), (1, 2), (2,)]


def test_enumeration_refuses_what_would_not_end():
    with pytest.raises(ValueError, match="17 players"):
        exact_values(MinerGame(17))
    with pytest.raises(ValueError, match="n_players is needed"):
        exact_values(len)


@pytest.mark.parametrize("name", ["shapley", "banzhaf"])
def test_named_values_are_those_of_the_semivalue(name):
    game = ShoesGame(3, 4)
    by_name = getattr(game, f"{name}_values")()
    np.testing.assert_array_equal(by_name, game.values(check_semivalue(name)))
