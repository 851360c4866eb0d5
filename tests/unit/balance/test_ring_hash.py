"""Rings: Envoy's count of points, whose a key is, and what a change moves. (That whole rings are Envoy's: tests/integration.)"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from meshlb.balance.ring_hash import RingHash, Rings, point_counts
from meshlb.core.xxhash import xxh64
from meshlb.errors import ConfigError
from tests.picking import know, picks, seeded, shares, subchannels_of


@pytest.mark.parametrize(
    ("weights", "minimum", "maximum", "expected"),
    [
        ([1.0], 1024, 8 << 20, [1024]),
        ([1.0] * 4, 1024, 8 << 20, [256] * 4),
        ([1.0] * 3, 1024, 8 << 20, [342] * 3),  # a whole number for everybody, hence more than the minimum
        ([1.0] * 4, 1, 6, [1] * 4),
        ([1.0] * 4, 6, 6, [2, 1, 2, 1]),  # by running totals: 1.5, 3, 4.5, 6
        ([1.0] * 8, 5, 6, [1, 1, 1, 0, 1, 1, 1, 0]),  # who is cut off has none
        ([1.0, 2.0, 5.0], 16, 8 << 20, [2, 4, 10]),
        ([1.0, 999.0], 1, 8 << 20, [1, 999]),
        ([1.0, 999.0], 1, 100, [1, 99]),
        ([1.0, 1.0, 1e8], 1, 100_000, [1, 0, 100_000]),  # the sum is rounded up: one more than the maximum
        ([1e-9 / 128, 8e9], 1, 100, [1, 99]),  # the extremes
    ],
)
def test_points_are_counted_as_envoy_counts_them(weights: list[float], minimum: int, maximum: int, expected: list[int]) -> None:
    """The lightest has a whole number of points, unless the maximum cuts the ring; sums decide, not a rounding for each."""
    assert point_counts(weights, minimum, maximum) == expected


def test_a_key_belongs_to_the_first_point_at_or_after_its_hash() -> None:
    """And behind the last point to the first of all."""
    ring = Rings(RingHash(minimum_ring_size=8)).ring([b"10.0.0.1:80", b"10.0.0.2:80"], [1.0, 1.0])
    assert ring.points == sorted(ring.points)
    assert {(point, owner) for point, owner in zip(ring.points, ring.owners, strict=True)} == {
        (xxh64(b"10.0.0.%d:80_%d" % (host, number)), host - 1) for host in (1, 2) for number in range(4)
    }
    for at, (before, point) in enumerate(pairwise(ring.points), start=1):
        assert ring.first(before + 1) == ring.first(point) == ring.owners[at]
    assert ring.first(0) == ring.first(2**64 - 1) == ring.owners[0]
    at = ring.points.index(ring.points[5])
    assert list(ring.others(ring.points[5])) == [*ring.owners[at + 1 :], *ring.owners[:at]]


def test_hashes_are_kept_for_those_who_stay() -> None:
    """A ring after a change is what a new one would be, also where somebody now has more points than before."""
    kept, keys = Rings(RingHash()), [b"a", b"b", b"c"]
    for members, weights in (("abc", [1.0, 1.0, 1.0]), ("ac", [3.0, 1.0]), ("abcd", [1.0, 2.0, 9.0, 1.0]), ("bb", [1.0, 1.0])):
        keys = [member.encode() for member in members]
        new, ring = Rings(RingHash()).ring(keys, weights), kept.ring(keys, weights)
        assert (ring.points, ring.owners) == (new.points, new.owners)
        assert kept._hashes.keys() == set(keys)


@pytest.mark.parametrize("hash_function", ["xx_hash", "murmur_hash_2"])
def test_shares_are_by_weight_and_more_even_on_a_larger_ring(hash_function: str) -> None:
    """With p points an endpoint's share strays by 1/sqrt(p) of itself: 5 sigma at 100,000 points of 10 endpoints."""
    rng = seeded()
    policy = RingHash(minimum_ring_size=100_000, hash_function=hash_function).build(rng)
    weights = [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0]
    subs = subchannels_of(policy, weights)
    know(policy, subs)
    got = shares(picks(policy.new_picker(subs, rng), 40_000), subs)
    for share, weight in zip(got, weights, strict=True):
        expected = weight / sum(weights)
        sigma = (expected**2 / (expected * 100_000) + expected / 40_000) ** 0.5
        assert share == pytest.approx(expected, abs=5 * sigma)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"minimum_ring_size": 0}, "policy.minimum_ring_size=0: must be from 1 to 8388608"),
        ({"minimum_ring_size": 8388609}, "policy.minimum_ring_size=8388609: must be from 1 to 8388608"),
        ({"maximum_ring_size": 8388609}, "policy.maximum_ring_size=8388609: must be from 1 to 8388608"),
        ({"minimum_ring_size": 10, "maximum_ring_size": 9}, "policy.minimum_ring_size=10: must be <= maximum_ring_size (9)"),
        ({"maximum_ring_size": 100}, "policy.minimum_ring_size=1024: must be <= maximum_ring_size (100)"),
        ({"minimum_ring_size": 1024.0}, "policy.minimum_ring_size=1024.0: must be a whole number"),
        ({"minimum_ring_size": True}, "policy.minimum_ring_size=True: must be a whole number"),
        ({"hash_function": "md5"}, "policy.hash_function='md5': must be one of murmur_hash_2, xx_hash"),
        ({"hash_function": None}, "policy.hash_function=None: must be one of murmur_hash_2, xx_hash"),
        ({"hash_balance_factor": 99}, "policy.hash_balance_factor=99: must be 0 (off) or >= 100"),
        ({"hash_balance_factor": -1}, "policy.hash_balance_factor=-1: must be >= 0"),
        ({"hash_balance_factor": "150"}, "policy.hash_balance_factor='150': must be a whole number"),
        ({"use_hostname_for_hashing": 1}, "policy.use_hostname_for_hashing=1: must be true or false"),
    ],
)
def test_what_makes_no_ring_is_refused(fields: dict[str, Any], message: str) -> None:
    """With the field, its value and the rule."""
    with pytest.raises(ConfigError) as caught:
        RingHash(**fields)
    assert str(caught.value) == message
