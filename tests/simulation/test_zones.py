"""Zones in virtual time: calls stay while the zone can bear them, and no zone's pods are overloaded. Three zones unless said otherwise,
pods with 4 workers of 10 ms, hence 400 calls a second each.
"""

from __future__ import annotations

import pytest

from meshlb.balance.config import PolicyConfig
from meshlb.balance.least_request import LeastRequest
from meshlb.balance.p2c import P2C
from meshlb.balance.round_robin import RoundRobin
from meshlb.health.locality import Locality
from tests.picking import seeded
from tests.simulation.zones import Report, World

PREFER, OFF = Locality(mode="prefer"), Locality()
EVEN = {"a": 4, "b": 4, "c": 4}
CALLS, WARM_UP = 40_000, 15_000


@pytest.fixture(params=[P2C(), RoundRobin(), LeastRequest()], ids=str)
def config(request: pytest.FixtureRequest) -> PolicyConfig:
    return request.param


def _run(config: PolicyConfig, settings: Locality = PREFER, **world: object) -> Report:
    return World(settings=settings, config=config, **world).run(CALLS, seeded(), WARM_UP)  # type: ignore[arg-type]


@pytest.mark.parametrize(("callers", "rate"), [(2, 480.0), (20, 48.0)], ids=["few busy callers", "many quiet callers"])
def test_even_zones_keep_their_calls(config: PolicyConfig, callers: int, rate: float) -> None:
    """At 60 % load, ten calls in flight a caller or less than one: 96 % and more stay, and every pod has its share."""
    report = _run(config, pods=EVEN, callers=dict.fromkeys("abc", callers), rate=rate)
    for zone in "abc":
        assert report.local_ratio(zone) >= 0.96
        assert report.load_of(zone) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("callers", "rate"), [(2, 400.0), (20, 40.0)], ids=["few busy callers", "many quiet callers"])
def test_a_zone_that_lost_half_of_its_pods_gives_calls_away(config: PolicyConfig, callers: int, rate: float) -> None:
    """Two of its four are left, at 60 % of what all ten can do: they have at most 1.25 times the mean load, most calls stay, and p99 is
    what it is without zones. All calls of the zone would be 1.67 times the mean, hence 100 % of what they can do."""
    world = {"pods": {"a": 2, "b": 4, "c": 4}, "callers": dict.fromkeys("abc", callers), "rate": rate}
    report, plain = _run(config, **world), _run(config, OFF, **world)
    assert report.load_of("a") <= 1.28
    assert report.local_ratio("a") >= 0.55
    assert report.local_ratio("b") >= 0.95
    assert report.percentile_s(0.99) <= 1.15 * plain.percentile_s(0.99)


def test_one_pod_of_ten_gets_no_more_than_the_ratio(config: PolicyConfig) -> None:
    """A third of the callers are in its zone; callers with less than one call in flight, so no load shows."""
    report = _run(config, pods={"a": 1, "b": 4, "c": 5}, callers=dict.fromkeys("abc", 20), rate=40.0)
    assert report.load_of("a") <= 1.28
    assert report.local_ratio("a") >= 0.25


@pytest.mark.parametrize(("callers", "rate"), [(1, 900.0), (10, 90.0)], ids=["a busy caller", "quiet callers"])
def test_a_zone_that_is_slow_gives_calls_away(config: PolicyConfig, callers: int, rate: float) -> None:
    """Other clients keep its pods busy, so that calls take three times as long: it has little more than without a preference, soon after
    a few thousand calls of each caller."""
    world = {"pods": EVEN, "callers": {"a": callers}, "rate": rate, "slow": {"a": 3.0}}
    report = _run(config, **world)
    assert report.load_of("a") <= 1.35


def test_callers_in_one_zone_only_do_not_drown_it(config: PolicyConfig) -> None:
    """All callers sit in one zone and ask for 60 % of what three zones can do, 1.8 times what theirs can: nothing queues up."""
    world = {"pods": EVEN, "callers": {"a": 4}, "rate": 720.0}
    report, plain = _run(config, **world), _run(config, OFF, **world)
    assert report.load_of("a") <= 1.65
    assert report.percentile_s(0.99) <= 1.5 * plain.percentile_s(0.99)


def test_envoys_arithmetic_keeps_zones_even_for_the_callers_it_knows(config: PolicyConfig) -> None:
    """Half of zone a is down and its two callers are a third: exactly 2000 * 10000 / 3333 stay, and all pods have the same load."""
    from tests.unit.health.test_locality import own_service

    settings = Locality(mode="envoy", own_service="frontend.shop")
    world = World(
        settings=settings,
        config=config,
        pods={"a": 2, "b": 4, "c": 4},
        callers=dict.fromkeys("abc", 2),
        rate=400.0,
        own=own_service("aabbcc"),
    )
    report = world.run(CALLS, seeded(), WARM_UP)
    assert report.local_ratio("a") == pytest.approx(0.6, abs=0.02)
    assert report.local_ratio("b") == 1.0
    for zone in "abc":
        assert report.load_of(zone) == pytest.approx(1.0, abs=0.06)
