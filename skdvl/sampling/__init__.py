"""Sampling schemes: how coalitions are drawn and values read out of their utilities."""

from skdvl.sampling.base import Estimate, Game, SamplingScheme
from skdvl.sampling.enumeration import Exact
from skdvl.sampling.log import Chunk, EvaluationLog
from skdvl.sampling.permutations import Antithetic, Permutation, TruncatedMonteCarlo
from skdvl.sampling.stratified import Stratified

__all__ = [
    "Antithetic",
    "Chunk",
    "Estimate",
    "EvaluationLog",
    "Exact",
    "Game",
    "Permutation",
    "SamplingScheme",
    "Stratified",
    "TruncatedMonteCarlo",
]
