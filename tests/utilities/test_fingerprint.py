import functools
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, get_scorer, make_scorer
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from skdvl.metrics import squashed_r2, true_class_probability
from skdvl.utilities.fingerprint import FingerprintError, fingerprint
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.refit import RefitUtility
from skdvl.utilities.supervised import FallbackRule

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


def run_cell(source, name="notebook"):
    """Define what a notebook cell defines, in a module that is not installed anywhere."""
    module = types.ModuleType(name)
    exec(source, module.__dict__)
    return module


SCORER = """
WEIGHT = {weight}
def helper(x):
    return x + {shift}
def scorer(estimator, X, y, power={power}):
    return {sign}helper(WEIGHT) ** power
"""


@pytest.mark.parametrize("change", [{"weight": 3}, {"shift": 1}, {"power": 1}, {"sign": "-"}])
def test_an_edited_function_is_another_one(change):
    cell = {"weight": 2, "shift": 0, "power": 2, "sign": "+"}
    first = run_cell(SCORER.format(**cell)).scorer
    assert fingerprint(first) == fingerprint(run_cell(SCORER.format(**cell)).scorer)
    assert fingerprint(first) != fingerprint(run_cell(SCORER.format(**cell | change)).scorer)


MODEL = """
import dataclasses
import functools
import threading
from sklearn.base import BaseEstimator
from sklearn.utils.metaestimators import available_if
LOCK = threading.Lock()
TABLE = [{table}]
act = lambda x: x + {act}
def helper(x):
    with LOCK:
        return x + {shift}
def scaled(function):
    @functools.wraps(function)
    def wrapped(self, X):
        return function(self, X) * {scale}
    return wrapped
@functools.lru_cache
def remembered():
    return {remembered}
@dataclasses.dataclass
class Options:
    sizes: list = dataclasses.field(default_factory=lambda: [{sizes}])
class Base(BaseEstimator):
    factor = {factor}
    weights = [{weights}]
    class Part:
        def size(self):
            return {part}
    @property
    def half(self):
        return {half}
    @functools.cached_property
    def third(self):
        return {third}
    @staticmethod
    def quarter():
        return {quarter}
    fixed = functools.partialmethod(lambda self, x: x, {fixed})
    @available_if(lambda self: {available})
    def predict_proba(self, X):
        return {proba}
class Model(Base):
    def __init__(self, depth=3):
        self.depth = depth
    def fit(self, X, y, power=[{default}], *, other={keyword}):
        with LOCK:
            return helper({inner}), TABLE, act, Options(), remembered()
    @scaled
    def predict(self, X):
        return {outer}
    def score(self, X, y):
        from notebook_helpers import score
        return score(X)
"""
CELL = dict.fromkeys(re.findall(r"{(\w+)}", MODEL), 0)


@pytest.fixture
def helpers(monkeypatch):
    """Write a module of the user's own, which code imports or holds."""

    def write(source):
        module = run_cell(source, "notebook_helpers")
        monkeypatch.setitem(sys.modules, "notebook_helpers", module)
        return module

    write("def score(X): return 0")
    return write


@pytest.mark.usefixtures("helpers")
@pytest.mark.parametrize("change", CELL)
def test_an_edited_estimator_is_another_one(change):
    first = run_cell(MODEL.format(**CELL)).Model()
    assert fingerprint(first) == fingerprint(run_cell(MODEL.format(**CELL)).Model())
    assert fingerprint(first) != fingerprint(run_cell(MODEL.format(**CELL | {change: 1})).Model())
    assert fingerprint(first) == fingerprint(clone(first))


HOLDS = "import notebook_helpers as h\ndef f(estimator, X, y): return h.score(X) + h.LIMIT"
IMPORTS = (
    "def f(estimator, X, y):\n    from notebook_helpers import score, LIMIT\n    return score(X)"
)


@pytest.mark.parametrize("source", [HOLDS, IMPORTS], ids=["holds", "imports"])
def test_what_code_uses_of_an_edited_module_counts(helpers, source):
    helpers("LIMIT = 1\ndef score(X): return 2\nunused = 3")
    first = fingerprint(run_cell(source).f)
    for edited in ("LIMIT = 2\ndef score(X): return 2", "LIMIT = 1\ndef score(X): return 3"):
        helpers(edited)
        assert fingerprint(run_cell(source).f) != first
    helpers("LIMIT = 1\ndef score(X): return 2\nunused = 4")
    assert fingerprint(run_cell(source).f) == first


def make_model(power):
    class Inside(BaseEstimator):
        def fit(self, X, y):
            return power

    return Inside()


def test_what_an_estimator_defined_inside_a_function_encloses_counts():
    assert fingerprint(make_model(1)) == fingerprint(make_model(1))
    assert fingerprint(make_model(1)) != fingerprint(make_model(2))


def test_two_lambdas_that_change_places_are_told_apart():
    source = "class Model:\n    a = lambda self: {a}\n    b = lambda self: {b}\n"
    one, other = (run_cell(source.format(a=a, b=1 - a)).Model for a in (0, 1))
    assert fingerprint(one) != fingerprint(other)


