"""What the smallest budgets buy, and what is said of smaller ones."""

import math
import re
import signal
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_classification
from sklearn.naive_bayes import GaussianNB

from skdvl import ShapleyValuator, estimate_values
from skdvl.estimation.estimate import estimate_games
from skdvl.estimation.scheme_choice import find_schemes
from skdvl.semivalues import LOO, Banzhaf, BetaShapley, DeltaShapley, Shapley
from skdvl.testing import exact_values
from skdvl.utilities import CallableUtility

METHODS = sorted(find_schemes())
X, Y = make_classification(n_samples=12, n_features=4, random_state=0)


@pytest.mark.parametrize("n_players", [[2], [3], [9], [5, 4], [6, 3, 4]], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_budget_below_one_draw_names_the_least_that_will_do(noisy_game, method, n_players):
    games = [noisy_game(n, seed=n) for n in n_players]
    players = [np.arange(n) for n in n_players]

    def run(max_evals):
        return estimate_games(
            games,
            players,
            max(n_players),
            semivalue=Shapley(),
            method=method,
            max_evals=max_evals,
            random_state=0,
        )

    with pytest.raises(ValueError, match=rf"method='{method}' needs") as refused:
        run(1)
    least = int(re.search(r"needs (?:at least )?max_evals=(\d+)", str(refused.value)).group(1))
    for max_evals in range(2, least):
        with pytest.raises(ValueError, match=rf"max_evals={least}\b"):
            run(max_evals)
    result = run(least)
    assert result.n_evals <= least
    assert np.isfinite(result.values).all()
    for game in result.games:
        assert game.log.n_draws >= 1


@pytest.mark.parametrize("method", METHODS)
def test_a_valuator_names_the_least_budget_of_its_folds(method):
    options = {"engine": "refit", "cv": 3, "method": method, "random_state": 0}
    with pytest.raises(ValueError, match=r"max_evals=\d+") as refused:
        ShapleyValuator(GaussianNB(), max_evals=3, **options).fit(X, Y)
    least = int(re.search(r"needs (?:at least )?max_evals=(\d+)", str(refused.value)).group(1))
    fitted = ShapleyValuator(GaussianNB(), max_evals=least, **options).fit(X, Y)
    assert fitted.n_evals_ <= least
    with pytest.raises(ValueError, match=rf"max_evals={least}\b"):
        ShapleyValuator(GaussianNB(), max_evals=least - 1, **options).fit(X, Y)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"exact"}))
def test_one_draw_shows_no_spread(noisy_game, method):
    """Errors of 0 would be a lie."""
    game = noisy_game(9)
    for max_evals in (3, 10, 18, 20):
        try:
            result = estimate_values(game, method=method, max_evals=max_evals, random_state=0)
        except ValueError:
            continue
        if result.games[0].log.n_draws == 1:
            break
    assert result.games[0].log.n_draws == 1
    assert np.isnan(result.standard_errors).all()


def test_sizes_that_are_all_enumerated_leave_no_error(noisy_game):
    game = noisy_game(2)
    result = estimate_values(game, method="stratified", max_evals=40, random_state=0)
    assert_allclose(result.values, exact_values(game), atol=1e-12)
    assert (result.standard_errors == 0).all()


@pytest.mark.parametrize("method", ["stratified", "regression"])
@pytest.mark.parametrize(
    ("n_players", "target", "least"),
    [
        (2, Shapley(), 4),
        (3, Shapley(), 8),
        (3, Banzhaf(), 8),
        (12, LOO(), 14),
        (5, BetaShapley(16, 1), 8),  # those of one player, and a draw
        (10, BetaShapley(16, 1), 13),
        (12, DeltaShapley(0, 1), 15),
    ],
    ids=str,
)
def test_a_first_enumeration_is_not_cut_short(noisy_game, method, n_players, target, least):
    """From the least budget on, the mean of many runs is the value."""
    game = noisy_game(n_players)
    for max_evals in (2, n_players, least - 1):
        with pytest.raises(ValueError, match=rf"method='{method}' needs .*max_evals={least},"):
            estimate_values(game, semivalue=target, method=method, max_evals=max_evals)
    exact = exact_values(game, target)
    for max_evals in (least, least + 3):
        options = {"semivalue": target, "method": method, "max_evals": max_evals}
        first = estimate_values(game, random_state=0, **options)
        if first.estimate.is_exact:
            assert_allclose(first.values, exact, atol=1e-12)
            continue
        runs = [estimate_values(game, random_state=seed, **options) for seed in range(400)]
        errors = np.array([result.values for result in runs]) - exact
        spread = errors.std(axis=0, ddof=1)
        assert (spread > 0).all()
        z = errors.mean(axis=0) / (spread / 20)
        assert np.abs(z).max() < 4.5  # at most 12 numbers, odds of 1e-4


