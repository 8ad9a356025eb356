"""Values of any small game, straight from the definition."""

from collections.abc import Callable
from math import comb

import numpy as np
from numpy.typing import NDArray

from skdvl.semivalues import Semivalue, check_semivalue
from skdvl.utilities.base import CallableUtility, Utility

__all__ = ["exact_values"]


def exact_values(
    utility: Utility | Callable[[NDArray[np.intp]], float],
    semivalue: str | Semivalue = "shapley",
    *,
    n_players: int | None = None,
) -> NDArray[np.float64]:
    """Values of a small game, straight from the definition.

    Every marginal contribution of every player is taken once, with weight
    ``p_k / comb(n - 1, k)``. Nothing here is shared with how skdvl estimates values, so that it
    can be held against them.

    Parameters
    ----------
    utility : Utility or callable
        A callable takes the ascending indices of a coalition's players, possibly none.
    semivalue : str or Semivalue, default="shapley"
    n_players : int, optional
        Needed for a callable.

    Returns
    -------
    ndarray of shape (n_players,)

    Raises
    ------
    ValueError
        For more than 16 players, or a callable without ``n_players``.

    Examples
    --------
    >>> from skdvl.testing import exact_values
    >>> exact_values(lambda players: float(len(players) > 2), n_players=3).round(4)
    array([0.3333, 0.3333, 0.3333])
    """
    if not isinstance(utility, Utility):
        if n_players is None:
            raise ValueError("n_players is needed where the utility is a callable")
        utility = CallableUtility(utility, n_players)
    n = utility.n_players
    if n > 16:
        raise ValueError(f"enumerating the coalitions of {n} players would take too long")
    p = check_semivalue(semivalue).size_distribution(n)
    codes = np.arange(2**n)
    coalitions = (codes[:, np.newaxis] >> np.arange(n) & 1).astype(bool)
    utilities = utility(coalitions)
    weights = np.array([p[k] / comb(n - 1, k) for k in range(n)])
    values = np.empty(n)
    for player in range(n):
        without = codes[~coalitions[:, player]]
        marginal = utilities[without | 1 << player] - utilities[without]
        values[player] = weights[coalitions[without].sum(axis=1)] @ marginal
    return values
