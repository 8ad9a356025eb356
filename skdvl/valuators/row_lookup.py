"""Rows found again by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["RowLookup", "row_digests"]

Words = NDArray[np.uint64]

_BLOCK_ELEMENTS = 2**15  # 256 kB: all passes over a block stay in the L2 cache
_STEP = np.uint64(0x9E3779B97F4A7C15)  # odd, so that its multiples differ: those of splitmix64


def row_digests(X: Any) -> list[bytes]:
    """Return a 128-bit digest of every row's content.

    Numbers count as float64, -0.0 as 0.0, every NaN as the same; only entries other than 0 are
    digested, so that sparse and dense rows agree. Other entries count by their text, one by one:
    whether "1" is a text must not depend on the other rows.

    A digest adds up what all entries are scrambled to, each with its column. That takes a tenth of
    the time of a cryptographic hash per row, and no row gains by looking like another: both are
    given the mean of their values.
    """
    if hasattr(X, "tocsr"):
        return _to_bytes(_sparse_digests(X.tocsr().astype(np.float64, copy=True)))
    if hasattr(X, "columns"):
        return _to_bytes(_frame_digests(X))
    array = np.asarray(X)
    array = array.reshape(len(array), -1)
    if array.dtype.kind in "biuf":
        return _to_bytes(_number_digests(array))
    return _to_bytes(_frame_digests(pd.DataFrame(array)))


def _to_bytes(digests: Words) -> list[bytes]:
    whole = digests.tobytes()
    return [whole[start : start + 16] for start in range(0, len(whole), 16)]


def _sparse_digests(rows: Any) -> Words:
    rows.sum_duplicates()
    digests = np.zeros((rows.shape[0], 2), dtype=np.uint64)
    of_row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    for half, words in enumerate(_scramble(rows.data, rows.indices)):
        np.add.at(digests[:, half], of_row, words)
    return digests


def _number_digests(array: NDArray) -> Words:
    digests = np.empty((len(array), 2), dtype=np.uint64)
    columns = np.arange(array.shape[1])
    step = max(1, _BLOCK_ELEMENTS // max(array.shape[1], 1))
    for first in range(0, len(array), step):
        part = slice(first, first + step)
        for half, words in enumerate(_scramble(array[part].astype(np.float64), columns)):
            words.sum(axis=1, out=digests[part, half])
    return digests


def _scramble(values: NDArray[np.float64], columns: NDArray[np.integer]) -> Iterator[Words]:
    """Yield two words for each entry, both 0 where it is 0; the values are overwritten.

    Their bits, moved by the column's key, go once and twice through the finalizer of splitmix64
    (Steele, Lea, Flood 2014. "Fast splittable pseudorandom number generators." OOPSLA).
    """
    values[np.isnan(values)] = np.nan
    is_other = values != 0
    words = values.view(np.uint64)
    words += _finalize(_STEP * (columns + 1).astype(np.uint64))
    for _ in range(2):
        words += _STEP
        _finalize(words)
        yield words * is_other


def _finalize(words: Words) -> Words:
    """Scramble words in place: each bit depends on all bits of its word."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words ^= words >> np.uint64(shift)
        words *= np.uint64(factor)
    words ^= words >> np.uint64(31)
    return words


def _frame_digests(frame: Any) -> Words:
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
    digests = _number_digests(numbers)
    if texts:
        digests += np.array([_text_digest(parts) for parts in zip(*texts, strict=True)])
    return digests


def _text_digest(parts: tuple[str, ...]) -> Words:
    """Return the words that a row's texts add to its digest: 0 where it has none."""
    text = "\0".join(filter(None, parts))
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest() if text else bytes(16)
    return np.frombuffer(digest, dtype=np.uint64)


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
