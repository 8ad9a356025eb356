"""Exact incremental engines: the utilities of refitting, without refitting.

An engine serves a family of estimators. It says why it would not serve a given one (`why_not`),
and predicts for many sets of training rows at once (`_predict`), perhaps also for all prefixes
of an order (`_predict_prefixes`). To add a family, add a file to this folder: subclasses register
themselves, and the law tests compare every registered engine with refitting.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from skdvl.utilities.base import prefix_rows
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.refit import RefitUtility
from skdvl.utilities.supervised import FallbackRule, SupervisedUtility

__all__ = [
    "DOUBTFUL",
    "Errors",
    "IncrementalUtility",
    "PrefixErrors",
    "blocked_matmul",
    "numeric_array",
    "registered_engines",
]

_ENGINES: list[type[IncrementalUtility]] = []

Errors = dict[int, str]
PrefixErrors = dict[tuple[int, int], str]

# In the place of an error: nothing failed, but the engine is not exact here; the set is refitted.
DOUBTFUL = "the engine is not exact here"


def registered_engines() -> tuple[type[IncrementalUtility], ...]:
    """Return the engines, in order of registration."""
    return tuple(_ENGINES)


def numeric_array(data: Any) -> NDArray[np.float64] | None:
    """Return data as float64 where scikit-learn would compute in float64, else None.

    float32 is declined: many estimators then compute in float32 and round differently.
    """
    if sparse.issparse(data):
        return None
    array = np.asarray(data)
    if array.ndim != 2 or not (array.dtype == np.float64 or array.dtype.kind in "iub"):
        return None
    array = np.ascontiguousarray(array, dtype=np.float64)
    return array if np.isfinite(array).all() else None


_MATMUL_ROWS = 64
_MAX_BLOCK_BYTES = 2**25


def blocked_matmul(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``left @ right``, each row's bits whatever the other rows and their number.

    Parameters
    ----------
    left : ndarray of shape (n_rows, k)
        Multiplied in blocks of exactly as many rows, the last one padded with zeros.
    right : ndarray of shape (k, m)
    """
    left = np.ascontiguousarray(left)  # BLAS takes another path for a transposed operand
    n_rows = len(left)
    n_full = n_rows - n_rows % _MATMUL_ROWS
    out = np.empty((n_rows, right.shape[1]))
    for start in range(0, n_full, _MATMUL_ROWS):
        block = slice(start, start + _MATMUL_ROWS)
        np.matmul(left[block], right, out=out[block])
    if n_full < n_rows:
        rest = np.zeros((_MATMUL_ROWS, left.shape[1]))
        rest[: n_rows - n_full] = left[n_full:]
        out[n_full:] = (rest @ right)[: n_rows - n_full]
    return out


