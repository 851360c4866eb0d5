"""MurmurHash2 of 64 bits as GNU's ``std::hash`` has it: the other function that a ring of Envoy can be hashed with.

In Python alone: it exists for those who must keep the ring that they have. 1 to 2 us for a host key.

Spec: libstdc++'s _Hash_bytes for 64-bit size_t; Envoy's MURMUR_HASH_2 (seed 0xc70f6907).
Deviations: from MurmurHash64A, as the one above: the tail is one little-endian word, and blocks are shifted by 47 both times.
"""

from __future__ import annotations

from struct import Struct

STD_HASH_SEED = 0xC70F6907
_MASK = 2**64 - 1
_MULTIPLIER = 0xC6A4A7935BD1E995
_WORD = Struct("<Q")


def murmur2_64(data: bytes, seed: int = STD_HASH_SEED) -> int:
    """The 64-bit hash of ``data``. Any thread."""
    length, mask, multiplier = len(data), _MASK, _MULTIPLIER
    digest = seed ^ (length * multiplier & mask)
    blocks = length & ~7
    for (word,) in _WORD.iter_unpack(data[:blocks]):
        word = word * multiplier & mask
        digest = (digest ^ (word ^ word >> 47) * multiplier & mask) * multiplier & mask
    if blocks < length:
        digest = (digest ^ int.from_bytes(data[blocks:], "little")) * multiplier & mask
    digest = (digest ^ digest >> 47) * multiplier & mask
    return digest ^ digest >> 47
