"""Closed-form Shapley values of games in which the K nearest members of a coalition have a say.

The functions take what the players say about one predicted row, nearest player first, and return
their values in the same order, in linear time. K is ``n_neighbors``; it may exceed the number of
players.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["SquaredErrorGame", "VoteGame"]

Array = NDArray[np.float64]


class VoteGame:
    r"""The K nearest members of a coalition add up their votes: u(S) = (1/K) sum of s_j.

    To swap neighbours i and i + 1 matters to those coalitions only that hold fewer than K nearer
    players. In a random order, the number of nearer players that come first is uniform, whence

    .. math::
        \phi_n = c_n s_n, \quad \phi_i = \phi_{i+1} + c_i (s_i - s_{i+1}), \quad
        c_i = \frac{\min(K, i)}{K i},

    or, summed by parts, :math:`\phi_i = c_i s_i - \sum_{l > i} (c_{l-1} - c_l) s_l`. The steps
    :math:`c_{l-1} - c_l` are 0 up to K, and :math:`1 / (l (l - 1))` from there on.

    Parameters
    ----------
    n_players : int
    n_neighbors : int

    Attributes
    ----------
    unit : float
        What the integers of `values_of_bits` count.

    References
    ----------
    .. [1] Jia, Dao, Wang, Hubis, Gurel, Li, Zhang, Spanos, Song (2019). "Efficient task-specific
       data valuation for nearest neighbor algorithms." PVLDB 12.
    """

    unit = 2.0**-62  # no value exceeds 1, nor does a running sum of steps

    def __init__(self, n_players: int, n_neighbors: int) -> None:
        self.n_neighbors = n_neighbors
        rank = np.arange(1.0, n_players + 1)
        self.shares = np.minimum(n_neighbors, rank) / (n_neighbors * rank)
        self.steps = np.where(rank > n_neighbors, 1 / (rank * np.maximum(rank - 1, 1)), 0.0)
        self.whole_shares = np.rint(self.shares / self.unit).astype(np.int64)
        self.whole_steps = -np.diff(self.whole_shares, prepend=self.whole_shares[:1])

    def values(self, votes: Array) -> Array:
        """Return the values for votes of shape (n_rows, n_players)."""
        return _add_up(votes * self.shares, votes * self.steps)

    def values_of_bits(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the values, in units, where the last bit of each code is the vote.

        A mask of ones or zeros picks the numbers. In integers a running sum takes a fourth of the
        time, and rounds nothing.
        """
        mask = codes << 63
        mask >>= 63
        steps = mask & self.whole_steps
        mask &= self.whole_shares
        return _add_up(mask, steps)

    def scores(self, votes: NDArray) -> Array:
        """Return the utility of all players, (n_rows,)."""
        return votes[:, : self.n_neighbors].sum(axis=1) / self.n_neighbors


class SquaredErrorGame:
    r"""The K nearest members predict their mean: u(S) = -((1/K) sum of t_j - r)^2.

    ``t`` are the targets of the K nearest members and ``r`` the target of the predicted row, both
    as differences from what a missing neighbour is taken to say.

    To swap neighbours i and i + 1 changes the utility of a coalition that holds fewer than K nearer
    players by :math:`(t_i - t_{i+1})/K \cdot (2r - (t_i + t_{i+1})/K - (2/K) \sum t_l)`, the sum
    over its K - 1 nearest members. In a random order it is such a coalition, with player l among
    those members, with probability g(i) if l is nearer and g(l - 1) if l is farther, where

    .. math:: g(i) = \frac{M (M - 1)}{2 i (i - 1)}, \qquad M = \min(K, i).

    Parameters
    ----------
    n_players : int
    n_neighbors : int

    References
    ----------
    .. [1] Jia, Dao, Wang, Hubis, Gurel, Li, Zhang, Spanos, Song (2019). "Efficient task-specific
       data valuation for nearest neighbor algorithms." PVLDB 12.
    """

    def __init__(self, n_players: int, n_neighbors: int) -> None:
        self.n_neighbors = n_neighbors
        rank = np.arange(1.0, n_players + 1)
        count = np.minimum(n_neighbors, rank)
        self.reached = count / rank
        self.paired = count * (count - 1) / (2 * rank * np.maximum(rank - 1, 1))

    def values(self, targets: Array, wanted: Array) -> Array:
        """Return the values of targets (n_rows, n_players) for what is wanted (n_rows,)."""
        k = self.n_neighbors
        wanted = wanted[:, np.newaxis]
        nearer = np.cumsum(targets, axis=1) - targets
        farther = np.zeros_like(targets)  # beyond the next player
        farther[:, :-2] = _sum_from_here(targets[:, 2:] * self.paired[1:-1])
        here, after = targets[:, :-1], targets[:, 1:]
        values = np.empty_like(targets)
        values[:, :-1] = ((here - after) / k) * (
            (2 * wanted - (here + after) / k) * self.reached[:-1]
            - (2 / k) * (self.paired[:-1] * nearer[:, :-1] + farther[:, :-1])
        )
        last = targets[:, -1:]
        values[:, -1:] = (last / k) * (
            (2 * wanted - last / k) * self.reached[-1] - (2 / k) * self.paired[-1] * nearer[:, -1:]
        )
        return _sum_from_here(values)

    def scores(self, targets: Array, wanted: Array) -> Array:
        """Return the utility of all players, (n_rows,)."""
        predicted = targets[:, : self.n_neighbors].sum(axis=1) / self.n_neighbors
        return -((predicted - wanted) ** 2)


def _add_up(own: NDArray, steps: NDArray) -> NDArray:
    """Return each player's own part less the steps that follow it, overwriting the steps."""
    # the first step is 0: put minus the total there, and the running sum is minus what follows
    steps[:, 0] = -steps.sum(axis=1)
    np.cumsum(steps, axis=1, out=steps)
    steps += own
    return steps


def _sum_from_here(x: Array) -> Array:
    """Return the sum of each entry and all that follow it in its row."""
    return np.cumsum(x[:, ::-1], axis=1)[:, ::-1]
