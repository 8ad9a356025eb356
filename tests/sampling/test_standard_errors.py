"""A standard error is never 0 because there was nothing to tell it from."""

import numpy as np
import pytest

from skdvl import estimate_values
from skdvl.sampling import GroupTesting, MaximumSampleReuse, Regression, Stratified
from skdvl.semivalues import DeltaShapley, Shapley
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
    """Of three players, those of size 1 are enumerated, and one of size 2 is drawn."""
    found = estimate_values(
        lambda players: float(np.sum(players) ** 2), n_players=3, method="stratified", max_evals=6
    )
    assert np.isnan(found.standard_errors).all()


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
