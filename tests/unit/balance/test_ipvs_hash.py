"""ipvs's sh and dh by the kernel's rule: expected values come from a C program of the kernel's own formulas."""

from __future__ import annotations

from typing import Any

import pytest

from meshlb.balance.config import PolicyConfig
from meshlb.balance.ipvs_hash import IpvsDh, IpvsSh, IpvsTable, address_hash, in_turn
from meshlb.core.policy import PickInfo
from meshlb.errors import ConfigError
from tests.picking import know, picks, seeded, subchannels_of

ADDRESSES = (
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "10.244.1.7",
    "192.168.0.1",
    "172.16.254.3",
    "fd00::1",
    "fd00:10:244::5",
    "2001:db8:1:2:3:4:5:6",
)
WEIGHTED = [1.0, 2.0, 3.0, 1.0, 5.0]


@pytest.mark.parametrize(
    ("config", "weights", "down", "expected"),
    [
        (IpvsSh, [1.0] * 5, [], [4, 2, 0, 4, 2, 1, 0, 0, 4]),
        (IpvsSh, WEIGHTED, [], [2, 2, 4, 3, 0, 2, 4, 4, 2]),
        (IpvsSh, WEIGHTED, [2, 4], [3, 3, 0, 3, 0, 3, 0, 3, 0]),  # sh-fallback
        (IpvsDh, WEIGHTED, [], [4, 2, 0, 4, 2, 1, 0, 0, 4]),  # weights count for nothing
        (IpvsDh, WEIGHTED, [0], [4, 2, 4, 4, 2, 1, 4, 1, 4]),
    ],
)
def test_addresses_have_the_endpoints_that_the_kernel_gives_them(
    config: type[IpvsSh | IpvsDh], weights: list[float], down: list[int], expected: list[int]
) -> None:
    """The caller's own address, of either family, with endpoints that may not be picked and without."""
    rng, got = seeded(), []
    for address in ADDRESSES:
        policy = config(address=address).build(rng)
        subs = subchannels_of(policy, weights)
        know(policy, subs)
        picker = policy.new_picker([sub for at, sub in enumerate(subs) if at not in down], rng)
        got += [subs.index(sub) for sub in picks(picker, 1)]
    assert got == expected


@pytest.mark.parametrize("config", [IpvsSh(), IpvsDh(), IpvsSh(address="orders-7")], ids=str)
def test_a_process_without_keys_keeps_to_one_endpoint_also_after_a_restart(config: PolicyConfig) -> None:
    """Its address, or in place of it the host's name, is hashed: nothing is drawn."""
    rng, got = seeded(), set()
    for _ in range(5):
        policy = config.build(rng)
        subs = subchannels_of(policy, [1.0] * 50)
        know(policy, subs)
        got |= {subs.index(sub) for sub in picks(policy.new_picker(subs, rng), 20)}
    assert len(got) == 1


def test_names_spread_over_the_endpoints() -> None:
    """Of 200 callers by name each of 8 endpoints gets some."""
    rng, got = seeded(), set()
    for number in range(200):
        policy = IpvsSh(address=f"caller-{number}").build(rng)
        subs = subchannels_of(policy, [1.0] * 8)
        got |= {subs.index(sub) for sub in picks(policy.new_picker(subs, rng), 1)}
    assert got == set(range(8))


def test_a_key_stands_for_the_address() -> None:
    """Its hash is folded like an IPv6 address, so the upper half counts as the lower one does."""
    rng = seeded()
    policy = IpvsSh(address="10.0.0.1").build(rng)
    subs = subchannels_of(policy, [1.0] * 5)
    know(policy, subs)
    picker = policy.new_picker(subs, rng)
    as_address, folded = address_hash("10.0.0.2"), address_hash("10.0.0.2") << 32
    assert [picker.pick(PickInfo(hash=key), 0.0) for key in (as_address, folded, None)] == [subs[2], subs[2], subs[4]]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1.0, 1.0, 1.0], [1, 1, 1]),
        ([3.0, 1.0, 100.0], [3, 1, 100]),
        ([0.5, 0.5, 1.0], [64, 64, 128]),
        ([1e-9, 1.0], [1, 256]),
        ([0.5] * 1000, [16] * 1000),
        ([2.0**30, 2.0**30], [128, 128]),
    ],
)
def test_weights_are_buckets_in_a_row(weights: list[float], expected: list[int]) -> None:
    """Whole numbers as they are; others, and those beyond any table, as shares of it."""
    assert in_turn(weights) == expected


def test_a_table_has_room_for_all() -> None:
    """256 buckets, and twice as many for the 257th endpoint, whom the kernel would leave out."""
    assert {IpvsTable([1] * 256).first(digest) for digest in range(2000)} == set(range(256))
    assert {IpvsTable([1] * 257).first(digest) for digest in range(2000)} == set(range(257))


@pytest.mark.parametrize("config", [IpvsSh, IpvsDh])
def test_an_address_is_text(config: Any) -> None:
    """An IP address or any name."""
    with pytest.raises(ConfigError) as caught:
        config(address=7)
    assert str(caught.value) == "policy.address=7: must be text: an IP address or a name"
