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
from skdvl.utilities.incremental.normal_equations import sum_rows

__all__ = [
    "MAX_ERROR",
    "SURELY",
    "by_length",
    "may_drop_directions",
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


def solve_few(owners: Floats, Z: Floats, right: Floats, least: Floats) -> tuple[Floats, Flags]:
    """Return (Z'Z)⁺ times right sides, for fewer rows than columns, from products of rows.

    They lose half of the digits, but cost a fraction of what `solve_wide` takes.

    Parameters
    ----------
    owners : ndarray of shape (n_sets, n_classes, length)
        1 where a row belongs to a class, else 0.
    Z : ndarray of shape (n_sets, length, d)
        Rows less their class's mean, zero for those that belong to none.
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
    n_alike = owners.sum(axis=2)
    belongs = np.asarray(owners.any(axis=1))
    length = np.diagonal(gram, axis1=1, axis2=2).sum(axis=1)
    # The rows of a class add up to zero. What is added in that direction changes nothing else.
    typical = length / np.maximum(n_alike.sum(axis=1), 1)
    share = typical[:, np.newaxis] / np.maximum(n_alike, 1)
    gram += np.swapaxes(owners, 1, 2) @ (share[:, :, np.newaxis] * owners)
    gram[:, np.arange(n), np.arange(n)] += np.where(belongs, 0.0, 1.0)
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


def _contrasts(owners: Floats, Z: Floats) -> Floats:
    """Return contrasts inside the classes, (n_sets, length, d), those that are zero last.

    A class's contrasts, each row against the mean of those before, times a factor, have the
    scatter of its rows about their mean, but there is one less of them: where there are few rows
    they are independent.
    """
    before = np.tril(np.swapaxes(owners, 1, 2) @ owners, -1)
    n_before = before.sum(axis=2)
    found = Z - (before / np.maximum(n_before, 1)[:, :, np.newaxis]) @ Z
    found *= np.sqrt(n_before / (n_before + 1))[:, :, np.newaxis]
    order = np.argsort(n_before == 0, axis=1, kind="stable")
    return np.take_along_axis(found, order[:, :, np.newaxis], axis=1)


def solve_wide(owners: Floats, Z: Floats, right: Floats, least: Floats) -> tuple[Floats, Flags]:
    """Return the same as `solve_few`, from contrasts."""
    Z = _contrasts(owners, Z)
    Q, R = np.linalg.qr(np.swapaxes(Z, 1, 2))
    n = Q.shape[2]
    is_row = (Z[:, :n] != 0).any(axis=2)
    R = np.where(is_row[:, np.newaxis] & is_row[:, :, np.newaxis], R[:, :, :n], np.eye(n))
    inverse = _invert_triangles(R)
    along = np.swapaxes(inverse, 1, 2) @ (inverse @ (np.swapaxes(Q, 1, 2) @ right))
    along *= is_row[:, :, np.newaxis]
    return Q @ along, _is_close_to_singular(Z, inverse, least)


def solve_tall(owners: Floats, Z: Floats, right: Floats, least: Floats) -> tuple[Floats, Flags]:
    """Return the same as `solve_few`, for at least as many rows as columns."""
    inverse = _invert_triangles(np.asarray(np.linalg.qr(Z, mode="r")))
    solution = inverse @ (np.swapaxes(inverse, 1, 2) @ right)
    return solution, _is_close_to_singular(Z, inverse, least)


def solve_any(owners: Floats, Z: Floats, right: Floats, least: Floats) -> tuple[Floats, Flags]:
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


def by_length(rows: NDArray[np.bool_], which: Rows, d: int) -> Iterator[tuple[Rows, Rows]]:
    """Yield some of the sets ``which`` of about the same size, and their rows, then others.

    Rows (n_sets, length) are in order, then there is the number of all rows instead.
    """
    n_alike = -(-rows[which].sum(axis=1) // _LENGTH_STEP) * _LENGTH_STEP
    for length in np.unique(n_alike).tolist():
        alike = which[n_alike == length]
        n_stacked = max(1, min(_STACKED, _STACK_NUMBERS // (length * max(length, d))))
        for first in range(0, len(alike), n_stacked):
            some = alike[first : first + n_stacked]
            chosen, row = np.nonzero(rows[some])
            place = np.arange(len(row)) - np.searchsorted(chosen, np.arange(len(some)))[chosen]
            members = np.full((len(some), length), rows.shape[1])
            members[chosen, place] = row
            yield some, members


def may_drop_directions(
    n_rows: Floats, priors: Floats, apart: Floats, solution: Floats, tol: float
) -> Flags:
    """Tell where the classes' means might be so close to a plane that "svd" takes them there.

    The means' deviations from their centre span one direction less than there are classes, if the
    rows, less their classes' means, span as many; scikit-learn drops those whose weighted length
    is below tol of the longest.

    Parameters
    ----------
    n_rows : ndarray of shape (n_sets,)
    priors : ndarray of shape (n_classes, n_sets)
    apart : ndarray of shape (n_classes, d, n_sets)
        The means, less their centre.
    solution : ndarray of shape (d, n_classes, n_sets)
        The pooled covariance's inverse, times them.
    tol : float

    Returns
    -------
    ndarray of bool, shape (n_sets,)
    """
    n_classes, n_sets = priors.shape
    between = np.empty((n_sets, n_classes, n_classes))
    roots = np.sqrt(priors)
    for k in range(n_classes):
        for j in range(n_classes):
            between[:, k, j] = roots[k] * roots[j] * sum_rows(apart[k] * solution[:, j])
    lengths = np.linalg.eigvalsh((between + np.swapaxes(between, 1, 2)) / 2)
    n_seen = (priors > 0).sum(axis=0)
    n_directions = np.clip(np.minimum(n_seen - 1, n_rows - n_seen), 1, len(solution))
    first = (n_classes - n_directions).astype(np.intp)
    shortest = np.take_along_axis(lengths, first[:, np.newaxis], axis=1)
    return np.asarray(shortest[:, 0] <= 1.01 * tol**2 * lengths[:, -1])
