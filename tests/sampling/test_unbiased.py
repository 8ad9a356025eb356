"""Schemes that claim to be unbiased are so, and their standard errors are true."""

import numpy as np
import pytest

from skdvl.sampling import Antithetic, Permutation, Stratified
from skdvl.semivalues import Banzhaf, BetaShapley, DeltaShapley, Shapley
from skdvl.testing import exact_values

# Five players: the largest of 5 z-scores exceeds 4.5 by chance in one of 29 000 cases.
N_REPETITIONS = 40_000
CASES = [
    (Permutation(mix=False), Shapley(), 3),
    (Permutation(), Shapley(), 6),
    (Antithetic(), BetaShapley(4, 1), 2),
    (Stratified(), Shapley(), 9),
    (Stratified(), DeltaShapley(1, 3), 9),
    (Stratified(), Shapley(), 40),  # above five evaluations a player the law is adapted
]
LONG = [
    (Stratified(), Banzhaf(), 40),
    (Stratified(), DeltaShapley(1, 3), 60),
    (Permutation(), Banzhaf(), 8),
]


def case_name(part):
    return str(part)


@pytest.mark.parametrize(
    ("scheme", "target", "n_draws"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.full) for case in LONG)],
    ids=case_name,
)
def test_the_mean_of_many_estimates_is_the_value(table_game, play_scheme, scheme, target, n_draws):
    exact = exact_values(table_game, target)
    total = np.zeros(5)
    squares = np.zeros(5)
    variances = np.zeros(5)
    for seed in range(N_REPETITIONS):
        estimate = play_scheme(scheme, table_game, target, seed, n_draws)
        total += estimate.values
        squares += (estimate.values - exact) ** 2
        variances += estimate.standard_errors**2
    spread = np.sqrt(squares / N_REPETITIONS)
    z = (total / N_REPETITIONS - exact) / (spread / np.sqrt(N_REPETITIONS))
    assert np.abs(z).max() < 4.5
    if n_draws >= 20:  # a standard error needs a few draws
        ratio = np.sqrt(variances / squares)
        assert np.all((ratio > 0.95) & (ratio < 1.05)), ratio
