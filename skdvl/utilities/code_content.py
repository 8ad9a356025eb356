"""What a function or a class is, in parts that can be digested.

Installed libraries are known by name and version. A user's own code has no version: a notebook
cell is edited and run again, and what was computed with the old one must not be found any more.
So it is known by its instructions, its constants and all that it uses.
"""

from __future__ import annotations

import dis
import sys
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["OwnCode", "code_parts", "is_made_inside", "module_parts", "name_of", "version_of"]

_ALWAYS_INSTALLED = ("numpy", "scipy", "sklearn", "skdvl")  # also where they are being developed
_NO_BEHAVIOUR = frozenset(
    (
        *("__dict__", "__weakref__", "__module__", "__qualname__", "__doc__", "__annotations__"),
        *("__annotate_func__", "__annotations_cache__", "__abstractmethods__", "_abc_impl"),
        *("__firstlineno__", "__static_attributes__"),
    )
)


class OwnCode:
    """Functions and classes without a version: named where they are used, digested once.

    Code refers to code in circles, and to the same code from many places.
    """

    def __init__(self) -> None:
        self.met: list[tuple[Any, str, bool]] = []
        self._seen: set[tuple[str, bool]] = set()
        self._labels: dict[int, str] = {}
        self._named: Counter[str] = Counter()

    def label(self, item: Any, is_lenient: bool) -> str:
        """Return a name that tells the item from others, also where several have the same."""
        label = self._labels.get(id(item))
        if label is None:
            name = name_of(item)
            label = self._labels[id(item)] = f"{name} {self._named[name]}"
            self._named[name] += 1
        if (label, is_lenient) not in self._seen:
            self._seen.add((label, is_lenient))
            self.met.append((item, label, is_lenient))
        return label


def name_of(item: Any) -> str:
    """Return the module and the qualified name of a class or a function."""
    module = getattr(item, "__module__", None) or ""
    return f"{module}.{getattr(item, '__qualname__', None) or item.__name__}"


def is_made_inside(item: types.FunctionType) -> bool:
    """Tell whether a function is a lambda, or made inside another one."""
    if "<" in item.__qualname__:
        return True
    # a library's function may be a closure of its decorators: its name still stands for it
    return bool(item.__closure__) and version_of(item.__module__) is None


def version_of(module_name: str | None) -> str | None:
    """Return the version of an installed library, "" where it gives none; None for own code."""
    root = (module_name or "").split(".")[0]
    if root in sys.stdlib_module_names or root == "builtins":
        return ""
    module = sys.modules.get(root)
    places = Path(getattr(module, "__file__", None) or "").parts
    if root in _ALWAYS_INSTALLED or "site-packages" in places or "dist-packages" in places:
        return str(getattr(module, "__version__", ""))
    return None


def module_parts(module: types.ModuleType) -> tuple[Any, ...]:
    """Return a module's name, and its version or, if it is one's own, what is in it."""
    version = version_of(module.__name__)
    inside = [] if version is not None else list(_inside(module, set(vars(module)), set()))
    return module.__name__, version, inside


def code_parts(item: types.FunctionType | type) -> tuple[Any, ...]:
    """Return what decides the results of a function, or a class's own part in its behaviour."""
    if isinstance(item, types.FunctionType):
        defaults = (item.__defaults__, item.__kwdefaults__)
        return _content(item.__code__), defaults, vars(item), list(_used(item))
    return tuple((n, m) for n, m in sorted(vars(item).items()) if n not in _NO_BEHAVIOUR)


def _content(code: types.CodeType) -> tuple[Any, ...]:
    constants = [_content(c) if isinstance(c, types.CodeType) else c for c in code.co_consts]
    names = (code.co_names, code.co_varnames, code.co_freevars)
    # ``f(x, y)`` and ``f(x, *y)`` may have the same instructions
    takes = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    handlers = getattr(code, "co_exceptiontable", b"")  # from Python 3.11 on
    return code.co_code, names, takes, handlers, constants


def _used(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield what a function takes from its surroundings: globals, modules, its closure."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    codes = list(_nested(function.__code__))
    attributes = {name for code in codes for name in code.co_names}
    known = function.__globals__
    modules = []
    for name in sorted({name for code in codes for name in _globals_read(code)}):
        item = known.get(name, function)
        if isinstance(item, types.ModuleType):
            modules.append(item)
        elif name in known:
            yield name, item
    package = known.get("__package__") or ""
    for name in sorted({name for code in codes for name in _imported(code)}):
        modules += [sys.modules[n] for n in (name, f"{package}.{name}") if n in sys.modules]
    seen: set[str] = set()
    for module in modules:
        yield from _inside(module, attributes, seen)


def _inside(module: types.ModuleType, names: set[str], seen: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield an installed module's version, or what own modules hold under some of the names."""
    if module.__name__ in seen:
        return
    seen.add(module.__name__)
    version = version_of(module.__name__)
    yield module.__name__, version
    if version is not None:
        return
    for name in sorted(names & vars(module).keys()):
        item = vars(module)[name]
        if isinstance(item, types.ModuleType):
            yield from _inside(item, names, seen)
        elif not name.startswith("__"):
            yield f"{module.__name__}.{name}", item


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def _globals_read(code: types.CodeType) -> Iterator[str]:
    # ``co_names`` has the names of attributes as well; a class body in a function loads by name
    for instruction in dis.get_instructions(code):
        if instruction.opname.startswith(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")):
            yield instruction.argval


def _imported(code: types.CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            yield instruction.argval
