"""xxHash64 against what its authors and Envoy publish, in Python and, where it is there, in C."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from meshlb.core import xxhash
from tests.picking import seeded

PRIME_32, PRIME_64 = 2654435761, 11400714785074694797


def _sanity_buffer(size: int) -> bytes:
    """The bytes that xxHash's own sanity check hashes."""
    generator, made = PRIME_32, bytearray()
    for _ in range(size):
        made.append(generator >> 56 & 0xFF)
        generator = generator * PRIME_64 % 2**64
    return bytes(made)


@pytest.mark.parametrize("xxh64", [xxhash.in_python, xxhash.xxh64], ids=["in Python", "the quickest"])
@pytest.mark.parametrize(
    ("data", "seed", "expected"),
    [
        (b"", 0, 17241709254077376921),
        (b"foo", 0, 3728699739546630719),
        (b"bar", 0, 5234164152756840025),
        (b"a", 0, 0xD24EC4F1A98C6E5B),
        (b"asdf", 0, 0x415872F599CEA71E),
        (b"Call me Ishmael. Some years ago--never mind how long precisely-", 0, 0x02A2E85470D6FD96),
        (_sanity_buffer(1), 0, 0xE934A84ADB052768),
        (_sanity_buffer(4), 0, 0x9136A0DCA57457EE),
        (_sanity_buffer(14), 0, 0x8282DCC4994E35C8),
        (_sanity_buffer(222), 0, 0xB641AE8CB691C174),
        (b"", PRIME_32, 0xAC75FDA2929B17EF),
        (_sanity_buffer(1), PRIME_32, 0x5014607643A9B4C3),
        (_sanity_buffer(4), PRIME_32, 0xCAAB286BD8E9FDB5),
        (_sanity_buffer(14), PRIME_32, 0xC3BD6BF63DEB6DF0),
        (_sanity_buffer(222), PRIME_32, 0x20CB8AB7AE10C14A),
    ],
    ids=repr,
)
def test_published_values(xxh64: type[int], data: bytes, seed: int, expected: int) -> None:
    """Envoy's check values, and xxHash's own: all lengths of tails, several stripes, another seed."""
    assert xxh64(data, seed) == expected  # type: ignore[call-overload]


def test_both_ways_give_one_answer() -> None:
    """Python's and the C package's, for every length to 300 and any seed."""
    native = pytest.importorskip("xxhash").xxh64_intdigest
    rng = seeded()
    for length in range(300):
        data, seed = rng.randbytes(length), rng.choice([0, 1, 2**64 - 1, rng.getrandbits(64)])
        assert xxhash.in_python(data, seed) == native(data, seed)


def test_something_else_of_that_name_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module called xxhash without the function, or none at all: then it is done in Python."""
    monkeypatch.setitem(sys.modules, "xxhash", ModuleType("xxhash"))
    assert xxhash._fastest() is xxhash.in_python
    monkeypatch.setitem(sys.modules, "xxhash", None)  # type: ignore[arg-type]
    assert xxhash._fastest() is xxhash.in_python
