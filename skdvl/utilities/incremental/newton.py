"""Newton's method that keeps the inverse of a Hessian while it serves; binary regressions by it.

Each set begins with the inverse Hessian P at its starting point, or the last set's P that was
told of the one row that came in. A further step along P·gradient costs a tenth of a new inverse,
and contracts by the share by which the Hessian has changed since. What a step shows of that goes
into P; where it is slow nevertheless, P is computed anew. The decrement g'Pg bounds the error:
the penalty's part of it is the squared change of the coefficients.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from skdvl.utilities.incremental.optima import (
    OVERSHOT,
    ROUNDING,
    Floats,
    Slots,
    Tracks,
    gram_inverses,
    matmul_by_row,
    shorter,
)
from skdvl.utilities.incremental.penalties import Penalty

__all__ = ["BinarySlots", "NewtonSlots", "approach"]

_TOLERANCE = 1e-8
_BOUND = 1e-7  # of the last step, where the next one would be below the tolerance
_SLOW = 0.3  # the contraction from which on a new inverse is worth its cost
_SHARED_STEPS = 8  # more of them save less than they cost
_SHORT = 1.0  # how far a row's log-odds may move in one of them


class NewtonSlots(Slots):
    """Solves by Newton's method; subclasses know gradient, Hessian and penalty.

    Attributes
    ----------
    P : ndarray of shape (n_slots, n_coefs, n_coefs)
        Inverse Hessians.
    stale : ndarray of bool, shape (n_slots,)
        Whose P is to be computed anew.
    """

    per_slot = (
        *Slots.per_slot,
        *("P", "stale", "length", "slope", "direction", "move", "decrement"),
    )

    def __init__(self, tracks: Tracks, starts: Floats, n_outputs: int, n_slots: int) -> None:
        super().__init__(tracks, starts, n_outputs, n_slots)
        n_slots, n_coefs = self.coefs.shape
        self.P = np.zeros((n_slots, n_coefs, n_coefs))
        self.stale = np.zeros(n_slots, dtype=bool)
        # of the last step: how far along which direction, and how steep the objective fell there
        self.length, self.slope = np.zeros(n_slots), np.full(n_slots, np.inf)
        self.direction, self.move = np.zeros_like(self.coefs), np.zeros_like(self.predictor)
        self.decrement = np.full(n_slots, np.inf)

    @abstractmethod
    def _gradient(self) -> Floats:
        """Return the gradients, shape (n_slots, n_coefs)."""

    @abstractmethod
    def _invert_hessians(self, slots: NDArray[np.intp]) -> Floats:
        """Return the inverse Hessians of some slots where the last gradient was taken."""

    @abstractmethod
    def _size(self) -> Floats:
        """Return twice the penalties of the coefficients, shape (n_slots,)."""

    def _begin(self, slots: NDArray[np.intp], rows: NDArray[np.intp]) -> None:
        super()._begin(slots, rows)
        self.slope[slots] = self.decrement[slots] = np.inf
        self.stale[slots] = True

    def _advance(self) -> NDArray[np.bool_]:
        gradient = self._gradient()
        rise = -np.einsum("ij,ij->i", self.direction, gradient)
        overshot = rise > OVERSHOT * self.slope
        stale = (self.stale & ~overshot).nonzero()[0]
        if len(stale):
            self.P[stale] = self._invert_hessians(stale)
        learns = (~(self.stale | overshot) & np.isfinite(self.slope)).nonzero()[0]
        if len(learns):
            self._learn(learns, gradient, rise)
        direction = np.matmul(self.P, gradient[:, :, np.newaxis])[:, :, 0]
        slope = np.einsum("ij,ij->i", direction, gradient)
        move = self._predict_linearly(direction)
        length = np.ones(len(slope))
        full_step = ~(self._shorten(slope, move, length) | overshot)
        step = length
        if overshot.any():
            direction[overshot], move[overshot] = self.direction[overshot], self.move[overshot]
            slope[overshot] = self.slope[overshot]
            length[overshot] = shorter(self.length[overshot], slope[overshot], rise[overshot])
            step = length.copy()
            step[overshot] -= self.length[overshot]
        self.coefs -= step[:, np.newaxis] * direction
        self.predictor -= step[:, np.newaxis] * move
        self.direction, self.move, self.slope, self.length = direction, move, slope, length
        contraction = slope / self.decrement  # 0 where no full step came before
        self.stale = ~full_step | ~(contraction <= _SLOW**2)
        self.decrement = np.where(full_step, slope, np.inf)
        return full_step & self._is_close(slope, contraction)

    def _is_close(self, decrement: Floats, contraction: Floats) -> NDArray[np.bool_]:
        """Tell where the error that is left after a step is below the tolerance.

        A first step has to be that short itself. Where the contraction is known, it tells the
        next step's decrement, and the step just taken keeps to the looser bound.
        """
        size = self._size()
        is_first = contraction == 0
        bound = np.where(is_first, _TOLERANCE, _BOUND) ** 2 * size
        expected = decrement * np.where(is_first, 1, np.minimum(4 * contraction, 1))
        close = (decrement <= bound) & (expected <= _TOLERANCE**2 * size)
        return close | (decrement <= ROUNDING)

    def _learn(self, slots: NDArray[np.intp], gradient: Floats, rise: Floats) -> None:
        """Update inverse Hessians by the curvature that was found along the last step.

        It is the formula of Broyden, Fletcher, Goldfarb and Shanno, P + d·b' + b·d' for the last
        direction d = P·(last gradient). The curvature along d is d'(last gradient - gradient).
        """
        last, slope, rise = self.direction[slots], self.slope[slots], rise[slots]
        curvature = rise + slope
        good = curvature > 0.1 * slope  # else rounding errors speak
        slots, last, rise = slots[good], last[good], rise[good]
        slope, curvature, gradient = slope[good], curvature[good], gradient[slots]
        P = self.P[slots]
        along = np.matmul(P, gradient[:, :, np.newaxis])[:, :, 0]
        change = np.einsum("ij,ij->i", along, gradient) + 2 * rise + slope
        b = along - last + (0.5 + 0.5 * change / curvature)[:, np.newaxis] * last
        b /= curvature[:, np.newaxis]
        P += np.matmul(np.stack([last, b], axis=2), np.stack([b, last], axis=1))
        self.P[slots] = P


class BinarySlots(NewtonSlots):
    """Solves binary logistic regressions.

    The objective, for row weights w and classes t in {0, 1}, is

        sum_i w_i·log(1 + exp((1 - 2·t_i)·z_i·θ)) + 1/2·sum_j penalty_j·θ_j².

    Parameters
    ----------
    tracks : Tracks
    starts : ndarray of shape (n_tracks, q)
    Z : ndarray of shape (n_rows, q)
        The rows, with a column of ones for the intercept.
    penalty : Penalty
    n_slots : int
    """

    per_slot = (*NewtonSlots.per_slot, "proba", "penalties")

    def __init__(
        self, tracks: Tracks, starts: Floats, Z: Floats, penalty: Penalty, n_slots: int
    ) -> None:
        super().__init__(tracks, starts, 1, n_slots)
        self.Z, self.Z_t = Z, np.ascontiguousarray(Z.T)
        self.penalty = penalty
        self.targets = tracks.codes.astype(np.float64)
        self.proba = np.zeros_like(self.weights)
        self.penalties = np.zeros_like(self.coefs)

    def _predict_linearly(self, coefs: Floats) -> Floats:
        return matmul_by_row(coefs, self.Z_t)

    def _begin(self, slots: NDArray[np.intp], rows: NDArray[np.intp]) -> None:
        super()._begin(slots, rows)
        self.penalties[slots] = self.penalty.of_sets(self.weights[slots])
        by_one = rows >= 0
        if by_one.any():
            self._add_rows(slots[by_one], rows[by_one])

    def _add_rows(self, slots: NDArray[np.intp], rows: NDArray[np.intp]) -> None:
        """Let each slot's inverse Hessian know of one more row, by Sherman and Morrison."""
        z = self.Z[rows]
        proba = expit(self.predictor[slots, rows])
        curvature = self.weights[slots, rows] * proba * (1 - proba)
        P = self.P[slots]
        Pz = np.matmul(P, z[:, :, np.newaxis])[:, :, 0]
        Pz *= np.sqrt(curvature / (1 + curvature * np.einsum("ij,ij->i", z, Pz)))[:, np.newaxis]
        P -= Pz[:, :, np.newaxis] * Pz[:, np.newaxis, :]
        self.P[slots] = P
        self.stale[slots] = False

    def _gradient(self) -> Floats:
        np.negative(self.predictor, out=self.proba)
        with np.errstate(over="ignore"):
            np.exp(self.proba, out=self.proba)
        self.proba += 1
        np.reciprocal(self.proba, out=self.proba)
        residual = self.proba - self.targets
        residual *= self.weights
        gradient = matmul_by_row(residual, self.Z)
        gradient += self.penalties * self.coefs
        return gradient

    def _invert_hessians(self, slots: NDArray[np.intp]) -> Floats:
        proba = self.proba[slots]
        curvature = self.weights[slots] * proba * (1 - proba)
        return gram_inverses(self.Z, curvature, self.penalties[slots])

    def _size(self) -> Floats:
        return np.einsum("ij,ij,ij->i", self.coefs, self.coefs, self.penalties)


