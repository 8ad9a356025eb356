"""Laws of coalition sizes: how many of the drawn coalitions have how many players."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from skdvl.semivalues import Semivalue, Shapley, size_weights

__all__ = [
    "LAWS",
    "Law",
    "adapted_law",
    "error_weights",
    "in_steps",
    "law_by_name",
    "law_of_rows",
    "prior_law",
]

_N_STEPS = 64
_NEYMAN_SHARE = 0.85
_N_KEPT = 32
_MOST_KEPT = 1024  # players: 32 laws take 256 KB

Law = NDArray[np.float64]


def in_steps(law: Law) -> Law:
    """Return a law as a step function of at most 64 steps and a few more.

    A chunk that is sent to a worker then carries a kilobyte and not a number for each size. Steps
    are short where the law is large and steep: the loss in efficiency is below a percent. A size
    is never given mass, nor loses all of it.
    """
    if len(law) <= _N_STEPS:
        return law
    larger = np.maximum(np.maximum(law[1:], law[:-1]), 1e-300)
    density = np.cbrt(np.diff(law) ** 2 / larger)
    reached = np.append(0.0, np.cumsum(density))
    step = np.floor(reached * (_N_STEPS / max(reached[-1], 1e-300)))
    has_mass = law > 0
    is_new = (step[1:] != step[:-1]) | (has_mass[1:] != has_mass[:-1])
    step_of_size = np.append(0, np.cumsum(is_new))
    means = np.bincount(step_of_size, weights=law) / np.bincount(step_of_size)
    stepped = means[step_of_size]
    # a mean that underflowed must not take the mass of a size that has some
    return np.where(has_mass & (stepped == 0), law, stepped)


def _mixed(k: NDArray[np.float64]) -> Law:
    return 0.25 / len(k) + 0.75 * (1 / k) / (1 / k).sum()


# of the sizes k = 1, ..., n - 1, for the Shapley value
LAWS: dict[str, Callable[[NDArray[np.float64]], Law]] = {
    "mixed": _mixed,
    "uniform": np.ones_like,
    "vrds": lambda k: 1 / (k + 1),
    "delta_shapley": lambda k: 1 / k**2,
    "group_testing": lambda k: 1 / k + 1 / (len(k) + 1 - k),
    "binomial": lambda k: stats.binom.pmf(k, len(k) + 1, 0.5),
    "kernel_shap": lambda k: 1 / (k * (len(k) + 1 - k)),
}


def _kept_for_few_players(make: Callable[..., Law]) -> Callable[..., Law]:
    """Remember the last results of a function of names and, at last, a number of players.

    Long ones, which would take memory, are not kept.
    """
    kept = lru_cache(maxsize=_N_KEPT)(make)

    @wraps(make)
    def find(*key: Any) -> Law:
        *_, n_players = key
        return kept(*key).copy() if n_players <= _MOST_KEPT else make(*key)

    return find


@_kept_for_few_players
def law_by_name(name: str, n_players: int) -> Law:
    """Return a law of `LAWS`, shape (n_players + 1,); ∅ and N are never drawn."""
    law = _relative_law(name, n_players)
    return in_steps(law / law.sum())


@_kept_for_few_players
def _shapley_weights(n_players: int) -> NDArray[np.float64]:
    return error_weights(n_players, Shapley())


@_kept_for_few_players
def _relative_law(name: str, n_players: int) -> Law:
    law = np.zeros(n_players + 1)
    law[1:-1] = LAWS[name](np.arange(1.0, n_players))
    return law


def prior_law(n_players: int, target: Semivalue, name: str = "mixed") -> Law:
    """Return how sizes are drawn for a semivalue before anything is known of the game.

    "mixed" is one quarter uniform, the rest in proportion to 1/k: small coalitions have the
    noisiest utilities, and are cheap to fit. A law is the best one for the Shapley value if the
    standard deviation of utilities changes with size in a certain way; under the same assumption
    it is translated to other semivalues.

    Returns
    -------
    ndarray of shape (n_players + 1,)
        0 for the sizes 0 and n_players, whose utilities are known.
    """
    if isinstance(target, Shapley):
        return law_by_name(name, n_players)
    law = _relative_law(name, n_players)
    law[1:-1] *= error_weights(n_players, target)[1:-1] / _shapley_weights(n_players)[1:-1]
    return in_steps(law / law.sum())


def adapted_law(prior: Law, weights: NDArray[np.float64], spread: NDArray[np.float64]) -> Law:
    r"""Return the law that spreads draws by how much the utilities of each size vary.

    0.85 times Neyman's allocation, :math:`r_k \propto \sqrt{a_k^2 \pi_k (1 - \pi_k) + m_k^2} \,
    \sigma_k`, plus 0.15 times the prior: where the pilot happened to see no spread, there may be
    some.

    Parameters
    ----------
    prior : ndarray of shape (n_players + 1,)
    weights : ndarray of shape (n_players + 1,)
        As `error_weights` gives them.
    spread : ndarray of shape (n_players + 1,)
        Standard deviation of the utilities of each size, from draws that are independent of those
        that the law is for.
    """
    neyman = np.where(prior > 0, weights * spread, 0.0)
    if not neyman.any():
        return prior
    return in_steps((1 - _NEYMAN_SHARE) * prior + _NEYMAN_SHARE * neyman / neyman.sum())


def law_of_rows(law: Law, rows_per_draw: int) -> Law:
    """Return the law of all coalitions where a draw is one by ``law``, or that and its complement.

    Parameters
    ----------
    law : ndarray of shape (n_players + 1,)
    rows_per_draw : {1, 2}
    """
    return (law + law[::-1]) / 2 if rows_per_draw == 2 else law


def error_weights(n_players: int, target: Semivalue) -> NDArray[np.float64]:
    """Return the error that a utility of each size adds to a value, per unit of its own."""
    m, a = size_weights(target.size_distribution(n_players))
    share = np.arange(n_players + 1) / n_players
    return np.sqrt(a**2 * share * (1 - share) + m**2)
