"""Games with known values, for tests of skdvl and of what others add to it."""

from skdvl.testing.enumeration import exact_values
from skdvl.testing.games import (
    ELECTORAL_WEIGHTS,
    KNOWN_GAMES,
    AdditiveGame,
    AirportGame,
    KnownGame,
    MinerGame,
    OrderedPairsGame,
    ShoesGame,
    SpanningTreeGame,
    SymmetricVotingGame,
    WeightedVotingGame,
)

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
    "exact_values",
]
