"""What holds for any endpoints, zones, loads and tried ones, in both ways of minding zones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshlb.balance.least_request import LeastRequest
from meshlb.balance.p2c import P2C
from meshlb.balance.round_robin import RoundRobin
from meshlb.core.endpoint import Endpoint, EndpointSet, Locality, Place
from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Subchannel
from meshlb.health import locality
from meshlb.health.prefer_zone import stay_ratio
from meshlb.health.zone_aware import route
from meshlb.health.zones import OwnZones, zones_of
from meshlb.load.in_flight import LiveOnly
from tests.picking import hold, picks

ZONES = st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=1, max_size=25)
SETTINGS = st.sampled_from(
    [
        locality.Locality(mode="prefer"),
        locality.Locality(mode="prefer", overload_ratio=1.0, slack=0.0, probe_ratio=0.0),
        locality.Locality(mode="envoy", own_service="frontend.shop", min_cluster_size=0, routing_enabled_ratio=0.5),
        locality.Locality(mode="envoy", own_service="frontend.shop", min_cluster_size=0, force_local_zone_min_size=1),
    ]
)


def _endpoints(zones: list[str]) -> list[Endpoint]:
    return [Endpoint(host=f"10.0.0.{at}", port=80, locality=Locality(zone=zone)) for at, zone in enumerate(zones, start=1)]


@given(st.sampled_from([P2C(), RoundRobin(), LeastRequest()]), ZONES, ZONES, SETTINGS, st.sampled_from(["", "a", "d"]), st.data())
def test_a_pick_is_a_candidate_that_was_not_tried(config, upstream, own, settings, zone, data) -> None:  # type: ignore[no-untyped-def]
    """Somebody always, and nobody twice while there is another; whatever is in flight, failing or cold."""
    rng = data.draw(st.randoms(use_true_random=False))
    policy, localities = config.build(rng), locality.Localities(settings, rng)
    localities.on_own_endpoints(EndpointSet.of(_endpoints(own), "test"))
    subs = [Subchannel(endpoint, policy.new_metric(0.0)) for endpoint in _endpoints(upstream)]
    for sub in subs:
        sub.warmth = data.draw(st.sampled_from([1.0, 1.0, 0.1]))
    picker = localities.new_picker(subs, Place(zone=zone), lambda chosen: policy.new_picker(chosen, rng))
    for sub in subs:
        hold(sub.unary, data.draw(st.integers(0, 5)))
        if data.draw(st.booleans()):
            sub.metric.on_end(0.0, 0.001, Outcome.FAILURE)
    tried = frozenset(sub for sub in subs if data.draw(st.booleans()))
    picked = picks(picker, 40, exclude=tried)
    assert len(picked) == 40
    assert set(picked) <= ((set(subs) - tried) or set(subs))
    assert localities.describe()["mode"] == settings.mode


@given(ZONES, ZONES)
def test_envoys_arithmetic_never_sends_a_zone_more_than_is_left(upstream: list[str], own: list[str]) -> None:
    """Over all callers' zones, as many calls reach a zone as it has endpoints, but for what is rounded (in 10000)."""
    subs = [Subchannel(endpoint, LiveOnly()) for endpoint in _endpoints(upstream)]
    zones, callers = zones_of(subs), OwnZones(EndpointSet.of(_endpoints(own), "test"))
    settings = locality.Locality(mode="envoy", own_service="frontend.shop", min_cluster_size=0)
    reached = dict.fromkeys(zones, 0.0)
    for zone, number in callers.healthy.items():
        routing = route(zones, zone, callers, settings)
        if routing.reason:
            return
        part = number / len(own)
        if routing.residuals and routing.residuals[-1] == 0:
            return  # nothing left but what was rounded away: any zone
        if zone in zones:
            reached[zone] += part * routing.share / 10_000
        before = 0
        for name, cumulative in zip(routing.zones, routing.residuals, strict=False):
            reached[name] += part * (1 - routing.share / 10_000) * (cumulative - before) / routing.residuals[-1]
            before = cumulative
    for zone, got in reached.items():
        assert got <= len(zones[zone]) / len(subs) + 0.005


@given(st.floats(0.001, 0.999), st.floats(0.001, 1.0), st.floats(1.0, 5.0))
def test_what_stays_never_loads_a_zone_above_the_ratio(capacity: float, callers: float, ratio: float) -> None:
    """Nor is it ever less than no preference."""
    stays = stay_ratio(capacity, callers, ratio)
    assert 0.0 <= stays <= 1.0
    load = callers * (stays + (1 - stays) * capacity) / capacity
    assert load <= max(ratio, callers) * (1 + 1e-9)
