"""What a result tells and can be read for, and that extending one is a fresh run."""

import pickle
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from skdvl import estimate_values
from skdvl.estimation.estimate import estimate_games
from skdvl.estimation.scheme_choice import find_schemes
from skdvl.sampling import TruncatedMonteCarlo
from skdvl.semivalues import BetaShapley, Shapley
from skdvl.testing import AirportGame, ShoesGame, exact_values

SAMPLED = sorted(set(find_schemes()) - {"exact"})


# --- results ----------------------------------------------------------------------------------


def test_a_frame_of_values():
    frame = estimate_values(ShoesGame(2, 1)).to_frame()
    assert list(frame.columns) == ["value", "standard_error", "rank"]
    assert_allclose(frame["value"], [1 / 6, 1 / 6, 2 / 3])
    assert frame["rank"].tolist() == [1, 2, 3]


def test_intervals_follow_the_errors_and_warn_where_none_are_claimed(noisy_game):
    game = noisy_game(10)
    result = estimate_values(game, method="stratified", max_evals=1000, random_state=0)
    intervals = result.confidence_interval(0.9)
    assert_allclose(intervals.mean(axis=1), result.values)
    assert_allclose(np.diff(intervals)[:, 0], 2 * 1.6448536269514722 * result.standard_errors)
    few = estimate_values(game, method="permutation", max_evals=100, random_state=0)
    with pytest.warns(UserWarning, match="too few for intervals") as caught:
        assert np.all(np.diff(few.confidence_interval()) > 0)
    assert caught[0].filename == __file__
    truncated = estimate_values(game, method="tmc", max_evals=10000, random_state=0)
    with pytest.warns(UserWarning, match="biased"):
        truncated.confidence_interval()
    with pytest.raises(ValueError, match="between 0 and 1"):
        result.confidence_interval(95)


def test_revaluing_is_what_an_estimate_for_the_other_semivalue_reads(noisy_game):
    # orders do not depend on the semivalue
    options = {"method": "permutation", "max_evals": 500, "random_state": 0}
    shapley = estimate_values(noisy_game(10), **options)
    beta = estimate_values(noisy_game(10), semivalue=BetaShapley(4, 1), **options)
    again = shapley.revalue(BetaShapley(4, 1))
    assert_array_equal(again.values, beta.values)
    assert_array_equal(again.standard_errors, beta.standard_errors)
    assert again.semivalue == BetaShapley(4, 1)


def test_hopeless_revaluing_is_refused_and_poor_revaluing_warned_of():
    many = AirportGame((50, 100))
    result = estimate_values(many, method="permutation", max_evals=2000, random_state=0)
    with pytest.raises(ValueError, match="efficiency"):
        result.revalue("loo")
    leave_one_out = estimate_values(ShoesGame(2, 3), semivalue="loo")
    with pytest.raises(ValueError, match="infinitely many"):
        leave_one_out.revalue("shapley")
    few = AirportGame((20, 20))
    result = estimate_values(few, method="permutation", max_evals=20_000, random_state=0)
    with pytest.warns(UserWarning, match="efficiency") as caught:
        result.revalue("loo")
    assert caught[0].filename == __file__


def test_a_rule_met_for_one_semivalue_says_nothing_about_another(noisy_game):
    result = estimate_values(noisy_game(12), method="permutation", tol=0.1, random_state=0)
    assert result.converged
    assert not result.revalue("banzhaf").converged


@pytest.mark.parametrize("method", [*SAMPLED, "exact"])
def test_results_survive_pickling_without_the_data(noisy_game, method):
    result = estimate_values(noisy_game(10), method=method, random_state=0)
    pickled = pickle.dumps(result)
    assert b"NoisyGame" not in pickled
    assert len(pickled) < 100_000  # draws are not in it
    again = pickle.loads(pickled)
    assert_array_equal(again.values, result.values)
    # of the Banzhaf value truncated orders leave out a part, and say so
    target = BetaShapley(16, 1) if method == "tmc" else "banzhaf"
    revalued, expected = again.revalue(target), result.revalue(target)
    assert_array_equal(revalued.values, expected.values)
    assert_array_equal(revalued.standard_errors, expected.standard_errors)


