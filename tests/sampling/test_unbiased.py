"""Schemes that claim to be unbiased are so, and their standard errors are true."""

import numpy as np
import pytest

from skdvl.sampling import (
    Antithetic,
    GroupTesting,
    MaximumSampleReuse,
    Owen,
    Permutation,
    Regression,
    Stratified,
)
from skdvl.semivalues import Banzhaf, BetaShapley, DeltaShapley, Shapley
from skdvl.testing import exact_values

# Seven players: the largest of 7 z-scores exceeds 4.5 by chance in one of 21 000 cases.
MAX_Z = 4.5
N_REPETITIONS = 40_000
N_FEW = 2_000  # where the long version is marked full
LONG = [pytest.mark.full, pytest.mark.timeout(3600)]  # ten minutes of two cores

# (players, scheme, semivalue, draws). Laws are adapted from 28 draws of seven players on, and from
# 56 draws of fourteen. 39 and 260 draws of fourteen players are 3 and 20 of each size.
CASES = [
    (7, Stratified(), Shapley(), 30),
]
LONG_CASES = [
    (5, Permutation(), Shapley(), 6),
    (5, Permutation(mix=False), Shapley(), 3),
    (5, Permutation(), Shapley(), 3),
    (5, Permutation(), Banzhaf(), 8),
    (5, Permutation(), DeltaShapley(1, 3), 8),
    (5, Antithetic(), Shapley(), 2),
    (5, Antithetic(), BetaShapley(4, 1), 4),
    (5, Stratified(), Shapley(), 4),
    (5, Stratified(), DeltaShapley(1, 3), 25),
    (7, Stratified(), Shapley(), 60),
    (7, Stratified(), DeltaShapley(1, 3), 60),
    (7, Stratified(), BetaShapley(4, 1), 60),
    (7, Stratified(), Banzhaf(), 60),
    (14, Stratified(), Shapley(), 39),
    (14, Stratified(), Shapley(), 260),
    (5, Stratified(adaptive=False), BetaShapley(1, 4), 15),
    (7, Stratified(law="vrds"), Shapley(), 60),
    (5, Stratified(law="uniform", adaptive=False), Banzhaf(), 9),
    (5, Regression(), Shapley(), 9),
    (7, Regression(), Shapley(), 72),
    (7, Regression(), Banzhaf(), 72),
    (14, Regression(), Shapley(), 39),
    (14, Regression(), Shapley(), 260),
    (7, Regression(law="kernel_shap"), Shapley(), 72),
    (5, Regression(paired=True), Shapley(), 14),
    (7, Regression(paired=True), BetaShapley(4, 1), 36),
    (5, Owen(), Shapley(), 3),
    (5, Owen(n_nodes=2), Shapley(), 4),
    (5, Owen(antithetic=True), Banzhaf(), 3),
    (5, MaximumSampleReuse(), Banzhaf(), 25),
    (5, MaximumSampleReuse(), Shapley(), 12),
    (5, GroupTesting(), Shapley(), 12),
    (5, GroupTesting(), BetaShapley(4, 1), 25),
]


def claims_intervals(scheme, n_players, n_draws):
    """Whether there are the evaluations per player from which intervals are claimed."""
    needed = 10 if isinstance(scheme, Regression) else 4
    return scheme.cost_per_draw(n_players) * n_draws >= needed * n_players


@pytest.mark.parametrize(
    ("n_players", "scheme", "target", "n_draws", "n_repetitions"),
    [
        *((*case, N_REPETITIONS) for case in CASES),
        *((*case, N_FEW) for case in LONG_CASES),
        *(pytest.param(*case, N_REPETITIONS, marks=LONG) for case in LONG_CASES),
    ],
    ids=str,
)
def test_the_mean_of_many_estimates_is_the_value(
    table_games, repeat_scheme, n_players, scheme, target, n_draws, n_repetitions
):
    game = table_games(n_players)
    exact = exact_values(game, target)
    bias, squares, variances, _ = repeat_scheme(scheme, game, target, n_draws, exact, n_repetitions)
    assert np.abs(bias / np.sqrt(squares / n_repetitions)).max() < MAX_Z
    if claims_intervals(scheme, n_players, n_draws):
        assert 0.95 < np.sqrt(variances.sum() / squares.sum()) < 1.05


# (scheme, semivalue, draws, seeds): enough draws that the scheme claims intervals
INTERVALS = [
    (Stratified(), Shapley(), 20 * 14, 800),
    (Stratified(), Shapley(), 100 * 14, 800),
    (Stratified(), BetaShapley(4, 1), 20 * 14, 800),
    (Regression(), Shapley(), 20 * 14, 800),
    (Regression(), Shapley(), 100 * 14, 400),
    (Regression(paired=True), Shapley(), 10 * 14, 800),
    (MaximumSampleReuse(), Banzhaf(), 20 * 14, 800),
    (GroupTesting(), Shapley(), 20 * 14, 800),
    (Permutation(), Shapley(), 500, 400),
    (Permutation(mix=False), Shapley(), 500, 400),
    (Antithetic(), Shapley(), 500, 400),
    (Owen(), Shapley(), 500, 400),
]


@pytest.mark.parametrize(("scheme", "target", "n_draws", "n_seeds"), INTERVALS, ids=str)
def test_intervals_cover(noisy_game, repeat_scheme, play_scheme, scheme, target, n_draws, n_seeds):
    """400 seeds of 14 players: the standard error of the mean coverage is below 0.6 %."""
    exact = exact_values(noisy_game, target)
    assert play_scheme(scheme, noisy_game, target, 0, n_draws).interval_caveat is None
    _, squares, variances, covered = repeat_scheme(
        scheme, noisy_game, target, n_draws, exact, n_seeds
    )
    assert 0.93 <= covered.mean() <= 0.97
    assert 0.95 < np.sqrt(variances.sum() / squares.sum()) < 1.05


def test_too_few_draws_claim_no_intervals(noisy_game, play_scheme):
    for scheme, n_draws in [(Stratified(), 50), (Permutation(), 100), (Regression(), 130)]:
        estimate = play_scheme(scheme, noisy_game, Shapley(), 0, n_draws)
        assert "too few" in estimate.interval_caveat
