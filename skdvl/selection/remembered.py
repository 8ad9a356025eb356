"""Valuations that a memory keeps."""

from __future__ import annotations

from typing import Any

from sklearn.base import clone
from sklearn.utils.validation import check_memory

from skdvl.utilities.fingerprint import library_versions
from skdvl.valuators import DataValuator, LeaveOneOutValuator

__all__ = ["fit_remembered"]


def _value(
    valuator: DataValuator,
    X: Any,
    y: Any,
    params: dict[str, Any],
    versions: tuple[str, ...],
    settings: dict[str, Any],
) -> DataValuator:
    """Fit a valuator; ``settings`` do not change the values, so a memory ignores them.

    ``versions`` are part of the key alone: another version may give other values.
    """
    return valuator.set_params(**settings).fit(X, y, **params)


def fit_remembered(
    valuator: DataValuator, X: Any, y: Any, params: dict[str, Any], memory: Any
) -> DataValuator:
    """Return a fitted clone of a valuator, from the memory if it has one.

    Raises
    ------
    ValueError
        If there is a memory, but the valuator draws anew in every fit.
    """
    valuator = clone(valuator)
    memory = check_memory(memory)
    if getattr(memory, "location", None) is None:
        return valuator.fit(X, y, **params)
    names = valuator.get_params(deep=False)
    draws = "random_state" in names and not isinstance(valuator, LeaveOneOutValuator)
    if draws and names["random_state"] is None:
        raise ValueError(
            "memory would return the first random draw for ever: give the valuator an integer "
            "random_state, or leave memory out."
        )
    neutral = {"n_jobs": None, "verbose": 0, "cache": None, "checkpoint": None}
    settings = {name: names[name] for name in neutral if name in names}
    valuator.set_params(**{name: neutral[name] for name in settings})
    value = memory.cache(_value, ignore=["settings"])
    return value(valuator, X, y, params, library_versions(), settings)
