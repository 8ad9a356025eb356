"""Ridge regression and classification without refitting.

Both are least squares with the penalty alpha, so a set of rows enters by its sums of products
only (the primal route), or by its part of one matrix of inner products (the dual route), of which
one Cholesky factor along an order holds the models of all its prefixes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from sklearn.linear_model import Ridge, RidgeClassifier

from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.base import DOUBTFUL, Errors, blocked_matmul, numeric_array
from skdvl.utilities.incremental.class_scores import best_class, has_rounded_ranks
from skdvl.utilities.incremental.linear import LinearUtility, flat_places
from skdvl.utilities.incremental.moments import column_centres
from skdvl.utilities.incremental.normal_equations import PackedSystems, ProductSums
from skdvl.utilities.supervised import FallbackRule

__all__ = ["RidgeUtility"]

Floats = NDArray[np.float64]

# Bound on the condition number. Near it scikit-learn's own solvers differ by 1e-9 in R².
_MAX_CONDITION = 1e8
_MAX_TABLE_BYTES = 2**25
_NO_SECOND_CLASS = "IndexError: index 1 is out of bounds for axis 0 with size 1"


class RidgeUtility(LinearUtility):
    r"""Utilities of `Ridge` and `RidgeClassifier` with a direct solver.

    Primal: with Z the rows [1, x - centre] of a coalition, w solves
    :math:`(Z'Z + \alpha D) w = Z'y`, D without the intercept. Dual: with K the inner products of
    the rows in some order, :math:`LL' = K + \alpha I`, :math:`a = L^{-1} y`,
    :math:`o = L^{-1} 1` and :math:`B = L^{-1} K_{val}`, the first k rows predict
    :math:`\sum_{j \le k} a_j B_j - \mu_k (\sum_{j \le k} o_j B_j - 1)`,
    :math:`\mu_k = \sum_{j \le k} a_j o_j / \sum_{j \le k} o_j^2`.
    Weights multiply the rows of both by their square roots.
    """

    engine: ClassVar[str] = "ridge"
    serves = ("Ridge", "RidgeClassifier")
    responses = ("predict", "decision_function")

    def __init__(self, estimator: Any, fold: Fold, judge: Judge, fallback: FallbackRule) -> None:
        super().__init__(estimator, fold, judge, fallback)
        self.alpha = float(estimator.alpha)
        self.class_weight = getattr(estimator, "class_weight", None)
        costs = _Costs(fold.n_rows, self.n_variables, self.n_targets, len(self.readout[0]))
        self.sums_for_sets = costs.sums_of_sets < costs.single
        self.sums_for_prefixes = costs.sums_of_prefixes < costs.dual_prefixes
        self.has_cheap_prefixes = (
            min(costs.sums_of_prefixes, costs.dual_prefixes) < costs.single
            and self.class_weight != "balanced"
        )

    @classmethod
    def why_not(cls, estimator: Any, fold: Fold, judge: Judge) -> str | None:
        """Decline iterative solvers, penalties too small for the data, and very large systems."""
        reason = super().why_not(estimator, fold, judge)
        if reason is not None:
            return reason
        if estimator.positive or estimator.solver not in ("auto", "cholesky", "svd"):
            return "only the solvers 'auto', 'cholesky' and 'svd' are exact"
        alpha = estimator.alpha
        if not isinstance(alpha, Real) or not float(alpha) > 0:
            return "alpha is not one positive number"
        if not _serves_weights(getattr(estimator, "class_weight", None), fold):
            return "class_weight does not give every class a positive weight"
        X = numeric_array(fold.X)
        assert X is not None
        moved = X - column_centres(X) if estimator.fit_intercept else X
        if (moved**2).sum() > _MAX_CONDITION * float(alpha):
            return "alpha is so small for these data that rounding errors would show"
        if min(X.shape) > 300 and 8 * len(X) * max(len(X), len(fold.y_val)) > _MAX_TABLE_BYTES:
            return "with so many rows and columns refitting is as fast"
        return None

    @classmethod
    def examples(cls) -> list[Any]:
        """Return estimators that show every variant of the parameters that is served."""
        return [
            Ridge(),
            Ridge(alpha=0.01, fit_intercept=False, solver="cholesky"),
            Ridge(alpha=30, solver="svd"),
            RidgeClassifier(),
            RidgeClassifier(alpha=0.1, fit_intercept=False),
            RidgeClassifier(class_weight="balanced"),
        ]

    def _weights(self, rows: NDArray[np.bool_]) -> Floats | None:
        """Return the rows' weights in their sets, (n_sets, n_rows), None if all are one."""
        if self.class_weight is None:
            return None
        assert self.fold.classes is not None
        if self.class_weight != "balanced":
            by_class = np.array([self.class_weight[label] for label in self.fold.classes.tolist()])
            return rows * by_class[self.fold.codes]
        counts = rows.astype(np.float64) @ self._class_columns.astype(np.float64)
        n_present = (counts > 0).sum(axis=1, keepdims=True)
        by_class = rows.sum(axis=1, keepdims=True) / (n_present * np.maximum(counts, 1))
        return rows * by_class[:, self.fold.codes]

    @cached_property
    def _root_weights(self) -> Floats | None:
        """Square roots of weights that do not depend on the set, (n_rows, 1); None: all one."""
        if self.class_weight == "balanced":
            return None
        weights = self._weights(np.ones((1, self.fold.n_rows), dtype=bool))
        return None if weights is None else np.sqrt(weights.T)

    @cached_property
    def _penalty(self) -> Floats:
        penalty = np.full(self.n_variables, self.alpha)
        if self.has_intercept:
            penalty[0] = 0.0
        return penalty

    @cached_property
    def _sums(self) -> ProductSums:
        root = self._root_weights
        if root is None:
            return ProductSums(self.design, self.targets)
        return ProductSums(root * self.design, root * self.targets)

    @cached_property
    def _features(self) -> Floats:
        return self.design[:, int(self.has_intercept) :]

    @cached_property
    def _inner(self) -> Floats | None:
        """Inner products of all training rows, None where they would take much memory."""
        if 8 * self.fold.n_rows**2 > _MAX_TABLE_BYTES:
            return None
        return self._features @ self._features.T

    @cached_property
    def _inner_to_readout(self) -> Floats:
        return self._features @ self.readout[0][:, int(self.has_intercept) :].T

    def _coefficients(self, rows: NDArray[np.bool_]) -> tuple[Floats, Errors]:
        if self.class_weight == "balanced" or not self.sums_for_sets:
            return self._coefficients_one_by_one(rows), {}
        return self._solve(self._sums.of_sets(rows)), {}

    def _solve(self, sums: Floats) -> Floats:
        systems = PackedSystems(sums, self.n_variables, self.n_targets)
        systems.add_to_diagonal(self._penalty)
        return np.ascontiguousarray(systems.solve().transpose(1, 2, 0))

    def _coefficients_one_by_one(self, rows: NDArray[np.bool_]) -> Floats:
        weights = self._weights(rows)
        coefficients = np.zeros((self.n_targets, len(rows), self.n_variables))
        duals = np.zeros((self.n_targets, len(rows), self.fold.n_rows))
        for j, row_set in enumerate(rows):
            members = np.flatnonzero(row_set)
            root = None if weights is None else np.sqrt(weights[j, members, np.newaxis])
            if len(members) > self.n_variables:
                coefficients[:, j] = self._primal(members, root).T
            else:
                dual, intercept = self._dual(members, root)
                duals[:, j, members] = dual.T
                if self.has_intercept:
                    coefficients[:, j, 0] = intercept
        features = blocked_matmul(duals.reshape(-1, duals.shape[2]), self._features)
        coefficients[:, :, int(self.has_intercept) :] += features.reshape(*duals.shape[:2], -1)
        return coefficients

    def _primal(self, members: NDArray[np.intp], root: Floats | None) -> Floats:
        """Return the coefficients for some rows, shape (n_variables, n_targets)."""
        Z, Y = self.design[members], self.targets[members]
        if root is not None:
            Z, Y = root * Z, root * Y
        matrix = Z.T @ Z
        matrix.flat[:: len(matrix) + 1] += self._penalty
        return lapack.dposv(matrix, Z.T @ Y, lower=1)[1]

    def _dual(
        self, members: NDArray[np.intp], root: Floats | None
    ) -> tuple[Floats, Floats | float]:
        """Return what the rows contribute, (n_members, n_targets), and the intercepts."""
        if self._inner is not None:
            matrix = self._inner[members][:, members]
        else:
            matrix = self._features[members] @ self._features[members].T
        right = np.concatenate([self.targets[members], np.ones((len(members), 1))], axis=1)
        if root is not None:
            matrix *= root * root.T
            right *= root
        matrix.flat[:: len(matrix) + 1] += self.alpha
        solved = lapack.dposv(matrix, right, lower=1)[1]
        dual, intercept = solved[:, :-1], 0.0
        if self.has_intercept:
            weighted = right[:, -1] @ solved
            intercept = weighted[:-1] / weighted[-1]
            dual = dual - solved[:, -1:] * intercept
        return (dual if root is None else root * dual), intercept

    def _predictions(
        self, outputs: Floats, response: str, present: NDArray[np.bool_], errors: Errors
    ) -> NDArray[Any]:
        classes = self.fold.classes
        if classes is None:
            return super()._predictions(outputs, response, present, errors)
        outputs += self.shift[:, np.newaxis, np.newaxis]
        alone = np.flatnonzero(present.sum(axis=1) == 1)
        if response != "predict":
            return self._margins(outputs, present, errors)
        own = np.argmax(present[alone], axis=1)
        if not self.has_intercept:
            # scikit-learn codes a single class as -1 and fails where it would predict the other
            sign = np.where(own == 0, 1.0, -1.0) if len(classes) == 2 else -np.ones(len(own))
            of_own = outputs[np.minimum(own, self.n_targets - 1), alone]
            failing = (sign[:, np.newaxis] * of_own > 0).any(axis=1)
            errors.update(dict.fromkeys(alone[failing].tolist(), _NO_SECOND_CLASS))
        if len(classes) == 2:
            codes = (outputs[0] > 0).view(np.int8)
        else:
            outputs[~present.T] = -np.inf
            codes = best_class(iter(outputs), len(outputs))
        codes[alone] = own[:, np.newaxis]
        return codes

    def _margins(self, outputs: Floats, present: NDArray[np.bool_], errors: Errors) -> NDArray[Any]:
        """Return what scorers of margins see, and leave ranks within rounding to refitting."""
        alone = present.sum(axis=1) == 1
        for output, of_class in zip(outputs, present.T[-self.n_targets :], strict=True):
            rounded = has_rounded_ranks(output) & of_class & ~alone
            errors.update(dict.fromkeys(np.flatnonzero(rounded).tolist(), DOUBTFUL))
        outputs[:, alone] = 0.0
        if self.n_targets > 1:
            outputs[~present.T] = -np.finfo(np.float64).max  # as `align_decision` has it
        outputs = outputs[:, :, self.distinct[1]]
        return outputs[0] if self.n_targets == 1 else np.moveaxis(outputs, 0, 2)

    def _prefix_outputs(
        self, orders: NDArray[np.intp], sizes: NDArray[np.intp]
    ) -> Iterator[tuple[Floats, Errors]]:
        if not self.sums_for_prefixes:
            for order, wanted in zip(orders, sizes, strict=True):
                yield from self._dual_outputs(order, wanted)
            return
        n_together = max(1, self.block_size // self.fold.n_rows)
        for start in range(0, len(orders), n_together):
            some = slice(start, start + n_together)
            sums = self._sums.of_prefixes(orders[some])
            places = flat_places(sizes[some], self.fold.n_rows)
            for first in range(0, len(places), self.block_size):
                block = sums.take(places[first : first + self.block_size], axis=1)
                yield self._outputs(self._solve(block)), {}

    def _dual_outputs(
        self, order: NDArray[np.intp], sizes: NDArray[np.intp]
    ) -> Iterator[tuple[Floats, Errors]]:
        """Yield the outputs of the prefixes of one order, see the class's formula."""
        readout, n_targets = self.readout[0], self.n_targets
        assert self._inner is not None
        matrix = self._inner[order][:, order]
        ones = np.ones((len(order), 1))
        right = np.concatenate([self.targets[order], ones, self._inner_to_readout[order]], axis=1)
        if self._root_weights is not None:
            root = self._root_weights[order]
            matrix *= root * root.T
            right *= root
        matrix.flat[:: len(order) + 1] += self.alpha
        factor = lapack.dpotrf(matrix.T, lower=1, overwrite_a=1, clean=0)[0]
        solved = lapack.dtrtrs(factor, np.asfortranarray(right), lower=1, overwrite_b=1)[0]
        a, o, B = solved[:, :n_targets], solved[:, n_targets], solved[:, n_targets + 1 :]
        last = sizes - 1
        outputs = np.empty((n_targets, len(sizes), len(readout)))
        for t in range(n_targets):
            outputs[t] = np.cumsum(a[:, t, np.newaxis] * B, axis=0)[last]
        if self.has_intercept:
            intercept = np.cumsum(a * o[:, np.newaxis], axis=0) / np.cumsum(o**2)[:, np.newaxis]
            of_ones = np.cumsum(o[:, np.newaxis] * B, axis=0)[last] - readout[:, 0]
            outputs -= intercept[last].T[:, :, np.newaxis] * of_ones
        for first in range(0, len(sizes), self.block_size):
            yield outputs[:, first : first + self.block_size], {}


class _Costs:
    """What an evaluation costs by the several routes, in microseconds, roughly.

    Fitted to measurements on one core; only their order matters, and it is the same everywhere
    but close to where two of them cross.
    """

    def __init__(self, n_rows: int, n_variables: int, n_targets: int, n_readout: int) -> None:
        n, p, t, m = n_rows, n_variables, n_targets, n_readout
        n_products = ProductSums.n_products(p, t)
        solve = 0.3 + 0.02 * p + 2.2e-4 * p**3 + 6e-4 * t * p**2
        reading = p * m * t / 15e3
        too_large = np.inf if 8 * n * n_products > _MAX_TABLE_BYTES else 0.0
        self.sums_of_sets = too_large + n * n_products / 15e3 + solve + reading
        self.sums_of_prefixes = too_large + 0.004 * n_products + solve + reading
        too_large = np.inf if 8 * n * max(n, m * t) > _MAX_TABLE_BYTES else 0.0
        factor = 1 + 0.006 * n + n**2 / 1e5 + n * m / 25e3
        self.dual_prefixes = too_large + factor + 0.008 * m * t
        s = n // 2
        smaller = min(s, p)
        self.single = 20 + s * p / 2e3 + s * p * smaller / 3e4 + smaller**3 / 1.5e4 + reading


def _serves_weights(class_weight: Any, fold: Fold) -> bool:
    if class_weight is None or class_weight == "balanced":
        return True
    assert fold.classes is not None
    labels = fold.classes.tolist()
    return isinstance(class_weight, dict) and all(class_weight.get(k, 0) > 0 for k in labels)
