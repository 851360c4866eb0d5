"""MurmurHash2 of 64 bits against GNU's C++ library, whose function it is."""

from __future__ import annotations

import ctypes

import pytest

from meshlb.balance.murmur import STD_HASH_SEED, murmur2_64
from tests.picking import seeded


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 6142509188972423790),
        (b"foo", 9631199822919835226),
        (b"bar", 11474628671133349555),
        (b"12345678", 10113836418918046885),
        (b"10.0.0.1:8080_0", 2887472326060304709),
        (b"The quick brown fox jumps over the lazy dog", 15910076551593770101),
    ],
)
def test_published_values(data: bytes, expected: int) -> None:
    """Envoy's check values, and what std::hash<std::string> gives."""
    assert murmur2_64(data) == expected


def test_it_is_the_function_of_the_cpp_library() -> None:
    """For every length to 100, wherever that library is installed."""
    try:
        hash_bytes = ctypes.CDLL("libstdc++.so.6")._ZSt11_Hash_bytesPKvmm
    except (OSError, AttributeError):
        pytest.skip("needs libstdc++")
    hash_bytes.restype = ctypes.c_size_t
    hash_bytes.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t]
    rng = seeded()
    for length in range(100):
        data = rng.randbytes(length)
        assert murmur2_64(data) == hash_bytes(data, length, STD_HASH_SEED)
