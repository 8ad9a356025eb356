"""Pseudoinverses of scatter matrices, from the rows that they are made of.

Where a scatter matrix is close to singular, or is singular because there are fewer rows than
columns, the rows themselves tell twice as many digits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from skdvl.utilities.incremental.definite import N_PROBES, probes, solve_definite, substitute

__all__ = [
    "MAX_ERROR",
    "SURELY",
    "by_length",
    "centred",
    "solve_any",
    "solve_few",
    "solve_tall",
    "solve_wide",
]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Rows = NDArray[np.intp]

_EPS = float(np.finfo(np.float64).eps)
# What rounding errors may do to a score, relatively.
MAX_ERROR = 1e-10
# By what an estimate of a trace, see `probes`, is surely not too small.
SURELY = 0.01
_STACKED = 64
_STACK_NUMBERS = 2**20
_LENGTH_STEP = 8


def centred(codes: NDArray[np.intp], X: Floats, means: Floats) -> Floats:
    """Return rows less their class's mean, (n_sets, length, d).

    Parameters
    ----------
    codes : ndarray of int, shape (n_sets, length)
        The rows' classes; rows that have -1 become zero.
    X : ndarray of shape (n_sets, length, d)
    means : ndarray of shape (n_sets, n_classes, d)
    """
    less = X - np.take_along_axis(means, np.maximum(codes, 0)[:, :, np.newaxis], axis=1)
    less[codes < 0] = 0.0
    return less


def solve_few(codes: Rows, Z: Floats, right: Floats, least: Floats) -> tuple[Floats, Flags]:
    """Return (Z'Z)⁺ times right sides, for fewer rows than columns, from products of rows.

    They lose half of the digits, but cost a fraction of what `solve_wide` takes.

    Parameters
    ----------
    codes : ndarray of int, shape (n_sets, length)
        The rows' classes, -1 for rows that are zero.
    Z : ndarray of shape (n_sets, length, d)
        Rows less their class's mean.
    right : ndarray of shape (n_sets, d, n_targets)
    least : ndarray of shape (n_sets,)
        Directions of smaller singular values are left out.

    Returns
    -------
    solution : ndarray of shape (n_sets, d, n_targets)
    unsure : ndarray of bool, shape (n_sets,)
        Where a direction might have to be left out, or rounding errors could show.
    """
    n_sets, n, _ = Z.shape
    gram = np.empty((n_sets, n, n))
    np.matmul(Z, np.swapaxes(Z, 1, 2), out=gram)
    belongs = codes >= 0
    alike = (codes[:, :, np.newaxis] == codes[:, np.newaxis]) & belongs[:, :, np.newaxis]
    n_alike = alike.sum(axis=2)
    length = np.diagonal(gram, axis1=1, axis2=2).sum(axis=1)
    # The rows of a class add up to zero. What is added in that direction changes nothing else.
    typical = length / np.maximum(belongs.sum(axis=1), 1)
    gram += alike * (typical[:, np.newaxis] / np.maximum(n_alike, 1))[:, :, np.newaxis]
    gram[:, np.arange(n), np.arange(n)] += ~belongs
    n_targets = right.shape[2]
    both = np.empty((n_sets, n_targets + N_PROBES, n))
    both[:, :n_targets] = np.swapaxes(Z @ right, 1, 2)
    both[:, n_targets:] = probes(n) * belongs[:, np.newaxis]
    failed = solve_definite(gram, both)
    trace = (both[:, n_targets:] * probes(n)).reshape(n_sets, -1).sum(axis=1) / N_PROBES
    unsure = failed | ~((length * trace < MAX_ERROR / _EPS) & (trace * least**2 < SURELY))
    twice = np.ascontiguousarray(both[:, :n_targets])
    substitute(gram, twice)
    return np.swapaxes(twice @ Z, 1, 2), unsure


def _contrasts(codes: NDArray[np.intp], X: Floats) -> Floats:
    """Return contrasts inside the classes, (n_sets, length, d), those that are zero last.

    A class's contrasts, each row against the mean of those before, times a factor, have the
    scatter of its rows about their mean, but there is one less of them: where there are few rows
    they are independent. Parameters are those of `centred`.
    """
    before = np.tril(codes[:, :, np.newaxis] == codes[:, np.newaxis], -1)
    n_before = before.sum(axis=2) * (codes >= 0)
    found = X - (before / np.maximum(n_before, 1)[:, :, np.newaxis]) @ X
    found *= np.sqrt(n_before / (n_before + 1))[:, :, np.newaxis]
    order = np.argsort(n_before == 0, axis=1, kind="stable")
    return np.take_along_axis(found, order[:, :, np.newaxis], axis=1)


def solve_wide(codes: Rows, Z: Floats, right: Floats, least: Floats) -> tuple[Floats, Flags]:
    """Return the same as `solve_few`, from contrasts."""
    Z = _contrasts(codes, Z)
    Q, R = np.linalg.qr(np.swapaxes(Z, 1, 2))
    n = Q.shape[2]
    is_row = (Z[:, :n] != 0).any(axis=2)
    R = np.where(is_row[:, np.newaxis] & is_row[:, :, np.newaxis], R[:, :, :n], np.eye(n))
    inverse = _invert_triangles(R)
    along = np.swapaxes(inverse, 1, 2) @ (inverse @ (np.swapaxes(Q, 1, 2) @ right))
    along *= is_row[:, :, np.newaxis]
    return Q @ along, _is_close_to_singular(Z, inverse, least)


def solve_tall(codes: Rows, Z: Floats, right: Floats, least: Floats) -> tuple[Floats, Flags]:
    """Return the same as `solve_few`, for at least as many rows as columns."""
    inverse = _invert_triangles(np.asarray(np.linalg.qr(Z, mode="r")))
    solution = inverse @ (np.swapaxes(inverse, 1, 2) @ right)
    return solution, _is_close_to_singular(Z, inverse, least)


def solve_any(codes: Rows, Z: Floats, right: Floats, least: Floats) -> tuple[Floats, Flags]:
    """Return the same as `solve_few`, for any rows, at many times its cost."""
    _, lengths, directions = np.linalg.svd(Z, full_matrices=False)
    least = least[:, np.newaxis]
    weights = np.where(lengths > least, 1 / np.maximum(lengths, least) ** 2, 0.0)
    along = weights[:, :, np.newaxis] * (directions @ right)
    unsure = (np.abs(lengths - least) < 1e-6 * least).any(axis=1) | (lengths[:, 0] < least[:, 0])
    return np.swapaxes(directions, 1, 2) @ along, unsure


def _is_close_to_singular(Z: Floats, inverse: Floats, least: Floats) -> Flags:
    shortest = 1 / np.sqrt(np.einsum("ijk,ijk->i", inverse, inverse))
    longest = np.sqrt(np.einsum("ijk,ijk->i", Z, Z))
    return np.asarray(~((shortest > 1.01 * least) & (longest * _EPS < MAX_ERROR * shortest)))


def _invert_triangles(triangles: Floats) -> Floats:
    """Return the inverses of upper triangles, infinite for the singular ones."""
    inverses = np.full_like(triangles, np.inf)
    for inverse, triangle in zip(inverses, triangles, strict=True):
        found, info = lapack.dtrtri(triangle)
        if info == 0:
            inverse[:] = found
    return np.triu(inverses)


def by_length(
    rows: NDArray[np.bool_], which: NDArray[np.intp], d: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield some of the sets ``which`` of about the same size, and their rows, then others."""
    lengths = -(-rows[which].sum(axis=1) // _LENGTH_STEP) * _LENGTH_STEP
    for length in np.unique(lengths).tolist():
        alike = which[lengths == length]
        n_stacked = max(1, min(_STACKED, _STACK_NUMBERS // (length * max(length, d))))
        for first in range(0, len(alike), n_stacked):
            some = alike[first : first + n_stacked]
            order = np.argsort(~rows[some], axis=1, kind="stable")
            yield some, order[:, :length]
