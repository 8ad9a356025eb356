"""What a semivalue is: a probability distribution over the sizes of coalitions that are joined."""

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

SEMIVALUES: dict[str, type["Semivalue"]] = {}


class Semivalue(ABC):
    r"""A mean marginal contribution, taken under a distribution over coalition sizes.

    The value of player :math:`i` among :math:`n` players is

    .. math::
        \phi_i = \sum_{k=0}^{n-1} p_k \, \mathbb{E}[u(S \cup i) - u(S) \mid |S| = k, i \notin S]

    and the semivalue *is* the distribution :math:`p`. A subclass is a frozen dataclass that gives
    its ``name``, by which it is found, and `size_distribution`.

    Attributes
    ----------
    name : str
        The name that is accepted wherever a ``semivalue`` is asked for.

    Examples
    --------
    Half of the weight on the empty coalition, half on all other players:

    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> from skdvl.semivalues import SEMIVALUES, Semivalue
    >>> @dataclass(frozen=True)
    ... class Ends(Semivalue, name="ends"):
    ...     def size_distribution(self, n_players):
    ...         p = np.zeros(n_players)
    ...         p[0] += 0.5
    ...         p[-1] += 0.5
    ...         return p
    >>> Ends().label, Ends().size_distribution(4)
    ('ends_value', array([0.5, 0. , 0. , 0.5]))
    >>> del SEMIVALUES["ends"]
    """

    name: ClassVar[str]

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if name is None:
            return
        known = SEMIVALUES.get(name)
        # a notebook cell that is run again defines the same class anew
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise ValueError(f"the semivalue name {name!r} is taken by {known.__qualname__}")
        cls.name = name
        SEMIVALUES[name] = cls

    @abstractmethod
    def size_distribution(self, n_players: int) -> NDArray[np.float64]:
        """Probability of each size of the coalition that a player joins.

        Parameters
        ----------
        n_players : int
            Number of players, at least one.

        Returns
        -------
        ndarray of shape (n_players,)
            ``p[k]`` for the sizes ``k = 0, ..., n_players - 1``; not negative, with sum one.
        """

    @property
    def label(self) -> str:
        """Name of a column that holds these values."""
        return f"{self.name}_value"

    @classmethod
    def examples(cls) -> "tuple[Semivalue, ...]":
        """Instances that the law tests run on."""
        return (cls(),)


@dataclass(frozen=True)
class Shapley(Semivalue, name="shapley"):
    """The Shapley value: every coalition size is equally likely.

    The only semivalue whose values add up to ``u(N) - u(∅)``.

    References
    ----------
    .. [1] Shapley (1953). "A value for n-person games." Contributions to the Theory of Games II.
    .. [2] Ghorbani, Zou (2019). "Data Shapley: equitable valuation of data for machine learning."
       ICML.

    Examples
    --------
    >>> from skdvl.semivalues import Shapley
    >>> Shapley().size_distribution(4)
    array([0.25, 0.25, 0.25, 0.25])
    """

    def size_distribution(self, n_players: int) -> NDArray[np.float64]:
        """Uniform; see `Semivalue.size_distribution`."""
        n_players = _check_n_players(n_players)
        return np.full(n_players, 1 / n_players)


@dataclass(frozen=True)
class Banzhaf(Semivalue, name="banzhaf"):
    """The Banzhaf value: every coalition is equally likely, so sizes follow Binomial(n - 1, 1/2).

    Of all semivalues its order of players changes least under noise in the utility.

    References
    ----------
    .. [1] Wang, Jia (2023). "Data Banzhaf: a robust data valuation framework for machine
       learning." AISTATS.

    Examples
    --------
    >>> from skdvl.semivalues import Banzhaf
    >>> Banzhaf().size_distribution(4)
    array([0.125, 0.375, 0.375, 0.125])
    """

    def size_distribution(self, n_players: int) -> NDArray[np.float64]:
        """Binomial(n - 1, 1/2); see `Semivalue.size_distribution`."""
        others = _check_n_players(n_players) - 1
        k = np.arange(others, dtype=np.float64)
        return _from_ratios((others - k) / (k + 1))


