"""Engines whose models are made of sums over the rows of each class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skdvl.utilities.base import prefix_rows
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.base import (
    DOUBTFUL,
    Errors,
    IncrementalUtility,
    PrefixErrors,
    blocked_matmul,
)
from skdvl.utilities.incremental.class_scores import (
    has_rounded_ranks,
    predict_from_difference,
    predict_from_scores,
)
from skdvl.utilities.supervised import FallbackRule

__all__ = ["ClassSumsUtility"]

Floats = NDArray[np.float64]

_ROWS_AT_ONCE = 1024
_CACHE_BYTES = 2**22
_WALK_BYTES = 2**25
_STEP = 1024  # numbers that a call of numpy must add to be worth it


class _Prepared(NamedTuple):
    """What the data give once, several times as large as they are.

    Where the score is made of ranks, equal rows must get equal scores, to the bit, and a matrix
    product does not give that: so it is then taken with the distinct rows only.
    """

    tables: list[Floats]  # statistics of the rows of each class
    features: Floats  # (n_features, n_distinct)
    copies: NDArray[np.intp] | None  # where each validation row is among the distinct ones
    rank: NDArray[np.intp]  # of each training row in its class


class ClassSumsUtility(IncrementalUtility):
    """Base of the engines whose class scores are linear in features of the validation rows.

    The coefficients come from statistics that are summed over a coalition's rows class by class:
    along an order the sums are cumulative, for arbitrary coalitions they are a matrix product.
    Another matrix product gives the scores.

    Subclasses implement `_row_statistics`, `_features` and `_digest`; then, if a class's scores
    depend on its own rows only, but for a number that is added, `_additions`, or else
    `_coefficients`; and perhaps `_refusals`.

    Attributes
    ----------
    is_separable : bool
        Whether a class's scores depend on its own rows only, but for a number that is added.
        Along an order they are then computed once for each row instead of for each prefix.
    present : ndarray of int, shape (n_present,)
        Codes of the classes that the fold's training rows have.
    members : list of ndarray of int
        Rows of each of these classes.
    """

    responses: ClassVar[tuple[str, ...]] = ("predict", "predict_proba")
    has_cheap_prefixes = True
    pads_blocks: ClassVar[bool] = False
    is_separable: bool = False
    block_size: int = 256

    def __init__(self, estimator: Any, fold: Fold, judge: Judge, fallback: FallbackRule) -> None:
        super().__init__(estimator, fold, judge, fallback)
        self.present = np.unique(fold.codes)
        self.members = [np.flatnonzero(fold.codes == code) for code in self.present]
        widest = max(len(self.X_val), 2 * self.X.shape[1])
        bytes_per_set = 8 * widest * len(self.present)
        while self.block_size > 64 and self.block_size * bytes_per_set > _CACHE_BYTES:
            self.block_size //= 2
        metric = judge.metric
        smooth = metric is not None and metric.responses == ("predict_proba",)
        self._ranks = self.response != "predict" and not smooth

    # --- what a family implements ------------------------------------------------------------

    @abstractmethod
    def _row_statistics(self, k: int) -> Floats:
        """Return what is summed over rows, for the rows of class k: (n_members, n_statistics)."""

    @abstractmethod
    def _features(self, X: Floats) -> Floats:
        """Return the features that scores are linear in, the last one 1: (n_val, n_features)."""

    @abstractmethod
    def _digest(self, k: int, count: Floats, sums: Floats) -> Floats:
        """Return what class k contributes, from its count (...) and sums (..., n_statistics).

        Along an order a class's sums change only at its own rows, so what is done here is done
        once for each of them. Of separable classes the first ``n_features`` numbers of a digest
        are finite coefficients of the scores, and the rest goes to `_additions`.
        """

    def _additions(self, counts: Floats, rests: list[Floats]) -> tuple[Floats, NDArray[np.bool_]]:
        """Return what is added to the scores of separable classes.

        Parameters
        ----------
        counts : ndarray of shape (n_present, n_sets)
            Rows of each class in each set.
        rests : list of ndarray of shape (n_sets, ...)
            The digests without the coefficients, by class.

        Returns
        -------
        additions : ndarray of shape (n_present, n_sets)
            Minus infinity for classes without rows.
        doubtful : ndarray of bool, shape (n_sets,)
            Sets for which rounding may show; they are refitted.
        """
        raise NotImplementedError(f"{type(self).__name__} has no separable classes")

    def _coefficients(
        self, counts: Floats, digests: list[Floats]
    ) -> tuple[list[Floats], NDArray[np.bool_]]:
        """Return the coefficients of the class scores.

        Parameters
        ----------
        counts : ndarray of shape (n_present, n_sets)
            Rows of each class in each set.
        digests : list of ndarray of shape (n_sets, ...)
            What `_digest` makes of the statistics' sums, by class. May be overwritten.

        Returns
        -------
        coefficients : list of ndarray of shape (n_sets, n_features)
            By class; finite, but the last may be minus infinity, as for a class without rows.
        doubtful : ndarray of bool, shape (n_sets,)
            Sets for which rounding may show; they are refitted.
        """
        n_features = len(self._prepared().features)
        additions, doubtful = self._additions(counts, [d[:, n_features:] for d in digests])
        coefficients = []
        for digest, addition in zip(digests, additions, strict=True):
            made = digest[:, :n_features]
            made[:, -1] += addition
            coefficients.append(made)
        return coefficients, doubtful

    def _refusals(self, counts: Floats, rests: list[Floats]) -> Errors:
        """Return the sets that the estimator refuses, by position; arguments as `_additions`'."""
        return {}

    # --- the two doors ---------------------------------------------------------------------------

    def _predict(self, rows: NDArray[np.bool_], response: str) -> tuple[NDArray[Any], Errors]:
        tables = self._prepared().tables
        counts = np.empty((len(self.members), len(rows)))
        digests = []
        for k, members in enumerate(self.members):
            chosen = rows[:, members].astype(np.float64)
            counts[k] = chosen.sum(axis=1)
            digests.append(self._digest(k, counts[k], blocked_matmul(chosen, tables[k])))
        return self._respond_by_coefficients(counts, digests, response)

    def _score_prefixes(
        self, orders: NDArray[np.intp], sizes: NDArray[np.intp]
    ) -> tuple[Floats, PrefixErrors]:
        n_sizes = sizes.shape[1]
        scores = np.empty(sizes.shape)
        errors: PrefixErrors = {}
        tables, features, _, _ = self._prepared()
        widest = max(table.shape[1] for table in tables)
        if self._walks_scores():
            widest = max(widest, features.shape[1])
        bytes_per_order = 8 * self.fold.n_rows * widest
        at_once = max(1, min(_ROWS_AT_ONCE // max(n_sizes, 1), _CACHE_BYTES // bytes_per_order))
        for start in range(0, len(orders), at_once):
            group = slice(start, start + at_once)
            found, failed = self._score_orders(orders[group], sizes[group])
            scores[group] = found.reshape(-1, n_sizes)
            errors.update({(start + j // n_sizes, j % n_sizes): e for j, e in failed.items()})
        return scores, errors

    def _score_orders(
        self, orders: NDArray[np.intp], sizes: NDArray[np.intp]
    ) -> tuple[Floats, Errors]:
        """Score prefixes of a few orders, one order after the other."""
        n_orders, n_sizes = sizes.shape
        counts, digests, at = [], [], []
        for k in range(len(self.members)):
            count, digest = self._walk(k, orders)
            reached = np.take_along_axis(count, sizes, axis=1)
            counts.append(reached.ravel())
            at.append((reached + len(digest) // n_orders * np.arange(n_orders)[:, None]).ravel())
            digests.append(digest)
        all_counts = np.array(counts, dtype=np.float64)
        walked = None
        if self._walks_scores():
            features = self._prepared().features
            walked = [blocked_matmul(digest[:, : len(features)], features) for digest in digests]
            digests = [digest[:, len(features) :] for digest in digests]
        scores = np.empty(n_orders * n_sizes)
        errors: Errors = {}
        for start in range(0, len(scores), self.block_size):
            block = slice(start, start + self.block_size)
            some = [digest[index[block]] for digest, index in zip(digests, at, strict=True)]
            if walked is None:
                found = self._respond_by_coefficients(all_counts[:, block], some, self.response)
            else:
                own = (table[index[block]] for table, index in zip(walked, at, strict=True))
                found = self._respond_by_scores(all_counts[:, block], own, some)
            scores[block] = self._judge(*found)
            errors.update({start + j: error for j, error in found[1].items()})
        self._refit_doubtful(scores, errors, prefix_rows(orders, sizes))
        return scores, errors

    def _walk(self, k: int, orders: NDArray[np.intp]) -> tuple[NDArray[np.intp], Floats]:
        """Follow one class along orders.

        Returns
        -------
        count : ndarray of int, shape (n_orders, n_rows + 1)
            How many rows of the class each prefix has.
        digest : ndarray of shape (n_orders * (n_members + 1), ...)
            The class's digest after none, one, … all of its rows.
        """
        n_orders, n_rows = orders.shape
        tables, _, _, rank = self._prepared()
        table = tables[k]
        mine = self.fold.codes[orders] == self.present[k]
        count = np.zeros((n_orders, n_rows + 1), dtype=np.intp)
        np.cumsum(mine, axis=1, out=count[:, 1:])
        arriving = rank[orders[mine]].reshape(n_orders, len(table))
        sums = np.zeros((n_orders, len(table) + 1, table.shape[1]))
        _cumulate(table, arriving, sums[:, 1:])
        n_so_far = np.broadcast_to(np.arange(len(table) + 1.0), sums.shape[:2])
        digest = self._digest(k, n_so_far, sums)
        return count, digest.reshape(-1, *digest.shape[2:])

    # --- from coefficients to predictions ------------------------------------------------------

    def _walks_scores(self) -> bool:
        """Tell whether scores are computed once for each row of an order and kept meanwhile."""
        n_kept = (self.fold.n_rows + len(self.members)) * len(self.X_val)
        return self.is_separable and 8 * n_kept <= _WALK_BYTES

    def _respond_by_coefficients(
        self, counts: Floats, digests: list[Floats], response: str
    ) -> tuple[NDArray[Any], Errors]:
        n_coefficients = len(self._prepared().features) if self.is_separable else 0
        errors = self._refusals(counts, [digest[:, n_coefficients:] for digest in digests])
        coefficients, doubtful = self._coefficients(counts, digests)
        predictions = self._predict_linear(coefficients, response)
        return self._finish(predictions, counts, doubtful, errors, response)

    def _predict_linear(self, coefficients: list[Floats], response: str) -> NDArray[Any]:
        features = self._prepared().features
        if len(coefficients) == 2:
            difference = blocked_matmul(coefficients[1] - coefficients[0], features)
            return predict_from_difference(difference, response)
        scores = (blocked_matmul(c, features) for c in coefficients)
        return predict_from_scores(scores, len(coefficients), response)

    def _respond_by_scores(
        self, counts: Floats, own: Iterator[Floats], rests: list[Floats]
    ) -> tuple[NDArray[Any], Errors]:
        """Predict from the classes' own scores, (n_sets, n_val) each, which are overwritten."""
        errors = self._refusals(counts, rests)
        additions, doubtful = self._additions(counts, rests)
        if len(self.members) == 2:
            difference = -next(own)
            difference += next(own)
            difference += (additions[1] - additions[0])[:, np.newaxis]
            predictions = predict_from_difference(difference, self.response)
        else:
            scores = _add_to_each(own, additions)
            predictions = predict_from_scores(scores, len(self.members), self.response)
        return self._finish(predictions, counts, doubtful, errors, self.response)

    def _finish(
        self,
        predictions: NDArray[Any],
        counts: Floats,
        doubtful: NDArray[np.bool_],
        errors: Errors,
        response: str,
    ) -> tuple[NDArray[Any], Errors]:
        """Mark what is doubtful, and give predictions for all validation rows and classes."""
        copies = self._prepared().copies
        alone = (counts > 0).sum(axis=0) == 1
        if response == "predict":
            doubtful = doubtful & ~alone  # whatever its score is, the only class wins
        elif self._ranks:
            doubtful = doubtful | (has_rounded_ranks(predictions) & ~alone)
        if copies is not None:
            predictions = predictions[:, copies]
        for j in np.flatnonzero(doubtful).tolist():
            errors.setdefault(j, DOUBTFUL)
        return self._spread(predictions, response), errors

    def _spread(self, predictions: NDArray[Any], response: str) -> NDArray[Any]:
        """Say it in codes, or columns, of all classes of the fit."""
        assert self.fold.classes is not None
        n_classes = len(self.fold.classes)
        if len(self.present) == n_classes:
            return predictions
        if response == "predict":
            return self.present[predictions]
        proba = np.zeros((*predictions.shape[:2], n_classes))
        proba[:, :, self.present] = predictions
        return proba

    def _prepared(self) -> _Prepared:
        """Return what follows from the data; computed once in every process, not shipped."""
        prepared = self.__dict__.get("_prepared_data")
        if prepared is None:
            tables = [self._row_statistics(k) for k in range(len(self.members))]
            features, copies = self._features(self.X_val), None
            if self._ranks:
                features, copies = np.unique(features, axis=0, return_inverse=True)
                copies = copies.reshape(-1)  # numpy 2.0 gives it another shape
            rank = np.empty(self.fold.n_rows, dtype=np.intp)
            for members in self.members:
                rank[members] = np.arange(len(members))
            prepared = _Prepared(tables, np.ascontiguousarray(features.T), copies, rank)
            self._prepared_data = prepared
        return prepared

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_prepared_data", None)
        return state


def _cumulate(table: Floats, arriving: NDArray[np.intp], out: Floats) -> None:
    """Write the sums of the first 1, 2, … rows of each order, (n_orders, n_rows, n_statistics)."""
    n_orders, n_rows = arriving.shape
    if n_orders * table.shape[1] < _STEP:
        np.cumsum(table[arriving], axis=1, out=out)
        return
    # numpy's cumsum walks along the axis for each statistic anew, which misses the cache
    so_far = np.zeros((n_orders, table.shape[1]))
    for j in range(n_rows):
        so_far = np.add(so_far, table[arriving[:, j]], out=out[:, j])


def _add_to_each(scores: Iterator[Floats], additions: Floats) -> Iterator[Floats]:
    for score, addition in zip(scores, additions, strict=True):
        score += addition[:, np.newaxis]
        yield score
