"""The house rules: imports point down, optional parts stay optional, files stay readable."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import skdvl
from skdvl import selection
from skdvl.caching import Cache, check_cache
from skdvl.estimation.scheme_choice import check_scheme, find_schemes
from skdvl.sampling import SamplingScheme
from skdvl.semivalues import SEMIVALUES, Semivalue, check_semivalue
from skdvl.utilities.dispatch import find_engines
from skdvl.utilities.incremental.base import IncrementalUtility
from skdvl.valuators.base import DataValuator

ROOT = Path(skdvl.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
RANKS = {
    "semivalues": 1,
    "metrics": 1,
    "batched_metrics": 1,
    "caching": 1,
    "parallel": 1,
    "utilities": 2,
    "sampling": 3,
    "estimation": 4,
    "valuators": 5,
    "selection": 6,
    "inspection": 6,
    "datasets": 6,
    "testing": 6,
}
# in rank 1 nobody knows anybody, but for metrics and the functions behind it
NEIGHBOURS = {("metrics", "batched_metrics"), ("selection", "inspection")}
OPTIONAL = {
    *("ray", "diskcache", "pymemcache", "matplotlib", "distributed", "dask"),
    *("polars", "numba", "imblearn"),
}
LONGEST = 420


def module_name(file):
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(name):
    """Return the part of the library that a module belongs to: "" is skdvl/__init__ itself."""
    return name.split(".")[1] if "." in name else ""


def imports_of(file, *, at_import=False):
    """Yield (module, line) of the imports; those at import alone, or wherever they are."""
    tree = ast.parse(file.read_text())
    lazy = set()
    for node in ast.walk(tree):
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if is_function or is_for_types:
            lazy.update(id(inner) for inner in ast.walk(node))
    for node in ast.walk(tree):
        if at_import and id(node) in lazy:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} is a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                yield (name if is_module(name) else node.module), node.lineno


def is_module(name):
    path = ROOT.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.joinpath("__init__.py").exists()


def own_imports(file, **options):
    for name, line in imports_of(file, **options):
        if name.split(".")[0] == "skdvl":
            yield name, line


def test_every_part_has_a_rank():
    parts = {package_of(module_name(file)) for file in FILES} - {""}
    assert parts == set(RANKS) & parts, f"without a rank: {parts - set(RANKS)}"


def test_imports_point_down():
    for file in FILES:
        here = package_of(module_name(file))
        for name, line in own_imports(file):
            there = package_of(name)
            if not here or here == there or (here, there) in NEIGHBOURS:
                continue
            assert there, f"{file}:{line} imports the shelf"
            assert RANKS[there] < RANKS[here], f"{file}:{line} imports {name}"


def test_no_cycles():
    graph = {module_name(f): {n for n, _ in own_imports(f, at_import=True)} for f in FILES}
    done, path = set(), []

    def visit(name):
        assert name not in path, f"cycle: {' -> '.join([*path[path.index(name) :], name])}"
        if name in done:
            return
        path.append(name)
        for other in sorted(graph.get(name, ())):
            visit(other)
        done.add(path.pop())

    for name in sorted(graph):
        visit(name)


def test_optional_libraries_are_imported_where_they_are_needed():
    for file in FILES:
        for name, line in imports_of(file, at_import=True):
            library = name.split(".")[0]
            assert library not in OPTIONAL, f"{file}:{line} imports {library}"


def test_files_stay_readable():
    for file in FILES:
        assert len(file.read_text().splitlines()) <= LONGEST, file
        assert file.stem not in ("utils", "common", "manager", "handler", "helpers"), file


COST = """
import json, sys, time
import sklearn.linear_model
before = set(sys.modules)
started = time.process_time()
import skdvl
seconds = time.process_time() - started
print(json.dumps([seconds, sorted({name.split(".")[0] for name in set(sys.modules) - before})]))
"""


def test_importing_the_library_is_cheap_and_imports_nothing_optional(capsys):
    command = [sys.executable, "-c", COST]
    printed = subprocess.run(command, capture_output=True, check=True).stdout
    seconds, imported = json.loads(printed)
    with capsys.disabled():
        print(f"\nimport skdvl: {seconds:.2f} s on top of sklearn.linear_model (aim: 0.3 s)")
    assert not set(imported) & OPTIONAL


# --- registries -------------------------------------------------------------------------------


def subclasses(cls):
    for sub in cls.__subclasses__():
        yield sub
        yield from subclasses(sub)


def own_concrete(base):
    """Return the concrete classes of this library that derive from a base."""
    return {
        cls
        for cls in subclasses(base)
        if cls.__module__.startswith("skdvl.") and not inspect.isabstract(cls)
    }


def test_every_semivalue_is_found_by_its_name():
    for cls in own_concrete(Semivalue):
        assert SEMIVALUES[cls.name] is cls
        if not cls.__dataclass_fields__ or all(
            parameter.default is not inspect.Parameter.empty
            for parameter in inspect.signature(cls).parameters.values()
        ):
            assert isinstance(check_semivalue(cls.name), cls)


def test_every_scheme_is_found_by_its_name():
    find_schemes()
    for cls in own_concrete(SamplingScheme):
        if "name" in vars(cls):  # not the bases of families
            assert type(check_scheme(cls.name)) is cls


def test_every_cache_is_found_by_its_name():
    for cls in own_concrete(Cache):
        name = cls.__name__.removesuffix("Cache").lower()
        if cls.__module__.startswith("skdvl.caching.contract"):
            continue
        assert type(check_cache(name)) is cls


def test_every_engine_is_found():
    engines = find_engines()
    names = [engine.engine for engine in engines]
    assert len(names) == len(set(names))
    concrete = {cls for cls in own_concrete(IncrementalUtility) if not cls.__name__.startswith("_")}
    assert concrete == set(engines)


# --- the shelf --------------------------------------------------------------------------------


def test_what_a_module_offers_is_there_and_sorted():
    for file in FILES:
        module = importlib.import_module(module_name(file))
        offered = list(getattr(module, "__all__", ()))
        assert offered == sorted(set(offered), key=sort_key), file
        missing = [name for name in offered if not hasattr(module, name)]
        assert not missing, file


def sort_key(name):
    """Sort as ruff does: constants, classes, then the rest."""
    kind = 0 if name.isupper() else 1 if name[:1].isupper() else 2
    return kind, name


def test_the_shelf_offers_every_valuator_and_filter():
    offered = {getattr(skdvl, name) for name in skdvl.__all__}
    filters = {item for item in vars(selection).values() if inspect.isclass(item)}
    filters = {cls for cls in filters if cls.__module__ == selection.__name__}
    concrete = own_concrete(DataValuator) | filters
    assert {cls for cls in concrete if not cls.__name__.startswith("_")} <= offered


def test_packages_offer_what_they_import():
    """A class that a package's __init__ imports is one that it offers."""
    for file in FILES:
        if file.name == "__init__.py":
            module = importlib.import_module(module_name(file))
            imported = {
                alias.asname or alias.name
                for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
            }
            assert imported <= set(getattr(module, "__all__", ())), file


def test_classes_ask_their_subclasses_for_at_most_three_methods():
    for file in FILES:
        module = importlib.import_module(module_name(file))
        for cls in vars(module).values():
            if inspect.isclass(cls) and cls.__module__ == module.__name__:
                members = vars(cls).values()
                asked = [m for m in members if getattr(m, "__isabstractmethod__", False)]
                assert len(asked) <= 3, cls
