"""``locality="prefer"`` in a real pool, under every policy: what stays, what does not, and what ``status()`` says of it."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from meshlb.balance.registry import POLICIES
from meshlb.core.endpoint import EndpointSet, Locality, Place
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.health import locality
from tests.unit.pool.bench import READY, Bench, pod

BY_KEY = ("ipvs:dh", "ipvs:sh", "maglev", "ring_hash")
OTHERS = [name for name, config in POLICIES.items() if name not in BY_KEY and config.__module__.startswith("meshlb.")]


class _Zones(Bench):
    """Five pods in zone a, where the caller is, and five in zone b; every call takes 1 ms."""

    def __init__(self, policy: str) -> None:
        super().__init__(policy, locality=locality.Locality(mode="prefer"))
        pods = [replace(pod(number), locality=Locality(zone="ab"[number % 2])) for number in range(1, 11)]
        self.pool.update(EndpointSet.of(pods, "test", place=Place(zone="a")))
        self.connect(READY, *self.view.wanted())

    def local_ratio(self, calls: int, failing_zone: str = "") -> float:
        local = 0
        for _ in range(calls):
            attempt = self.view.begin(PickInfo("/shop.Orders/Get"))
            assert attempt is not None
            zone = attempt.subchannel.endpoint.locality.zone
            local += zone == "a"
            self.loop.advance(0.001)
            self.view.end(attempt, Outcome.FAILURE if zone == failing_zone else Outcome.SUCCESS)
        return local / calls


@pytest.mark.parametrize("policy", OTHERS)
def test_calls_stay_in_the_zone_under_every_policy(policy: str) -> None:
    """Whatever the policy's own number for load is: an idle zone that answers keeps its calls."""
    assert _Zones(policy).local_ratio(2_000) >= 0.9


@pytest.mark.parametrize("policy", ["anchor", "least_request", "p2c", "peak_ewma"])
def test_a_zone_that_fails_keeps_few_calls(policy: str) -> None:
    """Half of them would be without preference."""
    assert _Zones(policy).local_ratio(2_000, failing_zone="a") < 0.5


@pytest.mark.parametrize("policy", BY_KEY)
def test_a_policy_that_goes_by_keys_minds_no_zones_and_says_so(policy: str, caplog: pytest.LogCaptureFixture) -> None:
    """In status() and, once, in the log."""
    caplog.set_level(logging.INFO, "meshlb.pool")
    zones = _Zones(policy)
    zones.local_ratio(10)
    reason = f"the policy {policy} goes by keys"
    assert zones.pool.describe()["locality"] == {"mode": "prefer", "reason": reason}
    assert [record.getMessage() for record in caplog.records] == [f"orders.shop: locality='prefer' changes nothing: {reason}"]


@pytest.mark.parametrize(("policy", "loads"), [("anchor", {1.0}), ("p2c", {0.0, 1.0}), ("peak_ewma", {0.03})])
def test_load_is_what_the_policy_compares_in_its_own_unit(policy: str, loads: set[float]) -> None:
    """A factor, calls and a penalty, or seconds; never a sum of two units."""
    zones = _Zones(policy)
    attempt = zones.view.begin(PickInfo("/shop.Orders/Get"))
    assert attempt is not None
    described = zones.pool.describe()["endpoints"]
    assert {one["load"] for one in described} == loads
    assert sum(one["in_flight"] for one in described) == 1
