"""Training rows in the order of their distance to other rows, at the speed of sorting integers.

The order is by (distance, index) and exact. It does not depend on BLAS, on blocks or on threads: a
fast approximation sorts, its error bound finds the neighbours in that order that it cannot tell
apart, and those alone are sorted by their distances.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from scipy.spatial.distance import cdist
from sklearn.metrics import pairwise_distances
from sklearn.metrics.pairwise import PAIRWISE_BOOLEAN_FUNCTIONS

__all__ = ["Block", "Distances", "PairwiseDistances", "SquaredEuclidean", "make_distances"]

Matrix = Any  # ndarray, or a sparse matrix or array in CSR format
Metric = str | Callable

_BLOCK_ELEMENTS = 2**21  # 16 MB of distances: enough rows for an efficient matrix product
_SORT_ELEMENTS = 2**15 + 2**13  # and few enough at a time for all passes to stay in the L2 cache
_NEED_PARAMETERS = {"mahalanobis": "VI", "seuclidean": "V"}


@dataclass
class Block:
    """Distances from some rows to all training rows.

    Attributes
    ----------
    approximate : ndarray of shape (n_rows, n_train)
        Not negative and finite, but from a row to itself; in the order of the distances up to the
        ``ulps`` of `Distances`. Sorting overwrites it.
    exact : callable
        ``exact(r, columns)`` gives the distances that are meant, or an increasing function of
        them, from the block's row ``r``.
    distances : ndarray of shape (n_rows, n_train) or None
        All distances, where they had to be computed anyway.
    """

    approximate: NDArray[np.float64]
    exact: Callable[[int, NDArray[np.intp]], NDArray[np.float64]]
    distances: NDArray[np.float64] | None = None


class Distances(ABC):
    """Distances from validation rows, or from each training row to the others.

    Attributes
    ----------
    n_train : int
        Number of training rows.
    leave_one_out : bool
        Whether the rows are training rows; a row is then infinitely far from itself.
    ulps : int
        Approximations that differ by more units in the last place are in the right order.
    """

    n_train: int
    leave_one_out: bool
    ulps: int

    @abstractmethod
    def block(self, rows: NDArray[np.intp], room: NDArray[np.float64]) -> Block:
        """Return the distances from some rows; ``room`` for as many may be written to."""

    def sorted_codes(
        self, rows: NDArray[np.intp], codes_of: Callable[[int], NDArray[np.int64]]
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.float64] | None]]:
        """Sort the training rows by (distance, index) for each of some rows, in blocks.

        Parameters
        ----------
        rows : ndarray of shape (n_rows,)
            Rows to measure from.
        codes_of : callable
            ``codes_of(row)`` gives ``2 * index + bit`` for all training rows in their order. The
            bit travels with the index, which saves a gather of whatever it stands for.

        Yields
        ------
        rows : ndarray of shape (b,)
            The rows of this block.
        codes : ndarray of shape (b, n_train)
            Codes of the training rows, nearest first; where one is left out, it comes last and its
            code means nothing. Overwritten by the next block.
        distances : ndarray of shape (b, n_train) or None
            `Block.distances` of these rows.
        """
        step = max(1, min(_BLOCK_ELEMENTS // self.n_train, max(64, 2**16 // self.n_train)))
        few = min(step, max(1, _SORT_ELEMENTS // self.n_train))
        gaps = np.empty((few, self.n_train - 1), dtype=np.uint64)
        # one array for all blocks: the system takes as long to hand out memory as BLAS to fill it
        room = np.empty((min(step, len(rows)), self.n_train))
        for start in range(0, len(rows), step):
            asked = rows[start : start + step]
            block = self.block(asked, room[: len(asked)])
            for first in range(0, len(asked), few):
                part = slice(first, min(first + few, len(asked)))
                here = asked[part]
                codes = self._sort(block, part, here, codes_of, gaps)
                yield here, codes, None if block.distances is None else block.distances[part]

    def _sort(
        self,
        block: Block,
        part: slice,
        rows: NDArray[np.intp],
        codes_of: Callable[[int], NDArray[np.int64]],
        gaps: NDArray[np.uint64],
    ) -> NDArray[np.int64]:
        """Turn bit patterns of distances into codes in the order of the distances, in place.

        Floats that are not negative are ordered as their bit patterns are. A code replaces the
        last bits of each, so that one sort, which numpy does with vector instructions, yields codes
        without a gather: two to five times faster than argsort. It sorts them as floats, which
        AVX2 compares at once, unlike unsigned integers: a fifth less time.
        """
        floats = block.approximate[part]
        keys = floats.view(np.uint64)
        n_bits = (2 * self.n_train - 1).bit_length()
        code_bits = np.uint64((1 << n_bits) - 1)
        keys &= ~code_bits
        for key, row in zip(keys, rows, strict=True):
            key |= codes_of(row).view(np.uint64)
        if self.leave_one_out:
            floats[np.arange(len(rows)), rows] = np.inf
        floats.sort(axis=1)
        if self.ulps >= 0 and self.n_train > 1:
            gaps = np.subtract(keys[:, 1:], keys[:, :-1], out=gaps[: len(keys)])
            # two units for the bits that were cut off, one for the codes in their place
            too_close = np.uint64((self.ulps >> n_bits) + 3 << n_bits)
            if gaps.min() < too_close:
                for r in np.flatnonzero((gaps < too_close).any(axis=1)):
                    exact = partial(block.exact, part.start + r)
                    self._sort_again(keys[r], gaps[r] < too_close, code_bits, exact)
        keys &= code_bits
        return keys.view(np.int64)

    @staticmethod
    def _sort_again(
        keys: NDArray[np.uint64],
        is_close: NDArray[np.bool_],
        code_bits: np.uint64,
        exact: Callable[[NDArray[np.intp]], NDArray[np.float64]],
    ) -> None:
        """Sort the keys of a row that are close to a neighbour by (distance, index).

        All of them at once: the others are in order already, so that no member of one run of close
        keys can come to lie in another.
        """
        unclear = np.zeros(len(keys), dtype=bool)
        unclear[1:] = is_close
        unclear[:-1] |= is_close
        codes = np.sort(keys[unclear] & code_bits)
        distances = exact((codes >> np.uint64(1)).view(np.int64))
        keys[unclear] = codes[np.argsort(distances, kind="stable")]


class SquaredEuclidean(Distances):
    r"""Euclidean distances of dense rows, by one matrix product.

    For row :math:`a` the approximation is :math:`|x - a|^2 + |a|^2 = |x|^2 - 2ax + 2|a|^2`, with
    the rows centred. The extra :math:`|a|^2` turns the absolute error that cancellation leaves into
    a relative one: the terms add up to at most 7 times the result, so that all rounding, that of
    the centring and of the distances too, is below ``8 (3 d + 16)`` units in the last place. The
    distances that are meant are those of `scipy.spatial.distance.cdist`.

    Parameters
    ----------
    X : ndarray of shape (n_train, n_features)
    X_val : ndarray of shape (n_rows, n_features) or None
        None: the training rows, each against the others.
    """

    def __init__(self, X: NDArray, X_val: NDArray | None) -> None:
        self.n_train, n_features = X.shape
        self.leave_one_out = X_val is None
        self.train = X
        self.reference = X if X_val is None else X_val
        lattice = self._lattice()
        self.center = X.mean(axis=0, dtype=np.float64)
        if lattice is not None:
            self.center = np.rint(self.center * lattice) / lattice
        self.ulps = 16 * (3 * n_features + 16) if lattice is None else -1
        # (x, |x|², 1) against (-2a, 1, 2|a|²): the product adds the norms in its own registers
        self.factor = np.empty((n_features + 2, self.n_train))
        centered = np.subtract(X.T, self.center[:, np.newaxis], out=self.factor[:-2])
        np.einsum("ij,ij->j", centered, centered, out=self.factor[-2])
        self.factor[-1] = 1

    def _lattice(self) -> int | None:
        """Return the scale at which the data are integers so small that no product is rounded.

        Then approximations are exact. Ties are the rule in such data (counts, pixels, one-hot
        columns), and none of them needs a second look.
        """
        room = 53 - (2 * self.n_train - 1).bit_length()
        for scale in (1, 256):
            largest = 0.0
            for X in (self.train[:64], self.train, self.reference):
                largest = max(largest, _largest(X) * scale)
                too_large = 20 * X.shape[1] * largest * largest > 2**room
                if too_large or np.any(X * scale != np.rint(X * scale)):
                    break
            else:
                return scale
        return None

    def block(self, rows: NDArray[np.intp], room: NDArray[np.float64]) -> Block:
        """Return the distances from some rows; see `Distances.block`."""
        reference = self.reference[rows].astype(np.float64)
        centered = reference - self.center
        factor = np.empty((len(rows), len(self.factor)))
        factor[:, :-2] = -2 * centered
        factor[:, -2] = 1
        factor[:, -1] = 2 * np.einsum("ij,ij->i", centered, centered)
        approximate = np.matmul(factor, self.factor, out=room)
        if self.leave_one_out:
            approximate[np.arange(len(rows)), rows] = np.inf

        def exact(r: int, columns: NDArray[np.intp]) -> NDArray[np.float64]:
            return cdist(reference[r : r + 1], self.train[columns], "sqeuclidean")[0]

        return Block(approximate, exact)


class PairwiseDistances(Distances):
    """Distances by any metric of scikit-learn, of dense or sparse rows, or given in advance.

    Parameters
    ----------
    X : array-like of shape (n_train, n_features), or (n_train, n_train) for "precomputed"
    X_val : array-like of shape (n_rows, n_features), or (n_rows, n_train); or None
        None: the training rows, each against the others.
    metric : str or callable
        As in `sklearn.metrics.pairwise_distances`.
    **metric_params
        Further arguments of the metric.
    """

    def __init__(
        self, X: Matrix, X_val: Matrix | None, metric: Metric, **metric_params: Any
    ) -> None:
        self.n_train = X.shape[0]
        self.leave_one_out = X_val is None
        self.train = X
        self.reference = X if X_val is None else X_val
        self.metric = metric
        self.metric_params = metric_params
        self.ulps = 0

    def block(self, rows: NDArray[np.intp], room: NDArray[np.float64]) -> Block:
        """Return the distances from some rows; see `Distances.block`."""
        distances = self._measure(self.reference[rows])
        if not distances.min() >= 0:
            raise ValueError(
                f"metric {self.metric!r} gave a distance of {distances.min()}; "
                "distances must be numbers and not negative."
            )
        distances += 0.0  # -0.0 has the bit pattern of a negative number
        if self.leave_one_out:
            distances[np.arange(len(rows)), rows] = np.inf
        # with other last bits infinity would be no number; only a row itself is infinitely far
        approximate = np.minimum(distances, np.finfo(np.float64).max / 2)
        return Block(approximate, lambda r, columns: distances[r, columns], distances)

    def _measure(self, reference: Matrix) -> NDArray[np.float64]:
        if self.metric == "precomputed":
            return np.array(reference, dtype=np.float64)
        if self.metric == "euclidean" and not issparse(self.train):
            # scikit-learn's own comes from a matrix product, whose rounding depends on the block
            return cdist(reference, self.train)
        distances = pairwise_distances(
            reference, self.train, metric=self.metric, **self.metric_params
        )
        return np.asarray(distances, dtype=np.float64)


def make_distances(
    X: Matrix,
    X_val: Matrix | None,
    *,
    metric: Metric,
    p: float,
    metric_params: dict[str, Any] | None,
    need_distances: bool,
) -> Distances:
    """Choose how to measure distances.

    Parameters
    ----------
    X : array-like of shape (n_train, n_features)
    X_val : array-like of shape (n_rows, n_features) or None
    metric, p, metric_params
        As in `sklearn.neighbors.KNeighborsClassifier`.
    need_distances : bool
        Whether the order alone will not do.

    Returns
    -------
    Distances

    Raises
    ------
    ValueError
        If the metric estimates parameters from the data and they were not given.
    """
    params = dict(metric_params or {})
    if metric == "minkowski" and "w" not in params:
        p = params.pop("p", p)
        metric = {1: "manhattan", 2: "euclidean", np.inf: "chebyshev"}.get(p, metric)
    if metric == "minkowski":
        params.setdefault("p", p)
    metric = "euclidean" if metric == "l2" else metric
    if (
        isinstance(metric, str)
        and (needed := _NEED_PARAMETERS.get(metric))
        and needed not in params
    ):
        # scikit-learn would estimate it from whatever block of rows it is given
        raise ValueError(f"metric {metric!r} needs metric_params={{{needed!r}: ...}}")
    if metric in PAIRWISE_BOOLEAN_FUNCTIONS:
        X, X_val = X.astype(bool), None if X_val is None else X_val.astype(bool)
    order_will_do = not (need_distances or params or issparse(X))
    if metric in ("euclidean", "sqeuclidean") and order_will_do and _can_be_squared(X, X_val):
        return SquaredEuclidean(X, X_val)
    return PairwiseDistances(X, X_val, metric, **params)


def _can_be_squared(X: NDArray, X_val: NDArray | None) -> bool:
    """Tell whether no square comes near the end of the range of floats."""
    return max(_largest(X), 0 if X_val is None else _largest(X_val)) < 1e150


def _largest(X: NDArray) -> float:
    return max(float(X.max(initial=0)), -float(X.min(initial=0)))