@dataclass(frozen=True)
class BetaShapley(Semivalue, name="beta_shapley"):
    """Beta Shapley: sizes follow BetaBinomial(n - 1, beta, alpha).

    Parameters
    ----------
    alpha : float, default=16
        The larger, the more weight lies on small coalitions. Positive.
    beta : float, default=1
        The larger, the more weight lies on large coalitions. Positive. ``alpha = beta = 1`` is the
        Shapley value.

    References
    ----------
    .. [1] Kwon, Zou (2022). "Beta Shapley: a unified and noise-reduced data valuation framework
       for machine learning." AISTATS.

    Examples
    --------
    >>> from skdvl.semivalues import BetaShapley
    >>> BetaShapley(alpha=2, beta=1).size_distribution(4)
    array([0.4, 0.3, 0.2, 0.1])
    """

    alpha: float = 16
    beta: float = 1

    def __post_init__(self) -> None:
        for parameter, value in (("alpha", self.alpha), ("beta", self.beta)):
            if not isinstance(value, Real) or isinstance(value, bool):
                raise TypeError(f"{parameter} of BetaShapley must be a number, got {value!r}")
            if not 0 < value < np.inf:
                raise ValueError(
                    f"{parameter} of BetaShapley must be positive and finite, got {value!r}"
                )

    def size_distribution(self, n_players: int) -> NDArray[np.float64]:
        """BetaBinomial(n - 1, beta, alpha); see `Semivalue.size_distribution`."""
        others = _check_n_players(n_players) - 1
        k = np.arange(others, dtype=np.float64)
        return _from_ratios(
            (others - k) * (k + self.beta) / ((k + 1) * (others - k - 1 + self.alpha))
        )


@dataclass(frozen=True)
class LOO(Semivalue, name="loo"):
    """Leave-one-out: what is lost when the player leaves all the others.

    Examples
    --------
    >>> from skdvl.semivalues import LOO
    >>> LOO().size_distribution(4)
    array([0., 0., 0., 1.])
    """

    def size_distribution(self, n_players: int) -> NDArray[np.float64]:
        """All mass on n - 1; see `Semivalue.size_distribution`."""
        p = np.zeros(_check_n_players(n_players))
        p[-1] = 1
        return p


@dataclass(frozen=True)
class DeltaShapley(Semivalue, name="delta_shapley"):
    """Shapley value cut to a range of sizes: uniform on ``lower, ..., upper``.

    Parameters
    ----------
    lower, upper : int
        Smallest and largest size of the coalition that is joined, ``0 <= lower <= upper``. Both
        are clipped to ``n_players - 1``.

    References
    ----------
    .. [1] Watson, Kujawa, Andreeva, Yang, Elahi, Larson (2023). "Accelerated Shapley value
       approximation for data evaluation." arXiv:2311.05346.

    Examples
    --------
    >>> from skdvl.semivalues import DeltaShapley
    >>> DeltaShapley(1, 2).size_distribution(4)
    array([0. , 0.5, 0.5, 0. ])
    """

    lower: int
    upper: int

    def __post_init__(self) -> None:
        for parameter, value in (("lower", self.lower), ("upper", self.upper)):
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise TypeError(f"{parameter} of DeltaShapley must be an integer, got {value!r}")
        if not 0 <= self.lower <= self.upper:
            raise ValueError(
                f"DeltaShapley needs 0 <= lower <= upper, got lower={self.lower}, "
                f"upper={self.upper}"
            )

    def size_distribution(self, n_players: int) -> NDArray[np.float64]:
        """Uniform on the range; see `Semivalue.size_distribution`."""
        p = np.zeros(_check_n_players(n_players))
        sizes = slice(min(self.lower, len(p) - 1), min(self.upper, len(p) - 1) + 1)
        p[sizes] = 1 / (sizes.stop - sizes.start)
        return p

    @classmethod
    def examples(cls) -> tuple[Semivalue, ...]:
        """Instances that the law tests run on."""
        return (cls(0, 0), cls(1, 4), cls(2, 10**9))


