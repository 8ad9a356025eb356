"""Games whose values are known exactly, to try estimators on.

Every game is a `skdvl.utilities.base.Utility`, and gives its values for any semivalue in closed
form or by dynamic programming, however many players it has.
"""

from __future__ import annotations

from abc import abstractmethod
from hashlib import blake2b
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skdvl.semivalues import Semivalue, check_semivalue
from skdvl.utilities.base import Coalitions, Utilities, Utility

__all__ = [
    "ELECTORAL_WEIGHTS",
    "KNOWN_GAMES",
    "AdditiveGame",
    "AirportGame",
    "KnownGame",
    "MinerGame",
    "OrderedPairsGame",
    "ShoesGame",
    "SpanningTreeGame",
    "SymmetricVotingGame",
    "WeightedVotingGame",
]

Values = NDArray[np.float64]

# Castro et al. (2009), section 4.2: how many states had how many electors, 538 in all
ELECTORAL_WEIGHTS: tuple[int, ...] = (
    *(45, 41, 27, 26, 26, 25, 21, 17, 17, 14, 13, 13, 12, 12, 12, 11, 10, 10, 10, 10),
    *(9, 9, 9, 9, 8, 8, 7, 7, 7, 7, 6, 6, 6, 6, 5, *[4] * 9, *[3] * 7),
)


class KnownGame(Utility):
    """A game whose values are known for every semivalue.

    Subclasses implement ``_evaluate`` and `_values`, and set ``parameters``, the arguments they
    were made with.

    References
    ----------
    .. [1] Castro, Gómez, Tejada (2009). "Polynomial calculation of the Shapley value based on
       sampling." Computers & Operations Research 36.
    """

    parameters: tuple[object, ...]

    @abstractmethod
    def _values(self, p: NDArray[np.float64]) -> Values:
        """Return the values for the size distribution ``p``, shape (n_players,)."""

    def values(self, semivalue: str | Semivalue = "shapley") -> Values:
        """Return the exact values of all players.

        Parameters
        ----------
        semivalue : str or Semivalue, default="shapley"

        Returns
        -------
        ndarray of shape (n_players,)
        """
        return self._values(check_semivalue(semivalue).size_distribution(self.n_players))

    def shapley_values(self) -> Values:
        """Return the exact Shapley values, shape (n_players,)."""
        return self.values("shapley")

    def banzhaf_values(self) -> Values:
        """Return the exact Banzhaf values, shape (n_players,)."""
        return self.values("banzhaf")

    def worth(self, players: ArrayLike) -> float:
        """Return the utility of one coalition, given as indices of players, possibly none."""
        coalition = np.zeros((1, self.n_players), dtype=bool)
        coalition[0, np.asarray(players, dtype=np.intp)] = True
        return float(self(coalition)[0])

    def fingerprint(self) -> bytes:
        """Return a digest of the class and the parameters."""
        return blake2b(repr(self).encode(), digest_size=16).digest()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.parameters))})"


