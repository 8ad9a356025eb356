"""Nearest neighbours: distances are computed once, coalitions only choose among them.

Training rows are ranked by distance from each validation row once. What a coalition's model
predicts for a validation row follows from the ``n_neighbors`` lowest ranks in the coalition, and
two doors find these without sorting anything again:

- The prefixes of orders are walked along the order. Each arriving row is inserted into the sorted
  list of nearest rows of every order and validation row at once, by two vectorised instructions.
  Only where it is among the nearest is a prediction computed anew.
- Sets of rows are walked along the ranks. One bit says whether a set has the row of that rank, so
  that one machine word walks 64 sets.

Both work on integers, so a coalition's neighbours do not depend on the batch it comes in.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from skdvl.utilities.base import prefix_rows
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.base import (
    DOUBTFUL,
    Errors,
    IncrementalUtility,
    PrefixErrors,
)
from skdvl.utilities.incremental.neighbor_tables import (
    BYTES_PER_PAIR,
    NeighborTables,
    rank_neighbors,
)
from skdvl.utilities.quiet import quiet_warnings

__all__ = ["NeighborsUtility"]

_MAX_TABLE_BYTES = 200_000_000
_NOT_METRICS = ("braycurtis", "dice", "kulsinski", "russellrao", "sokalsneath")
_CELLS = 2**18  # numbers in a working array: a few megabytes
_WORDS = 2**15  # machine words in a bit plane: they stay in the processor's second cache


class NeighborsUtility(IncrementalUtility):
    """Utilities of `KNeighborsClassifier` and `KNeighborsRegressor`, with any metric.

    Of training rows that are equally far from a validation row, the first in the order of the
    data is the nearer one. scikit-learn's own choice among them depends on the algorithm, which
    ``algorithm="auto"`` chooses anew for each size of the training set. So does its rounding: a
    row that equals a validation row is at distance 0 here and in its trees, at about 1e-8 times
    the row's norm in its brute-force search.
    """

    engine = "nearest neighbors"
    serves = ("KNeighborsClassifier", "KNeighborsRegressor")
    responses = ("predict", "predict_proba")
    block_size = 1024
    has_cheap_prefixes = True

    def __init__(self, estimator: Any, fold: Fold, judge: Judge, fallback: Any) -> None:
        super().__init__(estimator, fold, judge, fallback)
        self.n_neighbors = int(estimator.n_neighbors)
        self.code_bits = 0 if fold.classes is None else int(len(fold.classes) - 1).bit_length()
        self.refuses_few = _why_not_from_two_rows(estimator, fold, 3) is not None

    @classmethod
    def examples(cls) -> list[Any]:
        """Return estimators that cover the parameters the engine serves."""
        return [
            KNeighborsClassifier(),
            KNeighborsClassifier(n_neighbors=3, weights="distance"),
            KNeighborsClassifier(n_neighbors=1, metric="manhattan"),
            KNeighborsClassifier(n_neighbors=4, metric="cosine", algorithm="brute"),
            KNeighborsRegressor(),
            KNeighborsRegressor(n_neighbors=3, weights="distance", p=3),
            KNeighborsRegressor(n_neighbors=10, metric="chebyshev"),
            KNeighborsClassifier(n_neighbors=4, metric="manhattan"),
            KNeighborsClassifier(n_neighbors=2, metric="manhattan", algorithm="ball_tree"),
        ]

    @classmethod
    def why_not(cls, estimator: Any, fold: Fold, judge: Judge) -> str | None:
        """Return why the engine would not give the utilities of refitting, None if it would."""
        reason = super().why_not(estimator, fold, judge)
        if reason is not None:
            return reason
        if estimator.weights not in ("uniform", "distance"):
            return "weights are computed by a function"
        if fold.classes is None and fold.y.dtype == np.float32:
            return "means of float32 targets are rounded to float32"
        if estimator.metric == "precomputed":
            return "the metric is precomputed"
        if estimator.metric in ("seuclidean", "mahalanobis"):
            return f"the metric {estimator.metric} may depend on the training rows"
        if estimator.metric in _NOT_METRICS and estimator.algorithm != "brute":
            return f"{estimator.metric} is no metric, so that scikit-learn's trees miss neighbours"
        if BYTES_PER_PAIR * fold.n_rows * len(fold.y_val) > _MAX_TABLE_BYTES:
            return f"{fold.n_rows} x {len(fold.y_val)} distances are too many to keep"
        reason = _why_not_from_two_rows(estimator, fold, 1)
        return None if reason is None else f"it fails by brute force ({reason})"

    @cached_property
    def _tables(self) -> NeighborTables:
        return rank_neighbors(self.estimator, self.fold, self.X, self.X_val, self.code_bits)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_tables", None)  # larger than the data it is computed from
        return state

    def _score(self, rows: NDArray[np.bool_]) -> tuple[NDArray[np.float64], Errors]:
        # Integers need no padding to give the same bits in any batch. The sets of a word walk
        # together, as far as the smallest of them needs, hence words of similar sizes.
        by_size = np.argsort(rows.sum(axis=1), kind="stable")
        n_words = max(1, _WORDS // (self.n_neighbors * len(self.X_val)))
        together = min(self.block_size, 64 * n_words)
        scores = np.empty(len(rows))
        errors: Errors = {}
        for start in range(0, len(rows), together):
            block = by_size[start : start + together]
            scores[block], failed = self._score_block(rows[block])
            errors.update({int(block[j]): error for j, error in failed.items()})
        self._refit_doubtful(scores, errors, lambda which: rows[which])
        return scores, errors

    def _predict(self, rows: NDArray[np.bool_], response: str) -> tuple[NDArray[Any], Errors]:
        sizes = rows.sum(axis=1)
        few = sizes < self.n_neighbors
        errors = {int(j): self._too_few(sizes[j]) for j in np.flatnonzero(few)}
        keys = self._nearest_in_sets(rows, ~few)
        together = max(1, _CELLS // (self._width(response) * len(self.X_val)))
        val_rows = np.arange(len(self.X_val))
        parts = []
        for start in range(0, len(rows), together):
            some = keys[start : start + together]
            neighbours = [np.ascontiguousarray(some[:, j]) for j in range(self.n_neighbors)]
            parts.append(self._respond(neighbours, val_rows, response))
        return np.concatenate(parts), errors

    def _score_prefixes(
        self, orders: NDArray[np.intp], sizes: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], PrefixErrors]:
        scores = np.full(sizes.shape, np.nan)
        few = sizes < self.n_neighbors
        errors = {at: self._too_few(int(sizes.flat[at])) for at in np.flatnonzero(few).tolist()}
        together = max(1, _CELLS // (8 * self._width(self.response) * len(self.X_val)))
        for start in range(0, len(orders), together):
            block = slice(start, start + together)
            arrivals = np.where(few[block], -1, sizes[block] - 1)
            times = np.unique(arrivals[arrivals >= 0])
            for some, predictions in self._predict_at(orders[block], times):
                at = np.nonzero((arrivals >= some[0]) & (arrivals <= some[-1]))
                which = np.searchsorted(some, arrivals[at])
                failed: Errors = {}
                scores[block][at] = self._judge(predictions[which, at[0]], failed)
                places = np.ravel_multi_index((start + at[0], at[1]), sizes.shape)
                errors.update({int(places[j]): error for j, error in failed.items()})
        self._refit_doubtful(scores.reshape(-1), errors, prefix_rows(orders, sizes))
        return scores, {divmod(at, sizes.shape[1]): error for at, error in errors.items()}

    def _width(self, response: str) -> int:
        """Return how many numbers a prediction takes, on the way to it or in the end."""
        n_outputs = 0 if self.fold.classes is None else len(self.fold.classes)
        return max(self.n_neighbors, n_outputs if response == "predict_proba" else 1)

    def _too_few(self, size: int) -> str:
        if not self.refuses_few:  # with some metrics scikit-learn lets a row vote several times
            return DOUBTFUL
        return (
            f"ValueError: Expected n_neighbors <= n_samples_fit, but n_neighbors = "
            f"{self.n_neighbors}, n_samples_fit = {size}, n_samples = {len(self.X_val)}"
        )

    def _predict_at(
        self, orders: NDArray[np.intp], times: NDArray[np.intp]
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[Any]]]:
        """Yield some of the times, and predictions then of shape (n_times, n_orders, n_val, ...).

        Times are numbers of arrivals. There are at least ``n_neighbors`` rows at all of them.
        """
        val_row_of = np.tile(np.arange(len(self.X_val)), len(orders))
        n_cells = len(val_row_of)
        before: Any = 0
        last: Any = np.iinfo(self._tables.keys.dtype).max  # no row yet
        for first, lists in self._nearest_in_prefixes(orders):
            some = times[slice(*np.searchsorted(times, [first, first + len(lists)]))]
            if len(some) == 0:
                continue
            # a row that is inserted anywhere pushes the last one out
            farthest = lists[some - first, -1]
            is_new = np.empty(farthest.shape, dtype=bool)
            np.not_equal(farthest[0], last, out=is_new[0])
            np.not_equal(farthest[1:], farthest[:-1], out=is_new[1:])
            last = farthest[-1]
            found = np.flatnonzero(is_new)
            ends = np.searchsorted(found, n_cells * np.arange(1, len(some) + 1))
            which = np.repeat(np.arange(len(some)), np.diff(ends, prepend=0))
            cell = found - which * n_cells
            at = (some - first)[which] * (self.n_neighbors * n_cells) + cell
            neighbours = [lists.reshape(-1).take(at + j * n_cells) for j in range(self.n_neighbors)]
            values = self._respond(neighbours, val_row_of.take(cell), self.response)
            predictions = np.empty((len(some), n_cells, *values.shape[1:]), values.dtype)
            for here, start, end in zip(predictions, [0, *ends[:-1]], ends, strict=True):
                here[:] = before
                here[cell[start:end]] = values[start:end]
                before = here
            yield some, predictions.reshape(*is_new.shape, *values.shape[1:])

    def _nearest_in_prefixes(self, orders: NDArray[np.intp]) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield ``(first, lists)``: keys of the nearest rows after arrival ``first`` and later.

        ``lists`` has shape (n_arrivals, n_neighbors, n_orders, n_val) and is overwritten.
        """
        keys = self._tables.keys
        n_orders, n_rows = orders.shape
        shape = (self.n_neighbors, n_orders, keys.shape[1])
        n_cells = self._width(self.response) * n_orders * keys.shape[1]
        length = min(n_rows, max(1, _CELLS // n_cells))
        lists = np.full((length + 1, *shape), np.iinfo(keys.dtype).max, dtype=keys.dtype)
        for first in range(0, n_rows, length):
            arriving = keys[orders[:, first : first + length].T]
            for key, before, after in zip(arriving, lists[:-1], lists[1:], strict=False):
                np.minimum(before, key, out=after)
                np.maximum(before[:-1], after[1:], out=after[1:])
            yield first, lists[1 : len(arriving) + 1]
            lists[0] = lists[len(arriving)]

    def _nearest_in_sets(self, rows: NDArray[np.bool_], some: NDArray[np.bool_]) -> NDArray[Any]:
        """Return keys of the nearest rows of ``some`` sets, shape (n_sets, n_neighbors, n_val).

        The ranks are left out of the keys where only the classes matter. Sets are best sorted by
        size: the last words, with the largest sets, then leave the walk first.
        """
        tables = self._tables
        members = _pack(rows)
        n_active = n_words = len(members)
        shape = (n_words, self.n_neighbors, len(tables.by_rank))
        # next_[:, j]: the sets that have j neighbours so far; bits[p, :, j]: bit p of the j-th key
        next_ = np.zeros(shape, dtype=np.uint64)
        next_[:, 0] = _pack(some[:, np.newaxis])
        needs_ranks = self.fold.classes is None or tables.closeness is not None
        n_rank_bits = int(len(self.X) - 1).bit_length() if needs_ranks else 0
        bits = np.zeros((self.code_bits + n_rank_bits, *shape), dtype=np.uint64)
        has_code_bit = self._code_masks()
        for rank, nearest in enumerate(tables.by_rank.T):
            if rank % 8 == 0:
                n_active = 1 + int(max(np.flatnonzero(next_.any(axis=(1, 2))), default=-1))
                open_, planes = next_[:n_active], bits[:, :n_active]
            if n_active == 0:
                break
            taken = open_ & members[:n_active, np.newaxis, nearest]
            open_ ^= taken
            open_[:, 1:] |= taken[:, :-1]
            for p in range(n_rank_bits):
                if rank >> p & 1:
                    planes[self.code_bits + p] |= taken
            for p in range(self.code_bits):
                planes[p] |= taken & has_code_bit[p, nearest]
        keys = np.zeros((*shape, 64), dtype=tables.keys.dtype)
        for p, plane in enumerate(bits):
            octets = plane[..., np.newaxis].view(np.uint8)
            keys |= np.unpackbits(octets, axis=-1, bitorder="little").astype(keys.dtype) << p
        return keys.transpose(0, 3, 1, 2).reshape(-1, *shape[1:])[: len(rows)]

    def _code_masks(self) -> NDArray[np.uint64]:
        """Return words of ones where a training row's class has bit p, shape (p, n_rows)."""
        codes = np.zeros(1, dtype=np.intp) if self.fold.classes is None else self.fold.codes
        has_bit = codes >> np.arange(self.code_bits)[:, np.newaxis] & 1
        return np.where(has_bit, np.uint64(2**64 - 1), np.uint64(0))

    def _respond(
        self, neighbours: list[NDArray[Any]], val_rows: NDArray[np.intp], response: str
    ) -> NDArray[Any]:
        """Predict from the keys of the nearest neighbour, of the next and so on.

        Their last axis, or only one, goes over the validation rows.
        """
        places, weights = self._places(neighbours, val_rows), None
        if self._tables.closeness is not None:
            weights = self._weights(self._tables.closeness, places)
        if self._tables.targets is not None:
            return self._mean_target(self._tables.targets, places, weights)
        votes = self._votes(neighbours, weights)
        if response == "predict_proba":
            # np.sum would sum a single cell's votes in another order than those of many
            return np.stack(votes, axis=-1) / reduce(np.add, votes)[..., np.newaxis]
        kind = np.min_scalar_type(len(votes))
        best, code = votes[0], np.zeros(votes[0].shape, dtype=kind)
        for c, vote in enumerate(votes[1:], start=1):
            code[vote > best] = c
            best = np.maximum(best, vote)
        return code

    def _places(
        self, neighbours: list[NDArray[Any]], val_rows: NDArray[np.intp]
    ) -> list[NDArray[np.intp]]:
        """Return where the tables by validation row and rank tell of the neighbours."""
        if self._tables.closeness is None and self._tables.targets is None:
            return []
        start = val_rows * len(self.X)
        return [(key >> self.code_bits) + start for key in neighbours]

    @staticmethod
    def _weights(
        closeness: NDArray[np.float64], places: list[NDArray[np.intp]]
    ) -> list[NDArray[np.float64]]:
        """Return 1 / distance; where a neighbour is at distance 0, it alone has a weight, 1."""
        weights = [closeness.take(place) for place in places]
        at_zero = np.isinf(weights[0])  # the nearest is, if any is
        if at_zero.any():
            weights = [np.where(at_zero, np.isinf(weight), weight) for weight in weights]
        return weights

    def _votes(
        self, neighbours: list[NDArray[Any]], weights: list[NDArray[np.float64]] | None
    ) -> list[NDArray[Any]]:
        """Return each class's votes, summed from the nearest neighbour on as scikit-learn does."""
        mask = neighbours[0].dtype.type((1 << self.code_bits) - 1)
        codes = [key & mask for key in neighbours]
        assert self.fold.classes is not None
        votes = []
        for c in range(len(self.fold.classes)):
            if weights is None:
                vote = np.zeros(codes[0].shape, np.min_scalar_type(self.n_neighbors))
                for code in codes:
                    np.add(vote, code == c, out=vote)
            else:
                vote = np.zeros(codes[0].shape)
                for code, weight in zip(codes, weights, strict=True):
                    vote += weight * (code == c)  # five times as fast as where=
            votes.append(vote)
        return votes

    def _mean_target(
        self,
        targets: NDArray[np.float64],
        places: list[NDArray[np.intp]],
        weights: list[NDArray[np.float64]] | None,
    ) -> NDArray[np.float64]:
        total = np.zeros(places[0].shape)
        for j, place in enumerate(places):
            target = targets.take(place)
            total += target if weights is None else np.multiply(target, weights[j], out=target)
        return total / (self.n_neighbors if weights is None else reduce(np.add, weights))


def _why_not_from_two_rows(estimator: Any, fold: Fold, n_neighbors: int) -> str | None:
    """Return why scikit-learn cannot predict from two rows, which it searches by brute force.

    With some metrics it fails there for labels that are texts (version 1.6), and does not refuse
    to predict from fewer rows than neighbours.
    """
    smallest = clone(estimator).set_params(n_neighbors=n_neighbors)
    try:
        with quiet_warnings():
            smallest.fit(fold.X[:2], fold.y[:2]).predict(fold.X_val[:1])
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _pack(members: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Pack the flags of 64 sets, shape (n_sets, n), into one word, shape (n_words, n)."""
    octets = np.zeros((members.shape[1], -(-len(members) // 64) * 8), dtype=np.uint8)
    packed = np.packbits(members.T, axis=1, bitorder="little")
    octets[:, : packed.shape[1]] = packed
    return np.ascontiguousarray(octets.view(np.uint64).T)
