"""Equal content has equal fingerprints, in any process; different content has not."""

import functools
import itertools
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, get_scorer, make_scorer
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from skdvl.metrics import squashed_r2, true_class_probability
from skdvl.utilities.fingerprint import FingerprintError, fingerprint

X = np.arange(12.0).reshape(6, 2)
y = np.array([0, 1, 0, 1, 0, 1])


def mean_error(estimator, X, y):
    return -float(np.mean(estimator.predict(X) != y))


class Centroids(ClassifierMixin, BaseEstimator):
    def __init__(self, shrink=0.0):
        self.shrink = shrink

    def fit(self, X, y):
        return self


class Plain:
    def __init__(self, size):
        self.size = size


class Named:
    def fingerprint(self):
        return b"what I am"


def zoo():
    """Objects of all kinds; no two of them are the same content."""
    mixed = {"a": [1.5, 2.5, 3.5], "b": ["x", "y", "x"]}
    categories = pd.Series(["x", "y", "x"], dtype="category")
    fitted = [DecisionTreeClassifier(random_state=0).fit(X, labels) for labels in (y, 1 - y)]
    scaled = make_pipeline(StandardScaler().fit(X), LogisticRegression())
    return {
        "none": None,
        "true": True,
        "one": 1,
        "one as float": 1.0,
        "one as text": "1",
        "one as bytes": b"1",
        "minus zero": -0.0,
        "zero": 0.0,
        "list": [1, 2],
        "tuple": (1, 2),
        "nested left": [[1], 2],
        "nested right": [1, [2]],
        "set": {1, 2},
        "dict": {"a": 1, "b": 2},
        "dict swapped": {"a": 2, "b": 1},
        "zeros": np.zeros(4),
        "zeros, other shape": np.zeros((2, 2)),
        "zeros, other dtype": np.zeros(4, dtype=np.float32),
        "zeros, other bytes": np.zeros(4, dtype=">f8"),
        "no rows": np.zeros((0, 2)),
        "no columns": np.zeros((2, 0)),
        "by rows": np.arange(6.0).reshape(2, 3),
        "by columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "scalar": np.float64(1.0),
        "0d": np.array(1.0),
        "dates": np.array(["2020-01-01"], dtype="M8[D]"),
        "masked": np.ma.array([1.0, 2.0], mask=[True, False]),
        "masked elsewhere": np.ma.array([1.0, 2.0], mask=[False, True]),
        "fields": np.array([(1, 2.0)], dtype=[("a", "i1"), ("b", "f8")]),
        "other fields": np.array([(1, 2.0)], dtype=[("a", "i1"), ("c", "f8")]),
        "texts": np.array(["ab", "c"], dtype=object),
        "texts, split elsewhere": np.array(["a", "bc"], dtype=object),
        "texts with zeros": np.array(["a\0b"], dtype=object),
        "texts without": np.array(["a", "b"], dtype=object),
        "text": np.array(["", ""], dtype=object)[:1],
        "no texts": np.array([], dtype=object),
        "fixed texts": np.array(["ab", "c"]),
        "objects": np.array([1, "1", None, 1.0, np.nan, pd.NA], dtype=object),
        "objects moved": np.array([1, "1", pd.NA, 1.0, np.nan, None], dtype=object),
        "csr": sparse.csr_matrix(X),
        "csc": sparse.csc_matrix(X),
        "csr array": sparse.csr_array(X),
        "dense": X,
        "frame": pd.DataFrame(X),
        "frame with names": pd.DataFrame(X, columns=["a", "b"]),
        "frame, names swapped": pd.DataFrame(X, columns=["b", "a"]),
        "mixed frame": pd.DataFrame(mixed),
        "polars frame": pl.DataFrame(mixed),
        "names twice": pd.DataFrame([[1, "a"]], columns=["a", "a"]),
        "series": pd.Series([1, 2]),
        "categories": pd.DataFrame({"c": categories}),
        "more categories": pd.DataFrame({"c": categories.cat.add_categories("z")}),
        "categories in order": pd.DataFrame({"c": categories.cat.as_ordered()}),
        "categories reversed": pd.DataFrame({"c": categories.cat.reorder_categories(["y", "x"])}),
        "polars categories": pl.Series(["x", "y", "x"], dtype=pl.Categorical),
        "polars enum": pl.Series(["x", "y", "x"], dtype=pl.Enum(["x", "y"])),
        "polars enum with more": pl.Series(["x", "y", "x"], dtype=pl.Enum(["x", "y", "z"])),
        "frame with an index": pd.DataFrame(mixed, index=[5, 6, 7]),
        "frame, other index": pd.DataFrame(mixed, index=[5, 6, 8]),
        "frame, named index": pd.DataFrame(mixed, index=pd.Index([5, 6, 7], name="row")),
        "frame, index of pairs": pd.DataFrame(mixed, index=[[1, 1, 2], [3, 4, 4]]),
        "times": pd.DataFrame({"t": pd.date_range("2020", periods=3, tz="UTC")}),
        "times elsewhere": pd.DataFrame({"t": pd.date_range("2020", periods=3, tz="Asia/Tokyo")}),
        "later times": pd.DataFrame({"t": pd.date_range("2021", periods=3, tz="UTC")}),
        "periods": pd.DataFrame({"t": pd.period_range("2020", periods=3, freq="D")}),
        "longer periods": pd.DataFrame({"t": pd.period_range("2020", periods=3, freq="M")}),
        "missing integers": pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}),
        "integers": pd.DataFrame({"a": pd.array([1, 0], dtype="Int64")}),
        "estimator": LogisticRegression(),
        "estimator, other C": LogisticRegression(C=2),
        "estimator, other class": GaussianNB(),
        "own estimator": Centroids(),
        "own estimator, other": Centroids(shrink=0.5),
        "pipeline": make_pipeline(StandardScaler(), LogisticRegression()),
        "pipeline of frames": make_pipeline(StandardScaler(), LogisticRegression()).set_output(
            transform="pandas"
        ),
        "pipeline, other C": make_pipeline(StandardScaler(), LogisticRegression(C=2)),
        "frozen tree": FrozenEstimator(fitted[0]),
        "other frozen tree": FrozenEstimator(fitted[1]),
        "frozen pipeline": FrozenEstimator(scaled),
        "function": mean_error,
        "function of numpy": np.mean,
        "other function of numpy": np.median,
        "ufunc": np.log,
        "method": Plain(3).__init__,
        "builtin": len,
        "partial": functools.partial(accuracy_score, normalize=False),
        "partial, other": functools.partial(accuracy_score, normalize=True),
        "step": FunctionTransformer(np.log1p),
        "scorer": get_scorer("accuracy"),
        "scorer with threshold": make_scorer(accuracy_score, response_method="decision_function"),
        "other scorer": make_scorer(f1_score),
        "f_beta": make_scorer(f1_score, average="macro"),
        "own scorer": true_class_probability,
        "other own scorer": squashed_r2,
        "class": GaussianNB,
        "own class": Centroids,
        "module": np,
        "object": Plain(3),
        "other object": Plain(4),
        "generator": np.random.default_rng(0),
        "other generator": np.random.default_rng(1),
        "named": Named(),
    }


