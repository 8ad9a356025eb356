"""Linear discriminant analysis from class means and the pooled covariance."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.base import DOUBTFUL, Errors, blocked_matmul
from skdvl.utilities.incremental.class_covariances import ClassCovariancesUtility
from skdvl.utilities.incremental.contrasts import (
    MAX_ERROR,
    SURELY,
    by_length,
    may_drop_directions,
    solve_any,
    solve_few,
    solve_tall,
    solve_wide,
)
from skdvl.utilities.incremental.definite import N_PROBES, probes, solve_definite
from skdvl.utilities.incremental.normal_equations import sum_rows
from skdvl.utilities.incremental.shrunk_discriminant import ShrunkDiscriminantRefit
from skdvl.utilities.supervised import FallbackRule

__all__ = ["LinearDiscriminantUtility"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Rows = NDArray[np.intp]

_EPS = float(np.finfo(np.float64).eps)
_FLAT = 1e-7  # deviations that may be rounding errors
_STACKED = 64
_ROWS, _FREEDOM = "rows", "degrees of freedom"
_NO_SECOND_CLASS = "IndexError: index 1 is out of bounds for axis 0 with size 1"
_NO_PROBABILITIES = "AxisError: axis 1 is out of bounds for array of dimension 1"


class LinearDiscriminantUtility(ClassCovariancesUtility):
    r"""Utilities of `LinearDiscriminantAnalysis`.

    With the pooled covariance S of the classes, their means m_k, priors p_k and
    :math:`\bar m = \sum p_k m_k`, the score of class k is
    :math:`(m_k - \bar m)' S^{-1} (x - \bar m - (m_k - \bar m)/2) + \log p_k`. The solver "svd"
    takes the pseudoinverse of the covariance of columns divided by their deviations within the
    classes where there are fewer rows than columns; these coalitions, and those that are close to
    singular, are solved by a decomposition of their rows. The other solvers' results then hang on
    rounding, unless there is shrinkage, and are left to refitting.
    """

    engine: ClassVar[str] = "linear discriminant analysis"
    serves = ("LinearDiscriminantAnalysis",)
    _renormalises = True

    def __init__(self, estimator: Any, fold: Fold, judge: Judge, fallback: FallbackRule) -> None:
        super().__init__(estimator, fold, judge, fallback)
        shrinkage = estimator.shrinkage
        self.shrinkage = 0.0 if shrinkage is None else shrinkage
        self.is_svd = estimator.solver == "svd"
        self.n_digested = 2 * self.X.shape[1] + len(self.row) + 1
        if self.shrinkage == "auto":
            self._refitting = ShrunkDiscriminantRefit(estimator, fold, judge, fallback)

    @classmethod
    def why_not(cls, estimator: Any, fold: Fold, judge: Judge) -> str | None:
        """Decline numbers of components, and a solver that does not go with shrinkage."""
        reason = super().why_not(estimator, fold, judge)
        if reason is not None:
            return reason
        if estimator.n_components is not None:
            return "n_components makes scikit-learn refuse some coalitions"
        if estimator.solver == "svd":
            if estimator.shrinkage is not None:
                return "shrinkage does not go with the solver 'svd'"
            if not 1e-8 <= estimator.tol <= 1e-2:
                return "tol is not between 1e-8 and 0.01"
            if _divisor() is None:
                return "this version of scikit-learn scales the covariance in an unknown way"
        return None

    @classmethod
    def examples(cls) -> list[Any]:
        """Return estimators that show every variant of the parameters that is served."""
        return [
            LinearDiscriminantAnalysis(),
            LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1),
            LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.3, priors=[0.3, 0.7]),
            LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
            LinearDiscriminantAnalysis(solver="lsqr"),
            LinearDiscriminantAnalysis(solver="eigen"),
            LinearDiscriminantAnalysis(priors=[0.2, 0.5, 0.3]),
        ]

    def _digest(self, k: int, count: Floats, sums: Floats) -> Floats:
        """Return means and mean products about the centre, in place of the sums.

        The products of the means are subtracted once, from what is pooled. Only with the
        shrinkage of Ledoit and Wolf do the classes' covariances come one by one.
        """
        if self.shrinkage == "auto":
            return super()._digest(k, count, sums)
        sums *= (1 / np.maximum(count, 1))[..., np.newaxis]
        return sums

    def _describe(self, k: int, count: Floats, sums: Floats, digest: Floats) -> None:
        """Write mean, shrunk covariance, mean squares about the centre, and whether to doubt."""
        d, q = self.X.shape[1], len(self.row)
        covariance = digest[:, d : d + q]
        mean, squares = self._moments(count, sums, covariance)
        digest[:, -1] = self._shrink_by_ledoit_wolf(k, count, sums, mean, squares, covariance)
        digest[:, :d], digest[:, d + q : -1] = mean, squares

    def _means(self, digests: list[Floats]) -> Floats:
        """Return the classes' means about the origin, (n_present, d, n_sets)."""
        d = self.X.shape[1]
        moved = [(centre - self.origin) / self.scale for centre in self.centres]
        return np.stack([(g[:, :d] + m).T for g, m in zip(digests, moved, strict=True)])

    def _coefficients(self, counts: Floats, digests: list[Floats]) -> tuple[list[Floats], Flags]:
        d = self.X.shape[1]
        means = self._means(digests)
        priors, log_priors, doubtful = self._log_priors(counts)
        if self.shrinkage == "auto":
            doubtful |= np.any([digest[:, -1] > 0 for digest in digests], axis=0)
        right = self._right_sides(means, priors)
        solution = np.zeros_like(right)
        n_rows = counts.sum(axis=0)
        enough = np.arange(len(doubtful))
        if not self.shrinkage:
            few = n_rows - (counts > 0).sum(axis=0) < d
            enough = np.flatnonzero(~few)
            doubtful |= few
        weights = self._pooling_weights(counts, priors)
        solution[:, :, enough], unsure = self._solve(weights, digests, right, enough)
        doubtful[enough] |= unsure
        return self._assemble(n_rows, means, priors, log_priors, solution, doubtful)

    def _right_sides(self, means: Floats, priors: Floats) -> Floats:
        """Return what is solved for: the classes' difference, or how far each is from the middle.

        Parameters
        ----------
        means : ndarray of shape (n_present, d, n_sets)
        priors : ndarray of shape (n_present, n_sets)

        Returns
        -------
        ndarray of shape (d, n_targets, n_sets)
        """
        if len(means) == 2:
            return np.swapaxes(means[1:] - means[:1], 0, 1)
        middle = sum_rows(priors[:, np.newaxis] * means)
        seen = (priors > 0)[:, np.newaxis]
        return np.swapaxes(np.where(seen, means - middle, 0.0), 0, 1)

    def _assemble(
        self,
        n_rows: Floats,
        means: Floats,
        priors: Floats,
        log_priors: Floats,
        solution: Floats,
        doubtful: Flags,
    ) -> tuple[list[Floats], Flags]:
        """Make coefficients of class scores; a class without rows gets minus infinity.

        Of sets of one class nothing is doubtful here, see `_refusals`.
        """
        alone = (priors > 0).sum(axis=0) == 1
        solution[:, :, alone | doubtful] = 0.0
        if len(means) == 2:
            return self._pair(means, log_priors, solution[:, 0], alone), doubtful & ~alone
        apart = np.swapaxes(self._right_sides(means, priors), 0, 1)
        if self.is_svd:
            tol = self.estimator.tol
            doubtful = doubtful | may_drop_directions(n_rows, priors, apart, solution, tol)
        middle = sum_rows(priors[:, np.newaxis] * means)
        made = []
        for k, log_prior in enumerate(log_priors):
            constants = log_prior - sum_rows(solution[:, k] * (middle + apart[k] / 2))
            made.append(np.column_stack([solution[:, k].T, constants]))
        return made, doubtful & ~alone

    def _pair(
        self, means: Floats, log_priors: Floats, slopes: Floats, alone: Flags
    ) -> list[Floats]:
        """Return the coefficients of two classes, all in the second's unless one is absent."""
        if self.response == "decision_function":
            log_priors = np.where(alone, 0.0, log_priors)  # a constant margin
        absent = np.isneginf(log_priors)
        constants = log_priors[1] - np.where(absent[0], 0.0, log_priors[0])
        constants -= sum_rows(slopes * (means[0] + means[1]) / 2)
        first = np.zeros((slopes.shape[1], len(slopes) + 1))
        first[:, -1] = np.where(absent[0], -np.inf, 0.0)
        return [first, np.column_stack([slopes.T, constants])]

    def _pooling_weights(self, counts: Floats, priors: Floats) -> Floats:
        if not self.is_svd:
            return priors
        n_rows = counts.sum(axis=0)
        if _divisor() == _FREEDOM:
            n_rows = np.maximum(n_rows - (counts > 0).sum(axis=0), 1)
        return np.asarray(counts / n_rows)

    def _solve(
        self, weights: Floats, digests: list[Floats], right: Floats, which: Rows
    ) -> tuple[Floats, Flags]:
        """Return solutions, and where they may not be scikit-learn's, of the sets ``which``."""
        solution = np.empty((*right.shape[:2], len(which)))
        unsure = np.empty(len(which), dtype=bool)
        for first in range(0, len(which), _STACKED):  # they stay in the cache
            block = slice(first, first + _STACKED)
            some = which[block]
            squares, pooled = self._pool(weights[:, some], [digest[some] for digest in digests])
            targets = np.moveaxis(right[:, :, some], (0, 1, 2), (2, 1, 0))
            found, unsure[block] = self._solve_pooled(pooled, squares, targets)
            solution[:, :, block] = np.moveaxis(found, (0, 1, 2), (2, 1, 0))
        return solution, unsure

    def _pool(self, weights: Floats, digests: list[Floats]) -> tuple[Floats, Floats]:
        """Return the pooled mean squares (n_sets, d) and covariances (n_sets, d, d).

        Digests are overwritten.
        """
        d, q = self.X.shape[1], len(self.row)
        means = np.stack([digest[:, :d] for digest in digests], axis=1)
        for weight, digest in zip(weights, digests, strict=True):
            digest[:, d:] *= weight[:, np.newaxis]
        total = digests[0][:, d:]
        for digest in digests[1:]:
            total += digest[:, d:]
        pooled = total.take(self.square, axis=1).reshape(-1, d, d)
        if self.shrinkage == "auto":
            return total[:, q:-1], pooled
        pooled -= np.swapaxes(means, 1, 2) @ (weights.T[:, :, np.newaxis] * means)
        if self.shrinkage:
            flat = pooled.reshape(-1, d * d)
            self._shrink(flat, np.arange(d) * (d + 1), float(self.shrinkage))
        return total.take(self.diagonal, axis=1), pooled

    def _solve_pooled(self, pooled: Floats, squares: Floats, right: Floats) -> tuple[Floats, Flags]:
        """Return what `_solve` does, with the sets along the first axis.

        The trace of a product bounds its norm: it tells how much rounding errors grow, and, for
        "svd", whether there are directions of no variance.
        """
        variances = np.diagonal(pooled, axis1=1, axis2=2)
        n_sets, n_targets, d = right.shape
        limit = MAX_ERROR / _EPS
        if self.shrinkage and self.shrinkage != "auto":
            variances = variances * self.scale**2
            least = self.shrinkage * variances.mean(axis=1)  # shrinking keeps it
            unsure = ~((squares * self.scale**2 + variances).sum(axis=1) < limit * least)
            solution = np.ascontiguousarray(right)
            return solution, unsure | solve_definite(pooled, solution)
        probed = probes(d) * np.sqrt(squares + variances)[:, np.newaxis]
        both = np.empty((n_sets, n_targets + N_PROBES, d))
        both[:, :n_targets], both[:, n_targets:] = right, probed
        unsure = solve_definite(pooled, both)
        growth = (probed * both[:, n_targets:]).reshape(n_sets, -1).sum(axis=1) / N_PROBES
        if self.is_svd:
            limit = min(limit, SURELY / self.estimator.tol**2)
        return both[:, :n_targets], unsure | ~(growth < limit)

    def _refusals(self, counts: Floats, rests: list[Floats]) -> Errors:
        n_rows, n_seen = counts.sum(axis=0), (counts > 0).sum(axis=0)
        alone = np.flatnonzero((n_seen == 1) & (n_rows > 1))
        errors = self._refusals_of_one_class(alone, counts, rests) if alone.size else {}
        few = "ValueError: The number of samples must be more than the number of classes."
        errors.update(dict.fromkeys(np.flatnonzero(n_rows == n_seen).tolist(), few))
        one = (
            f"ValueError: Found array with 1 sample(s) (shape=(1, {self.X.shape[1]})) while a "
            "minimum of 2 is required by LinearDiscriminantAnalysis."
        )
        errors.update(dict.fromkeys(np.flatnonzero(n_rows == 1).tolist(), one))
        return errors

    def _refusals_of_one_class(
        self, which: NDArray[np.intp], counts: Floats, digests: list[Floats]
    ) -> Errors:
        """Say what scikit-learn says of sets of one class, to which it does fit.

        There is one score then, and a row where it is positive is given a second class, which is
        not there. With "svd" the score is zero.
        """
        if self.estimator.priors is not None:
            return dict.fromkeys(which.tolist(), DOUBTFUL)
        shares = (counts > 0).astype(np.float64)
        if self.response == "predict_proba":
            return dict.fromkeys(which.tolist(), _NO_PROBABILITIES)
        if self.is_svd:
            pooled = self._pool(shares[:, which], [digest[which] for digest in digests])[1]
            flat = np.diagonal(pooled, axis1=1, axis2=2).max(axis=1) < _FLAT
            return dict.fromkeys(which[flat].tolist(), DOUBTFUL)
        origin = (self.origin / self.scale)[:, np.newaxis]
        mean = origin + sum_rows(shares[:, np.newaxis] * self._means(digests))
        solution, unsure = self._solve(shares, digests, mean[:, np.newaxis], which)
        mean = mean[:, which]
        slopes = np.where(unsure, 0.0, solution[:, 0])
        constants = sum_rows(slopes * (origin - mean / 2))
        made = np.column_stack([slopes.T, constants])
        highest = blocked_matmul(made, self._prepared().features).max(axis=1)
        unsure |= np.abs(highest) <= 1e-9 * np.abs(constants)
        errors = dict.fromkeys(which[unsure].tolist(), DOUBTFUL)
        if self.response == "predict":
            errors.update(dict.fromkeys(which[~unsure & (highest > 0)].tolist(), _NO_SECOND_CLASS))
        return errors

    # --- what the pooled covariance does not tell exactly enough, with the solver "svd" ---------

    def _refit_doubtful(
        self, scores: Floats, errors: Errors, rows_of: Callable[[list[int]], NDArray[np.bool_]]
    ) -> None:
        """Solve by the rows themselves where that is exact, before refitting what is left."""
        doubtful = [j for j, error in errors.items() if error is DOUBTFUL] if self.is_svd else []
        if doubtful:
            rows = rows_of(doubtful)
            n_seen = np.sum([rows[:, own].any(axis=1) for own in self.members], axis=0)
            is_wide = rows.sum(axis=1) - n_seen < self.X.shape[1]
            left = n_seen > 1
            # and one more row, of no class, for sets with fewer rows than others
            codes = np.append(self.fold.codes, -1)
            X = np.append((self.X - self.origin) / self.scale, np.zeros((1, self.X.shape[1])), 0)
            for solve, kind in (
                (solve_few, is_wide),
                (solve_wide, is_wide),
                (solve_tall, ~is_wide),
                (solve_any, left),
            ):
                which = np.flatnonzero(left & kind)
                for some, members in by_length(rows, which, self.X.shape[1]):
                    found, failed = self._score_rows(codes[members], X[members], solve)
                    for k, place in enumerate(some.tolist()):
                        if k not in failed:
                            scores[doubtful[place]] = found[k]
                            del errors[doubtful[place]]
                            left[place] = False
        super()._refit_doubtful(scores, errors, rows_of)

    def _score_rows(
        self,
        codes: Rows,
        X: Floats,
        solve: Callable[[Floats, Floats, Floats, Floats], tuple[Floats, Flags]],
    ) -> tuple[Floats, Errors]:
        """Score sets by a decomposition of their rows.

        Parameters
        ----------
        codes : ndarray of int, shape (n_sets, length)
            The rows' classes, -1 for none.
        X : ndarray of shape (n_sets, length, d)
            Zero for rows of no class.
        solve : callable
            See `solve_few`.
        """
        owners = (codes[:, np.newaxis] == self.present[:, np.newaxis]).astype(np.float64)
        counts = owners.sum(axis=2).T
        priors, log_priors, doubtful = self._log_priors(counts)
        n_rows = counts.sum(axis=0)
        means = (owners @ X) / np.maximum(counts, 1).T[:, :, np.newaxis]
        Z = X - np.swapaxes(owners, 1, 2) @ means
        means = np.moveaxis(means, 0, 2)
        deviation = np.sqrt((Z**2).sum(axis=1) / n_rows[:, np.newaxis])
        flat = deviation < _FLAT
        doubtful |= (flat & ~((deviation == 0) & self.is_whole)).any(axis=1)
        deviation[flat] = 1.0
        right = np.moveaxis(self._right_sides(means, priors), 2, 0) / deviation[:, :, np.newaxis]
        Z /= deviation[:, np.newaxis]
        n_free = n_rows
        if _divisor() == _FREEDOM:
            n_free = n_rows - (counts > 0).sum(axis=0)
        least = np.sqrt(n_free) * self.estimator.tol
        solution, unsure = solve(owners, Z, right, least)
        doubtful |= unsure
        solution *= (n_free[:, np.newaxis] / deviation)[:, :, np.newaxis]
        solution[doubtful] = 0.0
        coefficients, doubtful = self._assemble(
            n_rows, means, priors, log_priors, np.moveaxis(solution, 0, 2), doubtful
        )
        predictions = self._predict_linear(coefficients, self.response)
        found = self._finish(predictions, counts, doubtful, {}, self.response)
        return self._judge(*found), found[1]


@cache
def _divisor() -> str | None:
    """Return by what the installed version divides the scatter with the solver "svd"."""
    X, y = np.array([[0.0], [1.0], [4.0], [5.0]]), [0, 0, 1, 1]
    slope = float(LinearDiscriminantAnalysis().fit(X, y).coef_[0, 0])
    for divisor, expected in ((_ROWS, 16.0), (_FREEDOM, 8.0)):
        if abs(slope - expected) < 1e-6:
            return divisor
    return None
