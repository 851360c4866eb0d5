"""xxHash64: what Envoy hashes hosts and keys with, and therefore we.

The C package ``xxhash`` answers in 0.1 us and is used where it can be imported; the same rule in Python takes 1 to 3 us for a short
key, which is little beside a call, and a second for a ring of half a million entries. Not ``hash()`` (another one in each process) nor
``hashlib`` (no xxHash): two processes, and Envoy, must send one key to one host.

Spec: xxHash's specification, XXH64; the algorithm has no byte order of its own, words are read little-endian.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from struct import Struct

_MASK = 2**64 - 1
_PRIME_1 = 0x9E3779B185EBCA87
_PRIME_2 = 0xC2B2AE3D27D4EB4F
_PRIME_3 = 0x165667B19E3779F9
_PRIME_4 = 0x85EBCA77C2B2AE63
_PRIME_5 = 0x27D4EB2F165667C5
_STRIPE = 32
_WORDS = [Struct(f"<{count}Q").unpack_from for count in range(4)]  # what may be left after the stripes


def in_python(data: bytes, seed: int = 0) -> int:
    """``xxh64`` without the C package."""
    length, mask = len(data), _MASK
    stripes = length // _STRIPE * _STRIPE
    digest = _of_stripes(data, stripes, seed) if stripes else seed + _PRIME_5
    digest = (digest + length) & mask
    words = (length - stripes) >> 3
    for word in _WORDS[words](data, stripes):
        word = word * _PRIME_2 & mask
        digest ^= (word << 31 | word >> 33) * _PRIME_1 & mask
        digest = ((digest << 27 | digest >> 37) * _PRIME_1 + _PRIME_4) & mask
    at = stripes + words * 8
    if length - at >= 4:
        digest ^= int.from_bytes(data[at : at + 4], "little") * _PRIME_1 & mask
        digest = (digest << 23 | digest >> 41) & mask
        digest = (digest * _PRIME_2 + _PRIME_3) & mask
        at += 4
    for byte in data[at:]:
        digest ^= byte * _PRIME_5 & mask
        digest = (digest << 11 | digest >> 53) * _PRIME_1 & mask
    digest = (digest ^ digest >> 33) * _PRIME_2 & mask
    digest = (digest ^ digest >> 29) * _PRIME_3 & mask
    return digest ^ digest >> 32


def _of_stripes(data: bytes, end: int, seed: int) -> int:
    """Four lanes over the part of ``data`` that is whole stripes, merged."""
    mask = _MASK
    lanes = [seed + _PRIME_1 + _PRIME_2, seed + _PRIME_2, seed, seed - _PRIME_1]
    for stripe in Struct("<4Q").iter_unpack(memoryview(data)[:end]):
        for lane, word in enumerate(stripe):
            mixed = (lanes[lane] + word * _PRIME_2) & mask
            lanes[lane] = (mixed << 31 | mixed >> 33) * _PRIME_1 & mask
    digest = 0
    for lane, turn in zip(lanes, (1, 7, 12, 18), strict=True):
        digest += lane << turn & mask | lane >> 64 - turn
    for lane in lanes:
        word = lane * _PRIME_2 & mask
        digest ^= (word << 31 | word >> 33) * _PRIME_1 & mask
        digest = ((digest & mask) * _PRIME_1 + _PRIME_4) & mask
    return digest


def _fastest() -> Callable[[bytes, int], int]:
    try:
        native: Callable[[bytes, int], int] = import_module("xxhash").xxh64_intdigest
    except (ImportError, AttributeError):  # not there, or something else of that name
        return in_python
    return native


_digest = _fastest()


def xxh64(data: bytes, seed: int = 0) -> int:
    """The 64-bit hash of ``data``; ``seed`` is from 0 to 2**64 - 1. Any thread."""
    return _digest(data, seed)
