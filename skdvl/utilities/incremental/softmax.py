"""Multinomial logistic regression on many sets of rows, by Newton's method where that is feasible.

The objective, for row weights w, and one vector θ_c of coefficients per class, is

    sum_i w_i·(log sum_c exp(z_i·θ_c) - z_i·θ_{c(i)}) + 1/2·sum_cj penalty_j·θ_cj².

Classes without rows in a set are left out. With two classes scikit-learn fits a binary model; its
optimum is that of the softmax of the two with twice the penalty, with θ_1 = -θ_0 and θ = 2·θ_1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skdvl.utilities.incremental.newton import NewtonSlots
from skdvl.utilities.incremental.optima import Floats, Slots, Tracks, inverses, matmul_by_row
from skdvl.utilities.incremental.penalties import Penalty

__all__ = ["NewtonSoftmaxSlots", "SoftmaxSlots"]


class SoftmaxSlots(Slots):
    """What all solvers of multinomial logistic regressions share: the objective.

    Parameters
    ----------
    tracks : Tracks
    starts : ndarray of shape (n_tracks, n_classes * q)
    Z : ndarray of shape (n_rows, q)
        The rows, with a column of ones for the intercept.
    penalty : Penalty
    n_slots : int

    Attributes
    ----------
    weighted : ndarray of shape (n_slots, n_classes, n_rows)
        Predicted probabilities times the rows' weights.
    present : ndarray of bool, shape (n_slots, n_classes)
    penalties, penalised : ndarray of shape (n_slots, n_classes * q)
        The penalties of the coefficients, and these times the coefficients.
    """

    per_slot = (
        *Slots.per_slot,
        *("present", "penalties", "penalised", "attraction", "inverse_weights", "weighted"),
    )

    def __init__(
        self, tracks: Tracks, starts: Floats, Z: Floats, penalty: Penalty, n_slots: int
    ) -> None:
        super().__init__(tracks, starts, tracks.n_classes, n_slots)
        self.Z, self.Z_t = Z, np.ascontiguousarray(Z.T)
        self.penalty = penalty
        n_slots, n_classes, n_rows = len(self.track), tracks.n_classes, len(Z)
        self.present = np.zeros((n_slots, n_classes), dtype=bool)
        self.penalties, self.penalised = np.zeros_like(self.coefs), np.zeros_like(self.coefs)
        self.attraction = np.zeros_like(self.coefs)  # the part of the gradient from y
        self.inverse_weights = np.zeros((n_slots, n_rows))  # 0 for rows that are not in the set
        self.weighted = np.zeros((n_slots, n_classes, n_rows))

    @property
    def by_class(self) -> tuple[int, int, int]:
        """The shape of flat arrays with an axis for the classes."""
        return (len(self.track), self.tracks.n_classes, -1)

    def _predict_linearly(self, coefs: Floats) -> Floats:
        by_class = coefs.reshape(-1, self.Z.shape[1])
        return matmul_by_row(by_class, self.Z_t).reshape(len(coefs), -1)

    def _begin(self, slots: NDArray[np.intp], rows: NDArray[np.intp]) -> None:
        super()._begin(slots, rows)
        weights = self.weights[slots]
        is_of_class = self.tracks.is_of_class
        present = (weights > 0) @ is_of_class > 0
        self.present[slots] = present
        twice = np.where(present.sum(axis=1) == 2, 2.0, 1.0)
        penalties = self.penalty.of_sets(weights) * twice[:, np.newaxis]
        self.penalties[slots] = np.tile(penalties, self.tracks.n_classes)
        self.inverse_weights[slots] = np.divide(
            1, weights, out=np.zeros_like(weights), where=weights > 0
        )
        pulls = weights[:, np.newaxis] * is_of_class.T
        pulls = matmul_by_row(pulls.reshape(-1, len(self.Z)), self.Z)
        self.attraction[slots] = pulls.reshape(len(slots), -1)
        self._centre(slots, present)

    def _centre(self, slots: NDArray[np.intp], present: NDArray[np.bool_]) -> None:
        """Take absent classes out of the coefficients, and what all classes have in common."""
        there = present[:, :, np.newaxis]
        coefs = self.coefs[slots].reshape(len(slots), len(present[0]), -1) * there
        coefs -= coefs.sum(axis=1, keepdims=True) / there.sum(axis=1, keepdims=True) * there
        self.coefs[slots] = coefs.reshape(len(slots), -1)
        predictor = self._predict_linearly(self.coefs[slots]).reshape(*coefs.shape[:2], -1)
        predictor[~present] = -np.inf
        predictor -= predictor.max(axis=1, keepdims=True)
        self.predictor[slots] = predictor.reshape(len(slots), -1)

    def _gradient(self) -> Floats:
        total = self._exponentiate()
        self.weighted *= (self.weights / total)[:, np.newaxis]
        gradient = matmul_by_row(self.weighted.reshape(-1, len(self.Z)), self.Z)
        gradient = gradient.reshape(self.coefs.shape)
        gradient -= self.attraction
        np.multiply(self.penalties, self.coefs, out=self.penalised)
        gradient += self.penalised
        return gradient

    def _exponentiate(self) -> Floats:
        """Write the classes' exponentials into `weighted`; return their sums, (n_slots, n_rows)."""
        predictor = self.predictor.reshape(self.by_class)
        with np.errstate(over="ignore"):
            np.exp(predictor, out=self.weighted)
        total = self.weighted.sum(axis=1)
        # Probabilities stay the same when a row's predictors are shifted. That is done before the
        # exponentials leave the range of numbers, not each time: it costs as much as these.
        outside = ~((total > 1e-150) & (total < 1e150)).all(axis=1)
        if outside.any():
            predictor[outside] -= predictor[outside].max(axis=1, keepdims=True)
            self.weighted[outside] = np.exp(predictor[outside])
            total[outside] = self.weighted[outside].sum(axis=1)
        return total

    def _size(self) -> Floats:
        """Return twice the penalties of the coefficients as they nearly are, shape (n_slots,)."""
        return np.einsum("ij,ij->i", self.coefs, self.penalised)


