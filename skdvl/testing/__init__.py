"""Games with known values, and batteries of checks, for what others add to skdvl."""

from skdvl.caching.contract import check_cache_contract
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
    "check_cache_contract",
    "exact_values",
]
