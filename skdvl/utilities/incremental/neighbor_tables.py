"""Who is near whom: what the engine of nearest neighbours computes once per fold."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.metrics import pairwise_distances

from skdvl.utilities.fold import Fold

__all__ = ["BYTES_PER_PAIR", "NeighborTables", "rank_neighbors"]

BYTES_PER_PAIR = 24  # of training and validation row, at most
_CELLS = 2**18  # distances at once: a few megabytes


class NeighborTables(NamedTuple):
    """Training rows by their distance from each validation row.

    Attributes
    ----------
    by_rank : ndarray of int, shape (n_val, n_rows)
        Training rows, nearest first; of equally near ones the first comes first.
    keys : ndarray of unsigned int, shape (n_rows, n_val)
        Rank of a training row, and in the ``code_bits`` lowest bits its class.
    closeness : ndarray of shape (n_val * n_rows,) or None
        1 / distance by validation row and rank, for ``weights="distance"``.
    targets : ndarray of shape (n_val * n_rows,) or None
        Targets of the training rows by validation row and rank, for regression.
    """

    by_rank: NDArray[Any]
    keys: NDArray[Any]
    closeness: NDArray[np.float64] | None
    targets: NDArray[np.float64] | None


def rank_neighbors(
    estimator: Any,
    fold: Fold,
    X: NDArray[np.float64],
    X_val: NDArray[np.float64],
    code_bits: int,
) -> NeighborTables:
    """Rank the training rows of a fold, whose features are X, from each row of X_val."""
    n_rows, n_val = len(X), len(X_val)
    kind = np.min_scalar_type(n_rows << code_bits)
    codes = np.zeros(n_rows, kind) if fold.classes is None else fold.codes.astype(kind)
    ranks = (np.arange(n_rows) << code_bits).astype(kind)
    by_rank = np.empty((n_val, n_rows), dtype=np.min_scalar_type(n_rows))
    keys = np.empty((n_rows, n_val), dtype=kind)
    closeness = np.empty((n_val, n_rows)) if estimator.weights == "distance" else None
    model = clone(estimator).fit(X, fold.y)
    block = max(1, _CELLS // n_rows)
    for start in range(0, n_val, block):
        here = slice(start, start + block)
        distances = _distances(model, X_val[here], X)
        by_rank[here] = nearest = np.argsort(distances, axis=1, kind="stable")
        for j, rows in enumerate(nearest, start):
            keys[rows, j] = ranks | codes[rows]
        if closeness is not None:
            with np.errstate(divide="ignore"):
                closeness[here] = 1 / np.take_along_axis(distances, nearest, axis=1)
    targets = None
    if fold.classes is None:
        targets = np.asarray(fold.y, dtype=np.float64)[by_rank].ravel()
    return NeighborTables(by_rank, keys, None if closeness is None else closeness.ravel(), targets)


def _distances(model: Any, X_val: NDArray[np.float64], X: NDArray[np.float64]) -> NDArray[Any]:
    if model.effective_metric_ == "euclidean":
        # scikit-learn's shortcut through a matrix product is not 0 for equal rows
        return cdist(X_val, X)
    return pairwise_distances(
        X_val, X, metric=model.effective_metric_, **model.effective_metric_params_
    )