# --- extending --------------------------------------------------------------------------------


def assert_same_result(one, other):
    assert_array_equal(one.values, other.values)
    assert_array_equal(one.standard_errors, other.standard_errors)
    assert one.n_evals == other.n_evals
    assert one.converged == other.converged
    for game, twin in zip(one.games, other.games, strict=True):
        assert len(game.log.rounds) == len(twin.log.rounds)
        for entry, same in zip(game.log.entries, twin.log.entries, strict=True):
            assert_array_equal(entry.utilities, same.utilities)


def extended(games, players, previous, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="method='msr' draws coalition sizes")
        return estimate_games(
            games, players, 15, semivalue=Shapley(), random_state=0, previous=previous, **options
        )


@pytest.mark.parametrize("method", [*SAMPLED, TruncatedMonteCarlo(truncation=0.5)], ids=str)
@pytest.mark.parametrize("tol", [None, 0.12, 1e-9])
def test_extending_is_a_fresh_run(noisy_game, tmp_path, method, tol):
    logs = [tmp_path / name for name in ("a", "b")]
    games = [noisy_game(15, 1, logs[0]), noisy_game(12, 2, logs[1])]
    players = [np.arange(15), np.arange(12)]
    options = {"method": method, "tol": tol}
    fresh = extended(games, players, None, max_evals=3000, **options)
    n_fresh = sum(len(game.evaluated()) for game in games)
    first = extended(games, players, None, max_evals=707, **options)
    before = pickle.dumps((first.values, first.n_evals, first.games[0].log.n_draws))
    middle = extended(games, players, first, max_evals=1501, **options)
    for log in logs:
        log.unlink()
    last = extended(games, players, middle, max_evals=3000, **options)
    assert_same_result(last, fresh)
    # what was known is not evaluated again, but for the ends
    n_last = sum(len(game.evaluated()) for game in games)
    assert n_last == n_fresh - middle.n_evals + 4
    for game in last.games:  # what tells no more is let go
        assert game.known is None or game.known.n_draws > game.log.n_draws
    # the earlier result is left as it was
    assert before == pickle.dumps((first.values, first.n_evals, first.games[0].log.n_draws))


def test_extending_with_a_new_tolerance_is_a_fresh_run_with_it(noisy_game):
    games, players = [noisy_game(15)], [np.arange(15)]
    first = extended(games, players, None, method="stratified", max_evals=5000)
    for tol in (0.3, 0.1, 1e-9):
        options = {"method": "stratified", "max_evals": 8000, "tol": tol}
        fresh = extended(games, players, None, **options)
        assert_same_result(extended(games, players, first, **options), fresh)


def test_extending_to_an_enumeration_starts_anew(noisy_game):
    games, players = [noisy_game(10)], [np.arange(10)]
    first = extended(games, players, None, max_evals=500)
    last = extended(games, players, first, max_evals=1024)
    assert (first.method, last.method) == ("stratified", "exact")
    assert last.n_evals == 1024
    assert_allclose(last.values[:10], exact_values(games[0]), atol=1e-12)


def test_extending_keeps_a_seed_that_was_drawn(noisy_game):
    game, players = noisy_game(15), [np.arange(15)]
    options = {"semivalue": Shapley(), "method": "stratified"}
    first = estimate_games([game], players, 15, max_evals=100, **options)
    entropy = first.games[0].log.entropy
    last = estimate_games([game], players, 15, max_evals=300, previous=first, **options)
    fresh = estimate_games([game], players, 15, max_evals=300, random_state=entropy, **options)
    assert_same_result(last, fresh)
