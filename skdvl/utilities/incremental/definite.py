"""Symmetric positive definite systems of some ten variables and more, one after the other.

Each is a call of LAPACK of its own, so that none depends on the others. From ten variables on that
is faster than elementwise operations on all of them, see `normal_equations`, and several times as
fast as numpy's stacked solver, which does not know that they are symmetric.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

__all__ = ["N_PROBES", "factor", "invert", "probes", "solve_definite", "substitute"]

Floats = NDArray[np.float64]

N_PROBES = 4


@cache
def probes(n: int) -> Floats:
    """Return random vectors b, (N_PROBES, n): the mean of b'Ab estimates the trace of A.

    A few tell its order of magnitude, at a tenth of the cost of computing it.
    """
    return np.random.default_rng(0).normal(size=(N_PROBES, n))


def factor(matrices: Floats) -> NDArray[np.bool_]:
    """Turn matrices into their factors, and tell which are not positive definite.

    Parameters
    ----------
    matrices : ndarray of shape (n_sets, n, n)
        In C order, as are all arrays here. Only the upper triangles are read and written.

    Returns
    -------
    ndarray of bool, shape (n_sets,)
    """
    failed = np.zeros(len(matrices), dtype=bool)
    # the transpose is in LAPACK's order, so that nothing is copied
    for j, matrix in enumerate(matrices.swapaxes(1, 2)):
        if lapack.dpotrf(matrix, lower=1, clean=0, overwrite_a=1)[1]:
            failed[j] = True
    return failed


def substitute(factors: Floats, right: Floats) -> None:
    """Solve for right sides (n_sets, n_targets, n) in place, with what `factor` gives."""
    for matrix, targets in zip(factors.swapaxes(1, 2), right.swapaxes(1, 2), strict=True):
        lapack.dpotrs(matrix, targets, lower=1, overwrite_b=1)


def invert(factors: Floats) -> None:
    """Turn factors into the upper triangles of the inverses."""
    for matrix in factors.swapaxes(1, 2):
        lapack.dpotri(matrix, lower=1, overwrite_c=1)


def solve_definite(matrices: Floats, right: Floats) -> NDArray[np.bool_]:
    """Do `factor` and `substitute`; the solutions are 0 where a matrix is not definite."""
    failed = np.zeros(len(matrices), dtype=bool)
    both = zip(matrices.swapaxes(1, 2), right.swapaxes(1, 2), strict=True)
    for j, (matrix, targets) in enumerate(both):
        if lapack.dposv(matrix, targets, lower=1, overwrite_a=1, overwrite_b=1)[2]:
            failed[j] = True
    right[failed] = 0.0
    return failed
