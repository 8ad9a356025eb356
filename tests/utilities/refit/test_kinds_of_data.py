"""Frames, sparse matrices, mixed columns, missing values, groups: the same utilities."""

import numpy as np
import pandas as pd
import polars as pl
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from skdvl.utilities.fold import Fold
from skdvl.utilities.record import recording


def test_frames_sparse_matrices_and_arrays_have_the_same_utilities(
    make_fold, make_utility, random_coalitions, with_data
):
    fold = make_fold("words")
    coalitions = random_coalitions(6)
    model = GaussianNB()
    expected = make_utility(model, fold)(coalitions)
    names = ["a", "b", "c"]
    for convert in (
        lambda X: pd.DataFrame(X, columns=names),
        lambda X: pd.DataFrame(X, columns=names, index=np.arange(len(X))[::-1]),
        lambda X: pl.DataFrame(X, schema=names),
        np.asfortranarray,
    ):
        converted = with_data(fold, convert(fold.X), convert(fold.X_val))
        assert_array_equal(make_utility(model, converted)(coalitions), expected)
    sparse_model = LogisticRegression()
    expected = make_utility(sparse_model, fold)(coalitions)
    for convert in (sparse.csr_matrix, sparse.csc_matrix, sparse.coo_matrix, sparse.csr_array):
        converted = with_data(fold, convert(fold.X), convert(fold.X_val))
        assert_array_equal(make_utility(sparse_model, converted)(coalitions), expected)


def test_mixed_columns_and_missing_values(
    make_fold, make_utility, random_coalitions, by_hand, with_data, N_ROWS
):
    fold = make_fold("two")
    words = np.where(fold.y == 0, "x", "y")
    frame = pd.DataFrame({"number": fold.X[:, 0], "word": words})
    val = pd.DataFrame({"number": fold.X_val[:, 0], "word": np.where(fold.y_val == 0, "x", "y")})
    columns = [("n", "passthrough", ["number"]), ("w", OneHotEncoder(), ["word"])]
    mixed = make_pipeline(ColumnTransformer(columns), GaussianNB())
    found = make_utility(mixed, with_data(fold, frame, val))(random_coalitions(8))
    assert found.max() == 1.0
    holes = fold.X.copy()
    holes[::3, 1] = np.nan
    model = HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=2)
    fold_with_holes = with_data(fold, holes, fold.X_val)
    for coalition in random_coalitions(3):
        expected = by_hand(model, fold_with_holes, None, coalition)
        if expected is not None:
            assert make_utility(model, fold_with_holes)(coalition[np.newaxis]) == expected
    with recording() as record:  # a model that does not take them refuses those coalitions alone
        make_utility(GaussianNB(), fold_with_holes)(np.eye(N_ROWS, dtype=bool))
    assert record.n_refused == len(range(0, N_ROWS, 3))


def test_groups_train_on_all_their_rows(make_fold, make_utility, N_ROWS):
    fold = make_fold("three")
    players = np.arange(N_ROWS) % 5
    grouped = Fold(0, fold.X, fold.y, fold.X_val, fold.y_val, fold.classes, players)
    by_rows, by_groups = make_utility(GaussianNB(), fold), make_utility(GaussianNB(), grouped)
    assert by_groups.n_players == 5
    coalitions = np.random.default_rng(0).random((10, 5)) < 0.6
    assert_array_equal(by_groups(coalitions), by_rows(coalitions[:, players]))
    orders = np.stack([np.random.default_rng(s).permutation(5) for s in range(3)])
    chains = np.array([list(by_groups.chain(order)) for order in orders])
    assert_array_equal(by_groups.prefixes(orders), chains)
