"""Whatever is changed between two fits, a cache that both share changes no value."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.compose import make_column_transformer
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from skdvl import ShapleyValuator
from skdvl.caching import MemoryCache
from skdvl.utilities.fingerprint import FingerprintError

N_ROWS, N_OWNERS = 24, 3


def make_data():
    rng = np.random.default_rng(0)
    y = np.arange(N_ROWS) % 2
    X = pd.DataFrame(rng.normal(size=(N_ROWS, 3)) + 0.7 * y[:, np.newaxis], columns=list("abc"))
    X["kind"] = pd.Categorical(rng.choice(["x", "y", "z"], N_ROWS), categories=["x", "y", "z"])
    return X, y


def root(X):
    return np.sqrt(np.abs(X))


def square(X):
    return np.square(X)


def linear(X, Y):
    return X @ Y.T


def cubic(X, Y):
    return (X @ Y.T) ** 3


def likes_zeros(estimator, X, y):
    return float(np.mean(estimator.predict(X) == 0))


def likes_ones(estimator, X, y):
    return float(np.mean(estimator.predict(X) == 1))


def make_model(columns=("a", "b", "c"), transform=root):
    tree = DecisionTreeClassifier(
        max_depth=2, max_features=2, random_state=np.random.RandomState(3)
    )
    prepare = make_column_transformer(
        (FunctionTransformer(transform), list(columns)),
        (OneHotEncoder(handle_unknown="ignore"), ["kind"]),
        sparse_threshold=0,
    )
    votes = VotingClassifier([("svc", SVC(kernel=linear)), ("tree", tree)])
    return make_pipeline(prepare, votes)


def change_cell(X, y, rng):
    X.iloc[rng.integers(N_ROWS), rng.integers(3)] += 0.5
    return X, y


def change_kind(X, y, rng):
    X.iloc[rng.integers(N_ROWS), 3] = str(rng.choice(["x", "y", "z"]))
    return X, y


def flip(X, y, rng):
    y = y.copy()
    y[rng.integers(N_ROWS)] ^= 1
    return X, y


def swap_names(X, y, rng):
    order = rng.permutation(3)
    return X.rename(columns=dict(zip("abc", np.array(list("abc"))[order].tolist(), strict=True))), y


def move_columns(X, y, rng):
    return X[["kind", *rng.permutation(list("abc")).tolist()]], y


def move_categories(X, y, rng):
    order = rng.permutation(["x", "y", "z"]).tolist()
    return X.assign(kind=X["kind"].cat.reorder_categories(order)), y


def move_rows(X, y, rng):
    order = rng.permutation(N_ROWS)
    return X.iloc[order], y[order]


def move_index(X, y, rng):
    return X.set_axis(rng.permutation(N_ROWS), axis=0), y


DATA_CHANGES = [
    *(change_cell, change_kind, flip, swap_names, move_columns),
    *(move_categories, move_rows, move_index),
]
SETTINGS = {
    "estimator__votingclassifier__svc__C": [0.1, 1.0, 10.0],
    "estimator__votingclassifier__svc__kernel": [linear, cubic, "rbf"],
    "estimator__votingclassifier__tree__max_depth": [1, 2, None],
    "estimator__votingclassifier__tree__random_state": [np.random.RandomState(1), 0, None],
    "estimator__votingclassifier__weights": [None, [1, 3], [3, 1]],
    "estimator__columntransformer__functiontransformer__func": [root, square],
    "scoring": ["accuracy", "f1", likes_zeros, likes_ones, None],
    "empty_score": ["auto", 0.1],
    "error_score": ["auto", 0.2],
    "random_state": [0, 1],
}


def fresh(setting):
    """Return a random state that has not been drawn from, as a new script would have it."""
    if isinstance(setting, np.random.RandomState):
        return np.random.RandomState(int(setting.get_state()[1][0]))
    return setting


@pytest.mark.parametrize("seed", range(3))
def test_a_walk_through_settings_and_data(seed):
    rng = np.random.default_rng(seed)
    cache = MemoryCache()
    owners = np.arange(N_ROWS) % N_OWNERS
    X, y = make_data()
    chosen = {name: options[0] for name, options in SETTINGS.items()}
    hits = 0
    for _ in range(25):
        values = []
        for store in (None, cache):
            valuator = ShapleyValuator(make_model(), cv=2, method="exact", engine="refit")
            valuator.set_params(cache=store, **{name: fresh(v) for name, v in chosen.items()})
            values.append(valuator.fit(X.copy(), y.copy(), groups=owners).values_)
        assert_array_equal(*values)
        hits += valuator.cache_info_.hits
        if rng.random() < 0.5:
            X, y = DATA_CHANGES[rng.integers(len(DATA_CHANGES))](X.copy(), y, rng)
        elif rng.random() < 0.3:
            X, y = make_data()  # back to where it was: there are hits to be had
        else:
            name = list(SETTINGS)[rng.integers(len(SETTINGS))]
            chosen[name] = SETTINGS[name][rng.integers(len(SETTINGS[name]))]
    assert hits > 0


CHANGES_OF_KIND = {
    "float32": lambda X: X.astype(np.float32),
    "by columns": np.asfortranarray,
    "frame": pd.DataFrame,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "negated": np.negative,
    "columns moved": lambda X: X[:, ::-1],
}


@pytest.mark.parametrize("kind", CHANGES_OF_KIND)
@pytest.mark.parametrize("model", [LogisticRegression(), KNeighborsClassifier(3)], ids=str)
def test_the_same_numbers_in_another_container(model, kind):
    X, y = make_data()
    X = X[["a", "b", "c"]].to_numpy().copy(order="C")
    other = CHANGES_OF_KIND[kind](X)
    owners = np.arange(N_ROWS) % N_OWNERS

    def value(data, cache):
        valuator = ShapleyValuator(model, cv=2, method="exact", engine="refit", cache=cache)
        return valuator.fit(data, y, groups=owners).values_

    cache = MemoryCache()
    value(X, cache)
    assert_array_equal(value(other, cache), value(other, None))


def test_rows_and_owners_play_other_games():
    X, y = make_data()
    X, cache = X[["a", "b", "c"]], MemoryCache()
    valuator = ShapleyValuator(GaussianNB(), cv=2, engine="refit", max_evals=200, random_state=0)
    for groups in (np.arange(N_ROWS) % 4, np.arange(N_ROWS) // 6, None, np.arange(N_ROWS)[::-1]):
        bare = valuator.set_params(cache=None).fit(X, y, groups=groups).values_
        assert_array_equal(valuator.set_params(cache=cache).fit(X, y, groups=groups).values_, bare)


@pytest.mark.parametrize(
    "make",
    [
        lambda inside: make_model(transform=inside),
        lambda inside: make_pipeline(
            make_column_transformer((FunctionTransformer(inside), list("abc"))), GaussianNB()
        ),
    ],
    ids=["in a column transformer", "in a pipeline"],
)
def test_a_local_function_deep_inside_is_refused(make):
    X, y = make_data()
    valuator = ShapleyValuator(make(lambda X: X), cv=2, engine="refit", cache="memory")
    with pytest.raises(FingerprintError, match="top of a module"):
        valuator.fit(X, y)