def approach(
    starts: Floats,
    weights: Floats,
    penalties: Floats,
    level: NDArray[np.intp],
    shared: Floats,
    Z: Floats,
    targets: Floats,
) -> Floats:
    """Return points nearer to the optima of binary regressions than the starts.

    The steps go along inverse Hessians that many sets share. None is exact for any of them, but a
    step costs little more than the gradient, and the set's own inverse is then taken where it
    serves to the end.

    Parameters
    ----------
    starts, penalties : ndarray of shape (n_sets, q)
    weights : ndarray of shape (n_sets, n_rows)
    level : ndarray of int, shape (n_sets,)
        Which of the shared inverses a set takes.
    shared : ndarray of shape (n_levels, q, q)
    Z : ndarray of shape (n_rows, q)
    targets : ndarray of shape (n_rows,)
    """
    Z_t = np.ascontiguousarray(Z.T)
    alike = [np.flatnonzero(level == j) for j in np.unique(level)]
    coefs, direction = starts.copy(), np.empty_like(starts)
    predictor = matmul_by_row(coefs, Z_t)
    for _ in range(_SHARED_STEPS):
        gradient = matmul_by_row((expit(predictor) - targets) * weights, Z)
        gradient += penalties * coefs
        for some in alike:
            direction[some] = matmul_by_row(gradient[some], shared[level[some[0]]])
        move = matmul_by_row(direction, Z_t)
        length = _SHORT / np.maximum(np.abs(move).max(axis=1), _SHORT)[:, np.newaxis]
        coefs -= length * direction
        predictor -= length * move
    return np.where(np.isfinite(coefs).all(axis=1, keepdims=True), coefs, starts)
