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

__all__ = ["N_PROBES", "probes", "solve_definite", "substitute"]

Floats = NDArray[np.float64]

N_PROBES = 4


@cache
def probes(n: int) -> Floats:
    """Return random vectors b, (N_PROBES, n): the mean of b'Ab estimates the trace of A.

    A few tell its order of magnitude, at a tenth of the cost of computing it.
    """
    return np.random.default_rng(0).normal(size=(N_PROBES, n))


def solve_definite(matrices: Floats, right: Floats) -> NDArray[np.bool_]:
    """Solve in place, and tell which matrices are not positive definite.

    Both arrays are in C order.

    Parameters
    ----------
    matrices : ndarray of shape (n_sets, n, n)
        Only the upper triangles are read. They become factors.
    right : ndarray of shape (n_sets, n_targets, n)
        Becomes the solutions; 0 where a matrix is not positive definite.

    Returns
    -------
    ndarray of bool, shape (n_sets,)
    """
    failed = np.zeros(len(matrices), dtype=bool)
    # the transpose is in LAPACK's order, so that nothing is copied
    stack = zip(matrices.swapaxes(1, 2), right.swapaxes(1, 2), strict=True)
    for j, (matrix, targets) in enumerate(stack):
        info = lapack.dposv(matrix, targets, lower=1, overwrite_a=1, overwrite_b=1)[2]
        if info:
            failed[j] = True
    right[failed] = 0.0
    return failed


def substitute(factors: Floats, right: Floats) -> None:
    """Solve again, for other right sides, with what `solve_definite` made of the matrices."""
    for factor, targets in zip(factors.swapaxes(1, 2), right.swapaxes(1, 2), strict=True):
        lapack.dpotrs(factor, targets, lower=1, overwrite_b=1)
