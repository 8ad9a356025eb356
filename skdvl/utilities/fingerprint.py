"""Digests of content: what decides a utility, reduced to a few bytes.

Equal content has an equal fingerprint in every process and on every machine; nothing depends on
addresses, on Python's randomised hashes or on the order of a dictionary. What has no stable
content, such as a lambda, is refused rather than guessed.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy
import sklearn
from scipy import sparse
from sklearn.base import BaseEstimator

__all__ = ["FingerprintError", "fingerprint", "library_versions", "required_fingerprint"]


class FingerprintError(ValueError):
    """An object has no stable content, so that nothing computed with it can be kept."""


def library_versions() -> tuple[str, ...]:
    """Return the versions and the processor type on which the bits of a utility depend."""
    versions = (sklearn.__version__, np.__version__, scipy.__version__)
    return (*versions, platform.machine(), platform.processor())


def fingerprint(*objects: Any) -> bytes:
    """Digest the content of objects.

    Parameters
    ----------
    *objects : object
        Numbers, strings, containers, arrays, sparse matrices, frames, estimators (by class and
        parameters; frozen ones with what they have learned), functions defined at the top of a
        module, instances of classes defined there. An object may have a method ``fingerprint``
        that returns bytes: then that counts.

    Returns
    -------
    bytes
        16 bytes.

    Raises
    ------
    FingerprintError
        If an object has no stable content; it says how to give it one.

    Examples
    --------
    >>> import numpy as np
    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    >>> fingerprint(np.zeros(3)) == fingerprint(np.zeros(4))
    False
    """
    digest = _Digest()
    for item in objects:
        digest.add(item)
    return digest.hasher.digest()


def required_fingerprint(utility: Any) -> bytes:
    """Return a utility's own fingerprint.

    Raises
    ------
    FingerprintError
        If it has none.
    """
    found = utility.fingerprint()
    if found is None:
        raise FingerprintError(
            f"{type(utility).__name__} has no fingerprint, so its utilities can be neither cached "
            "nor checkpointed. Give the utility, or the callable, a method fingerprint() that "
            "returns bytes which change whenever its results do."
        )
    return bytes(found)


class _Digest:
    """A running digest; every piece is preceded by its kind and length."""

    def __init__(self) -> None:
        self.hasher = hashlib.blake2b(digest_size=16)
        self.open: dict[int, int] = {}

    def piece(self, kind: str, content: bytes | memoryview) -> None:
        size = content.nbytes if isinstance(content, memoryview) else len(content)
        self.hasher.update(f"{kind}:{size}:".encode())
        self.hasher.update(content)

    def add(self, item: Any) -> None:
        if id(item) in self.open:
            self.piece("seen", str(self.open[id(item)]).encode())
            return
        self.open[id(item)] = len(self.open)
        try:
            self._add(item)
        finally:
            del self.open[id(item)]

    def _add(self, item: Any) -> None:
        if item is None or isinstance(item, (bool, int, float, complex, str)):
            self.piece(type(item).__name__, repr(item).encode())
        elif isinstance(item, bytes):
            self.piece("bytes", item)
        elif isinstance(item, np.ndarray):
            self._add_array(item)
        elif isinstance(item, (np.generic, np.dtype)):
            self.piece(type(item).__name__, repr(item).encode())
        elif isinstance(item, (list, tuple)):
            self.piece(type(item).__name__, str(len(item)).encode())
            for part in item:
                self.add(part)
        elif isinstance(item, (dict, set, frozenset)):
            self._add_unordered(item)
        elif sparse.issparse(item):
            self._add_sparse(item)
        elif hasattr(item, "fingerprint") and not isinstance(item, type):
            self.piece("own", bytes(item.fingerprint() or self._refuse(item)))
        elif hasattr(item, "columns") and hasattr(item, "dtypes"):
            self._add_frame(item)
        elif isinstance(item, (types.FunctionType, types.MethodType, functools.partial)):
            self._add_callable(item)
        elif isinstance(item, (type, types.BuiltinFunctionType, np.ufunc)):
            self.piece("name", _name_of(item).encode())
        elif isinstance(item, BaseEstimator) and type(item).__name__ != "FrozenEstimator":
            self.piece("estimator", _name_of(type(item)).encode())
            self.add(item.get_params(deep=False))
        else:
            self._add_object(item)

    def _add_array(self, array: np.ndarray[Any, Any]) -> None:
        if array.dtype.hasobject:
            self.piece("objects", str(array.shape).encode())
            self.add(array.ravel().tolist())
            return
        self.piece("array", f"{array.dtype.str}{array.shape}".encode())
        contiguous = np.ascontiguousarray(array)
        self.piece("data", memoryview(contiguous.reshape(-1).view(np.uint8)))

    def _add_unordered(self, items: Any) -> None:
        parts = items.items() if isinstance(items, dict) else ((part, None) for part in items)
        digests = sorted(fingerprint(key, value) for key, value in parts)
        self.piece(type(items).__name__, b"".join(digests))

    def _add_sparse(self, matrix: Any) -> None:
        rows = matrix.tocsr(copy=True)
        rows.sum_duplicates()
        self.add(("sparse", rows.shape, rows.data, rows.indices, rows.indptr))

    def _add_frame(self, frame: Any) -> None:
        names = [str(name) for name in frame.columns]
        self.piece("frame", repr(names).encode())
        for name in frame.columns:
            column = frame[name]
            self.piece("dtype", str(column.dtype).encode())
            self.add(column.to_numpy())

    def _add_callable(self, item: Any) -> None:
        if isinstance(item, functools.partial):
            self.add(("partial", item.func, item.args, item.keywords))
        elif isinstance(item, types.MethodType):
            self.add(("method", item.__func__, item.__self__))
        else:
            if item.__closure__ or "<" in item.__qualname__:
                self._refuse(item)
            self.piece("function", _name_of(item).encode())
            self._add_code(item.__code__)
            self.add(item.__defaults__)
            self.add(item.__kwdefaults__)

    def _add_code(self, code: types.CodeType) -> None:
        self.piece("code", code.co_code)
        self.piece("names", repr(code.co_names).encode())
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._add_code(constant)
            else:
                self.add(constant)

    def _add_object(self, item: Any) -> None:
        kind = type(item)
        if "<" in kind.__qualname__:
            self._refuse(item)
        try:
            reduced = item.__reduce_ex__(2)
        except TypeError:
            self._refuse(item)
        self.piece("object", _name_of(kind).encode())
        if isinstance(reduced, str):
            self.piece("global", reduced.encode())
        else:
            maker, arguments, *rest = reduced
            self.piece("maker", _name_of(maker).encode())
            self.add(arguments)
            for state in rest:
                self.add(list(state) if _is_iterator(state) else state)

    def _refuse(self, item: Any) -> bytes:
        raise FingerprintError(
            f"{item!r} has no stable content, so its utilities can be neither cached nor "
            "checkpointed. Define it at the top of a module instead of as a lambda or inside a "
            "function, or give it a method fingerprint() that returns bytes which change whenever "
            "its results do."
        )


def _is_iterator(item: Any) -> bool:
    return hasattr(item, "__next__")


def _name_of(item: Callable[..., Any] | type | np.ufunc) -> str:
    module = getattr(item, "__module__", "")
    return f"{module}.{getattr(item, '__qualname__', getattr(item, '__name__', repr(item)))}"
