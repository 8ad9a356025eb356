"""Pickling by value, with the memory of arrays beside the pickle."""

import hashlib
import pickle
import struct
from typing import Any

try:
    import cloudpickle  # type: ignore[import-untyped]  # ships no types
except ImportError:  # joblib < 1.6 carries its own
    from joblib.externals import cloudpickle

__all__ = ["Packed", "cloudpickle", "unpack"]

_ALIGNMENT = 64  # a cache line: kernels may sum unaligned arrays in another order


class Packed:
    """An object as a pickle and its arrays' memory, not yet copied."""

    def __init__(self, shared: Any) -> None:
        buffers: list[pickle.PickleBuffer] = []
        body = cloudpickle.dumps(shared, protocol=5, buffer_callback=buffers.append)
        parts: list[Any] = [body, *(buffer.raw() for buffer in buffers)]
        sizes = [memoryview(part).nbytes for part in parts]
        head = struct.pack(f"<{len(parts) + 1}q", len(parts), *sizes)
        self._pieces = [head, *parts]
        self.n_bytes = sum(_padded(memoryview(piece).nbytes) for piece in self._pieces)

    def digest(self) -> bytes:
        """Return 128 bits that stand for the content."""
        hasher = hashlib.blake2b(digest_size=16)
        for piece in self._pieces:
            hasher.update(piece)
        return hasher.digest()

    def write(self, path: str) -> None:
        """Write the block to a new file."""
        with open(path, "xb") as file:
            for piece in self._pieces:
                file.write(piece)
                file.write(bytes(_padded(memoryview(piece).nbytes) - memoryview(piece).nbytes))

    def to_bytes(self) -> bytearray:
        """Copy the block into one buffer."""
        block = bytearray(self.n_bytes)
        start = 0
        for piece in self._pieces:
            flat = memoryview(piece).cast("B")
            block[start : start + flat.nbytes] = flat
            start += _padded(flat.nbytes)
        return block


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT


def unpack(block: Any) -> Any:
    """Rebuild an object from its block; its arrays are read-only views of the block."""
    view = memoryview(block).cast("B").toreadonly()
    (n_parts,) = struct.unpack_from("<q", view)
    sizes = struct.unpack_from(f"<{n_parts}q", view, 8)
    start = _padded(8 * (n_parts + 1))
    parts = []
    for size in sizes:
        parts.append(view[start : start + size])
        start += _padded(size)
    return pickle.loads(parts[0], buffers=parts[1:])
