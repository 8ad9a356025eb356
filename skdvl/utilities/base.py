"""The utility of a coalition: the one thing that all of data valuation asks for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["CallableUtility", "Utility", "are_usable", "prefix_coalitions", "prefix_rows"]

Coalitions = NDArray[np.bool_]
Orders = NDArray[np.intp]
Utilities = NDArray[np.float64]

_LARGEST = 1e70  # estimation takes fourth powers, weighs them and adds them up


def prefix_coalitions(order: Orders, sizes: NDArray[np.intp]) -> Coalitions:
    """Return the first ``sizes[j]`` players of an order as coalitions.

    Parameters
    ----------
    order : ndarray of shape (n_players,)
        A permutation of the players.
    sizes : ndarray of shape (n_sizes,)
        Sizes of the wanted prefixes.

    Returns
    -------
    ndarray of bool, shape (n_sizes, n_players)
    """
    position = np.empty(len(order), dtype=np.intp)
    position[order] = np.arange(len(order))
    return position[np.newaxis, :] < np.asarray(sizes)[:, np.newaxis]


def prefix_rows(orders: Orders, sizes: NDArray[np.intp]) -> Callable[[list[int]], Coalitions]:
    """Return what tells the rows of prefixes, by position in ``sizes`` (n_orders, n_sizes)."""

    def rows_of(which: list[int]) -> Coalitions:
        order, size = np.divmod(which, sizes.shape[1])
        return np.asarray(np.argsort(orders, axis=1)[order] < sizes[order, size][:, np.newaxis])

    return rows_of


class Utility(ABC):
    """What a coalition of players is worth: a function from coalitions to numbers.

    A utility is a function in the strict sense: the same coalition has the same utility, to the
    bit, in whatever batch, process or order it is asked for. Subclasses implement ``_evaluate``.

    Attributes
    ----------
    n_players : int
        Number of players.
    engine : str
        How utilities are computed; "callable" for a user's own.
    evals_per_chunk : int
        Evaluations that make a unit of work of sensible length. It decides how draws are grouped
        into chunks, so it is fixed by the class, never measured.
    evals_are_cheap : bool
        Whether an evaluation takes no longer than a look-up in a cache.
    has_cheap_prefixes : bool
        Whether all prefixes of an order cost much less than as many single coalitions.

    Examples
    --------
    >>> import numpy as np
    >>> class Quorum(Utility):
    ...     n_players = 3
    ...     def _evaluate(self, coalitions):
    ...         return coalitions.sum(axis=1) >= 2
    >>> Quorum()(np.array([[True, False, False], [True, True, False]]))
    array([0., 1.])
    """

    n_players: int
    engine: ClassVar[str] = "callable"
    evals_per_chunk: int = 64
    evals_are_cheap: bool = False
    has_cheap_prefixes: bool = False

    @abstractmethod
    def _evaluate(self, coalitions: Coalitions) -> ArrayLike:
        """Return the utilities, shape (n_coalitions,), of checked coalitions."""

    def __call__(self, coalitions: ArrayLike) -> Utilities:
        """Evaluate coalitions.

        Parameters
        ----------
        coalitions : array-like of bool, shape (n_coalitions, n_players)

        Returns
        -------
        ndarray of shape (n_coalitions,)
            Utilities, finite and at most 1e70.

        Raises
        ------
        ValueError
            If the shapes do not fit, or a utility is not a finite number or above 1e70.
        """
        coalitions = np.asarray(coalitions, dtype=bool)
        if coalitions.ndim != 2 or coalitions.shape[1] != self.n_players:
            raise ValueError(
                f"coalitions must have shape (n_coalitions, {self.n_players}), "
                f"got {coalitions.shape}."
            )
        utilities = np.asarray(self._evaluate(coalitions), dtype=np.float64)
        if utilities.shape != (len(coalitions),):
            raise ValueError(
                f"{type(self).__name__} returned utilities of shape {utilities.shape} for "
                f"{len(coalitions)} coalitions; one number per coalition is needed."
            )
        usable = are_usable(utilities)
        if not usable.all():
            first = int(np.flatnonzero(~usable)[0])
            needed = "finite" if not np.isfinite(utilities[first]) else f"at most {_LARGEST:g}"
            raise ValueError(
                f"{type(self).__name__} returned {utilities[first]} for the coalition "
                f"{np.flatnonzero(coalitions[first])[:20].tolist()}; utilities must be {needed}."
            )
        return utilities

    def chain(self, order: ArrayLike) -> Iterator[float]:
        """Yield u(∅), u({o1}), u({o1, o2}), … one by one, each computed when it is asked for."""
        order = np.asarray(order, dtype=np.intp)
        coalition = np.zeros((1, self.n_players), dtype=bool)
        yield float(self(coalition)[0])
        for player in order:
            coalition[0, player] = True
            yield float(self(coalition)[0])

    def prefixes(self, orders: ArrayLike, sizes: ArrayLike | None = None) -> Utilities:
        """Evaluate the prefixes of orders.

        Parameters
        ----------
        orders : array-like of int, shape (n_orders, n_players)
            Permutations of the players.
        sizes : array-like of int, shape (n_sizes,), optional
            Which prefixes; all sizes from 0 to ``n_players`` if left out.

        Returns
        -------
        ndarray of shape (n_orders, n_sizes)
        """
        orders = np.asarray(orders, dtype=np.intp)
        wanted = np.arange(self.n_players + 1) if sizes is None else np.asarray(sizes)
        utilities = np.empty((len(orders), len(wanted)))
        step = self.evals_per_chunk  # all prefixes of 10^4 players would take 100 MB
        for row, order in zip(utilities, orders, strict=True):
            for start in range(0, len(wanted), step):
                part = slice(start, start + step)
                row[part] = self(prefix_coalitions(order, wanted[part]))
        return utilities

    def fingerprint(self) -> bytes | None:
        """Return a digest of all that decides the utilities, or None if there is none.

        A utility without a fingerprint can be neither cached nor checkpointed.
        """
        return None


def are_usable(utilities: ArrayLike) -> NDArray[np.bool_]:
    """Tell which numbers can be utilities: finite ones whose fourth powers are finite."""
    return np.asarray(np.abs(utilities) <= _LARGEST)


class CallableUtility(Utility):
    """A utility from a function of the players' indices.

    Parameters
    ----------
    function : callable
        Takes the ascending indices of a coalition's players, ``ndarray of int``, possibly empty,
        and returns its utility, a number.
    n_players : int
        Number of players.

    Raises
    ------
    TypeError
        When it is called, if the function returns no number.

    Examples
    --------
    >>> import numpy as np
    >>> gloves = CallableUtility(lambda players: float(0 in players and len(players) > 1), 3)
    >>> gloves(np.array([[True, True, False], [False, True, True]]))
    array([1., 0.])
    """

    def __init__(self, function: Callable[[NDArray[np.intp]], float], n_players: int) -> None:
        self.function = function
        self.n_players = n_players

    def _evaluate(self, coalitions: Coalitions) -> Sequence[float]:
        return [self._call(np.flatnonzero(coalition)) for coalition in coalitions]

    def _call(self, players: NDArray[np.intp]) -> float:
        utility = self.function(players)
        try:
            return float(utility)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"The utility of {len(players)} players must be a number, but the function "
                f"returned {utility!r}."
            ) from error

    def fingerprint(self) -> bytes | None:
        """Ask the function: its own ``fingerprint()``, if it has one, identifies it."""
        own = getattr(self.function, "fingerprint", None)
        return None if own is None else bytes(own())
