"""Quadratic discriminant analysis from class means and covariances."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.base import Errors
from skdvl.utilities.incremental.class_covariances import ClassCovariancesUtility
from skdvl.utilities.incremental.contrasts import MAX_ERROR
from skdvl.utilities.incremental.definite import factor, invert, substitute
from skdvl.utilities.supervised import FallbackRule

__all__ = ["QuadraticDiscriminantUtility"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_EPS = float(np.finfo(np.float64).eps)
# What is known of a class's covariance; kept beside the coefficients.
_SOUND, _DEFICIENT, _UNKNOWN = 0.0, 1.0, 2.0


class QuadraticDiscriminantUtility(ClassCovariancesUtility):
    r"""Utilities of `QuadraticDiscriminantAnalysis`.

    The score of a class with mean m, covariance S and prior p is
    :math:`-\tfrac12 (x - m)' S^{-1} (x - m) - \tfrac12 \log |S| + \log p`. It is linear in
    products of columns, columns and 1, and it depends on the class's own rows only, but for p.
    """

    engine: ClassVar[str] = "quadratic discriminant analysis"
    serves = ("QuadraticDiscriminantAnalysis",)
    is_separable = True

    def __init__(self, estimator: Any, fold: Fold, judge: Judge, fallback: FallbackRule) -> None:
        super().__init__(estimator, fold, judge, fallback)
        self.is_svd = getattr(estimator, "solver", "svd") == "svd"
        self.shrinkage = getattr(estimator, "shrinkage", None) or 0.0
        self.n_digested = len(self.row) + self.X.shape[1] + 2

    @classmethod
    def why_not(cls, estimator: Any, fold: Fold, judge: Judge) -> str | None:
        """Decline a solver that does not go with shrinkage, and a tol near rounding errors."""
        reason = super().why_not(estimator, fold, judge)
        if reason is not None:
            return reason
        if getattr(estimator, "solver", "svd") == "svd":
            if getattr(estimator, "shrinkage", None) is not None:
                return "shrinkage does not go with the solver 'svd'"
            if _divisor_less() is None:
                return "this version of scikit-learn scales the covariances in an unknown way"
        if _refuses_deficient() and estimator.tol < 1e-10:
            return "tol is so small that rounding decides which coalitions are refused"
        return None

    @classmethod
    def examples(cls) -> list[Any]:
        """Return estimators that show every variant of the parameters that is served."""
        kind = QuadraticDiscriminantAnalysis
        examples = [kind(), kind(reg_param=0.2), kind(reg_param=0.05, priors=[0.3, 0.7])]
        if _refuses_deficient():  # the versions that do have solvers to choose from
            examples += [
                kind(solver="eigen", shrinkage=0.1),
                kind(solver="eigen", shrinkage="auto"),
            ]
        return examples

    def _features(self, X: Floats) -> Floats:
        moved = super()._features(X)
        products = moved[:, self.row] * moved[:, self.column]
        return np.concatenate([products, moved], axis=1)

    def _describe(self, k: int, count: Floats, sums: Floats, digest: Floats) -> None:
        """Write the coefficients without the prior, and what is known of the covariance."""
        covariance = np.empty((len(count), len(self.row)))
        mean, squares = self._moments(count, sums, covariance)
        doubt = np.zeros(len(count), dtype=bool)
        if self.is_svd:
            divisor = np.maximum(count - (_divisor_less() or 0), 1)
            covariance *= (1 - self.estimator.reg_param) * (count / divisor)[:, np.newaxis]
            covariance[:, self.diagonal] += self.estimator.reg_param / self.scale**2
        elif self.shrinkage == "auto":
            doubt = self._shrink_by_ledoit_wolf(k, count, sums, mean, squares, covariance)
        elif self.shrinkage:
            self._shrink(covariance, self.diagonal, float(self.shrinkage))
        mean += (self.centres[k] - self.origin) / self.scale
        few = self._has_too_few_rows(count)
        enough = np.flatnonzero((count >= 2) & ~few)
        digest[:] = 0.0
        digest[few, -1] = _DEFICIENT
        digest[enough] = self._quadratic(
            count[enough], mean[enough], squares[enough], covariance[enough]
        )
        digest[doubt & ~few, -1] = _UNKNOWN

    def _quadratic(
        self, count: Floats, mean: Floats, squares: Floats, covariance: Floats
    ) -> Floats:
        """Return coefficients and what is known, for some covariances (n, n_products)."""
        d, q = mean.shape[1], len(self.row)
        matrices = covariance.take(self.square, axis=1).reshape(-1, d, d)
        definite = ~factor(matrices)
        pivots = np.diagonal(matrices, axis1=1, axis2=2).copy()
        # of a singular matrix rounding may leave small pivots
        definite &= np.all(pivots**2 > 1e-14 * covariance.take(self.diagonal, axis=1), axis=1)
        matrices[~definite], pivots[~definite] = np.eye(d), 1.0
        slopes = mean[:, np.newaxis].copy()
        substitute(matrices, slopes)
        slopes = slopes[:, 0]
        invert(matrices)
        precision = matrices.reshape(-1, d * d)
        made = np.empty((len(mean), q + d + 2))
        made[:, :q] = precision.take(self.column * d + self.row, axis=1)
        made[:, :q] *= np.where(self.row == self.column, -0.5, -1.0)
        made[:, q:-2] = slopes
        log_determinant = 2 * np.log(pivots * self.scale).sum(axis=1)
        made[:, -2] = -0.5 * ((slopes * mean).sum(axis=1) + log_determinant)
        inverse = precision.take(np.arange(d) * (d + 1), axis=1)  # indexing gives another order
        made[:, -1] = self._knowledge(count, squares, covariance, inverse, definite)
        made[made[:, -1] != _SOUND, :-1] = 0.0
        return made

    def _knowledge(
        self, count: Floats, squares: Floats, covariance: Floats, inverse: Floats, definite: Flags
    ) -> Floats:
        """Tell which covariances scikit-learn refuses, and which are close to that.

        ``inverse`` has the diagonals of their inverses.
        """
        d = squares.shape[1]
        variances = covariance.take(self.diagonal, axis=1)
        growth = ((squares + variances) * inverse).sum(axis=1)
        exact = definite & (growth < MAX_ERROR / _EPS)
        known = np.where(exact, _SOUND, _UNKNOWN)
        if not _refuses_deficient():
            if self.is_svd:
                known[count < d] = _UNKNOWN  # it then works in the rows' own directions only
            return known
        tol = self.estimator.tol
        # the least eigenvalue lies between the inverse trace and d times it
        inverse_trace = 1 / (inverse / self.scale**2).sum(axis=1)
        noise = 1e3 * _EPS * d * (variances * self.scale**2).sum(axis=1)
        is_least = np.where(definite, inverse_trace, -noise)
        unclear = exact & (is_least <= tol + noise) & (d * is_least >= tol - noise)
        if unclear.any():
            matrices = covariance[unclear].take(self.square, axis=1).reshape(-1, d, d)
            matrices *= self.scale[:, np.newaxis] * self.scale
            is_least[unclear] = np.linalg.eigvalsh(matrices)[:, 0]
        upper = np.where(unclear, is_least, d * is_least)
        known[exact & (is_least <= tol + noise)] = _UNKNOWN
        known[upper < tol - noise] = _DEFICIENT
        known[~definite & (noise < 0.1 * tol)] = _DEFICIENT
        return known

    def _has_too_few_rows(self, count: Floats) -> Flags:
        """Tell which numbers of rows scikit-learn refuses, whatever the rows are."""
        if not self.is_svd or not _refuses_deficient():
            return np.zeros(len(count), dtype=bool)
        d = self.X.shape[1]
        with_one_flat_direction = self.estimator.reg_param > self.estimator.tol
        return np.asarray(count < d if with_one_flat_direction else count <= d)

    def _additions(self, counts: Floats, rests: list[Floats]) -> tuple[Floats, Flags]:
        _, log_priors, doubtful = self._log_priors(counts)
        doubtful |= np.any([rest[:, 0] == _UNKNOWN for rest in rests], axis=0)
        return log_priors, doubtful

    def _refusals(self, counts: Floats, rests: list[Floats]) -> Errors:
        assert self.fold.classes is not None
        errors: Errors = {}
        for k in range(len(self.members) - 1, -1, -1):  # scikit-learn names the first class
            label = self.fold.classes[self.present[k]]
            single = f"ValueError: y has only 1 sample in class {label}, covariance is ill defined."
            deficient = f"LinAlgError: The covariance matrix of class {label} is not full rank."
            which = np.flatnonzero((rests[k][:, 0] == _DEFICIENT) & (counts[k] > 1))
            errors.update(dict.fromkeys(which.tolist(), deficient))
            errors.update(dict.fromkeys(np.flatnonzero(counts[k] == 1).tolist(), single))
        alone = np.flatnonzero((counts > 0).sum(axis=0) < 2)
        message = "ValueError: The number of classes has to be greater than one. Got 1 class."
        errors.update(dict.fromkeys(alone.tolist(), message))
        return errors


def _refuses_deficient() -> bool:
    """Tell whether the installed version refuses covariances without full rank.

    Those before 1.8, which had one solver only, warned and went on.
    """
    return "solver" in QuadraticDiscriminantAnalysis().get_params()


@cache
def _divisor_less() -> int | None:
    """Return how much less than the number of rows the solver "svd" divides scatters by."""
    X, y = np.array([[0.0], [2.0], [10.0], [12.0]]), [0, 0, 1, 1]
    scaling = float(QuadraticDiscriminantAnalysis().fit(X, y).scalings_[0][0])
    for less, expected in ((0, 1.0), (1, 2.0)):
        if abs(scaling - expected) < 1e-6:
            return less
    return None
