"""Rows found again by their content: equal rows have equal digests, others differ."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix, csr_array

from skdvl.valuators.row_lookup import RowLookup, row_digests


def few_values(n_rows, n_columns, seed=0):
    """Return rows in which zeros, both signs of zero, missing and equal entries are frequent."""
    entries = [0.0, -0.0, 1.0, -1.0, 2.0, 5e-324, np.inf, np.nan]
    return np.random.default_rng(seed).choice(entries, size=(n_rows, n_columns))


def content(row):
    return tuple(str(value + 0.0) for value in row.tolist())


def test_digests_are_equal_where_rows_are():
    X = few_values(20_000, 4)
    digests = row_digests(X)
    assert {len(digest) for digest in digests} == {16}
    pairs = set(zip(map(content, X), digests, strict=True))
    contents, of_contents = zip(*pairs, strict=True)
    assert len(pairs) == len(set(contents)) == len(set(of_contents)) > 2000


def test_digests_of_every_kind_of_rows_agree():
    X = few_values(300, 7)
    digests = row_digests(X)
    for kind in (
        csr_array,
        csc_matrix,
        pd.DataFrame,
        lambda X: X.astype(object),
        np.asfortranarray,
    ):
        assert row_digests(kind(X)) == digests
    counts = np.random.default_rng(0).integers(-3, 3, (300, 7))
    digests = row_digests(counts)
    assert row_digests(counts.astype(np.float32)) == row_digests(csr_array(counts)) == digests


def test_entries_of_a_sparse_matrix_may_be_given_in_parts_and_in_any_order():
    parts = csr_array(([1.0, 3.0, 1.0, 5.0, -5.0], [2, 0, 2, 1, 1], [0, 5]), shape=(1, 3))
    assert row_digests(parts) == row_digests(np.array([[3.0, 0.0, 2.0]]))


def test_digests_do_not_depend_on_the_other_rows():
    X = few_values(5000, 9)
    digests = row_digests(X)
    assert row_digests(X[4321:4322]) == digests[4321:4322]
    order = np.random.default_rng(1).permutation(len(X))
    assert row_digests(X[order]) == [digests[place] for place in order]


def test_what_stands_in_which_column_matters():
    rows = np.array(list(itertools.permutations([0.0, 1.0, 2.0, 3.0, 3.5])))
    assert len(set(row_digests(rows))) == len(rows) == 120
    texts = pd.DataFrame(list(itertools.permutations(["a", "b", 1.0, "a\0b"])), dtype=object)
    assert len(set(row_digests(texts))) == len(texts) == 24


@pytest.mark.parametrize("n_columns", [1, 50])
def test_every_bit_of_a_number_matters(n_columns):
    """Each bit changes about half of the digest's 128: not between 32 and 96 at odds of 2e-8."""
    base = np.random.default_rng(0).normal(size=(1, n_columns))
    rows = np.repeat(base, 64, axis=0)
    rows[:, 0] = (
        base[0, :1].view(np.uint64) ^ (np.uint64(1) << np.arange(64, dtype=np.uint64))
    ).view(np.float64)
    rows = rows[np.isfinite(rows[:, 0])]
    before = int.from_bytes(row_digests(base)[0], "little")
    changed = [(before ^ int.from_bytes(d, "little")).bit_count() for d in row_digests(rows)]
    assert len(changed) >= 62
    assert min(changed) > 32
    assert max(changed) < 96


def test_equal_rows_have_the_mean_of_their_values():
    X = np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])
    lookup = RowLookup(X, np.array([1.0, 5.0, 2.0]))
    np.testing.assert_array_equal(lookup.find([[3, 4], [1, 2], [2, 1]]), [5.0, 1.5, np.nan])
