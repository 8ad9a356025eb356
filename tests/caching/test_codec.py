import math
import struct

import pytest

from skdvl.caching.codec import ENCODED_SIZE, decode, encode

KEY = bytes(range(20))


@pytest.mark.parametrize("value", [0.0, -0.0, 1 / 3, -1e300, 5e-324, -2.2e-310, 1.0])
def test_a_value_comes_back_to_the_bit(value):
    data = encode(KEY, value)
    assert len(data) == ENCODED_SIZE
    assert struct.pack("<d", decode(KEY, data)) == struct.pack("<d", value)


def test_every_single_flipped_bit_is_seen():
    data = encode(KEY, 0.75)
    for position in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        assert decode(KEY, bytes(damaged)) is None


def test_a_value_filed_under_another_key_is_not_believed():
    assert decode(KEY[::-1], encode(KEY, 0.75)) is None


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"",
        b"0.25",
        "0.25",
        0.25,
        struct.pack("<d", 0.25),
        encode(KEY, 0.25) + b"\0",
        bytearray(encode(KEY, 0.25)),
        memoryview(encode(KEY, 0.25)),
        encode(KEY, math.nan),
        encode(KEY, math.inf),
        encode(KEY, -math.inf),
    ],
)
def test_anything_else_does_not_decode(data):
    assert decode(KEY, data) is None


def test_another_version_does_not_decode(monkeypatch):
    data = encode(KEY, 0.25)
    monkeypatch.setattr("skdvl.caching.codec.VERSION", 2)
    assert decode(KEY, data) is None
    assert decode(KEY, encode(KEY, 0.25)) == 0.25
