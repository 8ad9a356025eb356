"""The face of KNN-Shapley: its games, what it accepts, and how it stands beside other valuators."""

import tracemalloc

import joblib
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_array, csr_matrix
from scipy.spatial.distance import cdist
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_iris, make_classification
from sklearn.model_selection import LeaveOneOut
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from skdvl.testing import exact_values
from skdvl.valuators import KNNShapleyValuator, ShapleyValuator


@parametrize_with_checks([KNNShapleyValuator(n_neighbors=3)])
def test_scikit_learn_conformance(estimator, check):
    check(estimator)


@pytest.fixture
def flipped_iris():
    X, y = load_iris(return_X_y=True)
    flipped = np.random.default_rng(0).choice(150, 15, replace=False)
    y[flipped] = (y[flipped] + 1) % 3
    return X, y, flipped


class SoftVote(ClassifierMixin, BaseEstimator):
    """The game of the valuator as a model: refitted on a coalition, it scores by share of votes."""

    def __init__(self, n_neighbors):
        self.n_neighbors = n_neighbors

    def fit(self, X, y):
        self.X_, self.y_, self.classes_ = X, y, np.unique(y)
        return self

    def predict(self, X):
        return self.y_[cdist(X, self.X_).argmin(axis=1)]

    def score(self, X, y):
        nearest = np.argsort(cdist(X, self.X_), axis=1, kind="stable")[:, : self.n_neighbors]
        return ((self.y_[nearest] == y[:, None]).sum(axis=1) / self.n_neighbors).mean()


@pytest.mark.parametrize("n_neighbors", [1, 3, 7, 10])
def test_without_validation_rows_it_plays_the_game_of_leave_one_out(n_neighbors):
    X, y = make_classification(8, 4, random_state=0)
    closed = KNNShapleyValuator(n_neighbors).fit(X, y)
    enumerated = ShapleyValuator(
        SoftVote(n_neighbors), cv=LeaveOneOut(), method="exact", empty_score=0.0
    ).fit(X, y)
    np.testing.assert_allclose(closed.values_, enumerated.values_, rtol=0, atol=1e-14)
    assert closed.score_ == pytest.approx(enumerated.score_, abs=1e-14)


def test_with_one_neighbour_it_plays_the_games_of_scikit_learn():
    rng = np.random.default_rng(0)
    X, X_val = rng.normal(size=(8, 2)), rng.normal(size=(20, 2))
    labels, labels_val = rng.choice(["a", "b"], 8), rng.choice(["a", "b"], 20)
    closed = KNNShapleyValuator(1).fit(X, labels, X_val=X_val, y_val=labels_val)
    enumerated = ShapleyValuator(KNeighborsClassifier(1), method="exact", empty_score=0.0)
    enumerated.fit(X, labels, X_val=X_val, y_val=labels_val)
    np.testing.assert_allclose(closed.values_, enumerated.values_, rtol=0, atol=1e-14)

    targets = 100 + rng.normal(size=8)
    closed = KNNShapleyValuator(1).fit(X, targets)
    enumerated = ShapleyValuator(
        KNeighborsRegressor(1), scoring="neg_mean_squared_error", method="exact", cv=LeaveOneOut()
    ).fit(X, targets)
    np.testing.assert_allclose(closed.values_, enumerated.values_, rtol=0, atol=1e-12)
    assert closed.score_ == pytest.approx(enumerated.score_, abs=1e-12)
    assert closed.empty_score_ == pytest.approx(enumerated.empty_score_, abs=1e-12)


@pytest.mark.parametrize("kind", ["labels", "numbers"])
@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_values_add_up_and_are_exact(flipped_iris, kind, weights):
    X, y, _ = flipped_iris
    y = y if kind == "labels" else y + X[:, 0]
    valuator = KNNShapleyValuator(weights=weights).fit(X[:, 1:], y)
    total = valuator.score_ - valuator.empty_score_
    assert valuator.values_.sum() == pytest.approx(total, abs=1e-12)
    assert not valuator.standard_errors_.any()
    assert valuator.converged_
    assert (valuator.confidence_interval() == valuator.values_[:, None]).all()


def test_wrong_labels_have_low_values(flipped_iris):
    X, y, flipped = flipped_iris
    values = KNNShapleyValuator().fit(X, y).values_
    lowest = np.argsort(values)[:15]
    assert len(np.intersect1d(lowest, flipped)) >= 12, "chance would find 1.5"


def test_floats_are_numbers_and_all_else_are_labels():
    X, y = load_iris(return_X_y=True)
    as_labels = KNNShapleyValuator().fit(X, y)
    assert as_labels.classes_.tolist() == [0, 1, 2]
    as_text = KNNShapleyValuator().fit(X, np.array(["x", "y", "z"])[y])
    assert as_text.classes_.tolist() == ["x", "y", "z"]
    assert np.array_equal(as_labels.values_, as_text.values_)
    as_numbers = as_labels.fit(X, y.astype(float))
    assert not hasattr(as_numbers, "classes_")
    assert as_numbers.empty_score_ < 0


