"""Coalitions of given sizes are drawn uniformly."""

import numpy as np
from scipy import stats

from skdvl.sampling.members import count_members, draw_members


def test_all_coalitions_of_a_size_are_equally_likely():
    """The seed is fixed; another one fails with odds of 1 in 1000."""
    rng = np.random.default_rng(0)
    for size, n_coalitions in ((1, 6), (2, 15), (3, 20), (4, 15), (5, 6)):
        drawn = draw_members(6, np.full(60_000, size), rng)
        _, counts = np.unique(drawn @ (1 << np.arange(6)), return_counts=True)
        assert len(counts) == n_coalitions
        assert stats.chisquare(counts).pvalue > 0.0002


def test_coalitions_have_the_sizes_asked_for():
    rng = np.random.default_rng(0)
    for n_players in (2, 7, 255, 256, 1000):
        sizes = rng.integers(0, n_players + 1, 200)
        coalitions = draw_members(n_players, sizes, rng)
        np.testing.assert_array_equal(np.count_nonzero(coalitions, axis=1), sizes)
        np.testing.assert_array_equal(count_members(coalitions), sizes)
