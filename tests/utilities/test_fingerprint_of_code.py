"""A fingerprint changes with whatever code an object runs, and with nothing else."""

import re
import sys
import types

import pytest
from sklearn.base import BaseEstimator, clone

from skdvl.utilities.fingerprint import fingerprint


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
