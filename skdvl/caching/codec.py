"""How a utility is written down outside the process: thirteen bytes, never a pickle."""

import math
import struct
import zlib

VERSION = 1
_BODY = struct.Struct("<Bd")
_CHECK = struct.Struct("<I")
ENCODED_SIZE = _BODY.size + _CHECK.size


def encode(key: bytes, value: float) -> bytes:
    """Write a finite value down for the entry `key`.

    A version byte, the eight bytes of the IEEE double (little endian), and a CRC-32 of the key
    and those nine bytes. The checksum is there for what a version byte cannot see: a bit that
    flipped on the disk, or a right value filed under another key. It is no protection against
    somebody who *wants* to deceive; nothing is, that a store shared with strangers can hold.

    Examples
    --------
    >>> from skdvl.caching.codec import decode, encode
    >>> data = encode(b"sixteen bytes...", 1 / 3)
    >>> len(data)
    13
    >>> decode(b"sixteen bytes...", data) == 1 / 3
    True
    """
    body = _BODY.pack(VERSION, value)
    return body + _CHECK.pack(zlib.crc32(body, zlib.crc32(key)))


def decode(key: bytes, data: object) -> float | None:
    """Read what `encode` wrote for `key`; None for anything else, whatever it is.

    Examples
    --------
    >>> from skdvl.caching.codec import decode, encode
    >>> decode(b"another key.....", encode(b"sixteen bytes...", 1.0)) is None
    True
    >>> decode(b"sixteen bytes...", b"0.25") is None
    True
    """
    if type(data) is not bytes or len(data) != ENCODED_SIZE:
        return None
    version, value = _BODY.unpack_from(data)
    (check,) = _CHECK.unpack_from(data, _BODY.size)
    if version != VERSION or check != zlib.crc32(data[: _BODY.size], zlib.crc32(key)):
        return None
    return value if math.isfinite(value) else None
