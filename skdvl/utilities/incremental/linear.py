"""From coefficients to scores: what the engines of linear models have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skdvl.metrics import metric_name
from skdvl.utilities.base import prefix_rows
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.base import (
    Errors,
    IncrementalUtility,
    PrefixErrors,
    blocked_matmul,
)
from skdvl.utilities.incremental.moments import column_centres
from skdvl.utilities.supervised import FallbackRule

__all__ = ["LinearUtility", "flat_places"]

Floats = NDArray[np.float64]

_SQUARED_ERROR_SCORES = ("r2", "squashed_r2", "neg_mean_squared_error")
_BLOCK_BYTES = 2**21  # what a block works on stays in the processor's cache


def flat_places(sizes: NDArray[np.intp], n_rows: int) -> NDArray[np.intp]:
    """Return where prefixes are in an array of all prefixes, order by order.

    Parameters
    ----------
    sizes : ndarray of int, shape (n_orders, n_sizes)
        Positive.
    n_rows : int
        Number of prefixes of an order.
    """
    return (np.arange(len(sizes))[:, np.newaxis] * n_rows + sizes - 1).ravel()


class LinearUtility(IncrementalUtility):
    """Base of the engines whose models predict by linear functions of the columns.

    Subclasses give coefficients of sets of rows, in ``_coefficients``.

    Attributes
    ----------
    has_intercept : bool
    n_targets : int
        Linear functions that a model consists of.
    centre : ndarray of shape (n_features,)
        Where the data are moved to, zeros without an intercept.
    shift : ndarray of shape (n_targets,)
        What was subtracted from the targets.
    """

    block_size: int = 1024
    pads_blocks = False

    def __init__(self, estimator: Any, fold: Fold, judge: Judge, fallback: FallbackRule) -> None:
        super().__init__(estimator, fold, judge, fallback)
        self.has_intercept = bool(estimator.fit_intercept)
        targets = self._raw_targets()
        self.n_targets = targets.shape[1]
        self.centre, self.shift = np.zeros(self.X.shape[1]), np.zeros(self.n_targets)
        if self.has_intercept:
            self.centre, self.shift = column_centres(self.X), column_centres(targets)
        self.n_variables = self.X.shape[1] + self.has_intercept
        self.score_name: str | None = None
        if fold.classes is None:
            name = metric_name(judge.scorer, is_classifier=False)
            self.score_name = name if name in _SQUARED_ERROR_SCORES else None
        n_numbers = self.n_variables * (self.n_variables + 1) // 2
        n_numbers += self.n_targets * (self.n_variables + len(self.readout[0]))
        while self.block_size > 64 and 8 * n_numbers * self.block_size > _BLOCK_BYTES:
            self.block_size //= 2

    @classmethod
    def why_not(cls, estimator: Any, fold: Fold, judge: Judge) -> str | None:
        """Decline also R² of validation targets that are all equal: it hangs on rounding."""
        reason = super().why_not(estimator, fold, judge)
        if reason is None and fold.classes is None and np.ptp(np.asarray(fold.y_val)) == 0:
            name = metric_name(judge.scorer, is_classifier=False)
            if name in ("r2", "squashed_r2"):
                return "R² of constant validation targets is a matter of rounding"
        return reason

    @abstractmethod
    def _coefficients(self, rows: NDArray[np.bool_]) -> tuple[Floats, Errors]:
        """Return the coefficients of the models trained on sets of rows.

        Parameters
        ----------
        rows : ndarray of bool, shape (n_sets, n_rows)

        Returns
        -------
        coefficients : ndarray of shape (n_targets, n_sets, n_variables)
            Of the columns of ``design``, for targets less ``shift``.
        errors : dict of int to str
        """

    def _raw_targets(self) -> Floats:
        """Return the targets, shape (n_rows, n_targets); classes become columns of ±1."""
        if self.fold.classes is None:
            return np.asarray(self.fold.y, dtype=np.float64)[:, np.newaxis]
        codes, n_classes = self.fold.codes, len(self.fold.classes)
        wanted = [1] if n_classes == 2 else np.arange(n_classes)
        return np.where(codes[:, np.newaxis] == wanted, 1.0, -1.0)

    @cached_property
    def targets(self) -> Floats:
        """Targets less ``shift``, shape (n_rows, n_targets)."""
        return self._raw_targets() - self.shift

    @cached_property
    def design(self) -> Floats:
        """Training rows as the variables see them, shape (n_rows, n_variables)."""
        return self._as_design(self.X)

    def _as_design(self, X: Floats) -> Floats:
        if not self.has_intercept:
            return X
        return np.concatenate([np.ones((len(X), 1)), X - self.centre], axis=1)

    @cached_property
    def distinct(self) -> tuple[Floats, NDArray[np.intp]]:
        """Validation rows to predict for, and where each validation row is among them.

        Scores that are made of ranks need equal margins, to the bit, for equal rows, and a
        matrix product does not give that: distinct rows are taken then.
        """
        if self.response != "decision_function":
            return self.X_val, np.arange(len(self.X_val))
        rows, copies = np.unique(self.X_val, axis=0, return_inverse=True)
        return rows, copies.reshape(-1)  # numpy 2.0 gives it another shape

    @cached_property
    def readout(self) -> tuple[Floats, Floats | None]:
        """Rows for which outputs are computed, and their targets where squared errors are wanted.

        The sum of squared errors over the validation rows is that over the rows of a triangular
        factor of [validation rows, targets], of which there are no more than columns.
        """
        rows = self._as_design(self.distinct[0])
        if self.score_name is None:
            return rows, None
        target = np.asarray(self.fold.y_val, dtype=np.float64) - self.shift[0]
        both = np.column_stack([rows, target])
        if len(both) > both.shape[1]:
            both = np.asarray(np.linalg.qr(both, mode="r"))
        return np.ascontiguousarray(both[:, :-1]), both[:, -1]

    def __getstate__(self) -> dict[str, Any]:
        derived = {
            name
            for kind in type(self).__mro__
            for name, value in vars(kind).items()
            if isinstance(value, cached_property)
        }
        return {name: value for name, value in self.__dict__.items() if name not in derived}

    def _outputs(self, coefficients: Floats) -> Floats:
        """Return the linear functions of the readout rows, shape (n_targets, n_sets, …)."""
        readout = self.readout[0]
        flat = coefficients.reshape(-1, coefficients.shape[2])
        return blocked_matmul(flat, readout.T).reshape(*coefficients.shape[:2], len(readout))

    def _predict(self, rows: NDArray[np.bool_], response: str) -> tuple[NDArray[Any], Errors]:
        coefficients, errors = self._coefficients(rows)
        outputs = self._outputs(coefficients)
        present = self._present_in_sets(rows)
        return self._predictions(outputs, response, present, errors), errors

    def _score_block(self, rows: NDArray[np.bool_]) -> tuple[Floats, Errors]:
        coefficients, errors = self._coefficients(rows)
        outputs = self._outputs(coefficients)
        return self._scores(outputs, self._present_in_sets(rows), errors), errors

    def _score_prefixes(
        self, orders: NDArray[np.intp], sizes: NDArray[np.intp]
    ) -> tuple[Floats, PrefixErrors]:
        n_sizes = sizes.shape[1]
        scores = np.empty(sizes.size)
        present = np.concatenate(
            [self._present_in_prefixes(*pair) for pair in zip(orders, sizes, strict=True)]
        )
        start = 0
        flat_errors: Errors = {}
        for outputs, failed in self._prefix_outputs(orders, sizes):
            block = slice(start, start + outputs.shape[1])
            scores[block] = self._scores(outputs, present[block], failed)
            flat_errors.update({start + j: error for j, error in failed.items()})
            start = block.stop
        self._refit_doubtful(scores, flat_errors, prefix_rows(orders, sizes))
        errors = {divmod(j, n_sizes): error for j, error in flat_errors.items()}
        return scores.reshape(sizes.shape), errors

    def _prefix_outputs(
        self, orders: NDArray[np.intp], sizes: NDArray[np.intp]
    ) -> Iterator[tuple[Floats, Errors]]:
        """Yield outputs and errors for all sizes of the first order, of the second, …, in blocks.

        Blocks are of at most ``block_size`` prefixes, the errors by position in the block.
        """
        raise NotImplementedError(f"{type(self).__name__} has no cheap prefixes")

    def _scores(self, outputs: Floats, present: NDArray[np.bool_], errors: Errors) -> Floats:
        """Score outputs; a scorer that fails adds to the errors.

        Parameters
        ----------
        outputs : ndarray of shape (n_targets, n_sets, n_readout)
            Overwritten.
        present : ndarray of bool, shape (n_sets, n_classes)
            Which classes the sets hold; no columns for regression.
        errors : dict of int to str
        """
        target = self.readout[1]
        if target is None:
            predictions = self._predictions(outputs, self.response, present, errors)
            return self._judge(predictions, errors)
        residual = np.subtract(outputs[0], target, out=outputs[0])
        squared_error = np.einsum("ij,ij->i", residual, residual)
        y_val = np.asarray(self.fold.y_val, dtype=np.float64)
        if self.score_name == "neg_mean_squared_error":
            return -squared_error / len(y_val)
        r2 = 1 - squared_error / ((y_val - y_val.mean()) ** 2).sum()
        return r2 if self.score_name == "r2" else 1 / (2 - r2)

    def _predictions(
        self, outputs: Floats, response: str, present: NDArray[np.bool_], errors: Errors
    ) -> NDArray[Any]:
        """Turn outputs into predictions as `skdvl.metrics.Metric` takes them: here targets.

        Parameters are those of ``_scores``. Sets for which the model cannot predict are added
        to the errors.
        """
        outputs += self.shift[:, np.newaxis, np.newaxis]
        return outputs[0]

    @cached_property
    def _class_columns(self) -> NDArray[np.bool_]:
        if self.fold.classes is None:
            return np.zeros((self.fold.n_rows, 0), dtype=bool)
        return self.fold.codes[:, np.newaxis] == np.arange(len(self.fold.classes))

    def _present_in_sets(self, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return rows.astype(np.float64) @ self._class_columns.astype(np.float64) > 0

    def _present_in_prefixes(
        self, order: NDArray[np.intp], sizes: NDArray[np.intp]
    ) -> NDArray[np.bool_]:
        return np.logical_or.accumulate(self._class_columns[order], axis=0)[sizes - 1]
