"""The order of neighbours is that of (distance, index), whatever finds it."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist

from skdvl.valuators.neighbor_order import (
    PairwiseDistances,
    SquaredEuclidean,
    make_distances,
)

N_TRAIN, N_ROWS, N_FEATURES = 300, 40, 6


def make(name):
    """Training rows and others, of a kind that makes neighbours hard to tell apart."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_TRAIN, N_FEATURES))
    X_val = rng.normal(size=(N_ROWS, N_FEATURES))
    if name == "duplicates":
        X = X[rng.integers(0, 50, N_TRAIN)]
        X_val[:20] = X[:20]
    elif name == "integers":
        X, X_val = X.round(), X_val.round()
    elif name == "sixteenths":
        X, X_val = np.round(4 * X) / 16, np.round(4 * X_val) / 16
    elif name == "decimals":
        X, X_val = X.round(1), X_val.round(1)
    elif name == "far from zero":
        X, X_val = X + 1e7, X_val + 1e7
    elif name == "outliers":
        X[:3] *= 1e9
        X_val[:3] *= 1e9
    elif name == "tiny":
        X, X_val = X * 1e-150, X_val * 1e-150
    elif name == "constant":
        X[:], X_val[:] = 0.1, 0.1
    elif name == "nearly equal":
        X, X_val = 1 + 1e-15 * X.round(), 1 + 1e-15 * X_val.round()
    elif name == "single precision":
        X, X_val = X.astype(np.float32), X_val.astype(np.float32)
    return X, X_val


KINDS = [
    *("normal", "duplicates", "integers", "sixteenths", "decimals", "far from zero", "outliers"),
    *("tiny", "constant", "nearly equal", "single precision"),
]


