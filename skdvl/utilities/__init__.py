"""Utilities: what a coalition of players is worth."""

from skdvl.utilities.base import CallableUtility, Utility

__all__ = ["CallableUtility", "Utility"]
