"""What holds for any fleet whose keys are hashed: members only, each of them once on the way of a retry, and few keys that move."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from meshlb.balance.ipvs_hash import IpvsDh, IpvsSh
from meshlb.balance.maglev import Maglev, filled
from meshlb.balance.ring_hash import RingHash, Rings
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Subchannel
from tests.picking import hold, know, subchannels_of

SMALL_PRIME = 5003
CONFIGS = st.sampled_from(
    [
        RingHash(minimum_ring_size=64, maximum_ring_size=4096),
        RingHash(minimum_ring_size=3, maximum_ring_size=8, hash_function="murmur_hash_2"),
        RingHash(maximum_ring_size=2048, hash_balance_factor=120),
        Maglev(table_size=SMALL_PRIME),
        Maglev(table_size=7),
        Maglev(table_size=1009, hash_balance_factor=100),
        IpvsSh(),
        IpvsDh(),
    ]
)
WEIGHTS = st.one_of(
    st.integers(1, 40).map(lambda n: [1.0] * n),
    st.lists(st.floats(1e-2, 1e2), min_size=1, max_size=40),
    st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=1, max_size=40),
)
HASHES = st.integers(0, 2**64 - 1)
HOSTS = st.lists(st.integers(0, 2**24 - 1), min_size=2, max_size=30, unique=True)


@dataclass
class Scene:
    """A fleet, of which some are ready, and pickers over these and over all."""

    members: list[Subchannel]
    ready: list[Subchannel]
    picker: Picker
    of_all: Picker
    bounded: bool


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    config, weights = draw(CONFIGS), draw(WEIGHTS)
    rng = draw(st.randoms(use_true_random=False))
    policy = config.build(rng)
    members = subchannels_of(policy, weights)
    know(policy, members)
    ready = [sub for sub in members if draw(st.sampled_from([True, True, False]))] or members[:1]
    for sub in members:
        hold(sub.unary, draw(st.integers(0, 3)))
    bounded = bool(config.to_dict().get("hash_balance_factor"))
    return Scene(members, ready, policy.new_picker(ready, rng), policy.new_picker(members, rng), bounded)


def _chosen(picker: Picker, key: int | None, exclude: frozenset[Subchannel] = frozenset()) -> Subchannel:
    sub = picker.pick(PickInfo(exclude=exclude, hash=key), 0.0)
    assert sub is not None
    return sub


@given(scenes(), st.none() | HASHES)
def test_retries_go_to_every_ready_endpoint_once(scene: Scene, key: int | None) -> None:
    """Each try avoids those before it: all of the ready ones, nobody else, nobody twice; after that, somebody ready all the same."""
    tried: list[Subchannel] = []
    for _ in scene.ready:
        tried.append(_chosen(scene.picker, key, frozenset(tried)))
    assert sorted(tried, key=id) == sorted(scene.ready, key=id)
    assert _chosen(scene.picker, key, frozenset(tried)) in scene.ready


@given(scenes(), HASHES)
def test_a_key_moves_only_if_its_endpoint_is_not_ready(scene: Scene, key: int) -> None:
    """Whatever happens to the others."""
    own = _chosen(scene.of_all, key)
    if own in scene.ready and not scene.bounded:
        assert _chosen(scene.picker, key) is own
    assert _chosen(scene.picker, key) is _chosen(scene.picker, key)


@given(HOSTS, st.data())
def test_a_host_that_leaves_a_ring_takes_only_its_own_keys_with_it(hosts: list[int], data: st.DataObject) -> None:
    """Exactly, while the others keep their number of points (here one each)."""
    keys = [b"10.%d.%d.%d:80" % (host >> 16, host >> 8 & 255, host & 255) for host in hosts]
    leaver = data.draw(st.integers(0, len(keys) - 1))
    rings = Rings(RingHash(minimum_ring_size=1))
    before = rings.ring(keys, [1.0] * len(keys))
    rest = keys[:leaver] + keys[leaver + 1 :]
    after = rings.ring(rest, [1.0] * len(rest))
    for digest in [*before.points, *data.draw(st.lists(HASHES, max_size=50))]:
        owner = keys[before.first(digest)]
        if owner != keys[leaver]:
            assert rest[after.first(digest)] == owner


@given(HOSTS, st.data())
def test_a_host_that_leaves_maglev_moves_few_keys_of_others(hosts: list[int], data: st.DataObject) -> None:
    """No more than 6 % of all, in a table of 5003 and with any simple weights; most often one or two."""
    keys = [b"10.%d.%d.%d:80" % (host >> 16, host >> 8 & 255, host & 255) for host in hosts]
    weights = data.draw(st.lists(st.sampled_from([1.0, 1.0, 2.0, 5.0]), min_size=len(keys), max_size=len(keys)))
    leaver = data.draw(st.integers(0, len(keys) - 1))
    rest, rest_weights = keys[:leaver] + keys[leaver + 1 :], weights[:leaver] + weights[leaver + 1 :]
    before, after = filled(keys, weights, SMALL_PRIME), filled(rest, rest_weights, SMALL_PRIME)
    moved = sum(1 for old, new in zip(before, after, strict=True) if old != leaver and keys[old] != rest[new])
    assert moved <= 0.06 * SMALL_PRIME
