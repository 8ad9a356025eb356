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

# Five players: the largest of 5 z-scores exceeds 4.5 by chance in one of 29 000 cases.
MAX_Z = 4.5
N_REPETITIONS = 40_000
N_FEW = 2_000  # where the long version is marked full

# Above twenty draws the five players' law is adapted and their small strata are enumerated.
CASES = [
    (Stratified(), Shapley(), 25),
]
LONG_CASES = [
    (Permutation(), Shapley(), 6),
    (Permutation(mix=False), Shapley(), 3),
    (Permutation(), Shapley(), 3),
    (Permutation(), Banzhaf(), 8),
    (Permutation(), DeltaShapley(1, 3), 8),
    (Antithetic(), Shapley(), 2),
    (Antithetic(), BetaShapley(4, 1), 4),
    (Stratified(), Shapley(), 4),
    (Stratified(), BetaShapley(4, 1), 25),
    (Stratified(), Banzhaf(), 40),
    (Stratified(), DeltaShapley(1, 3), 60),
    (Stratified(adaptive=False), BetaShapley(1, 4), 15),
    (Stratified(law="vrds"), Shapley(), 25),
    (Stratified(law="uniform", adaptive=False), Banzhaf(), 9),
    (Regression(), Shapley(), 25),
    (Regression(), Shapley(), 9),
    (Regression(), Banzhaf(), 25),
    (Regression(law="kernel_shap"), Shapley(), 25),
    (Regression(paired=True), Shapley(), 14),
    (Regression(paired=True), BetaShapley(4, 1), 14),
    (Owen(), Shapley(), 3),
    (Owen(n_nodes=2), Shapley(), 4),
    (Owen(antithetic=True), Banzhaf(), 3),
    (MaximumSampleReuse(), Banzhaf(), 25),
    (MaximumSampleReuse(), Shapley(), 12),
    (GroupTesting(), Shapley(), 12),
    (GroupTesting(), BetaShapley(4, 1), 25),
]

# A known fault: where two sizes of ten coalitions are all that is left to draw, standard errors are
# 6 to 8 % too large, see docs/decisions.md.
OVERSTATED = (Stratified(), DeltaShapley(1, 3))


def ratio_is_true(scheme, n_draws):
    """Whether there are the four evaluations per player from which intervals are claimed."""
    return scheme.cost_per_draw(5) * n_draws >= 20


@pytest.mark.parametrize(
    ("scheme", "target", "n_draws", "n_repetitions"),
    [
        *((*case, N_REPETITIONS) for case in CASES),
        *((*case, N_FEW) for case in LONG_CASES),
        *(pytest.param(*case, N_REPETITIONS, marks=pytest.mark.full) for case in LONG_CASES),
    ],
    ids=str,
)
def test_the_mean_of_many_estimates_is_the_value(
    table_game, repeat_scheme, scheme, target, n_draws, n_repetitions
):
    exact = exact_values(table_game, target)
    bias, squares, variances, _ = repeat_scheme(
        scheme, table_game, target, n_draws, exact, n_repetitions
    )
    assert np.abs(bias / np.sqrt(squares / n_repetitions)).max() < MAX_Z
    if ratio_is_true(scheme, n_draws):
        ratio = np.sqrt(variances.sum() / squares.sum())
        if (scheme, target) == OVERSTATED and 1.05 <= ratio < 1.10:
            pytest.xfail(f"standard errors are {ratio:.3f} times the true ones")
        assert 0.95 < ratio < 1.05


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
    for scheme, n_draws in [(Stratified(), 50), (Permutation(), 100), (Regression(), 50)]:
        estimate = play_scheme(scheme, noisy_game, Shapley(), 0, n_draws)
        assert "too few" in estimate.interval_caveat
