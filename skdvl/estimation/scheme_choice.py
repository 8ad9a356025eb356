"""Which sampling scheme a ``method`` stands for."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence

from skdvl import sampling
from skdvl.sampling.base import SCHEMES, SamplingScheme
from skdvl.sampling.enumeration import MOST_COUNTED, Exact, count_coalitions
from skdvl.sampling.stratified import Stratified
from skdvl.semivalues import LOO, Semivalue
from skdvl.utilities import Utility

__all__ = ["check_scheme", "choose_scheme", "find_schemes"]

_MAX_ENUMERATED = 2**20


def find_schemes() -> dict[str, type[SamplingScheme]]:
    """Import every file of the schemes' folder and return the schemes by name."""
    for module in pkgutil.iter_modules(sampling.__path__):
        importlib.import_module(f"{sampling.__name__}.{module.name}")
    return SCHEMES


def check_scheme(method: str | SamplingScheme) -> SamplingScheme:
    """Return the scheme with a name; an instance is returned as it is.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if isinstance(method, SamplingScheme):
        return method
    schemes = find_schemes()
    if method not in schemes:
        raise ValueError(
            f"method={method!r} is not known. Use 'auto', one of {sorted(schemes)}, or an "
            "instance of skdvl.sampling.SamplingScheme."
        )
    return schemes[method]()


def choose_scheme(
    method: str | SamplingScheme,
    utilities: Sequence[Utility],
    target: Semivalue,
    budget: int,
    is_explicit: bool,
) -> SamplingScheme:
    """Return the scheme for ``method``.

    "auto" enumerates where that fits the budget, and otherwise is "stratified": at equal
    evaluations no other unbiased scheme had a lower error on the games of
    tests/benchmarks/sample_efficiency.py by enough to pay for its own time.

    Raises
    ------
    ValueError
        If ``method="exact"`` is asked for and takes more than 2^20 evaluations per game, or more
        than an explicit budget.
    """
    counts = [count_coalitions(utility.n_players, target) for utility in utilities]
    if isinstance(method, str) and method == "auto":
        fits = sum(counts) <= budget
        return Exact() if fits or (isinstance(target, LOO) and not is_explicit) else Stratified()
    scheme = check_scheme(method)
    if isinstance(scheme, Exact):
        too_many = sum(counts) > budget if is_explicit else max(counts) > _MAX_ENUMERATED
        if too_many and not (isinstance(target, LOO) and not is_explicit):
            n_players = max(utility.n_players for utility in utilities)
            needed = f"max_evals={sum(counts)}" if max(counts) < MOST_COUNTED else "over 10^18"
            where = " in a fold" if len(utilities) > 1 else ""
            advice = "Raise max_evals, or use" if max(counts) <= _MAX_ENUMERATED else "Use"
            raise ValueError(
                f"method='exact' needs {needed} to enumerate the coalitions of {n_players} "
                f"players{where}. {advice} method='stratified'."
            )
    return scheme