class NewtonSoftmaxSlots(SoftmaxSlots, NewtonSlots):
    """Solves multinomial logistic regressions with few coefficients."""

    per_slot = tuple({*SoftmaxSlots.per_slot, *NewtonSlots.per_slot})

    def _invert_hessians(self, slots: NDArray[np.intp]) -> Floats:
        n_classes, q = self.tracks.n_classes, self.Z.shape[1]
        hessians = np.empty((len(slots), n_classes * q, n_classes * q))
        diagonal = np.arange(n_classes * q)
        for hessian, slot in zip(hessians, slots, strict=True):
            rows = self.weights[slot].nonzero()[0]
            z, weights = self.Z.take(rows, axis=0), self.weights[slot].take(rows)
            weighted = self.weighted[slot].take(rows, axis=1)
            spread = (weighted.T[:, :, np.newaxis] * z[:, np.newaxis]).reshape(len(rows), -1)
            np.dot(spread.T / -weights, spread, out=hessian)
            for c in range(n_classes):
                block = slice(c * q, c * q + q)
                hessian[block, block] += (z.T * weighted[c]) @ z
            hessian[diagonal, diagonal] += self.penalties[slot]
        self._fix_intercepts(hessians, slots)
        return inverses(hessians)

    def _fix_intercepts(self, hessians: Floats, slots: NDArray[np.intp]) -> None:
        """Add curvature where there is none, which changes no step.

        No intercept has curvature if its class is absent, nor has what all have in common.
        """
        n_classes = self.tracks.n_classes
        free = np.flatnonzero(self.penalties[slots[0]] == 0)
        if len(free) == 0:
            return
        scale = hessians[:, free, free].max(axis=1)[:, np.newaxis]
        absent = np.repeat(~self.present[slots], len(free) // n_classes, axis=1)
        hessians[:, free, free] += absent * scale
        hessians[:, free[:, np.newaxis], free] += scale[:, np.newaxis] / n_classes
