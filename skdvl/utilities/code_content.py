"""What a function or a class is, in parts that can be digested.

Installed libraries are known by name and version. A user's own code has no version: a notebook
cell is edited and run again, and what was computed with the old one must not be found any more.
So it is known by its instructions, its constants and the globals it uses.
"""

from __future__ import annotations

import dis
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["class_parts", "function_parts", "is_made_inside", "module_parts", "name_of"]

_ALWAYS_INSTALLED = ("numpy", "scipy", "sklearn", "skdvl")  # also where they are being developed
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def name_of(item: Any) -> str:
    """Return the module and the qualified name of a class or a function."""
    module = getattr(item, "__module__", None) or ""
    return f"{module}.{getattr(item, '__qualname__', None) or item.__name__}"


def is_made_inside(item: types.FunctionType) -> bool:
    """Tell whether a function is a lambda, or made inside another one."""
    if "<" in item.__qualname__:
        return True
    # a library's function may be a closure of its decorators: its name still stands for it
    return bool(item.__closure__) and _version(item.__module__) is None


def module_parts(module: types.ModuleType) -> tuple[str, str | None]:
    """Return a module's name, and its version if it is installed."""
    return module.__name__, _version(module.__name__)


def function_parts(function: types.FunctionType) -> tuple[Any, ...]:
    """Return what decides the results of a function defined at the top of a module."""
    version = _version(function.__module__)
    if version is not None:
        return ("installed", name_of(function), version)
    defaults = (function.__defaults__, function.__kwdefaults__)
    return (name_of(function), _content(function.__code__), defaults, _globals_of(function))


def class_parts(kind: type) -> tuple[Any, ...]:
    """Return what decides the behaviour of a class: all its members, base by base."""
    parts = []
    for base in kind.__mro__:
        version = _version(base.__module__)
        parts.append((name_of(base), version, () if version else tuple(_members(base))))
    return tuple(parts)


def _members(kind: type) -> Iterator[tuple[Any, ...]]:
    for name, member in sorted(vars(kind).items()):
        for function in _functions_in(member):
            # What a whole class uses is not all part of its results: locks and loggers are passed
            # over here, where a single function would be refused.
            used = [*_globals_of(function), *enumerate(function.__defaults__ or ())]
            plain = [(key, item) for key, item in used if _is_code_or_plain(item)]
            yield name, _content(function.__code__), plain
        if isinstance(member, _PLAIN) and not name.startswith("__"):
            yield name, member


def _functions_in(member: Any) -> Iterator[types.FunctionType]:
    """Yield the functions of a member of a class, and those that decorators have wrapped."""
    if isinstance(member, (staticmethod, classmethod)):
        member = member.__func__
    if isinstance(member, property):
        for part in (member.fget, member.fset):
            yield from _functions_in(part)
    elif isinstance(member, types.FunctionType):
        yield member
        if hasattr(member, "__wrapped__"):
            yield from _functions_in(member.__wrapped__)


def _content(code: types.CodeType) -> tuple[Any, ...]:
    constants = [_content(c) if isinstance(c, types.CodeType) else c for c in code.co_consts]
    return code.co_code, code.co_names, code.co_varnames, constants


def _globals_of(function: types.FunctionType) -> list[tuple[str, Any]]:
    known = function.__globals__
    return [(name, known[name]) for name in sorted(_names_read(function.__code__)) if name in known]


def _names_read(code: types.CodeType) -> set[str]:
    """Return the globals that code reads; ``co_names`` has the names of attributes as well."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname.startswith("LOAD_GLOBAL")}
    return names.union(*(_names_read(c) for c in code.co_consts if isinstance(c, types.CodeType)))


def _is_code_or_plain(item: Any) -> bool:
    if isinstance(item, types.FunctionType):
        return not is_made_inside(item)
    return isinstance(item, (*_PLAIN, type, types.ModuleType))


def _version(module_name: str | None) -> str | None:
    """Return the version of an installed library, "" where it gives none; None for own code."""
    root = (module_name or "").split(".")[0]
    if root in sys.stdlib_module_names or root == "builtins":
        return ""
    module = sys.modules.get(root)
    places = Path(getattr(module, "__file__", None) or "").parts
    if root in _ALWAYS_INSTALLED or "site-packages" in places or "dist-packages" in places:
        return str(getattr(module, "__version__", ""))
    return None