def test_the_two_sides_of_a_circle_of_code_count_once():
    """Each function uses all others; going all ways through them would take for ever."""
    names = [f"f{j}" for j in range(20)]
    source = "\n".join(f"def {name}(): return {', '.join(names)}" for name in names)
    assert fingerprint(run_cell(source).f0) == fingerprint(run_cell(source).f0)
    edited = source.replace("f19(): return f0", "f19(): return f1")
    assert fingerprint(run_cell(source).f0) != fingerprint(run_cell(edited).f0)


EDITS = {
    "arguments": ("def f(x, y): return y", "def f(x, *y): return y"),
    "keywords": ("def f(x, y): return y", "def f(x, *, y): return y"),
    "metaclass": [
        f"""
class Kind(type):
    def __call__(cls): return {number}
class Made(metaclass=Kind): pass
def f(x): return Made()
"""
        for number in (1, 2)
    ],
    "pattern": [
        f"""
import re
PATTERN = re.compile("a", {flags})
def f(x): return PATTERN.sub("", x)
"""
        for flags in (0, "re.I")
    ],
    "pattern of a class": [
        f"""
import re
class Cleaner:
    pattern = re.compile({pattern!r})
def f(x): return Cleaner.pattern.sub("", x)
"""
        for pattern in "ab"
    ],
    "default": [
        f"""
import collections
TABLE = collections.defaultdict({kind})
def f(x): return TABLE[x]
"""
        for kind in ("int", "float")
    ],
    **{
        f"subclass of {kind}": [
            f"""
class Table({kind}):
    def look_up(self): return {number}
TABLE = Table({content})
def f(x): return TABLE.look_up()
"""
            for number in (1, 2)
        ]
        for kind, content in [("dict", {"a": 1}), ("list", [1]), ("float", 1.0), ("str", "'a'")]
    },
    "attribute of a dict": [
        f"""
class Table(dict): pass
TABLE = Table(a=1)
TABLE.base = {number}
def f(x): return TABLE.base
"""
        for number in (1, 2)
    ],
    "labels of a series": [
        f"""
import pandas as pd
COSTS = pd.Series([1.0, 2.0], index=list({labels!r}))
def f(x): return COSTS[x]
"""
        for labels in ("ab", "ba")
    ],
}


@pytest.mark.parametrize("sources", EDITS.values(), ids=EDITS)
def test_what_two_functions_differ_in_counts(sources):
    first, again, second = (run_cell(sources[j]).f for j in (0, 0, 1))
    assert fingerprint(first) == fingerprint(again)
    assert fingerprint(first) != fingerprint(second)


def test_a_recursive_function_ends():
    source = "def f(n):\n    return n and g(n - 1)\ndef g(n):\n    return n and f(n - 1)\n"
    assert fingerprint(run_cell(source).f) == fingerprint(run_cell(source).f)


def utility_fingerprint(**changes):
    parts = {
        "estimator": LogisticRegression(),
        "X": X,
        "y": y,
        "X_val": X + 0.5,
        "y_val": y,
        "classes": np.array([0, 1]),
        "player_of_row": None,
        "scorer": get_scorer("accuracy"),
        "empty_score": "auto",
        "error_score": "auto",
    } | changes
    names = ("X", "y", "X_val", "y_val", "classes", "player_of_row")
    fold = Fold(changes.get("number", 0), *(parts[name] for name in names))
    judge = Judge(fold, parts["scorer"], False)
    fallback = FallbackRule(judge, parts["empty_score"], parts["error_score"])
    return RefitUtility(parts["estimator"], fold, judge, fallback).fingerprint()


def changed(array, position, value):
    other = array.copy()
    other[position] = value
    return other


@pytest.mark.parametrize(
    "change",
    [
        {"X": changed(X, (0, 0), 1e-300)},
        {"X": X.astype(np.float32)},
        {"X": sparse.csr_matrix(X)},
        {"y": changed(y, 0, 1)},
        {"y": y.astype(np.int8)},
        {"X_val": X},
        {"y_val": changed(y, 0, 1)},
        {"classes": np.array([0, 1, 2])},
        {"player_of_row": np.array([0, 0, 1, 1, 2, 2])},
        {"estimator": LogisticRegression(C=2)},
        {"estimator": LogisticRegression(random_state=0)},
        {"estimator": GaussianNB()},
        {"scorer": get_scorer("balanced_accuracy")},
        {"scorer": true_class_probability},
        {"scorer": None},
        {"empty_score": 0.5},
        {"error_score": 0.5},
        {"error_score": "raise"},
    ],
    ids=lambda change: ", ".join(change),
)
def test_whatever_decides_the_game_changes_its_fingerprint(change):
    assert utility_fingerprint() == utility_fingerprint()
    assert utility_fingerprint(**change) != utility_fingerprint()


def test_what_pipelines_hand_on_decides_the_game():
    with sklearn.config_context(transform_output="pandas"):
        frames = utility_fingerprint()
    assert frames != utility_fingerprint()


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


def test_the_number_of_the_fold_does_not_decide_the_game():
    assert utility_fingerprint(number=3) == utility_fingerprint()