@pytest.mark.parametrize("method", ["stratified", "regression"])
@pytest.mark.parametrize(("n_players", "max_evals"), [(7, 19), (10, 31), (20, 100), (60, 421)])
def test_what_cannot_be_enumerated_to_its_end_is_drawn(noisy_game, method, n_players, max_evals):
    """A later round enumerates sizes that earlier ones drew; these budgets end within it."""
    result = estimate_values(
        noisy_game(n_players), method=method, max_evals=max_evals, random_state=0
    )
    assert result.n_evals == max_evals
    log = result.games[0].log
    assert any(not entry.is_complete and entry.chunk.half < 0 for entry in log.rounds[-1])
    of_size = np.bincount(
        np.concatenate(
            [draws.sum(axis=1) for _, draws, _ in log.replay(result.scheme, enumerated=True)]
            or [np.empty(0, dtype=int)]
        )
    )
    assert all(n in (0, math.comb(n_players, k)) for k, n in enumerate(of_size.tolist()))
    assert log.rounds[-1][-1].chunk.half >= 0
    assert any(entry.n_done for entry in log.rounds[-1] if entry.chunk.half >= 0)


def test_draws_instead_of_an_enumeration_are_unbiased(noisy_game):
    """Seven players of size 1 are to be enumerated in the second round, and 2 evaluations left."""
    game = noisy_game(7)
    exact = exact_values(game)
    errors = [
        estimate_values(game, method="stratified", max_evals=19, random_state=seed).values - exact
        for seed in range(400)
    ]
    z = np.mean(errors, axis=0) / (np.std(errors, axis=0, ddof=1) / 20)
    assert np.abs(z).max() < 4.5  # 7 numbers, odds of 5e-5


@pytest.mark.parametrize("method", ["stratified", "regression"])
def test_a_budget_that_pays_for_the_enumeration_after_all(noisy_game, method):
    """What a shorter run drew instead changes nothing of a longer one, step by step."""
    game, previous = noisy_game(10), None
    for max_evals in range(24, 60):
        options = {"semivalue": Shapley(), "method": method, "random_state": 0}
        options["max_evals"] = max_evals
        previous = estimate_games([game], [np.arange(10)], 10, previous=previous, **options)
        fresh = estimate_games([game], [np.arange(10)], 10, **options)
        assert_array_equal(previous.values, fresh.values)
        assert_array_equal(previous.standard_errors, fresh.standard_errors)
        assert previous.n_evals == fresh.n_evals == max_evals


@pytest.mark.parametrize("target", [Shapley(), LOO()], ids=str)
def test_what_owens_draws_happen_to_save_buys_no_further_draw(target):
    """A draw near ∅ or N costs less. If that paid for another one, the first would be no mean."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=64)
    game = CallableUtility(lambda players: table[np.sum(1 << players)], 6)
    exact, errors = exact_values(game, target), []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*draws coalition sizes that tell little")
        for seed in range(2000):
            options = {"max_evals": 15, "random_state": seed, "semivalue": target}
            errors.append(estimate_values(game, method="owen", **options).values - exact)
    z = np.mean(errors, axis=0) / (np.std(errors, axis=0, ddof=1) / np.sqrt(2000))
    assert np.abs(z).max() < 4.5  # 12 numbers in all, odds of 1e-4


class Impatience:
    """Presses Ctrl+C at the fifth call."""

    def __init__(self, function):
        self.function = function
        self.left = 5

    def __call__(self, coalitions):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        return self.function(coalitions)


@pytest.mark.parametrize("asked", [True, False])
def test_an_interrupted_run_says_what_is_kept(noisy_game, tmp_path, asked):
    options = {"checkpoint": tmp_path} if asked else {}
    utility = noisy_game(10)
    utility._evaluate = Impatience(utility._evaluate)
    with pytest.raises(KeyboardInterrupt) as interrupted:
        estimate_values(utility, method="stratified", max_evals=500, **options)
    message = str(interrupted.value)
    assert re.match(r"interrupted after \d+ evaluations, ", message)
    if asked:
        (path,) = tmp_path.glob("*.skdvl")
        assert f"saved in {path}: the same call goes on there" in message
    else:
        assert "which are lost. With checkpoint=directory" in message
