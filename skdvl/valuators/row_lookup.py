"""Rows found again by their content."""

from __future__ import annotations

import hashlib
import itertools
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["RowLookup", "row_digests"]

_BLOCK_ELEMENTS = 2**17


def row_digests(X: Any) -> list[bytes]:
    """Return a 128-bit digest of every row's content.

    Numbers count as float64, -0.0 as 0.0, every NaN as the same; only entries other than 0 are
    digested, so that sparse and dense rows agree. Other entries count by their text, one by one:
    whether "1" is a text must not depend on the other rows.
    """
    if hasattr(X, "tocsr"):
        return _sparse_digests(X.tocsr().astype(np.float64, copy=True))
    if hasattr(X, "columns"):
        return _frame_digests(X)
    array = np.asarray(X)
    if array.dtype.kind in "biuf":
        return _number_digests(array.reshape(len(array), -1).astype(np.float64))
    return _frame_digests(pd.DataFrame(array.reshape(len(array), -1)))


def _sparse_digests(rows: Any) -> list[bytes]:
    rows.sum_duplicates()
    rows.eliminate_zeros()
    rows.sort_indices()
    values = np.where(np.isnan(rows.data), np.nan, rows.data)
    return _digest(rows.indptr, rows.indices, values)


def _number_digests(array: NDArray[np.float64], extra: list[str] | None = None) -> list[bytes]:
    digests = []
    step = max(1, _BLOCK_ELEMENTS // max(array.shape[1], 1))
    for first in range(0, len(array), step):
        block = array[first : first + step]
        block = np.where(np.isnan(block), np.nan, block)
        rows, columns = np.nonzero(block)
        ends = np.searchsorted(rows, np.arange(len(block) + 1))
        texts = None if extra is None else extra[first : first + step]
        digests += _digest(ends, columns, block[rows, columns], texts)
    return digests


def _frame_digests(frame: Any) -> list[bytes]:
    """Digest a frame: numbers and missing entries as numbers, others as text."""
    columns = [frame[name] for name in frame.columns]
    numbers = np.zeros((len(frame), len(columns)))
    texts: list[list[str]] = []
    for j, column in enumerate(columns):
        values = np.asarray(column)
        if values.dtype.kind not in "biuf":
            is_missing = pd.isna(values)
            is_real = np.array([isinstance(value, (Real, np.bool_)) for value in values], bool)
            is_number, is_text = is_real & ~is_missing, ~(is_real | is_missing)
            if is_text.any():
                shown = zip(values, is_text, strict=True)
                texts.append([f"{j}={value!s}" if text else "" for value, text in shown])
            numbers[is_number, j] = values[is_number].astype(np.float64)
            numbers[is_missing, j] = np.nan
            continue
        numbers[:, j] = values
    if not texts:
        return _number_digests(numbers)
    return _number_digests(
        numbers, ["\0".join(filter(None, parts)) for parts in zip(*texts, strict=True)]
    )


def _digest(
    ends: NDArray[np.integer],
    places: NDArray[np.integer],
    values: NDArray[np.float64],
    texts: list[str] | None = None,
) -> list[bytes]:
    """Return the digest of each row of a matrix in CSR format, its text added."""
    all_places = places.astype(np.int64).tobytes()
    all_values = values.tobytes()
    at = (8 * ends.astype(np.int64)).tolist()
    digests = []
    for k, (start, end) in enumerate(itertools.pairwise(at)):
        hasher = hashlib.blake2b(all_places[start:end], digest_size=16)
        hasher.update(all_values[start:end])
        if texts is not None:
            hasher.update(texts[k].encode())
        digests.append(hasher.digest())
    return digests


class RowLookup:
    """Values of rows, found by the rows' content.

    Parameters
    ----------
    X : array-like, sparse matrix or frame of shape (n_samples, n_features)
    values : ndarray of shape (n_samples,)
        Equal rows get the mean of their values.

    Attributes
    ----------
    has_missing : bool
        Whether a row has a missing entry.
    """

    def __init__(self, X: Any, values: NDArray[np.float64]) -> None:
        entries = X.data if hasattr(X, "tocsr") else np.asarray(X)
        self.has_missing = bool(pd.isna(entries).any())
        digests = row_digests(X)
        codes, unique = pd.factorize(np.array(digests, dtype=object))
        sums = np.bincount(codes, weights=values, minlength=len(unique))
        means = sums / np.bincount(codes, minlength=len(unique))
        self._values = dict(zip(unique, means.tolist(), strict=True))

    def find(self, X: Any) -> NDArray[np.float64]:
        """Return the values of rows, NaN for those never seen."""
        return np.array([self._values.get(d, np.nan) for d in row_digests(X)], dtype=np.float64)
