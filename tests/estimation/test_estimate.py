"""What may be asked of an estimate, and what it evaluates: budgets, games, seeds, rules."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from skdvl import estimate_values
from skdvl.estimation import StandardErrorBelow, StoppingRule
from skdvl.estimation.estimate import estimate_games
from skdvl.estimation.scheme_choice import find_schemes
from skdvl.sampling import TruncatedMonteCarlo
from skdvl.semivalues import LOO, Banzhaf, BetaShapley, Shapley
from skdvl.testing import AirportGame, ShoesGame, exact_values
from skdvl.utilities import CallableUtility, Utility

SAMPLED = sorted(set(find_schemes()) - {"exact"})


class Counting:
    """A callable that keeps what it is asked."""

    def __init__(self, function=lambda players: float(len(players)) ** 0.5):
        self.function = function
        self.asked = []

    def __call__(self, players):
        self.asked.append(tuple(players.tolist()))
        return self.function(players)


def gloves(players):
    return float(min(np.sum(players < 2), np.sum(players >= 2)))


# --- what may be asked ------------------------------------------------------------------------


def test_a_callable_gets_ascending_indices():
    ask = Counting()
    estimate_values(ask, n_players=6, method="permutation", max_evals=50, random_state=0)
    assert () in ask.asked
    assert all(players == tuple(sorted(set(players))) for players in ask.asked)


@pytest.mark.parametrize("semivalue", ["shapley", "banzhaf", "loo", BetaShapley(4, 1)])
def test_exact_values_of_a_callable_and_of_a_utility(semivalue):
    expected = exact_values(gloves, semivalue, n_players=5)
    for utility in (gloves, CallableUtility(gloves, 5), ShoesGame(2, 3)):
        n_players = None if isinstance(utility, Utility) else 5
        result = estimate_values(utility, n_players=n_players, semivalue=semivalue)
        assert_allclose(result.values, expected, rtol=0, atol=1e-12)
        assert_array_equal(result.standard_errors, 0)
        assert result.converged
        assert result.method == "exact"


def test_a_single_player_is_worth_the_whole_game():
    for method in ["auto", "exact", *SAMPLED]:
        ask = Counting(lambda players: 3.0 + 2.0 * len(players))
        result = estimate_values(ask, n_players=1, method=method)
        assert result.values == [2.0]
        assert result.n_evals == len(ask.asked) == 2
        assert result.converged


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"utility": 3}, TypeError, "Utility or a callable"),
        ({"n_players": None}, ValueError, "n_players is needed"),
        ({"n_players": 2.5}, TypeError, "n_players must be an integer"),
        ({"n_players": 0}, ValueError, "at least one player"),
        ({"utility": ShoesGame(2, 3), "n_players": 6}, ValueError, "has 5 players"),
        ({"method": "magic"}, ValueError, r"'magic'.*'permutation'"),
        ({"semivalue": "magic"}, ValueError, r"'magic'.*'shapley'"),
        ({"max_evals": 0}, ValueError, "'auto' or a positive integer"),
        ({"max_evals": -5}, ValueError, "'auto' or a positive integer"),
        ({"max_evals": 10.5}, ValueError, "'auto' or a positive integer"),
        ({"max_evals": True}, ValueError, "'auto' or a positive integer"),
        ({"max_evals": "many"}, ValueError, "'auto' or a positive integer"),
        ({"tol": -1.0}, ValueError, "tol must be a positive number"),
        ({"tol": "small"}, ValueError, "tol must be a positive number"),
        ({"cache": "cupboard"}, ValueError, r"unknown cache 'cupboard'"),
        ({"cache": "memory"}, ValueError, "no fingerprint"),
        ({"checkpoint": "."}, ValueError, "no fingerprint"),
        ({"checkpoint": True}, TypeError, "path of a directory"),
        ({"utility": lambda players: None}, TypeError, r"of 0 players .* returned None"),
        ({"random_state": -1}, ValueError, "must not be negative"),
        ({"random_state": "luck"}, ValueError, "luck"),
        ({"method": "exact", "max_evals": 31}, ValueError, r"max_evals=32\b"),
        ({"method": "permutation", "max_evals": 5}, ValueError, r"at least max_evals=6\b"),
        ({"method": "antithetic", "max_evals": 9}, ValueError, r"at least max_evals=10\b"),
        ({"method": "tmc", "max_evals": 5}, ValueError, r"at least max_evals=6\b"),
        ({"method": "stratified", "max_evals": 2}, ValueError, r"at least max_evals=3\b"),
        ({"method": "permutation", "semivalue": "loo", "n_players": 200}, ValueError, "efficiency"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_evaluated(arguments, kind, message):
    ask = Counting(gloves)
    arguments = {"utility": ask, "n_players": 5} | arguments
    utility = arguments.pop("utility")
    with pytest.raises(kind, match=message):
        estimate_values(utility, **arguments)
    assert len(ask.asked) <= 2  # ∅ and N


def test_a_poor_pair_of_method_and_semivalue_is_warned_of():
    with pytest.warns(UserWarning, match="efficiency 0.0") as caught:
        estimate_values(AirportGame((10, 10)), semivalue="loo", method="permutation")
    assert caught[0].filename == __file__


def test_enumeration_stops_at_two_to_the_twenty_unless_asked_for():
    with pytest.raises(ValueError, match=r"max_evals=2097152\b.*21 players"):
        estimate_values(len, n_players=21, method="exact")
    assert estimate_values(AirportGame((8, 9)), method="exact").n_evals == 2**17


def test_auto_is_exact_where_that_fits_the_budget():
    def chosen(n_players, semivalue="shapley", **options):
        utility = CallableUtility(lambda players: float(len(players)), n_players)
        return estimate_values(utility, semivalue=semivalue, **options).method

    assert chosen(9) == "exact"  # 512 of 1000
    assert chosen(10) == "stratified"  # 1024 of 1000
    assert chosen(10, max_evals=1024) == "exact"
    assert chosen(10, max_evals=1023) == "stratified"
    assert chosen(2000, "loo") == "exact"
    assert chosen(50, "loo", max_evals=52) == "exact"


# --- what is evaluated ------------------------------------------------------------------------


@pytest.mark.parametrize("n_players", [2, 3, 7])
def test_exact_evaluates_every_coalition_once(n_players):
    ask = Counting()
    result = estimate_values(ask, n_players=n_players, method="exact")
    assert result.n_evals == len(ask.asked) == len(set(ask.asked)) == 2**n_players


def test_exact_leave_one_out_evaluates_only_what_matters():
    ask = Counting()
    result = estimate_values(ask, n_players=30, semivalue=LOO())
    assert result.n_evals == len(ask.asked) == len(set(ask.asked)) == 32


@pytest.mark.parametrize("method", SAMPLED)
@pytest.mark.parametrize("max_evals", [40, 41, 57, 100, 333])
def test_a_budget_is_spent_but_never_exceeded(method, max_evals):
    ask = Counting()
    n_players = 9
    result = estimate_values(
        ask, n_players=n_players, method=method, max_evals=max_evals, random_state=0
    )
    assert result.n_evals == len(ask.asked) <= max_evals
    cost = result.scheme.cost_per_draw(n_players)
    if method == "owen":  # sometimes ∅ or N is among what a draw takes, and known
        n_draws = result.games[0].log.n_draws
        assert n_draws == (max_evals - 2) // cost
        assert n_draws * (cost - 1) <= result.n_evals - 2 <= n_draws * cost
    else:
        assert result.n_evals > max_evals - cost
    ends = [players for players in ask.asked if len(players) in (0, n_players)]
    assert sorted(ends) == [(), tuple(range(n_players))]


@pytest.mark.parametrize("method", ["permutation", "antithetic"])
def test_an_order_costs_one_evaluation_less_than_there_are_players(method):
    ask = Counting()
    result = estimate_values(ask, n_players=12, method=method, max_evals=2 + 20 * 11)
    assert result.n_evals == len(ask.asked) == 2 + 20 * 11
    by_size = np.bincount([len(players) for players in ask.asked])
    assert_array_equal(by_size, [1, *[20] * 11, 1])


def test_truncated_orders_leave_budget_for_more():
    def saturated(players):
        return float(min(len(players), 3))

    ask = Counting(saturated)
    method = TruncatedMonteCarlo(truncation=0.1)
    result = estimate_values(ask, n_players=20, method=method, max_evals=200, random_state=0)
    assert 200 - 19 < result.n_evals == len(ask.asked) <= 200
    assert sum(entry.n_done for entry in result.games[0].log.entries) > 3 * (200 // 19)


def test_the_automatic_budget():
    utility = AirportGame((30, 30))
    assert estimate_values(utility).n_evals == 20 * 60
    utility.evals_are_cheap = True
    assert estimate_values(utility).n_evals == 100 * 60
    assert estimate_values(AirportGame((10, 10))).n_evals == 1000


def test_revaluing_reads_the_same_evaluations():
    ask = Counting(gloves)
    result = estimate_values(ask, n_players=6, method="exact")
    n_asked = len(ask.asked)
    for semivalue in ("banzhaf", "loo", BetaShapley(2, 3)):
        again = result.revalue(semivalue)
        expected = exact_values(gloves, semivalue, n_players=6)
        assert_allclose(again.values, expected, atol=1e-12)
        assert again.converged
        assert again.n_evals == result.n_evals
    assert len(ask.asked) == n_asked


# --- several games ----------------------------------------------------------------------------


def test_games_are_averaged_and_absent_players_are_null(noisy_game):
    games = [noisy_game(4, seed=1), noisy_game(5, seed=2), noisy_game(3, seed=3)]
    players = [np.array([0, 2, 3, 5]), np.array([1, 2, 3, 4, 5]), np.array([0, 1, 5])]
    expected = np.zeros(7)
    for game, mine in zip(games, players, strict=True):
        expected[mine] += exact_values(game, "banzhaf") / 3
    result = estimate_games(games, players, 7, semivalue=Banzhaf(), max_evals=64)
    assert_allclose(result.values[:6], expected[:6], atol=1e-12)
    assert np.isnan(result.values[6])
    assert np.isnan(result.standard_errors[6])
    assert result.n_evals == 16 + 32 + 8
    assert result.method == "exact"
    assert result.converged
    frame = result.to_frame()
    assert frame["rank"].isna().tolist() == [False] * 6 + [True]


def test_sampled_games_combine_values_and_squared_errors(noisy_game):
    games = [noisy_game(12, seed=1), noisy_game(15, seed=2)]
    players = [np.arange(12), np.arange(15)]
    options = {"semivalue": Shapley(), "method": "stratified", "random_state": 0}
    both = estimate_games(games, players, 15, max_evals=301, **options)
    assert [game.n_evals for game in both.games] == [151, 150]
    parts = [both.scheme.estimate(game.game, Shapley(), game.log) for game in both.games]
    values, variances = np.zeros(15), np.zeros(15)
    for part, mine in zip(parts, players, strict=True):
        values[mine] += part.values / 2
        variances[mine] += part.standard_errors**2 / 4
    assert_allclose(both.values, values, rtol=1e-14)
    assert_allclose(both.standard_errors, np.sqrt(variances), rtol=1e-14)
    # the first game is that of a valuation of its own: folds have seeds of their own
    alone = estimate_games(games[:1], players[:1], 15, max_evals=151, **options)
    assert_array_equal(alone.values[:12], parts[0].values)


@pytest.mark.parametrize(("method", "enough"), [("permutation", 2 * 14 + 4), ("stratified", 6)])
def test_too_small_a_budget_for_games_names_one_that_would_do(noisy_game, method, enough):
    games = [noisy_game(15), noisy_game(12)]
    players = [np.arange(15), np.arange(12)]

    def run(max_evals):
        return estimate_games(
            games, players, 15, semivalue=Shapley(), method=method, max_evals=max_evals
        )

    # the first game gets the odd evaluation
    enough -= method == "permutation"
    with pytest.raises(ValueError, match=rf"at least max_evals={enough} for 2 folds"):
        run(enough - 1)
    assert run(enough).n_evals <= enough


def test_enumerating_games_of_different_sizes_takes_what_each_needs(noisy_game):
    games = [noisy_game(6), noisy_game(3)]
    players = [np.arange(6), np.arange(3)]
    options = {"semivalue": Shapley(), "method": "exact"}
    with pytest.raises(ValueError, match=r"max_evals=72\b"):
        estimate_games(games, players, 6, max_evals=71, **options)
    assert estimate_games(games, players, 6, max_evals=72, **options).n_evals == 72
    assert estimate_games(games, players, 6, **options).n_evals == 72


# --- seeds and rules --------------------------------------------------------------------------


@pytest.mark.parametrize("method", SAMPLED)
def test_seeds(noisy_game, method):
    def values(random_state):
        options = {"method": method, "max_evals": 200, "random_state": random_state}
        return estimate_values(noisy_game(10), **options).values

    assert_array_equal(values(1), values(1))
    assert_array_equal(values(1), values(np.int64(1)))
    assert_array_equal(values(np.random.RandomState(3)), values(np.random.RandomState(3)))
    assert np.all(values(1) != values(2))
    assert np.all(values(None) != values(None))


def test_a_generator_is_drawn_from_once(noisy_game):
    one, other = np.random.RandomState(0), np.random.RandomState(0)
    estimate_values(noisy_game(5), max_evals=20, method="stratified", random_state=one)
    other.randint(np.iinfo(np.int32).max)
    assert one.randint(10**6) == other.randint(10**6)


@pytest.mark.parametrize("method", SAMPLED)
def test_a_tolerance_that_is_met_stops_early(noisy_game, method):
    options = {"method": method, "max_evals": 40_000, "random_state": 0}
    loose = estimate_values(noisy_game(10), tol=0.2, **options)
    tight = estimate_values(noisy_game(10), tol=0.1, **options)
    assert loose.converged
    assert tight.converged
    assert 40 <= loose.n_evals < tight.n_evals < 40_000
    assert loose.standard_errors.max() <= 0.2
    assert tight.standard_errors.max() <= 0.1


@pytest.mark.parametrize("method", SAMPLED)
def test_a_tolerance_that_is_not_met_is_warned_of(noisy_game, method):
    options = {"method": method, "max_evals": 400, "random_state": 0}
    with pytest.warns(ConvergenceWarning, match=r"tol=1e-06 within 400 evaluations") as caught:
        missed = estimate_values(noisy_game(10), tol=1e-6, **options)
    assert caught[0].filename == __file__
    assert not missed.converged
    # the rule looks on, and changes nothing
    plain = estimate_values(noisy_game(10), **options)
    assert_array_equal(missed.values, plain.values)
    assert not plain.converged


def test_exact_values_meet_any_tolerance(noisy_game):
    assert estimate_values(noisy_game(5), method="exact", tol=1e-300).converged


def test_rules_see_the_rounds(noisy_game):
    class After(StoppingRule):
        def __init__(self, n_rounds):
            self.n_rounds = n_rounds
            self.seen = []

        def is_met(self, rounds):
            self.seen.append([snapshot.n_evals for snapshot in rounds])
            return len(rounds) >= self.n_rounds

    rule = After(3)
    game = noisy_game(10)
    result = estimate_values(game, method="stratified", tol=rule, random_state=0)
    assert result.converged
    assert [len(seen) for seen in rule.seen] == [1, 2, 3]
    assert rule.seen[-1][-1] == result.n_evals
    either = After(5) | StandardErrorBelow(1e9)
    both = After(5) & StandardErrorBelow(1e9)
    n_rounds = [
        len(estimate_values(game, method="stratified", tol=tol, random_state=0).games[0].log.rounds)
        for tol in (either, both)
    ]
    assert n_rounds == [4, 5]  # a hundred evaluations, in four rounds


# --- progress ---------------------------------------------------------------------------------


def test_progress_is_shown_only_if_asked_for(noisy_game, capsys):
    options = {"method": "stratified", "max_evals": 200}
    estimate_values(noisy_game(10), **options)
    assert capsys.readouterr() == ("", "")
    estimate_values(noisy_game(10), verbose=1, **options)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "valuing by stratified" in shown.err
    assert "200/200" in shown.err
