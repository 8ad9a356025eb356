"""A standard error is never 0 because there was nothing to tell it from."""

import numpy as np
import pytest

from skdvl import estimate_values
from skdvl.sampling import GroupTesting, MaximumSampleReuse, Permutation, Regression, Stratified
from skdvl.semivalues import BetaShapley, DeltaShapley, Shapley
from skdvl.testing import exact_values

REUSE = [Stratified(), Regression(), Regression(paired=True), MaximumSampleReuse(), GroupTesting()]


@pytest.mark.parametrize("scheme", REUSE, ids=str)
@pytest.mark.parametrize("n_players", [5, 14])
def test_one_draw_shows_no_spread(noisy_game, table_game, play_scheme, scheme, n_players):
    game = {5: table_game, 14: noisy_game}[n_players]
    estimate = play_scheme(scheme, game, Shapley(), 0, 1)
    assert np.isfinite(estimate.values).all()
    assert np.isnan(estimate.standard_errors).all()
    assert (play_scheme(scheme, game, Shapley(), 0, 2).standard_errors > 0).all()


def test_one_draw_beside_an_enumeration_shows_no_spread():
    """Of five players, those of size 1 are enumerated, and one other coalition is drawn."""
    found = estimate_values(
        lambda players: float(np.sum(players) ** 2),
        n_players=5,
        semivalue=BetaShapley(16, 1),
        method="stratified",
        max_evals=8,
    )
    assert [entry.chunk.half for entry in found.games[0].log.entries] == [-1, 0]
    assert np.isnan(found.standard_errors).all()


@pytest.mark.parametrize("target", [Shapley(), BetaShapley(4, 1)], ids=str)
@pytest.mark.parametrize("scheme", [Permutation(), Permutation(mix=False)], ids=str)
def test_errors_of_two_and_three_players_are_true(table_games, play_scheme, scheme, target):
    """The ratio's standard error is 5 % with 400 runs of two players, whose errors are equal."""
    for n_players in (2, 3):
        game = table_games(n_players)
        exact = exact_values(game, target)
        found = [play_scheme(scheme, game, target, seed, 100) for seed in range(400)]
        errors = np.array([estimate.values for estimate in found]) - exact
        claimed = np.array([estimate.standard_errors for estimate in found])
        ratio = np.sqrt(np.mean(claimed**2) / np.mean(errors**2))
        assert 0.8 < ratio < 1.25


def test_what_is_enumerated_is_exact(table_game, play_scheme):
    target = DeltaShapley(1, 1)  # depends on the sizes 1 and 2 alone
    for scheme in (Stratified(), Regression()):
        estimate = play_scheme(scheme, table_game, target, 0, 400)
        np.testing.assert_allclose(estimate.values, exact_values(table_game, target), atol=1e-12)
        np.testing.assert_allclose(estimate.standard_errors, 0, atol=1e-12)


def test_two_players_are_enumerated():
    found = estimate_values(
        lambda players: float(len(players) ** 2), n_players=2, method=Stratified(), max_evals=50
    )
    assert found.n_evals == 4
    np.testing.assert_array_equal(found.standard_errors, 0)