@pytest.mark.parametrize("with_validation", [False, True])
def test_containers_and_precomputed_distances_give_the_same_values(with_validation):
    rng = np.random.default_rng(0)
    X, X_val = rng.integers(0, 3, (60, 5)) * 1.0, rng.integers(0, 3, (20, 5)) * 1.0
    y, y_val = rng.integers(0, 2, 60), rng.integers(0, 2, 20)

    def values(convert, **parameters):
        validation = {"X_val": convert(X_val), "y_val": y_val} if with_validation else {}
        return KNNShapleyValuator(3, **parameters).fit(convert(X), y, **validation).values_

    plain = values(np.asarray)
    for convert in (csr_matrix, csc_array, pd.DataFrame, np.float32):
        if convert is pd.DataFrame:
            convert = lambda X: pd.DataFrame(X, columns=list("abcde"))  # noqa: E731
        assert np.array_equal(values(convert), plain)
    precomputed = values(lambda rows: cdist(rows, X), metric="precomputed")
    assert np.array_equal(precomputed, plain)
    assert np.array_equal(values(np.asarray, metric="sqeuclidean"), plain)


def test_values_are_those_of_the_game_of_a_callable_metric():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(7, 3)), rng.integers(0, 2, 7)
    X_val, y_val = rng.normal(size=(4, 3)), rng.integers(0, 2, 4)
    metric = lambda a, b: np.abs(a - b).max()  # noqa: E731
    valuator = KNNShapleyValuator(2, metric=metric).fit(X, y, X_val=X_val, y_val=y_val)
    order = np.argsort(cdist(X_val, X, "chebyshev"), axis=1)

    def utility(players):
        votes = [
            [y[j] == wanted for j in near if j in players][:2]
            for near, wanted in zip(order, y_val, strict=True)
        ]
        return np.mean([sum(v) / 2 for v in votes])

    np.testing.assert_allclose(valuator.values_, exact_values(utility, n_players=7), atol=1e-15)


def test_jobs_change_nothing(flipped_iris):
    X, y, _ = flipped_iris
    alone = KNNShapleyValuator(n_jobs=1).fit(X, y)
    together = KNNShapleyValuator(n_jobs=2).fit(X, y)
    assert np.array_equal(alone.values_, together.values_)
    with joblib.parallel_config(backend="threading", n_jobs=2):
        assert np.array_equal(
            clone(together).set_params(n_jobs=None).fit(X, y).values_, alone.values_
        )


def test_equal_rows_are_ranked_by_their_place():
    X, y = np.zeros((4, 1)), np.array([1, 0, 1, 1])
    valuator = KNNShapleyValuator(1).fit(X, y, X_val=[[0.0]], y_val=[1])
    expected = exact_values(
        lambda players: float(len(players) > 0 and y[players[0]] == 1), n_players=4
    )
    np.testing.assert_allclose(valuator.values_, expected, atol=1e-15)


def test_frame_has_labels_and_index(flipped_iris):
    X, y, _ = flipped_iris
    index = [f"flower {i}" for i in range(150)]
    frame = KNNShapleyValuator().fit(pd.DataFrame(X, index, list("abcd")), y).to_frame()
    assert frame.index.tolist() == index
    assert frame["label"].tolist() == y.tolist()
    column = KNNShapleyValuator().set_output(transform="pandas").fit_transform(X, y)
    assert column.columns.tolist() == ["shapley_value"]


@pytest.mark.parametrize(
    ("parameters", "arguments", "message"),
    [
        ({"n_neighbors": 0}, {}, "n_neighbors == 0, must be >= 1"),
        ({"weights": "gaussian"}, {}, "weights must be 'uniform', 'distance' or a callable"),
        ({"metric": "nearness"}, {}, "(?i)metric"),
        ({"metric": "precomputed"}, {}, "X must be square"),
        ({}, {"X_val": [[0.0] * 4]}, "X_val and y_val must be given together"),
        ({}, {"y_val": [0]}, "X_val and y_val must be given together"),
        ({}, {"X_val": [[0.0] * 4], "y_val": [7]}, r"y_val has labels that y lacks: \[7\]"),
        ({}, {"X_val": [[0.0] * 3], "y_val": [0]}, "X has 3 features, but"),
        ({}, {"X_val": [[0.0] * 4], "y_val": [0, 1]}, "inconsistent numbers of samples"),
    ],
)
def test_mistakes_are_explained(flipped_iris, parameters, arguments, message):
    X, y, _ = flipped_iris
    with pytest.raises(ValueError, match=message):
        KNNShapleyValuator(**parameters).fit(X, y, **arguments)


def test_multioutput_and_odd_targets_are_refused(flipped_iris):
    X, y, _ = flipped_iris
    with pytest.raises(ValueError, match="1d array"):
        KNNShapleyValuator().fit(X, np.column_stack([y, y]))
    with pytest.raises(TypeError, match="n_neighbors must be an instance of int"):
        KNNShapleyValuator(2.5).fit(X, y)


def test_memory_does_not_grow_with_the_number_of_pairs():
    rng = np.random.default_rng(0)
    n_train, n_val = 20_000, 1000
    X, X_val = rng.normal(size=(n_train, 4)), rng.normal(size=(n_val, 4))
    y, y_val = rng.integers(0, 2, n_train), rng.integers(0, 2, n_val)
    tracemalloc.start()
    KNNShapleyValuator(n_jobs=1).fit(X, y, X_val=X_val, y_val=y_val)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6, "all distances would take 160 MB"