def order_found(distances, rows):
    """Sorted indices for each row, and the bits that went with them."""
    index = 2 * np.arange(distances.n_train)
    found = np.empty((len(rows), distances.n_train), dtype=int)
    seen = []
    for here, codes, _ in distances.sorted_codes(rows, lambda row: index | (index // 2 + row) % 2):
        found[len(seen) : len(seen) + len(here)] = codes
        seen += list(here)
    np.testing.assert_array_equal(seen, rows)
    if distances.leave_one_out:
        found = found[:, :-1]
    bits = (found // 2 + np.asarray(rows)[:, np.newaxis]) % 2
    np.testing.assert_array_equal(found & 1, bits)
    return found // 2


def order_wanted(distances):
    """Sort by (distance, index): a stable sort of all distances."""
    return np.argsort(distances, axis=1, kind="stable")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_train", [1, 2, 7, N_TRAIN])
def test_euclidean_order_is_exact(kind, n_train):
    X, X_val = make(kind)
    X = X[:n_train]
    distances = SquaredEuclidean(X, X_val)
    found = order_found(distances, np.arange(N_ROWS))
    np.testing.assert_array_equal(found, order_wanted(cdist(X_val, X, "sqeuclidean")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_not_its_own_neighbour(kind):
    X, _ = make(kind)
    rows = np.random.default_rng(1).permutation(N_TRAIN)
    found = order_found(SquaredEuclidean(X, None), rows)
    among_all = cdist(X[rows], X, "sqeuclidean")
    among_all[np.arange(N_TRAIN), rows] = np.inf
    np.testing.assert_array_equal(found, order_wanted(among_all)[:, :-1])


@pytest.mark.parametrize("kind", KINDS)
def test_order_does_not_depend_on_blocks(kind, monkeypatch):
    X, X_val = make(kind)
    whole = order_found(SquaredEuclidean(X, X_val), np.arange(N_ROWS))
    monkeypatch.setattr("skdvl.valuators.neighbor_order._BLOCK_ELEMENTS", 7 * N_TRAIN)
    monkeypatch.setattr("skdvl.valuators.neighbor_order._SORT_ELEMENTS", 3 * N_TRAIN)
    np.testing.assert_array_equal(order_found(SquaredEuclidean(X, X_val), np.arange(N_ROWS)), whole)


@pytest.mark.parametrize("kind", ["integers", "sixteenths"])
def test_small_integers_need_no_second_look(kind, monkeypatch):
    X, X_val = make(kind)
    monkeypatch.setattr(SquaredEuclidean, "_sort_again", None)
    found = order_found(SquaredEuclidean(X, X_val), np.arange(N_ROWS))
    np.testing.assert_array_equal(found, order_wanted(cdist(X_val, X, "sqeuclidean")))


def test_large_integers_are_no_small_ones():
    X, X_val = make("integers")
    assert SquaredEuclidean(1e6 * X, X_val).ulps > 0


def test_distances_whose_squares_overflow_are_measured_one_by_one():
    X, X_val = make("normal")
    distances = make_distances(
        X, 1e300 * X_val, metric="euclidean", p=2, metric_params=None, need_distances=False
    )
    assert isinstance(distances, PairwiseDistances)
    assert (order_found(distances, np.arange(N_ROWS)) == np.arange(N_TRAIN)).all(), "all infinite"


@pytest.mark.parametrize("n_train", [2, 3, 7, 200])
@pytest.mark.parametrize("leave_one_out", [True, False])
def test_distances_at_the_ends_of_the_range_of_floats(n_train, leave_one_out):
    largest = np.finfo(np.float64).max
    ends = [0.0, 5e-324, 1e-310, 1.0, largest / 2, np.nextafter(largest, 0), largest, np.inf]
    given = np.random.default_rng(0).choice(ends, size=(n_train, n_train))
    distances = PairwiseDistances(given, None if leave_one_out else given, "precomputed")
    found = order_found(distances, np.arange(n_train))
    if leave_one_out:
        np.fill_diagonal(given, np.inf)
        others = order_wanted(given)
        is_other = others != np.arange(n_train)[:, np.newaxis]
        wanted = others[is_other].reshape(n_train, n_train - 1)
    else:
        wanted = order_wanted(given)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("metric", "p", "params", "cdist_arguments"),
    [
        ("minkowski", 1, None, {"metric": "cityblock"}),
        ("minkowski", 3, None, {"metric": "minkowski", "p": 3}),
        ("minkowski", 2, {"w": np.arange(1.0, 7)}, {"metric": "minkowski", "w": np.arange(1.0, 7)}),
        ("minkowski", np.inf, None, {"metric": "chebyshev"}),
        ("minkowski", 2, {"p": 1}, {"metric": "cityblock"}),
        ("canberra", 2, None, {"metric": "canberra"}),
        (
            "seuclidean",
            2,
            {"V": np.arange(1.0, 7)},
            {"metric": "seuclidean", "V": np.arange(1.0, 7)},
        ),
        (lambda a, b: abs(a - b).max(), 2, None, {"metric": "chebyshev"}),
    ],
)
def test_metrics_are_those_of_scipy(metric, p, params, cdist_arguments):
    X, X_val = make("decimals")
    distances = make_distances(
        X, X_val, metric=metric, p=p, metric_params=params, need_distances=False
    )
    assert isinstance(distances, PairwiseDistances)
    found = order_found(distances, np.arange(N_ROWS))
    np.testing.assert_array_equal(found, order_wanted(cdist(X_val, X, **cdist_arguments)))


def test_boolean_metrics_look_at_what_is_not_zero():
    X, X_val = (np.maximum(data, 0) for data in make("integers"))
    distances = make_distances(
        X, X_val, metric="jaccard", p=2, metric_params=None, need_distances=False
    )
    wanted = order_wanted(cdist(X_val > 0, X > 0, "jaccard"))
    np.testing.assert_array_equal(order_found(distances, np.arange(N_ROWS)), wanted)


@pytest.mark.parametrize("need_distances", [True, False])
def test_precomputed_distances_are_taken_as_they_are(need_distances):
    X, X_val = make("integers")
    given = cdist(X_val, X)
    distances = make_distances(
        cdist(X, X),
        given,
        metric="precomputed",
        p=2,
        metric_params=None,
        need_distances=need_distances,
    )
    found = order_found(distances, np.arange(N_ROWS))
    np.testing.assert_array_equal(found, order_wanted(given))


@pytest.mark.parametrize("metric", ["euclidean", "manhattan", "cosine"])
def test_sparse_rows_are_ordered_like_dense_ones(metric):
    X, X_val = make("integers")  # whose sums are exact in any order
    if metric == "cosine":
        X, X_val = make("normal")  # which are in general position
    sparse = make_distances(
        csr_matrix(X),
        csr_matrix(X_val),
        metric=metric,
        p=2,
        metric_params=None,
        need_distances=False,
    )
    dense = make_distances(X, X_val, metric=metric, p=2, metric_params=None, need_distances=False)
    np.testing.assert_array_equal(
        order_found(sparse, np.arange(N_ROWS)), order_found(dense, np.arange(N_ROWS))
    )


@pytest.mark.parametrize("metric", ["seuclidean", "mahalanobis"])
def test_metrics_that_would_look_at_a_block_want_their_parameters(metric):
    X, X_val = make("normal")
    with pytest.raises(ValueError, match=f"metric '{metric}' needs metric_params"):
        make_distances(X, X_val, metric=metric, p=2, metric_params=None, need_distances=False)


@pytest.mark.parametrize("wrong", [-1.0, np.nan])
def test_what_is_no_distance_is_refused(wrong):
    distances = np.ones((4, 4))
    distances[2, 1] = wrong
    measured = PairwiseDistances(np.zeros((4, 4)), distances, "precomputed")
    with pytest.raises(ValueError, match="must be numbers and not negative"):
        order_found(measured, np.arange(4))


def test_negative_zero_is_zero():
    distances = np.array([[0.0, -0.0, 1.0, -0.0]])
    measured = PairwiseDistances(np.zeros((4, 4)), distances, "precomputed")
    np.testing.assert_array_equal(order_found(measured, np.arange(1)), [[0, 1, 3, 2]])
