"""Multinomial logistic regressions with many coefficients, by conjugate gradients.

The Hessian has as many rows as there are coefficients in all classes. Were the predicted
probabilities of all rows alike but for a factor, it would be a Kronecker product; the inverse of
its common part, of one class's size, serves as the preconditioner. Each step along a conjugate
direction has the length at which the exact quadratic model has its least value.

(Newton's method with inner conjugate gradients, even in single precision, was no faster: each
system starts from nothing. A memory of earlier steps, or a preconditioner per class, saved fewer
steps than they cost.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skdvl.utilities.incremental.optima import (
    OVERSHOT,
    ROUNDING,
    Floats,
    Tracks,
    gram_inverses,
    shorter,
)
from skdvl.utilities.incremental.penalties import Penalty
from skdvl.utilities.incremental.softmax import SoftmaxSlots

__all__ = ["ConjugateSoftmaxSlots"]

_TOLERANCE = 1e-8
_DRIFT = 0.1  # decrease of the objective after which the preconditioner is computed anew


class ConjugateSoftmaxSlots(SoftmaxSlots):
    """Solves multinomial logistic regressions."""

    per_slot = (
        *SoftmaxSlots.per_slot,
        *("P", "drift", "gradient", "norm", "length", "slope", "direction", "move", "was_small"),
    )

    def __init__(
        self, tracks: Tracks, starts: Floats, Z: Floats, penalty: Penalty, n_slots: int
    ) -> None:
        super().__init__(tracks, starts, Z, penalty, n_slots)
        n_slots, q = len(self.track), Z.shape[1]
        self.P = np.zeros((n_slots, q, q))
        self.drift = np.full(n_slots, np.inf)  # how far the objective fell since P was computed
        self.gradient = np.zeros_like(self.coefs)
        self.norm = np.full(n_slots, np.inf)  # of that gradient, in the metric of P
        # of the last step: how far along which direction, and how steep the objective fell there
        self.length, self.slope = np.zeros(n_slots), np.full(n_slots, np.inf)
        self.direction, self.move = np.zeros_like(self.coefs), np.zeros_like(self.predictor)
        self.was_small = np.zeros(n_slots, dtype=bool)

    def _begin(self, slots: NDArray[np.intp], rows: NDArray[np.intp]) -> None:
        before = self.present[slots]
        super()._begin(slots, rows)
        self.drift[slots[(self.present[slots] != before).any(axis=1)]] = np.inf
        self.norm[slots] = self.slope[slots] = np.inf
        self.was_small[slots] = False

    def _restart(self, slots: NDArray[np.intp]) -> None:
        super()._restart(slots)
        self.drift[slots] = np.inf

    def _advance(self) -> NDArray[np.bool_]:
        gradient = self._gradient()
        rise = -np.einsum("ij,ij->i", self.direction, gradient)
        overshot = rise > OVERSHOT * self.slope
        stale = ((self.drift > _DRIFT) & ~overshot).nonzero()[0]
        if len(stale):
            self._precondition(stale)
        direction = self._conjugate(gradient)
        slope = np.einsum("ij,ij->i", direction, gradient)
        move = self._predict_linearly(direction)
        curvature = self._curvature(direction, move)
        length = np.divide(slope, curvature, out=np.zeros_like(slope), where=curvature > 0)
        limited = self._shorten(slope * length, move, length)
        step = length
        if overshot.any():
            direction[overshot], move[overshot] = self.direction[overshot], self.move[overshot]
            slope[overshot] = self.slope[overshot]
            length[overshot] = shorter(self.length[overshot], slope[overshot], rise[overshot])
            step = length.copy()
            step[overshot] -= self.length[overshot]
            self.norm[overshot] = np.inf
        self.coefs -= step[:, np.newaxis] * direction
        self.predictor -= step[:, np.newaxis] * move
        self.direction, self.move, self.slope, self.length = direction, move, slope, length
        return self._is_done(slope * length, ~(overshot | limited))

    def _precondition(self, slots: NDArray[np.intp]) -> None:
        squares = np.einsum("ijk,ijk->ik", self.weighted[slots], self.weighted[slots])
        spread = self.weights[slots] - squares * self.inverse_weights[slots]
        spread /= self.present[slots].sum(axis=1, keepdims=True) - 1
        penalties = self.penalties[slots, : self.Z.shape[1]]
        self.P[slots] = gram_inverses(self.Z, np.maximum(spread, 0), penalties)
        self.drift[slots] = 0
        self.norm[slots] = np.inf

    def _conjugate(self, gradient: Floats) -> Floats:
        """Return the directions of Polak and Ribière."""
        direction = np.matmul(gradient.reshape(self.by_class), self.P).reshape(gradient.shape)
        norm = np.einsum("ij,ij->i", direction, gradient)
        turn = norm - np.einsum("ij,ij->i", direction, self.gradient)
        share = np.divide(turn, self.norm, out=np.zeros_like(norm), where=self.norm > 0)
        direction += np.maximum(share, 0)[:, np.newaxis] * self.direction
        self.gradient, self.norm = gradient, norm
        return direction

    def _curvature(self, direction: Floats, move: Floats) -> Floats:
        by_class = move.reshape(self.by_class)
        weighted = self.weighted * by_class
        total = weighted.sum(axis=1)
        curvature = np.einsum("ij,ij->i", weighted.reshape(move.shape), move)
        curvature -= np.einsum("ij,ij->i", total * self.inverse_weights, total)
        return curvature + np.einsum("ij,ij->i", direction * self.penalties, direction)

    def _is_done(self, decrement: Floats, free: NDArray[np.bool_]) -> NDArray[np.bool_]:
        self.drift += decrement
        small = free & (decrement <= _TOLERANCE**2 * self._size() + ROUNDING)
        done = small & self.was_small
        self.was_small = small
        return done