class SymmetricVotingGame(KnownGame):
    """A motion passes with more than half of the players: u(S) = 1 if |S| > n/2, else 0.

    Parameters
    ----------
    n_players : int

    Examples
    --------
    >>> from skdvl.testing import SymmetricVotingGame
    >>> SymmetricVotingGame(4).shapley_values()
    array([0.25, 0.25, 0.25, 0.25])
    """

    def __init__(self, n_players: int) -> None:
        self.n_players = n_players
        self.parameters = (n_players,)

    def _evaluate(self, coalitions: Coalitions) -> Utilities:
        return (coalitions.sum(axis=1) > self.n_players / 2).astype(float)

    def _values(self, p: NDArray[np.float64]) -> Values:
        return np.full(self.n_players, p[self.n_players // 2])


class WeightedVotingGame(KnownGame):
    """A motion passes with more than half of the votes, of which a player has ``weights[i]``.

    Parameters
    ----------
    weights : tuple of int, default=ELECTORAL_WEIGHTS
        At most 60 of them.

    Examples
    --------
    >>> from skdvl.testing import WeightedVotingGame
    >>> WeightedVotingGame((2, 1, 1)).shapley_values().round(4)
    array([0.6667, 0.1667, 0.1667])
    """

    def __init__(self, weights: tuple[int, ...] = ELECTORAL_WEIGHTS) -> None:
        if len(weights) > 60:
            raise ValueError("WeightedVotingGame counts coalitions in 64 bits: at most 60 players")
        self.weights = np.array(weights, dtype=np.int64)
        self.n_players = len(weights)
        self.parameters = (tuple(weights),)

    def _evaluate(self, coalitions: Coalitions) -> Utilities:
        return (2 * (coalitions @ self.weights) > self.weights.sum()).astype(float)

    def _values(self, p: NDArray[np.float64]) -> Values:
        values = np.empty(self.n_players)
        for weight in np.unique(self.weights):
            players = np.flatnonzero(self.weights == weight)
            counts = self._count_coalitions(np.delete(self.weights, players[0]))
            votes = np.arange(counts.shape[1])
            total = self.weights.sum()
            is_pivotal = (2 * votes <= total) & (2 * (votes + weight) > total)
            by_size = counts[:, is_pivotal].sum(axis=1)
            values[players] = sum(
                p[k] * (int(by_size[k]) / comb(self.n_players - 1, k))
                for k in range(self.n_players)
            )
        return values

    @staticmethod
    def _count_coalitions(weights: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many coalitions have which size (rows) and how many votes (columns)."""
        counts = np.zeros((len(weights) + 1, weights.sum() + 1), dtype=np.int64)
        counts[0, 0] = 1
        for weight in weights:
            joined = np.zeros_like(counts)
            joined[1:, weight:] = counts[:-1, : counts.shape[1] - weight]
            counts += joined
        return counts


class ShoesGame(KnownGame):
    """Players own a left or a right shoe, and only pairs can be sold: u(S) = min(left, right).

    Parameters
    ----------
    left, right : int
        Number of players with a left and with a right shoe; those with a left one come first.

    Examples
    --------
    >>> from skdvl.testing import ShoesGame
    >>> ShoesGame(2, 1).shapley_values().round(4)
    array([0.1667, 0.1667, 0.6667])
    """

    def __init__(self, left: int, right: int) -> None:
        self.left = left
        self.right = right
        self.n_players = left + right
        self.parameters = (left, right)

    def _evaluate(self, coalitions: Coalitions) -> Utilities:
        left = coalitions[:, : self.left].sum(axis=1)
        right = coalitions[:, self.left :].sum(axis=1)
        return np.minimum(left, right).astype(float)

    def _values(self, p: NDArray[np.float64]) -> Values:
        return np.repeat(
            [self._value(p, self.left, self.right), self._value(p, self.right, self.left)],
            [self.left, self.right],
        )

    def _value(self, p: NDArray[np.float64], own: int, other: int) -> float:
        """Value of a shoe: the probability that it meets more of the other side than of its own."""
        return sum(
            p[k + m] * (comb(own - 1, k) * comb(other, m) / comb(self.n_players - 1, k + m))
            for k in range(own)
            for m in range(k + 1, other + 1)
        )


class MinerGame(KnownGame):
    """Two miners carry one bar of gold: u(S) = floor(|S| / 2).

    Parameters
    ----------
    n_players : int

    Examples
    --------
    >>> from skdvl.testing import MinerGame
    >>> MinerGame(3).shapley_values().round(4)
    array([0.3333, 0.3333, 0.3333])
    """

    def __init__(self, n_players: int) -> None:
        self.n_players = n_players
        self.parameters = (n_players,)

    def _evaluate(self, coalitions: Coalitions) -> Utilities:
        return np.floor(coalitions.sum(axis=1) / 2)

    def _values(self, p: NDArray[np.float64]) -> Values:
        return np.full(self.n_players, p[1::2].sum())


class AirportGame(KnownGame):
    """A runway must suit the largest aircraft: u(S) = largest cost in S.

    Parameters
    ----------
    groups : tuple of int, default=(8, 12, 6, 14, 8, 9, 13, 10, 10, 10)
        How many aircraft need a runway of cost 1, 2, 3, ….

    Examples
    --------
    >>> from skdvl.testing import AirportGame
    >>> AirportGame((1, 1)).shapley_values()
    array([0.5, 1.5])
    """

    def __init__(self, groups: tuple[int, ...] = (8, 12, 6, 14, 8, 9, 13, 10, 10, 10)) -> None:
        self.costs = np.repeat(np.arange(1, len(groups) + 1), groups)
        self.n_players = len(self.costs)
        self.parameters = (tuple(groups),)

    def _evaluate(self, coalitions: Coalitions) -> Utilities:
        return (coalitions * self.costs).max(axis=1, initial=0).astype(float)

    def _values(self, p: NDArray[np.float64]) -> Values:
        # a player pays for a metre of runway unless another who needs it has come before
        steps = []
        for cost in range(1, self.costs[-1] + 1):
            others = int((self.costs < cost).sum())
            steps.append(
                sum(p[k] * (comb(others, k) / comb(self.n_players - 1, k)) for k in range(len(p)))
            )
        return np.cumsum(steps)[self.costs - 1]


class SpanningTreeGame(KnownGame):
    """What it costs to connect the players of S to a source.

    The players stand in a ring. A link between neighbours costs 1, one to the source ``n + 1``,
    and there are no others, so that u(S) = |S| + n · (number of arcs that S forms).

    Parameters
    ----------
    n_players : int, default=100
        At least 3.

    Examples
    --------
    >>> from skdvl.testing import SpanningTreeGame
    >>> SpanningTreeGame(4).shapley_values()
    array([2., 2., 2., 2.])
    """

    def __init__(self, n_players: int = 100) -> None:
        if n_players < 3:
            raise ValueError(f"a ring needs at least 3 players, got {n_players}")
        self.n_players = n_players
        self.parameters = (n_players,)

    def _evaluate(self, coalitions: Coalitions) -> Utilities:
        arcs = (coalitions & ~np.roll(coalitions, 1, axis=1)).sum(axis=1)
        arcs[coalitions.all(axis=1)] = 1
        return (coalitions.sum(axis=1) + self.n_players * arcs).astype(float)

    def _values(self, p: NDArray[np.float64]) -> Values:
        # joining adds an arc and closes one with each neighbour; the last player closes the ring
        neighbours = 2 * (np.arange(self.n_players) @ p) / (self.n_players - 1)
        return np.full(self.n_players, 1 + self.n_players * (1 - neighbours + p[-1]))


class AdditiveGame(KnownGame):
    """Every player is worth the same to everyone: u(S) = sum of i / (n - 1) over S.

    Parameters
    ----------
    n_players : int
        At least 2.

    Examples
    --------
    >>> from skdvl.testing import AdditiveGame
    >>> AdditiveGame(3).shapley_values()
    array([0. , 0.5, 1. ])
    """

    def __init__(self, n_players: int) -> None:
        self.n_players = n_players
        self.parameters = (n_players,)

    def _evaluate(self, coalitions: Coalitions) -> Utilities:
        return coalitions @ np.arange(self.n_players) / (self.n_players - 1)

    def _values(self, p: NDArray[np.float64]) -> Values:
        return p.sum() * np.arange(self.n_players) / (self.n_players - 1)


class OrderedPairsGame(KnownGame):
    """Each joins those who are there twice over: u(S) = |S| · (|S| - 1).

    Parameters
    ----------
    n_players : int

    Examples
    --------
    >>> from skdvl.testing import OrderedPairsGame
    >>> OrderedPairsGame(5).values("loo")
    array([8., 8., 8., 8., 8.])
    """

    def __init__(self, n_players: int) -> None:
        self.n_players = n_players
        self.parameters = (n_players,)

    def _evaluate(self, coalitions: Coalitions) -> Utilities:
        sizes = coalitions.sum(axis=1).astype(float)
        return sizes * (sizes - 1)

    def _values(self, p: NDArray[np.float64]) -> Values:
        return np.full(self.n_players, 2 * np.arange(self.n_players) @ p)


KNOWN_GAMES: tuple[KnownGame, ...] = (
    SymmetricVotingGame(4),
    SymmetricVotingGame(7),
    WeightedVotingGame((4, 3, 2, 2, 1, 1)),
    WeightedVotingGame(),
    ShoesGame(2, 1),
    ShoesGame(3, 4),
    ShoesGame(10, 5),
    MinerGame(4),
    MinerGame(5),
    AirportGame((2, 1, 3)),
    AirportGame(),
    SpanningTreeGame(6),
    SpanningTreeGame(),
    AdditiveGame(6),
    OrderedPairsGame(5),
)
