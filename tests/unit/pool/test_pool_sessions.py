"""Sessions in a pool: around the zones, and by the Service's own wish."""

from __future__ import annotations

import random
import threading
from dataclasses import replace

import pytest

from meshlb.balance.registry import policy_of
from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import Endpoint, EndpointSet, Locality, Place
from meshlb.core.policy import PickInfo
from meshlb.health.locality import Locality as Zones
from meshlb.pool.pool import Pool
from meshlb.pool.view import View
from meshlb.testing.clock import ManualClock

ENDPOINTS = [Endpoint(host=f"10.0.0.{at}", port=80, locality=Locality(zone="a" if at < 2 else "b")) for at in range(10)]
LATEST = replace(EndpointSet.of(ENDPOINTS, "test"), place=Place(zone="a"))


class Listener:
    def on_change(self) -> None:
        """Nobody looks."""


class Scene:
    def __init__(self, policy: str, *, zones: str = "off", affinity: bool = False) -> None:
        rng, self.clock = random.Random(1), ManualClock()
        locality = Zones(mode=zones)
        self.pool = Pool(
            "orders",
            policy_of(policy).build(rng),
            clock=self.clock,
            rng=rng,
            new_lock=threading.Lock,
            locality=locality,
            affinity=affinity,
        )
        self.view: View = self.pool.view(Listener())

    def hear(self, latest: EndpointSet) -> None:
        self.pool.update(latest)
        self.view.set_states([(sub, Connectivity.READY) for sub in self.view.wanted()])

    def begun(self, key: int | None = None) -> str:
        attempt = self.view.begin(PickInfo("/shop.Orders/Get", hash=key))
        assert attempt is not None
        if int(self.clock.now_s() * 10) % 3:
            self.view.end(attempt)
        self.clock.advance(0.1)
        return attempt.subchannel.endpoint.host


@pytest.mark.parametrize("policy", ["session", "ring_hash", "maglev"])
@pytest.mark.parametrize("zones", ["off", "prefer"])
def test_a_key_has_one_endpoint_whichever_zone_a_call_is_sent_to(policy: str, zones: str) -> None:
    """The zones may decide where a session begins, and not where its later calls go; tables of hashes they leave alone."""
    scene = Scene(policy, zones=zones)
    scene.hear(LATEST)
    seen: dict[int, set[str]] = {}
    for number in range(400):
        key = number % 20 * 0x9E3779B97F4A7C15 % 2**64
        seen.setdefault(key, set()).add(scene.begun(key))
    assert [len(hosts) for hosts in seen.values()] == [1] * 20
    assert len(set.union(*seen.values())) > 1


@pytest.mark.parametrize(("affinity", "affinity_s", "kept"), [(True, 60.0, True), (True, 0.0, False), (False, 60.0, False)])
def test_the_services_own_affinity_is_kept_where_the_pool_is_told_to(affinity: bool, affinity_s: float, kept: bool) -> None:
    """And from the moment on at which the Service has it, or has not any more."""
    scene = Scene("p2c", affinity=affinity)
    for said_s, expected in ((0.0, False), (affinity_s, kept), (0.0, False)):
        scene.hear(replace(LATEST, affinity_s=said_s))
        assert (len({scene.begun() for _ in range(200)}) == 1) is expected