def check_semivalue(semivalue: str | Semivalue) -> Semivalue:
    """Return the semivalue that a name stands for; an instance is returned as it is.

    Parameters
    ----------
    semivalue : str or Semivalue
        A registered name, such as "shapley", "banzhaf" or "loo", or an instance.

    Returns
    -------
    Semivalue

    Raises
    ------
    ValueError
        For an unknown name, or one whose semivalue has parameters without defaults.
    TypeError
        For anything else.

    Examples
    --------
    >>> from skdvl.semivalues import check_semivalue
    >>> check_semivalue("beta_shapley")
    BetaShapley(alpha=16, beta=1)
    """
    if isinstance(semivalue, Semivalue):
        return semivalue
    if not isinstance(semivalue, str):
        raise TypeError(
            f"semivalue must be a name or an instance of skdvl.semivalues.Semivalue, "
            f"got {semivalue!r}"
        )
    if semivalue not in SEMIVALUES:
        names = ", ".join(repr(name) for name in sorted(SEMIVALUES))
        raise ValueError(f"unknown semivalue {semivalue!r}; known names are {names}")
    cls = SEMIVALUES[semivalue]
    required = [
        name
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is inspect.Parameter.empty
    ]
    if required:
        raise ValueError(
            f"semivalue {semivalue!r} has no default {' and '.join(required)}; "
            f"pass an instance, {cls.__name__}({', '.join(f'{name}=...' for name in required)})"
        )
    return cls()


def size_weights(
    size_distribution: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Weights that turn mean utilities per coalition size into values.

    With the size distribution :math:`p` of a semivalue, :math:`p_{-1} = p_n = 0` and
    :math:`\pi_k = k / n`,

    .. math::
        \phi_i = \sum_{k=0}^{n} m_k \, \mathbb{E}[u(S) \mid |S| = k]
               + \sum_{k=1}^{n-1} a_k \, \mathbb{E}[(1[i \in S] - \pi_k) \, u(S) \mid |S| = k],

    .. math:: m_k = p_{k-1} - p_k, \qquad a_k = p_{k-1} \, n / k + p_k \, n / (n - k).

    The first sum is the same for every player; the second tells the players apart.

    Parameters
    ----------
    size_distribution : ndarray of shape (n_players,)
        As `Semivalue.size_distribution` gives it.

    Returns
    -------
    m : ndarray of shape (n_players + 1,)
        Weight of the mean utility of the coalitions of each size.
    a : ndarray of shape (n_players + 1,)
        Weight of the covariance of membership and utility; 0 for the empty and the full coalition.

    Examples
    --------
    >>> from skdvl.semivalues import Shapley, size_weights
    >>> m, a = size_weights(Shapley().size_distribution(4))
    >>> m
    array([-0.25,  0.  ,  0.  ,  0.  ,  0.25])
    >>> a.round(4)
    array([0.    , 1.3333, 1.    , 1.3333, 0.    ])
    """
    p = np.asarray(size_distribution, dtype=np.float64)
    n_players = len(p)
    m, a = np.zeros(n_players + 1), np.zeros(n_players + 1)
    m[1:] = p
    m[:-1] -= p
    k = np.arange(1, n_players)
    a[1:-1] = p[:-1] * (n_players / k) + p[1:] * (n_players / (n_players - k))
    return m, a


def _from_ratios(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distribution with ``p[k + 1] / p[k] = ratios[k]``.

    Products run outwards from a mode, so that they can only underflow, where p is 0 to double
    precision; log-gamma functions would lose ten digits at a million players.
    """
    rises = np.flatnonzero(ratios > 1)
    # a U-shaped distribution falls first: it is never steep, and 0 is as good as any start
    mode = int(rises[-1]) + 1 if rises.size and ratios[0] > 1 else 0
    with np.errstate(under="ignore"):
        p = np.concatenate(
            [np.cumprod(1 / ratios[:mode][::-1])[::-1], [1.0], np.cumprod(ratios[mode:])]
        )
        return p / p.sum()


def _check_n_players(n_players: int) -> int:
    if not isinstance(n_players, Integral) or n_players < 1:
        raise ValueError(f"n_players must be a positive integer, got {n_players!r}")
    return int(n_players)
