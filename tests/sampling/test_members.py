"""Coalitions of given sizes are drawn uniformly."""

from copy import deepcopy

import numpy as np
import pytest
from scipy import stats

from skdvl.sampling.members import _lowest, _picked, count_members, draw_members


class CoarseGenerator:
    """Draws numbers that are often equal."""

    def __init__(self):
        self.rng = np.random.default_rng(1)

    def integers(self, high, size, dtype):
        return self.rng.integers(min(high, 16), size=size, dtype=dtype)

    @property
    def bit_generator(self):
        return self

    def random_raw(self, size):
        return self.rng.integers(16, size=2 * size, dtype=np.uint32).view(np.uint64)


@pytest.mark.parametrize("draw", [_lowest, _picked])
@pytest.mark.parametrize(
    "rng", [np.random.default_rng(0), CoarseGenerator()], ids=["fine", "coarse"]
)
def test_all_coalitions_of_a_size_are_equally_likely(draw, rng):
    """With other seeds one in 250 runs would fail."""
    rng = deepcopy(rng)
    for size, n_coalitions in ((1, 6), (2, 15), (3, 20), (4, 15), (5, 6)):
        drawn = draw(6, np.full(60_000, size), rng)
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
