"""Minimise many small convex objectives side by side, one per set of training rows.

A `Tracks` object says which sets: each track is a sequence of growing sets. A `Slots` object
solves them. Each slot holds one set; every round takes one step in all slots at once, so that
numpy's overhead is shared. A slot that is done goes on to the next set of its track, from the
optimum of the last one, or to a new track: no slot waits for another. What happens in a slot
depends on its own numbers alone, so an optimum has the same bits in whatever company it is found.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

__all__ = [
    "OVERSHOT",
    "ROUNDING",
    "Floats",
    "Slots",
    "Tracks",
    "gram_inverses",
    "inverses",
    "matmul_by_row",
    "shorter",
]

Floats = NDArray[np.float64]

OVERSHOT = 0.5  # a step went too far where the objective rises again half as steeply as it fell
ROUNDING = 1e-26  # a decrement that is lost in rounding
_FAR = 0.1
_REACH = 16.0
_ROWS = 16  # as many rows as the kernels of BLAS take at once, or a multiple


def matmul_by_row(left: Floats, right: Floats) -> Floats:
    """Return ``left @ right``, each row's bits whatever the other rows and their number.

    It multiplies in smaller blocks than `base.blocked_matmul`: few slots may need a factorisation.
    """
    n_rows, k = left.shape
    n_blocks = -(-n_rows // _ROWS)
    if n_rows % _ROWS:
        padded = np.zeros((n_blocks * _ROWS, k), dtype=left.dtype)
        padded[:n_rows] = left
        left = padded
    product = np.matmul(left.reshape(n_blocks, _ROWS, k), right)
    return product.reshape(n_blocks * _ROWS, right.shape[1])[:n_rows]


def gram_inverses(Z: Floats, curvatures: Floats, penalties: Floats) -> Floats:
    """Invert Z'·diag(curvature)·Z + diag(penalty) for each curvature; NaN if not positive.

    Parameters
    ----------
    Z : ndarray of shape (n_rows, q)
    curvatures : ndarray of shape (k, n_rows)
        0 for rows that do not count.
    penalties : ndarray of shape (k, q)
    """
    # One matrix after the other: a product of all curvatures with a table of the products of
    # columns saves a fifth at most, and the table has n·q²/2 entries.
    k, q = penalties.shape
    grams = np.empty((k, q, q))
    for gram, curvature, penalty in zip(grams, curvatures, penalties, strict=True):
        rows = curvature.nonzero()[0]
        members = Z.take(rows, axis=0)
        np.dot(members.T * curvature.take(rows), members, out=gram)
        gram.reshape(-1)[:: q + 1] += penalty
    return inverses(grams)


def inverses(matrices: Floats) -> Floats:
    """Invert symmetric matrices, shape (k, q, q), overwriting them; NaN if not positive.

    `numpy.linalg.inv` does not know of symmetry and takes twice as long.
    """
    k, q, _ = matrices.shape
    for matrix in matrices:
        # the row-major matrix is, in LAPACK's column-major terms, its transpose, hence itself
        factor, failed = lapack.dpotrf(matrix.T, lower=0, overwrite_a=1)
        if failed:
            matrix[:] = np.nan
        else:
            lapack.dpotri(factor, lower=0, overwrite_c=1)
    return matrices.reshape(k, q * q).take(_lower_triangle(q), axis=1)


@lru_cache(maxsize=8)
def _lower_triangle(q: int) -> NDArray[np.intp]:
    """Return where, in the lower triangle, each entry of a symmetric matrix is found."""
    row, column = np.indices((q, q))
    return np.asarray(np.maximum(row, column) * q + np.minimum(row, column))


def shorter(length: Floats, fall: Floats, rise: Floats) -> Floats:
    """Return the length at which the objective's slope is 0, were it a straight line.

    Parameters
    ----------
    length : ndarray of shape (k,)
        Of steps that went too far.
    fall, rise : ndarray of shape (k,)
        How steeply the objective fell where they began, and rises where they ended.
    """
    return length * np.maximum(fall / (fall + np.maximum(rise, 0)), 0.2)


class Tracks:
    """Sequences of growing sets of rows, with the weights of the rows.

    Parameters
    ----------
    positions : ndarray of int, shape (n_tracks, n_rows)
        When a row comes in: it is in the sets of sizes greater than its position.
    sizes : ndarray of int, shape (n_tracks, n_steps)
        Ascending.
    codes : ndarray of int, shape (n_rows,)
        Classes of the rows.
    n_classes : int
    class_weight : ndarray of shape (n_classes,) or "balanced"

    Attributes
    ----------
    first : ndarray of int, shape (n_tracks,)
        First step at which a set has rows of two classes.
    arrival : ndarray of int, shape (n_tracks, n_steps)
        The row by which a set differs from the one before; -1 if there is more to it.
    """

    def __init__(
        self,
        positions: NDArray[np.intp],
        sizes: NDArray[np.intp],
        codes: NDArray[np.intp],
        n_classes: int,
        class_weight: Any,
    ) -> None:
        self.positions = positions
        self.sizes = sizes
        self.class_weight = class_weight
        self.codes = codes
        self.n_classes = n_classes
        self.is_of_class = np.eye(n_classes)[codes]
        n_rows = positions.shape[1]
        starts = [
            np.min(positions[:, codes == c], axis=1, initial=n_rows) for c in range(n_classes)
        ]
        second = np.sort(starts, axis=0)[1]
        self.first = (sizes <= second[:, np.newaxis]).sum(axis=1)
        self.arrival = np.full(sizes.shape, -1)
        if isinstance(class_weight, str):
            return  # all weights change with each row
        self.row_weights = class_weight[codes]
        tracks, steps = np.nonzero(np.diff(sizes, axis=1, prepend=-1) == 1)
        orders = np.argsort(positions, axis=1)
        self.arrival[tracks, steps] = orders[tracks, sizes[tracks, steps] - 1]

    @classmethod
    def of_sets(
        cls, rows: NDArray[np.bool_], codes: NDArray[np.intp], n_classes: int, class_weight: Any
    ) -> Tracks:
        """Return tracks of a single set each."""
        positions, sizes = (~rows).astype(np.intp), np.ones((len(rows), 1), dtype=np.intp)
        return cls(positions, sizes, codes, n_classes, class_weight)

    def members(self, tracks: NDArray[np.intp], steps: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return which rows the sets have, shape (n_sets, n_rows)."""
        return self.positions[tracks] < self.sizes[tracks, steps][:, np.newaxis]

    def weights(self, tracks: NDArray[np.intp], steps: NDArray[np.intp]) -> Floats:
        """Return the rows' weights in the sets, 0 for the others, shape (n_sets, n_rows)."""
        members = self.members(tracks, steps)
        if isinstance(self.class_weight, str):
            counts = members @ self.is_of_class
            n_present = (counts > 0).sum(axis=1)
            total = counts.sum(axis=1)
            with np.errstate(divide="ignore"):
                weight = (total / n_present)[:, np.newaxis] / counts
            return np.where(members, weight[:, self.codes], 0.0)
        return members * self.row_weights


