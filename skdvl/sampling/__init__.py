"""Sampling schemes: how coalitions are drawn and values read out of their utilities."""

from skdvl.sampling.base import Estimate, Game, SamplingScheme
from skdvl.sampling.enumeration import Exact
from skdvl.sampling.fixed_laws import GroupTesting, MaximumSampleReuse
from skdvl.sampling.log import Chunk, EvaluationLog
from skdvl.sampling.owen import Owen
from skdvl.sampling.permutations import Antithetic, Permutation, TruncatedMonteCarlo
from skdvl.sampling.regression import Regression
from skdvl.sampling.stratified import Stratified

__all__ = [
    "Antithetic",
    "Chunk",
    "Estimate",
    "EvaluationLog",
    "Exact",
    "Game",
    "GroupTesting",
    "MaximumSampleReuse",
    "Owen",
    "Permutation",
    "Regression",
    "SamplingScheme",
    "Stratified",
    "TruncatedMonteCarlo",
]
