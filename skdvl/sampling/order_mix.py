"""Two read-outs of the same orders, and their best mix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skdvl.sampling.base import Game
from skdvl.semivalues import Semivalue, size_weights

__all__ = ["mixed_values"]

Floats = NDArray[np.float64]


def mixed_values(
    orders: NDArray[np.intp],
    utilities: Floats,
    halves: NDArray[np.intp],
    game: Game,
    target: Semivalue,
) -> Floats:
    """Return an estimate of the values from each order.

    The marginal contributions of an order tell much about the players that join early. Reusing
    the utility of each prefix for all players, as the stratified scheme does, suits other games.
    Both are centred on what the other orders say about a size. They are mixed by one weight,
    and an order's weight comes from the half of the orders that it is not in: a weight that the
    same orders had a part in would be biased.

    Parameters
    ----------
    orders : ndarray of shape (n_orders, n_players)
    utilities : ndarray of shape (n_orders, n_players - 1)
        Of the prefixes of sizes 1 to n_players - 1.
    halves : ndarray of int, shape (n_orders,)
        0 or 1.
    game : Game
    target : Semivalue

    Returns
    -------
    ndarray of shape (n_orders, n_players)
    """
    p = target.size_distribution(game.n_players)
    both = _read_twice(orders, utilities, game, p)
    mixed = both.marginal
    for half in (0, 1):
        mine, others = halves == half, halves != half
        weight = 0.0
        if others.sum() > 1:
            weight = _best_weight(_read_twice(orders[others], utilities[others], game, p))
        mixed[mine] += weight * (both.reused[mine] - both.marginal[mine])
    return mixed


@dataclass
class _Readings:
    marginal: Floats
    reused: Floats


def _read_twice(orders: NDArray[np.intp], utilities: Floats, game: Game, p: Floats) -> _Readings:
    n_orders, n_players = orders.shape
    m, a = size_weights(p)
    along = np.empty((n_orders, n_players + 1))
    along[:, 0], along[:, 1:-1], along[:, -1] = game.empty, utilities, game.full
    if n_orders > 1:
        elsewhere = (along.sum(axis=0) - along) / (n_orders - 1)  # what the other orders say
    else:  # a straight line is all there is to say about a single order
        elsewhere = np.linspace(game.empty, game.full, n_players + 1)[np.newaxis]
    excess = along - elsewhere
    gains = (excess[:, 1:] - excess[:, :-1]) * (n_players * p)
    gains += (elsewhere[:, 1:] - elsewhere[:, :-1]) @ p[:, np.newaxis]
    terms = a * excess
    shared = along @ m - terms @ (np.arange(n_players + 1) / n_players)
    joined = np.cumsum(terms[:, :0:-1], axis=1)[:, ::-1]
    joined += shared[:, np.newaxis]
    readings = _Readings(np.empty_like(gains), np.empty_like(gains))
    rows = np.arange(n_orders)[:, np.newaxis]
    readings.marginal[rows, orders] = gains
    readings.reused[rows, orders] = joined
    return readings


def _best_weight(readings: _Readings) -> float:
    """Return the weight of the reuse read-out that gives the mean with the least variance."""
    marginal = readings.marginal - readings.marginal.mean(axis=0)
    gap = readings.reused - readings.reused.mean(axis=0) - marginal
    spread = np.sum(gap**2)
    return float(np.clip(-np.sum(marginal * gap) / spread, 0.0, 1.0)) if spread > 0 else 0.5