class IncrementalUtility(SupervisedUtility):
    """Base of the engines.

    Parameters
    ----------
    estimator : estimator object
        One that `why_not` has no objection to.
    fold : Fold
        Its ``X`` and ``X_val`` are what the estimator itself sees.
    judge : Judge
    fallback : FallbackRule

    Attributes
    ----------
    serves : tuple of str
        Names of scikit-learn's classes that the engine stands for. Subclasses of these are never
        served: they may do anything.
    responses : tuple of str
        Predictions that the engine can make.
    block_size : int
        Sets of rows are handed to `_predict` in blocks of exactly this many, the last one padded:
        the bits of a matrix product change with the number of its rows, and a coalition's
        utility must not depend on the batch it comes in. Fewer for very many validation rows.
    pads_blocks : bool
        Whether the last block is padded. An engine whose own arithmetic does not depend on the
        number of sets, see `blocked_matmul`, says False and spares that work.
    tie : float or None
        How close to each other two class scores, relatively, or two distances must be for
        another class than refitting's to be predicted; None where that never happens.
    response : str
        Which predictions the score is made of.
    X, X_val : ndarray of float64
        Training and validation rows.
    """

    serves: ClassVar[tuple[str, ...]]
    responses: ClassVar[tuple[str, ...]] = ("predict",)
    block_size: int = 64
    pads_blocks: ClassVar[bool] = True
    tie: ClassVar[float | None] = 1e-9
    evals_per_chunk: int = 2048
    evals_are_cheap: bool = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "serves" in cls.__dict__:
            _ENGINES.append(cls)

    def __init__(self, estimator: Any, fold: Fold, judge: Judge, fallback: FallbackRule) -> None:
        super().__init__(estimator, fold, judge, fallback)
        self.response = self._pick_response(judge)
        X, X_val = numeric_array(fold.X), numeric_array(fold.X_val)
        assert X is not None
        assert X_val is not None
        self.X, self.X_val = X, X_val
        self._refitting = RefitUtility(estimator, fold, judge, fallback)
        bytes_per_set = 8 * len(X_val) * (1 if fold.classes is None else len(fold.classes))
        while self.block_size > 1 and self.block_size * bytes_per_set > _MAX_BLOCK_BYTES:
            self.block_size //= 2

    @classmethod
    def why_not(cls, estimator: Any, fold: Fold, judge: Judge) -> str | None:
        """Return why the engine would not give the utilities of refitting, None if it would.

        Subclasses add their own conditions after those of the base.
        """
        if not cls.is_family(estimator):
            return f"{type(estimator).__name__} is not one of {', '.join(cls.serves)}"
        if judge.own_score or judge.responses is None:
            return "the scorer may look at more than predictions"
        if cls._pick_response(judge) is None:
            return f"the engine does not make the predictions {judge.responses}"
        if numeric_array(fold.X) is None or numeric_array(fold.X_val) is None:
            return "the data are not dense, finite float64 or integer arrays"
        if fold.classes is None and np.asarray(fold.y).dtype.kind not in "iufb":
            return "the targets are not numbers"
        return None

    @classmethod
    def is_family(cls, estimator: Any) -> bool:
        """Tell whether the estimator is exactly one of scikit-learn's classes that are served."""
        kind = type(estimator)
        return kind.__name__ in cls.serves and kind.__module__.startswith("sklearn.")

    @classmethod
    def examples(cls) -> list[Any]:
        """Return estimators that show every variant of the parameters that is served.

        The law tests compare the engine with refitting each of them.
        """
        raise NotImplementedError(f"{cls.__name__} shows no examples")

    @classmethod
    def reference(cls, estimator: Any) -> Any:
        """Return what the engine's utilities equal those of refitting: the estimator itself.

        An engine of exact optima returns the estimator, asked for more iterations.
        """
        return estimator

    @classmethod
    def closeness(cls, X: NDArray[np.float64]) -> float:
        """Return how far a score or probability may be off, relatively, for training rows X."""
        return 1e-9

    @classmethod
    def _pick_response(cls, judge: Judge) -> Any:
        wanted = judge.responses or ()
        return next((response for response in wanted if response in cls.responses), None)

    @abstractmethod
    def _predict(self, rows: NDArray[np.bool_], response: str) -> tuple[NDArray[Any], Errors]:
        """Predict for the validation rows with the models trained on sets of rows.

        Parameters
        ----------
        rows : ndarray of bool, shape (block_size, n_rows)
            Non-empty sets of training rows.
        response : str
            "predict", "predict_proba" or "decision_function".

        Returns
        -------
        predictions : ndarray of shape (block_size, n_val, ...)
            As `skdvl.metrics.Metric` takes them: class codes, not labels.
        errors : dict of int to str
            Sets on which the estimator would fail, by position, with the message; or `DOUBTFUL`.
        """

    def _predict_prefixes(
        self, order: NDArray[np.intp], sizes: NDArray[np.intp], response: str
    ) -> tuple[NDArray[Any], Errors]:
        """Predict with the models trained on prefixes of one order; for ``has_cheap_prefixes``.

        Parameters
        ----------
        order : ndarray of int, shape (n_rows,)
        sizes : ndarray of int, shape (n_sizes,)
            Ascending, positive.
        response : str

        Returns
        -------
        predictions : ndarray of shape (n_sizes, n_val, ...)
        errors : dict of int to str
            By position in ``sizes``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no cheap prefixes")

    def _score(self, rows: NDArray[np.bool_]) -> tuple[NDArray[np.float64], Errors]:
        scores = np.empty(len(rows))
        errors: Errors = {}
        for start in range(0, len(rows), self.block_size):
            block = rows[start : start + self.block_size]
            n_real = len(block)
            if n_real < self.block_size and self.pads_blocks:
                padding = np.ones((self.block_size - n_real, rows.shape[1]), dtype=bool)
                block = np.concatenate([block, padding])
            found, failed = self._score_block(block)
            scores[start : start + n_real] = found[:n_real]
            errors.update({start + j: e for j, e in failed.items() if j < n_real})
        self._refit_doubtful(scores, errors, lambda which: rows[which])
        return scores, errors

    def _score_block(self, rows: NDArray[np.bool_]) -> tuple[NDArray[np.float64], Errors]:
        """Score one block; a family overrides it where the score has a closed form."""
        predictions, errors = self._predict(rows, self.response)
        return self._judge(predictions, errors), errors

    def _score_prefixes(
        self, orders: NDArray[np.intp], sizes: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], PrefixErrors]:
        """Score prefixes order by order; a family overrides it to work on many orders at once."""
        scores = np.empty(sizes.shape)
        errors: PrefixErrors = {}
        for j, (order, wanted) in enumerate(zip(orders, sizes, strict=True)):
            predictions, failed = self._predict_prefixes(order, wanted, self.response)
            scores[j] = self._judge(predictions, failed)
            self._refit_doubtful(
                scores[j], failed, prefix_rows(order[np.newaxis], wanted[np.newaxis])
            )
            errors.update({(j, k): e for k, e in failed.items()})
        return scores, errors

    def _refit_doubtful(
        self,
        scores: NDArray[np.float64],
        errors: Errors,
        rows_of: Callable[[list[int]], NDArray[np.bool_]],
    ) -> None:
        """Fill in what refitting gives for the sets that are marked as `DOUBTFUL`."""
        doubtful = [j for j, error in errors.items() if error is DOUBTFUL]
        if not doubtful:
            return
        found, failed = self._refitting._score(rows_of(doubtful))
        scores[doubtful] = found
        for k, j in enumerate(doubtful):
            del errors[j]
            if k in failed:
                errors[j] = failed[k]

    def _judge(self, predictions: NDArray[Any], errors: Errors) -> NDArray[np.float64]:
        """Score predictions where the model did not fail; a scorer that fails adds its error."""
        if self.judge.metric is not None and not errors:
            return self.judge.judge_predictions(self.response, predictions)
        good = np.ones(len(predictions), dtype=bool)
        good[list(errors)] = False
        scores = np.full(len(predictions), np.nan)
        if self.judge.metric is not None:
            if good.any():
                scores[good] = self.judge.judge_predictions(self.response, predictions[good])
            return scores
        for j in np.flatnonzero(good).tolist():
            try:
                scores[j] = self.judge.judge_predictions(self.response, predictions[j : j + 1])[0]
            except MemoryError:
                raise
            except Exception as error:
                errors[j] = f"{type(error).__name__}: {error}"
        return scores
