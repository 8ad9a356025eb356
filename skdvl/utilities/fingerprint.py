"""Digests of content: what decides a utility, reduced to a few bytes.

Equal content has an equal fingerprint in every process and on every machine; nothing depends on
addresses, on Python's randomised hashes or on the order of a dictionary. What has no stable
content, such as a lambda, is refused rather than guessed.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import marshal
import platform
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy
import sklearn
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from threadpoolctl import threadpool_info

from skdvl.utilities.code_content import (
    OwnCode,
    code_parts,
    is_made_inside,
    module_parts,
    name_of,
    version_of,
)

__all__ = ["FingerprintError", "fingerprint", "library_versions", "required_fingerprint"]


class FingerprintError(ValueError):
    """An object has no stable content, so that nothing computed with it can be kept."""


@functools.lru_cache(maxsize=1)
def library_versions() -> tuple[str, ...]:
    """Return the versions and the processor type on which the bits of a utility depend."""
    # kernels of BLAS are chosen by processor, and sum in different orders
    kernels = {
        str(lib.get("architecture")) for lib in threadpool_info() if lib["user_api"] == "blas"
    }
    versions = (sklearn.__version__, np.__version__, scipy.__version__)
    return (*versions, platform.machine(), *sorted(kernels))


def fingerprint(*objects: Any) -> bytes:
    """Digest the content of objects.

    Parameters
    ----------
    *objects : object
        Numbers, strings, containers, arrays, sparse matrices, frames, estimators (by class and
        parameters; frozen ones with what they have learned), functions defined at the top of a
        module, instances of classes defined there. Own functions and classes count by their
        code, those of libraries by name and version. An object may have a method ``fingerprint``
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
    digest.add_own_code()
    return digest.result()


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

    def __init__(self, within: _Digest | None = None) -> None:
        # most processors compute it faster than any other digest of the standard library
        self.hasher = hashlib.sha256()
        self.open: dict[int, int] = {} if within is None else within.open
        self.own_code: OwnCode = OwnCode() if within is None else within.own_code
        self.with_learned: bool = within is not None and within.with_learned
        self.is_lenient: bool = within is not None and within.is_lenient

    def piece(self, kind: str, content: bytes | memoryview) -> None:
        size = content.nbytes if isinstance(content, memoryview) else len(content)
        self.hasher.update(f"{kind}:{size}:".encode())
        self.hasher.update(content)

    def result(self) -> bytes:
        return self.hasher.digest()[:16]

    def add_own_code(self) -> None:
        """Add the content of the functions and classes that were met, and of what these use."""
        contents = []
        for item, label, is_lenient in self.own_code.met:  # grows meanwhile
            digest = _Digest(self)
            digest.is_lenient = is_lenient or isinstance(item, type)
            digest.with_learned = False
            digest.add(code_parts(item))
            contents.append(label.encode() + digest.result())
        self.piece("code", b"".join(sorted(contents)))

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
        is_derived = isinstance(item, _BUILTIN) and type(item) not in _BUILTIN
        if is_derived and not isinstance(item, np.generic):
            self._add_object(item)  # it is more than its number, text or entries
            return
        for kinds, add in _BY_TYPE:
            if isinstance(item, kinds):
                add(self, item)
                return
        if sparse.issparse(item):
            self._add_sparse(item)
        elif hasattr(item, "fingerprint"):
            self._add_named(item)
        elif hasattr(item, "columns") and hasattr(item, "dtypes"):
            self._add_frame(item)
        elif hasattr(item, "dtype") and hasattr(item, "to_numpy"):
            self._add_index(getattr(item, "index", None))
            self._add_column(item)
        elif isinstance(item, BaseEstimator) and not self.with_learned:
            self._add_estimator(item)
        else:
            self._add_object(item)

    def _add_text(self, item: Any) -> None:
        self.piece(type(item).__name__, repr(item).encode())

    def _add_bytes(self, item: bytes) -> None:
        self.piece("bytes", item)

    def _add_sequence(self, items: Sequence[Any]) -> None:
        self.piece(type(items).__name__, str(len(items)).encode())
        for part in items:
            self.add(part)

    def _add_unordered(self, items: Any) -> None:
        parts = items.items() if isinstance(items, dict) else ((part, None) for part in items)
        digests = []
        for part in parts:
            digest = _Digest(self)
            digest.add(part)
            digests.append(digest.result())
        self.piece(type(items).__name__, b"".join(sorted(digests)))

    def _add_array(self, array: np.ndarray[Any, Any]) -> None:
        if type(array) not in (np.ndarray, np.memmap):  # a masked array is more than its numbers
            self._add_object(array)
            return
        # Models may differ in the last bit by the order in memory.
        is_fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        self.piece("array", f"{array.dtype}{array.shape}{is_fortran}".encode())
        if array.dtype.names:  # between the fields there may be rubbish
            for name in array.dtype.names:
                self.add(array[name])
        elif array.dtype.hasobject:
            self._add_items(array.ravel())
        else:
            flat = np.ascontiguousarray(array.T if is_fortran else array).reshape(-1)
            self.piece("data", memoryview(flat.view(np.uint8)))  # type: ignore[arg-type]

    def _add_items(self, items: NDArray[np.object_]) -> None:
        """Digest a long row of mostly texts or other plain items at once."""
        import pandas as pd  # half a second that arrays of numbers do not need

        is_rest = np.asarray(pd.isna(items))  # fast, and most often what is no text is missing
        texts = items[~is_rest].tolist()
        if not set(map(type, texts)) <= {str}:
            is_rest = np.array([type(item) is not str for item in items], dtype=bool)
            texts = items[~is_rest].tolist()
        joined = "\0".join(texts)
        if joined.count("\0") == max(0, len(texts) - 1):
            self.piece(f"{len(texts)} texts", joined.encode(errors="surrogatepass"))
        else:
            self.piece("marked texts", marshal.dumps(texts, 0))
        rest = items[is_rest].tolist()
        self.piece("others at", np.flatnonzero(is_rest).tobytes())
        plain = [item if type(item) in _PLAIN else ... for item in rest]
        self.piece("plain", marshal.dumps(plain, 0))  # version 0 does not depend on identities
        known: dict[int, bytes] = {}
        for item in rest:
            if type(item) not in _PLAIN:
                if id(item) not in known:  # often one and the same NA
                    known[id(item)] = fingerprint(item)
                self.piece("other", known[id(item)])

    def _add_sparse(self, matrix: Any) -> None:
        # Not brought into order: sums go in the order of the entries.
        kept = matrix if matrix.format in ("csr", "csc") else matrix.tocsr()
        parts = (matrix.format, kept.shape, kept.data, kept.indices, kept.indptr)
        self.add(("sparse", type(matrix), *parts))

    def _add_frame(self, frame: Any) -> None:
        self.piece("frame", repr((type(frame).__module__, list(frame.columns))).encode())
        self._add_index(getattr(frame, "index", None))
        dtypes = set(frame.dtypes)
        if len(dtypes) == 1 and isinstance(dtypes.pop(), np.dtype):
            self.add(frame.to_numpy())
            return
        # by position: names may repeat
        in_turn = hasattr(frame, "iter_columns")
        for column in frame.iter_columns() if in_turn else (c for _, c in frame.items()):
            self._add_column(column)

    def _add_index(self, index: Any) -> None:
        if index is None:
            return
        if hasattr(index, "start"):  # a range
            ends = f"{index.start}, {index.stop}, {index.step}, {index.name!r}"
            self.piece("range", ends.encode())
        else:
            self._add_frame(index.to_frame(index=False))

    def _add_column(self, column: Any) -> None:
        self.piece("column", str(column.dtype).encode())
        categories = getattr(column.dtype, "categories", None)
        moments = getattr(getattr(column, "array", None), "asi8", None)
        if moments is not None:  # times with a zone, and periods, would become objects
            self.add(moments)
        elif categories is None or not hasattr(column, "cat"):
            self.add(column.to_numpy())
        elif hasattr(column.cat, "codes"):
            self._add_index(categories)
            self.add((column.cat.ordered, column.cat.codes.to_numpy()))
        else:  # of polars, whose codes depend on what the process has met before
            if hasattr(categories, "dtype"):
                self._add_column(categories)
            self._add_column(column.cast(str))

    def _add_named(self, item: Any) -> None:
        own = item.fingerprint()
        if own:
            self.piece("own", bytes(own))
        else:
            self._refuse(item)

    def _add_function(self, item: types.FunctionType) -> None:
        if is_made_inside(item) and not self.is_lenient:
            self._refuse(item)
        else:
            self._add_code(item)

    def _add_code(self, item: types.FunctionType | type) -> None:
        version = version_of(item.__module__)
        if version is None or (isinstance(item, types.FunctionType) and "<" in item.__qualname__):
            self.piece("own code", self.own_code.label(item, self.is_lenient).encode())
        else:
            self.piece("code", f"{name_of(item)} {version}".encode())

    def _add_method(self, item: types.MethodType) -> None:
        self.add(("method", item.__func__, item.__self__))

    def _add_partial(self, item: functools.partial[Any]) -> None:
        self.add(("partial", item.func, item.args, item.keywords))

    def _add_builtin(self, item: types.BuiltinFunctionType) -> None:
        if isinstance(item.__self__, (types.ModuleType, type, types.NoneType)):
            self.piece("builtin", name_of(item).encode())
        else:
            self.add(("method", item.__name__, item.__self__))

    def _add_name(self, item: Any) -> None:
        self.piece("name", name_of(item).encode())

    def _add_module(self, item: types.ModuleType) -> None:
        self.add(("module", *module_parts(item)))

    def _add_class(self, kind: type) -> None:
        self.piece("class", str(len(kind.__mro__)).encode())
        for base in kind.__mro__:
            self._add_code(base)
        maker = type(kind)  # what a call of the class does
        if isinstance(maker.__module__, str) and version_of(maker.__module__) is None:
            self.add(maker)

    def _add_wrapped(self, item: staticmethod[Any, Any] | classmethod[Any, Any, Any]) -> None:
        self.add((type(item).__name__, item.__func__))

    def _add_property(self, item: property) -> None:
        self.add(("property", item.fget, item.fset, item.fdel))

    def _add_estimator(self, item: BaseEstimator) -> None:
        self.piece("estimator", b"")
        self.add(type(item))
        self.with_learned = isinstance(item, FrozenEstimator)
        try:
            if self.with_learned:
                self._add_object(item)
            else:
                self.add(item.get_params(deep=False))
                self.add(getattr(item, "_sklearn_output_config", None))
        finally:
            self.with_learned = False

    def _add_object(self, item: Any) -> None:
        kind = type(item)
        reduced = None
        if self.is_lenient or "<" not in kind.__qualname__:
            try:
                reduce = copyreg.dispatch_table.get(kind)  # of regular expressions, for one
                reduced = item.__reduce_ex__(4) if reduce is None else reduce(item)
            except MemoryError:
                raise
            except Exception:  # an object says in many ways that it cannot be pickled
                reduced = None
        if reduced is None:
            self._refuse(item)
            return
        self.piece("object", b"")
        self.add(kind)
        if isinstance(reduced, str):
            self.piece("global", f"{getattr(item, '__module__', '')}.{reduced}".encode())
            self.add(getattr(item, "__wrapped__", None))  # the function behind an lru_cache
            return
        for state in reduced:
            self.add(list(state) if isinstance(state, Iterator) else state)

    def _refuse(self, item: Any) -> None:
        if self.is_lenient:
            self.piece("no content", name_of(type(item)).encode())
            return
        raise FingerprintError(
            f"{item!r} has no stable content, so its utilities can be neither cached nor "
            "checkpointed. Define it at the top of a module instead of as a lambda or inside a "
            "function, or give it a method fingerprint() that returns bytes which change whenever "
            "its results do."
        )


_BUILTIN = (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)
_PLAIN = frozenset((type(None), bool, int, float, complex, bytes))
_BY_TYPE: tuple[tuple[Any, Callable[[_Digest, Any], None]], ...] = (
    ((bool, int, float, complex, str, type(None), type(Ellipsis)), _Digest._add_text),
    (bytes, _Digest._add_bytes),
    (np.ndarray, _Digest._add_array),
    ((np.generic, np.dtype), _Digest._add_text),
    ((list, tuple), _Digest._add_sequence),
    ((dict, set, frozenset), _Digest._add_unordered),
    (types.FunctionType, _Digest._add_function),
    (types.MethodType, _Digest._add_method),
    (types.BuiltinFunctionType, _Digest._add_builtin),
    (np.ufunc, _Digest._add_name),
    (functools.partial, _Digest._add_partial),
    (types.ModuleType, _Digest._add_module),
    ((staticmethod, classmethod), _Digest._add_wrapped),
    (property, _Digest._add_property),
    (type, _Digest._add_class),
)
