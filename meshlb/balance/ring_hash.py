"""A ring of hashes (ketama): each endpoint stands on it at many points, a key belongs to the first point at or after its hash.

If an endpoint goes, its keys go to those who follow its points, and no other key moves. Shares are uneven: with p points an
endpoint, by 1/sqrt(p) of itself (10 % with 100); ``maglev`` is even to a percent, and moves a few more keys.

**Points**, as Envoy has them, for weights w that sum to 1 and the smallest, m:

    scale = min(ceil(m * minimum_ring_size) / m, maximum_ring_size)
    the next endpoint in order gets points until all so far have at least (the sum of scale * w so far)

and the i-th point of an endpoint is hash(host key + "_" + i). So with equal weights everybody has ceil(minimum / n) points, and a
weight that is tiny beside the others makes the ring large: it has about (sum of weights) / (the smallest) points at least. Where
``maximum_ring_size`` cuts that, somebody light may have no point and get no key; and where the sum is rounded up, the last endpoint
has one point more than the maximum has room for, as in Envoy.

**Cost**: a pick bisects, 0.3 us (0.45 on a ring of 100,000). An endpoint's hashes are kept while it is a member, so that a change
hashes newcomers only and sorts the rest again: 2 us a new point in Python, 0.4 us with the C package ``xxhash``, and 0.3 us a point that
was there. A ring of a million points takes two seconds the first time, with the pool's lock held: see to the weights, or to
``maximum_ring_size``.

Spec: Envoy's RING_HASH; gRFC A42 with other limits (its ring is 4096 at most).
Deviations: equal hashes of two endpoints stand in the order of endpoints (Envoy: undefined). See also hashed.py.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from meshlb.balance.bounded_load import balance_factor, hash_policy
from meshlb.balance.config import PolicyConfig
from meshlb.balance.hashed import HashPolicy, boolean
from meshlb.balance.murmur import murmur2_64
from meshlb.core import validate
from meshlb.core.clock import Rng
from meshlb.core.xxhash import xxh64
from meshlb.errors import ConfigError

_LARGEST = 8 * 1024 * 1024  # Envoy
_FUNCTIONS: dict[str, Callable[[bytes], int]] = {"xx_hash": xxh64, "murmur_hash_2": murmur2_64}


@dataclass(frozen=True, kw_only=True, slots=True)
class RingHash(PolicyConfig):
    """``minimum_ring_size`` and ``maximum_ring_size``: points, 1 to 8388608, see the module head. ``hash_function``: ``xx_hash`` or
    ``murmur_hash_2``, of hosts (keys are always hashed by xxHash64). ``hash_balance_factor`` and ``use_hostname_for_hashing``: as
    ``Maglev`` has them."""

    name: ClassVar[str] = "ring_hash"
    minimum_ring_size: int = 1024
    maximum_ring_size: int = _LARGEST
    hash_function: str = "xx_hash"
    hash_balance_factor: int = 0
    use_hostname_for_hashing: bool = False

    def __post_init__(self) -> None:
        validate.integer("policy.maximum_ring_size", self.maximum_ring_size, minimum=1, maximum=_LARGEST)
        validate.integer("policy.minimum_ring_size", self.minimum_ring_size, minimum=1, maximum=_LARGEST)
        if self.minimum_ring_size > self.maximum_ring_size:
            raise ConfigError(
                f"policy.minimum_ring_size={self.minimum_ring_size!r}: must be <= maximum_ring_size ({self.maximum_ring_size})"
            )
        validate.one_of("policy.hash_function", self.hash_function, _FUNCTIONS)
        balance_factor("policy.hash_balance_factor", self.hash_balance_factor)
        boolean("policy.use_hostname_for_hashing", self.use_hostname_for_hashing)

    def build(self, rng: Rng) -> HashPolicy:
        return hash_policy(
            self.name,
            Rings(self).ring,
            use_hostname=self.use_hostname_for_hashing,
            hash_balance_factor=self.hash_balance_factor,
        )


class Ring:
    """``owners[i]`` is whose the point at ``points[i]`` is; points ascend."""

    __slots__ = ("owners", "points")

    def __init__(self, points: list[int], owners: list[int]) -> None:
        self.points = points
        self.owners = owners

    def first(self, digest: int, /) -> int:
        at = bisect_left(self.points, digest)
        return self.owners[at if at < len(self.points) else 0]

    def others(self, digest: int, /) -> Iterator[int]:
        """Once around, from the point that follows."""
        owners = self.owners
        at = bisect_left(self.points, digest) % len(owners)
        for following in range(at + 1, len(owners)):
            yield owners[following]
        for following in range(at):
            yield owners[following]


class Rings:
    """Builds rings, and remembers the hashes of those who were in the last one."""

    def __init__(self, config: RingHash) -> None:
        self._config = config
        self._function = _FUNCTIONS[config.hash_function]
        self._hashes: dict[bytes, list[int]] = {}

    def ring(self, keys: list[bytes], weights: list[float]) -> Ring:
        """The ring of n >= 1 hosts."""
        counts = point_counts(weights, self._config.minimum_ring_size, self._config.maximum_ring_size)
        before, self._hashes = self._hashes, {}
        hashes: list[int] = []
        owners: list[int] = []
        for at, (key, count) in enumerate(zip(keys, counts, strict=True)):
            known = self._hashes[key] = before.get(key) or self._hashes.get(key, [])
            if count > len(known):
                function, prefix = self._function, key + b"_"
                known += [function(prefix + b"%d" % number) for number in range(len(known), count)]
            hashes += known[:count]
            owners += [at] * count
        order = sorted(range(len(hashes)), key=hashes.__getitem__)
        return Ring([hashes[point] for point in order], [owners[point] for point in order])


def point_counts(weights: list[float], minimum: int, maximum: int) -> list[int]:
    """How many points each host has, in Envoy's arithmetic: running totals, not a rounding for each."""
    total = sum(weights)
    shares = [weight / total for weight in weights]
    least = min(shares)
    scale = min(ceil(least * minimum) / least, float(maximum))
    counts: list[int] = []
    target, placed = 0.0, 0
    for share in shares:
        target += scale * share
        reached = max(placed, ceil(target))
        counts.append(reached - placed)
        placed = reached
    return counts
