"""ipvs's ``sh`` and ``dh``: a table of 256 buckets that the endpoints fill in their order, and a multiplicative hash of an address.

    bucket = (address * 0x61C88647 mod 2^32) >> (32 - bits)       IPv6: the xor of its four words
    ``sh``: each endpoint fills as many buckets as its weight, in turn, until the table is full; ``dh``: one each, whatever its weight

If the chosen one may not be picked, the buckets from 2 * bucket on are searched (ipvs with the flag ``sh-fallback``). A change of
members shifts everybody behind it in the order, and so moves most keys: ``maglev`` and ``ring_hash`` are what to use if that matters.

**Whose address.** The kernel hashes the client's (``sh``) or the one the client asked for (``dh``). Here the call's key stands for either:
its 64-bit hash, folded like an IPv6 address. A call without a key has the caller's own address: ``address``, or, if that is not
said, the host name, which in a pod is the pod's. Not drawn by chance: like the kernel, all of a pod's calls, through all its
processes and restarts, go to one endpoint. That is so for ``dh`` too; a Service's address is the same for all callers, so
by the kernel's rule they would all meet at one endpoint.

Spec: Linux net/netfilter/ipvs/ip_vs_sh.c and ip_vs_dh.c (hash_32, since 2018; before, the lower bits of another product).
Deviations: always with fallback: the kernel's ``dh``, and ``sh`` without its flag, refuse the connection. Endpoints stand in the order of
the ``EndpointSet`` (kernel: the one that was added last is the first). Where there are more endpoints, or more weight, than
buckets, the table has as many times two as it takes: the kernel leaves the last ones without any call. Weights are whole numbers there;
others are taken as shares of the table, to one bucket.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import cycle, islice
from typing import ClassVar

from meshlb.balance.config import PolicyConfig
from meshlb.balance.hashed import HashPicker, HashPolicy, Members
from meshlb.core.clock import Rng
from meshlb.core.policy import Picker
from meshlb.core.subchannel import Subchannel
from meshlb.core.xxhash import xxh64
from meshlb.errors import ConfigError

_GOLDEN_RATIO_32 = 0x61C88647
_WORD = 0xFFFFFFFF
_BITS = 8  # the kernel's default
_MOST_BITS = 20  # the kernel's maximum
_BUCKETS_EACH = 16  # at least, for weights that are no whole numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class IpvsHash(PolicyConfig):
    """``address``: the caller's own, hashed for calls that have no key: an IP address, or any name; empty: the host name."""

    address: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.address, str):
            raise ConfigError(f"policy.address={self.address!r}: must be text: an IP address or a name")

    def build(self, rng: Rng) -> IpvsHashPolicy:
        return IpvsHashPolicy(self.name, lambda keys, weights: IpvsTable(self.turns(weights)), self.address)

    @abstractmethod
    def turns(self, weights: Sequence[float]) -> list[int]:
        """How many buckets in a row each endpoint fills."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IpvsSh(IpvsHash):
    """Source hashing: by weight."""

    name: ClassVar[str] = "ipvs:sh"

    def turns(self, weights: Sequence[float]) -> list[int]:
        return in_turn(weights)


@dataclass(frozen=True, kw_only=True, slots=True)
class IpvsDh(IpvsHash):
    """Destination hashing: weights count for nothing."""

    name: ClassVar[str] = "ipvs:dh"

    def turns(self, weights: Sequence[float]) -> list[int]:
        return [1] * len(weights)


class IpvsHashPolicy(HashPolicy):
    """Calls without a key are those of the caller's address."""

    def __init__(self, name: str, build: Callable[[list[bytes], list[float]], IpvsTable], address: str) -> None:
        super().__init__(name, build)
        own = address_hash(address or os.uname().nodename)
        self._own_hash = lambda: own

    def picker(self, members: Members, subchannels: Sequence[Subchannel], rng: Rng) -> Picker:
        return HashPicker(members, subchannels, self._own_hash)


class IpvsTable:
    """Buckets for endpoints that fill ``turns`` of them each, in order, again and again."""

    __slots__ = ("_owners", "_shift")

    def __init__(self, turns: Sequence[int]) -> None:
        bits = min(max(_BITS, (sum(turns) - 1).bit_length()), _MOST_BITS)
        once = [at for at, count in enumerate(turns) for _ in range(count)]
        self._owners = array("I", islice(cycle(once), 1 << bits))
        self._shift = 32 - bits

    def first(self, digest: int, /) -> int:
        return self._owners[self._bucket(digest)]

    def others(self, digest: int, /) -> Iterator[int]:
        """The kernel adds the bucket to the bucket before it counts on."""
        owners, start = self._owners, 2 * self._bucket(digest)
        return (owners[(start + step) % len(owners)] for step in range(len(owners)))

    def _bucket(self, digest: int) -> int:
        return (((digest >> 32 ^ digest) & _WORD) * _GOLDEN_RATIO_32 & _WORD) >> self._shift


def in_turn(weights: Sequence[float]) -> list[int]:
    """As many buckets as its weight, where all weights are whole numbers."""
    total = sum(weights)
    if total <= 1 << _MOST_BITS and all(weight.is_integer() for weight in weights):
        return [int(weight) for weight in weights]
    buckets = min(max(1 << _BITS, _BUCKETS_EACH * len(weights)), 1 << _MOST_BITS)
    return [max(1, round(weight / total * buckets)) for weight in weights]


def address_hash(address: str) -> int:
    """The hash of an address, or of a name in place of one."""
    try:
        packed = ip_address(address).packed
    except ValueError:
        return xxh64(address.encode())
    folded = 0
    for at in range(0, len(packed), 4):
        folded ^= int.from_bytes(packed[at : at + 4], "big")
    return folded
