"""What hash policies share: one table over all members, pickers that pass over who is not there, and calls without a key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from meshlb.balance.config import PolicyConfig
from meshlb.balance.hashed import HashPolicy, host_keys
from meshlb.balance.ipvs_hash import IpvsDh, IpvsSh
from meshlb.balance.maglev import Maglev
from meshlb.balance.ring_hash import RingHash
from meshlb.core.endpoint import Endpoint
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Subchannel
from tests.picking import know, picks, seeded, shares, subchannels_of

CONFIGS = [RingHash(), Maglev(), IpvsSh(), IpvsDh()]
BY_KEY = [RingHash(), Maglev()]
KEYS = range(0, 2**64, 2**55 - 12345)  # 512 of them


@pytest.fixture(params=CONFIGS, ids=str)
def config(request: pytest.FixtureRequest) -> PolicyConfig:
    return request.param


def chosen(picker: Picker, key: int, exclude: Iterable[Subchannel] = ()) -> Subchannel:
    sub = picker.pick(PickInfo(exclude=frozenset(exclude), hash=key), 0.0)
    assert sub is not None
    return sub


def test_who_is_not_ready_is_passed_over_and_no_other_key_moves(config: PolicyConfig) -> None:
    """The table is over the members, so a broken connection moves what was its own, and it comes back to the same."""
    rng = seeded()
    policy = config.build(rng)
    subs = subchannels_of(policy, [1.0] * 8)
    know(policy, subs)
    everybody, without = policy.new_picker(subs, rng), policy.new_picker(subs[1:], rng)
    again = policy.new_picker(subs, rng)
    for key in KEYS:
        sub = chosen(everybody, key)
        assert chosen(again, key) is sub
        if sub is subs[0]:
            assert chosen(without, key) is chosen(everybody, key, exclude=subs[:1])
        else:
            assert chosen(without, key) is sub


def test_a_retry_goes_to_each_of_the_others_in_an_order_that_the_key_decides(config: PolicyConfig) -> None:
    """Never to one that was tried; two pickers agree; and other keys have other orders."""
    rng = seeded()
    policy = config.build(rng)
    subs = subchannels_of(policy, [1.0, 2.0, 1.0, 3.0, 1.0])
    know(policy, subs)
    one, other = policy.new_picker(subs, rng), policy.new_picker(subs, rng)
    orders = set()
    for key in KEYS[:50]:
        tried: list[Subchannel] = []
        for _ in subs:
            sub = chosen(one, key, tried)
            assert sub is chosen(other, key, tried)
            tried.append(sub)
        assert set(tried) == set(subs)
        orders.add(tuple(tried))
    assert len(orders) >= 5


def test_the_keys_of_one_who_is_gone_spread_over_the_others() -> None:
    """Not all to one neighbour."""
    rng = seeded()
    for config in BY_KEY:
        policy = config.build(rng)
        subs = subchannels_of(policy, [1.0] * 5)
        know(policy, subs)
        everybody, without = policy.new_picker(subs, rng), policy.new_picker(subs[1:], rng)
        heirs = {chosen(without, key) for key in KEYS if chosen(everybody, key) is subs[0]}
        assert heirs == set(subs[1:])


def test_where_two_of_a_thousand_are_ready_a_key_keeps_to_one_of_them(config: PolicyConfig) -> None:
    """The walk ends, and the key still decides."""
    rng = seeded()
    policy = config.build(rng)
    subs = subchannels_of(policy, [1.0] * 1000)
    know(policy, subs)
    ready = [subs[3], subs[997]]
    picker, same = policy.new_picker(ready, rng), policy.new_picker(ready, rng)
    picked = [chosen(picker, key) for key in KEYS]
    assert set(picked) == set(ready)
    assert [chosen(same, key) for key in KEYS] == picked
    assert {chosen(picker, key, exclude=ready[:1]) for key in KEYS[:20]} == {ready[1]}
    assert {chosen(picker, key, exclude=ready) for key in KEYS[:20]} <= set(ready)


@pytest.mark.parametrize("config", BY_KEY, ids=str)
def test_a_call_without_a_key_goes_anywhere(config: PolicyConfig) -> None:
    """A hash is drawn for it, so that shares are those of the table."""
    rng = seeded()
    policy = config.build(rng)
    subs = subchannels_of(policy, [1.0] * 4)
    know(policy, subs)
    assert shares(picks(policy.new_picker(subs, rng), 20_000), subs) == pytest.approx([0.25] * 4, abs=0.06)


class Tables:
    """Counts the tables that are built: everything belongs to the first."""

    def __init__(self) -> None:
        self.built: list[tuple[list[bytes], list[float]]] = []

    def __call__(self, keys: list[bytes], weights: list[float]) -> Tables:
        self.built.append((keys, weights))
        return self

    def first(self, digest: int, /) -> int:
        return 0

    def others(self, digest: int, /) -> Iterable[int]:
        return ()


def test_a_table_is_built_when_members_or_weights_change_and_else_never() -> None:
    """In ``know``, so that neither a new picker nor another view pays for it; weights may change without an update."""
    rng, tables = seeded(), Tables()
    policy = HashPolicy("counted", tables)
    subs = subchannels_of(policy, [1.0, 1.0, 1.0])
    for _ in range(3):
        know(policy, subs)
        policy.new_picker(subs, rng)
        policy.new_picker(subs[:2], rng)
    assert len(tables.built) == 1
    subs[0].warmth = 0.5
    policy.new_picker(subs[:2], rng)
    know(policy, subs)
    assert [weights for _, weights in tables.built[1:]] == [[0.5, 1.0, 1.0]]
    know(policy, subs[:2])
    know(policy, subs[:2])
    assert [keys for keys, _ in tables.built[2:]] == [[b"10.0.0.0:80", b"10.0.0.1:80"]]


def test_a_table_is_kept_for_others_with_the_same_keys() -> None:
    """A pod that restarts at its address is another subchannel with the same place in the table."""
    rng, tables = seeded(), Tables()
    policy = HashPolicy("counted", tables)
    before, after = subchannels_of(policy, [1.0, 1.0]), subchannels_of(policy, [1.0, 1.0])
    know(policy, before)
    know(policy, after)
    assert chosen(policy.new_picker(after, rng), 1) is after[0]
    assert len(tables.built) == 1


def test_a_pod_with_a_new_hostname_has_another_place() -> None:
    """Discovery may learn of it later."""
    tables = Tables()
    policy = HashPolicy("counted", tables, use_hostname=True)
    subs = subchannels_of(policy, [1.0, 1.0])
    know(policy, subs)
    subs[0].endpoint = replace(subs[0].endpoint, hostname="orders-0")
    know(policy, subs)
    assert [keys for keys, _ in tables.built[1:]] == [[b"orders-0", b"10.0.0.1:80"]]


def test_reports_and_slow_start_count_from_a_hundredth_to_ten_times() -> None:
    """What comes over the network does not make a ring of millions; what discovery says counts in full."""
    rng, tables = seeded(), Tables()
    policy = HashPolicy("counted", tables)
    subs = subchannels_of(policy, [1.0, 1.0, 1.0, 1e-6])
    subs[0].capacity, subs[1].capacity, subs[2].capacity, subs[2].warmth = 1e12, 1e-12, 2.0, 0.5
    policy.new_picker(subs, rng)
    assert tables.built[0][1] == [8.0, 2.0**-7, 1.0, 1e-6]


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ([0.1, 0.2, 0.24, 0.25, 0.4, 0.49, 0.6, 0.9, 1.0], [0.125, 0.125, 0.125, 0.25, 0.25, 0.25, 0.5, 0.5, 1.0]),  # slow start
        ([1.0, 1.9, 0.51, 1.0], [1.0] * 4),
        ([1.0, 2.0, 1.1, 3.9, 1.0], [1.0, 2.0, 2.0, 2.0, 1.0]),
        ([3.0, 2.9], [4.0, 4.0]),
    ],
)
def test_a_factor_counts_as_a_power_of_two_until_it_is_off_by_two(factors: list[float], expected: list[float]) -> None:
    """So a slow start moves keys a few times, and ends at the whole weight."""
    rng, tables = seeded(), Tables()
    policy = HashPolicy("counted", tables)
    subs = subchannels_of(policy, [1.0, 3.0])
    got = []
    for factor in factors:
        subs[0].warmth, subs[1].warmth = factor, 0.5  # so that no step is a table's that was
        know(policy, subs)
        policy.new_picker(subs, rng)
        got.append(tables.built[-1][1])
    assert got == [[factor, 1.5] for factor in expected]


@pytest.mark.parametrize("config", [RingHash(), Maglev(), IpvsSh()], ids=str)
def test_load_reports_that_waver_move_no_key(config: PolicyConfig) -> None:
    """By a tenth, which is what they do; by a factor of two they do."""
    rng = seeded()
    policy = config.build(rng)
    subs = subchannels_of(policy, [1.0] * 10)
    know(policy, subs)
    before = [chosen(policy.new_picker(subs, rng), key) for key in KEYS]
    for _ in range(15):
        for sub in subs:
            sub.capacity = rng.uniform(0.7, 1.4)
        picker = policy.new_picker(subs, rng)
        assert [chosen(picker, key) for key in KEYS] == before
    subs[0].capacity = 4.0
    picker = policy.new_picker(subs, rng)
    assert [chosen(picker, key) for key in KEYS] != before


@pytest.mark.parametrize("config", [RingHash(maximum_ring_size=5000), Maglev(table_size=1009), IpvsSh()], ids=str)
@pytest.mark.parametrize("weights", [[1e-9, 1.0, 1e9], [1e9] * 3, [1e-9] * 3, [1e-9, 2e-9, 3.0]], ids=str)
def test_no_weight_is_too_absurd(config: PolicyConfig, weights: list[float]) -> None:
    """Whatever an endpoint may have makes a table."""
    rng = seeded()
    policy = config.build(rng)
    subs = subchannels_of(policy, weights)
    know(policy, subs)
    assert set(picks(policy.new_picker(subs, rng), 50)) <= set(subs)


def test_a_picker_over_strangers_has_a_table_of_its_own() -> None:
    """The ClusterIP's connections, or a policy that nobody told of members; the members' table stays."""
    rng, tables = seeded(), Tables()
    policy = HashPolicy("counted", tables)
    subs = subchannels_of(policy, [1.0, 1.0, 1.0, 1.0])
    know(policy, subs[:2])
    picker = policy.new_picker(subs[2:], rng)
    policy.new_picker(subs[2:], rng)
    policy.new_picker(subs[:2], rng)
    assert len(tables.built) == 2
    assert chosen(picker, 1) is subs[2]


def test_hosts_are_hashed_by_address_or_by_hostname_where_they_have_one() -> None:
    """As Envoy writes addresses; and who has no name is not hashed as nobody."""
    v4, v6 = Endpoint(host="10.0.0.1", port=80, hostname="pod-0"), Endpoint(host="fd00::1", port=80)
    assert host_keys([v4, v6]) == [b"10.0.0.1:80", b"[fd00::1]:80"]
    assert host_keys([v4, v6], use_hostname=True) == [b"pod-0", b"[fd00::1]:80"]


def test_no_two_endpoints_have_one_key() -> None:
    """The first has the plain one; a policy's table would give all of it to one of them else."""
    twins = [
        Endpoint(host=host, port=80, uid=uid, hostname="db")
        for host, uid in (("10.0.0.1", "a"), ("10.0.0.1", "b"), ("10.0.0.2", "c"))
    ]
    assert host_keys(twins) == [b"10.0.0.1:80", b"10.0.0.1:80#10.0.0.1:80#b", b"10.0.0.2:80"]
    assert len(host_keys([*twins, *twins, *twins])) == 9
    assert host_keys(twins, use_hostname=True) == [b"db", b"db#10.0.0.1:80#b", b"db#10.0.0.2:80#c"]


@pytest.mark.parametrize("config", [RingHash(use_hostname_for_hashing=True), Maglev(use_hostname_for_hashing=True)], ids=str)
def test_by_hostname_a_pods_successor_has_its_keys(config: PolicyConfig) -> None:
    """A StatefulSet's pod comes back with another address."""
    rng = seeded()
    policy = config.build(rng)

    def pod(number: int, address: str) -> Subchannel:
        return Subchannel(Endpoint(host=address, port=80, hostname=f"orders-{number}"), policy.new_metric(0.0))

    before = [pod(number, f"10.0.0.{number}") for number in range(4)]
    after = [*before[:2], pod(2, "10.0.7.7"), before[3]]
    know(policy, before)
    old = policy.new_picker(before, rng)
    know(policy, after)
    new = policy.new_picker(after, rng)
    for key in KEYS:
        assert after.index(chosen(new, key)) == before.index(chosen(old, key))