class Slots(ABC):
    """Solves the sets of tracks, in many slots at once; subclasses say how.

    Arrays are flat but for their first axis, the slots.

    Parameters
    ----------
    tracks : Tracks
    starts : ndarray of shape (n_tracks, n_coefs)
        Where the tracks' first sets are started from.
    n_outputs : int
        Linear predictors per row: 1, or one per class.
    n_slots : int

    Attributes
    ----------
    found : ndarray of shape (n_tracks, n_steps, n_coefs)
        The optima; NaN before a track's `first` step, and where no optimum was found.
    weights : ndarray of shape (n_slots, n_rows)
    coefs : ndarray of shape (n_slots, n_coefs)
    predictor : ndarray of shape (n_slots, n_outputs * n_rows)
        Linear predictors of all rows.
    """

    per_slot: tuple[str, ...] = ("track", "at_step", "age", "weights", "coefs", "predictor")
    max_age = 300

    def __init__(self, tracks: Tracks, starts: Floats, n_outputs: int, n_slots: int) -> None:
        n_tracks, n_rows = tracks.positions.shape
        n_steps = tracks.sizes.shape[1]
        self.tracks = tracks
        self.starts = starts
        self.found = np.full((n_tracks, n_steps, starts.shape[1]), np.nan)
        self._waiting = np.flatnonzero(tracks.first < n_steps)
        n_slots = min(n_slots, len(self._waiting))
        self.track = np.zeros(n_slots, dtype=np.intp)
        self.at_step = np.zeros(n_slots, dtype=np.intp)
        self.age = np.zeros(n_slots, dtype=np.intp)
        self.weights = np.zeros((n_slots, n_rows))
        self.coefs = np.zeros((n_slots, starts.shape[1]))
        self.predictor = np.zeros((n_slots, n_outputs * n_rows))

    def solve(self) -> Floats:
        """Solve all sets and return the optima, see `found`."""
        if len(self.track):
            self._load(np.arange(len(self.track)))
        while len(self.track):
            done = self._advance()
            self.age += 1
            self._settle(done, (self.age >= self.max_age) & ~done)
        return self.found

    @abstractmethod
    def _advance(self) -> NDArray[np.bool_]:
        """Work on all slots; return which are then at their optimum."""

    @abstractmethod
    def _predict_linearly(self, coefs: Floats) -> Floats:
        """Return the linear predictor of all rows, shape (n_slots, n_outputs * n_rows)."""

    def _shorten(self, decrement: Floats, move: Floats, length: Floats) -> NDArray[np.bool_]:
        """Shorten, in place, steps that change a row's log-odds by too much; tell which.

        Where all rows are predicted with certainty, the curvature is that of the penalty alone,
        and a step of Newton's leaps far beyond where it holds.
        """
        shortened = np.zeros(len(length), dtype=bool)
        far = (decrement > _FAR).nonzero()[0]  # others are near the optimum
        if len(far):
            by_output = np.abs(move[far]).reshape(len(far), -1, self.weights.shape[1])
            reach = (by_output.max(axis=1) * (self.weights[far] > 0)).max(axis=1) * length[far]
            length[far] *= np.where(reach > _REACH, _REACH / np.maximum(reach, _REACH), 1)
            shortened[far] = reach > _REACH
        return shortened

    def _begin(self, slots: NDArray[np.intp], rows: NDArray[np.intp]) -> None:
        """Turn to the set of `at_step`, from the coefficients as they are.

        Parameters
        ----------
        slots : ndarray of int, shape (k,)
        rows : ndarray of int, shape (k,)
            The only rows that are new in the slots; -1 where all may be.
        """
        tracks, steps = self.track[slots], self.at_step[slots]
        is_new = rows < 0
        if is_new.any():
            self.weights[slots[is_new]] = self.tracks.weights(tracks[is_new], steps[is_new])
        if not is_new.all():
            grown, rows = slots[~is_new], rows[~is_new]
            self.weights[grown, rows] = self.tracks.row_weights[rows]
        self.age[slots] = 0

    def _restart(self, slots: NDArray[np.intp]) -> None:
        """Forget the coefficients."""
        self.coefs[slots] = self.starts[self.track[slots]]
        self.predictor[slots] = self._predict_linearly(self.coefs[slots])

    def _load(self, slots: NDArray[np.intp]) -> None:
        """Turn to tracks that wait."""
        self.track[slots], self._waiting = np.split(self._waiting, [len(slots)])
        self.at_step[slots] = self.tracks.first[self.track[slots]]
        self._restart(slots)
        self._begin(slots, np.full(len(slots), -1))

    def _settle(self, done: NDArray[np.bool_], lost: NDArray[np.bool_]) -> None:
        """Note the optima that were found, and turn to the next sets."""
        over = (done | lost).nonzero()[0]
        if len(over) == 0:
            return
        self.found[self.track[over], self.at_step[over]] = self.coefs[over]
        if lost.any():
            self.found[self.track[lost], self.at_step[lost]] = np.nan
            self._restart(lost.nonzero()[0])
        self.at_step[over] += 1
        at_end = self.at_step[over] == self.found.shape[1]
        free, busy = over[at_end], over[~at_end]
        n_loaded = min(len(free), len(self._waiting))
        if n_loaded:
            self._load(free[:n_loaded])
        if len(busy):
            arrivals = self.tracks.arrival[self.track[busy], self.at_step[busy]]
            self._begin(busy, np.where(lost[busy], -1, arrivals))
        if n_loaded < len(free):
            for name in self.per_slot:
                setattr(self, name, np.delete(getattr(self, name), free[n_loaded:], axis=0))