ZOO = zoo()


def test_different_content_has_different_fingerprints():
    found = {name: fingerprint(item) for name, item in ZOO.items()}
    for (name, digest), (other, other_digest) in itertools.combinations(found.items(), 2):
        assert digest != other_digest, f"{name} and {other}"


def test_equal_content_has_equal_fingerprints():
    for name, item in zoo().items():
        assert fingerprint(item) == fingerprint(ZOO[name]), name


def test_fingerprints_are_the_same_in_another_process():
    script = (
        "import importlib.util, json, sys\n"
        "spec = importlib.util.spec_from_file_location(sys.argv[2], sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "sys.modules[sys.argv[2]] = module\n"
        "spec.loader.exec_module(module)\n"
        "digest = module.fingerprint\n"
        "print(json.dumps({k: digest(v).hex() for k, v in module.ZOO.items()}))\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script, __file__, __name__],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(printed) == {name: fingerprint(item).hex() for name, item in ZOO.items()}


def test_views_copies_and_read_only_arrays_are_the_same_content(tmp_path):
    wide = np.repeat(X, 2, axis=1)
    locked = X.copy()
    locked.flags.writeable = False
    np.save(tmp_path / "X.npy", X)
    for same in (wide[:, ::2], locked, np.load(tmp_path / "X.npy", mmap_mode="r")):
        assert fingerprint(same) == fingerprint(X)


def test_rubbish_between_fields_does_not_count():
    dtype = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    clean, dirty = np.zeros(3, dtype=dtype), np.zeros(3, dtype=dtype)
    dirty.view(np.uint8).reshape(3, -1)[:, 1] = 255
    assert fingerprint(clean) == fingerprint(dirty)


def test_sparse_entries_in_another_order_are_summed_in_another_order():
    rows, columns, data = [0, 0, 1], [1, 0, 2], [1.0, 2.0, 3.0]
    matrix = sparse.csr_matrix((data, [1, 0, 2], [0, 2, 3]), shape=(2, 3))
    in_order = sparse.coo_matrix((data, (rows, columns))).tocsr()
    before = matrix.indices.copy()
    assert fingerprint(matrix) != fingerprint(in_order)
    assert fingerprint(matrix) == fingerprint(matrix.copy())
    np.testing.assert_array_equal(matrix.indices, before)


def test_dictionaries_have_no_order():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})


def test_cycles_end():
    loop = [1]
    loop.append(loop)
    table = {"a": 1}
    table["self"] = table
    thing = Plain(0)
    thing.size = thing
    digests = [fingerprint(item) for item in (loop, table, thing)]
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    "item",
    [
        lambda estimator, X, y: 0.0,
        (lambda: lambda: 0)(),
        threading.Lock(),
        (number for number in range(3)),
        make_scorer(lambda y, z: 0.0),
        {"a": [lambda: 0]},
        Plain(lambda: 0),
    ],
    ids=["lambda", "made inside", "lock", "generator", "scorer", "nested", "attribute"],
)
def test_what_has_no_stable_content_is_refused_with_advice(item):
    with pytest.raises(FingerprintError, match=r"top of a module.*method fingerprint"):
        fingerprint(item)


@pytest.mark.parametrize("kind", ["array", "frame", "texts", "categories", "times"])
def test_a_fingerprint_is_cheap(kind):
    """1 ms per MB is the aim for numbers; much more is allowed for on a busy machine."""
    rng = np.random.default_rng(0)
    rows = pd.Series(rng.integers(1000, size=50_000))
    data = {
        "array": lambda: rng.normal(size=(50_000, 10)),
        "frame": lambda: pd.DataFrame(rng.normal(size=(50_000, 10))),
        "texts": lambda: rows.astype(str).to_frame(),
        "categories": lambda: rows.astype(str).astype("category").to_frame(),
        "times": lambda: pd.DataFrame({"t": pd.to_datetime(rows, unit="s", utc=True)}),
    }[kind]()
    started = time.process_time()
    fingerprint(data)
    assert time.process_time() - started < 0.05
