"""Envoy's zone-aware arithmetic: worked numbers, each condition, the order of draws."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from meshlb.core.endpoint import EndpointSet
from meshlb.core.subchannel import Subchannel
from meshlb.health.locality import Locality
from meshlb.health.zone_aware import Routing, ZoneAware, route
from meshlb.health.zones import WEIGHT, OwnZones, zones_of
from meshlb.load.in_flight import LiveOnly
from tests.picking import picks
from tests.unit.health.test_locality import endpoints_in, own_service, picker_over

ENVOY = Locality(mode="envoy", own_service="frontend.shop")


def _route(upstream: str, own: EndpointSet | None, settings: Locality = ENVOY, zone: str = "a") -> Routing:
    subs = [Subchannel(endpoint, LiveOnly()) for endpoint in endpoints_in(upstream)]
    return route(zones_of(subs), zone, OwnZones(own, settings.locality_basis) if own is not None else None, settings)


@pytest.mark.parametrize(
    ("upstream", "own", "share", "residuals"),
    [
        ("aabbcc", "abc", 10_000, ()),  # even
        ("aaabbc", "aabbcc", 10_000, ()),  # more here than callers
        ("abbbccc", "abc", 4284, (0, 952, 1904)),  # 1428 of 3333 stay; 4285 - 3333 each elsewhere
        ("aabbbbcccc", "aabbccc", 7000, (0, 1143, 1143)),  # 2000 of 2857; 4000 - 2857, 4000 - 4285
        ("bbbccc", "abc", 0, (1667, 3334)),  # nobody here: all is residual
        ("abbbbb", "aaab", 2221, (0, 5833)),  # 1666 of 7500; 8333 - 2500
        ("abbbbc", "aaaaac", 1999, (0, 6666, 6666)),  # 1666 of 8333; 6666 - 0, 1666 - 1666
    ],
)
def test_percentages_shares_and_residuals(upstream: str, own: str, share: int, residuals: tuple[int, ...]) -> None:
    """In whole ten-thousandths, rounded down at each step."""
    routing = _route(upstream, own_service(own))
    assert routing.reason == ""
    assert (routing.share, routing.residuals) == (share, residuals)


def test_only_ready_pods_of_the_own_service_are_shares() -> None:
    """Two of three here are not ready: 3333 of the healthy, not 6000."""
    routing = _route("aabbcc", own_service("abc", unready="aa"))
    assert (routing.share, routing.residuals) == (10_000, ())


@pytest.mark.parametrize(
    ("upstream", "own", "zone", "reason"),
    [
        ("aabbcc", own_service("abc"), "", "the caller's own zone is not known"),
        ("aaaaaa", own_service("abc"), "a", "all endpoints are in one zone"),
        ("aabbcc", None, "a", "nothing is known of the caller's own Service frontend.shop yet"),
        ("aabbcc", own_service("aaa"), "a", "frontend.shop has pods in fewer than two zones"),
        ("aabbcc", own_service("bbc"), "a", "frontend.shop has no pod in the caller's zone a"),
        ("aabbc", own_service("abc"), "a", "5 endpoints are fewer than min_cluster_size=6"),
        ("aabbcc", own_service("b", unready="aacb"), "a", "fewer than half of frontend.shop's pods are ready"),
    ],
)
def test_where_it_is_not_used(upstream: str, own: EndpointSet | None, zone: str, reason: str) -> None:
    """Each condition, with the reason that ``status()`` shows."""
    assert _route(upstream, own, zone=zone).reason == reason


def test_half_of_the_own_pods_is_enough() -> None:
    """The panic threshold is below 50 %."""
    assert _route("aabbcc", own_service("ab", unready="cc")).reason == ""


def test_force_local_zone_keeps_all_while_the_zone_has_enough() -> None:
    """However many call from there."""
    settings = Locality(mode="envoy", own_service="frontend.shop", force_local_zone_min_size=2)
    assert _route("aabbbb", own_service("aaaab"), settings).residuals == ()
    assert _route("abbbbb", own_service("aaaab"), settings).residuals != ()


def test_the_basis_may_be_weights() -> None:
    """The upstream zone a weighs 6 of 10: all stay, though it has one host of five and half of the callers are here."""
    subs = [Subchannel(endpoint, LiveOnly()) for endpoint in [*endpoints_in("a", weight=6.0), *endpoints_in("-bbcc")[1:]]]
    own = own_service("ab")
    for basis, residuals in [(WEIGHT, ()), ("healthy_hosts_num", (0, 0, 4000))]:
        settings = Locality(mode="envoy", own_service="frontend.shop", locality_basis=basis, min_cluster_size=2)
        assert route(zones_of(subs), "a", OwnZones(own, basis), settings).residuals == residuals


class _Draws:
    """Gives these numbers, in this order, and counts."""

    def __init__(self, numbers: Sequence[float]) -> None:
        self.left = list(numbers)

    def random(self) -> float:
        return self.left.pop(0)


class _Named:
    def __init__(self, name: str) -> None:
        self.name = name

    def pick(self, info: object, now_s: float, /) -> object:
        return self.name


@pytest.mark.parametrize(
    ("numbers", "zone"),
    [
        ((0.0, 0.0), "a"),
        ((0.0, 0.42839), "a"),  # 4283 < 4284
        ((0.0, 0.4284, 0.0), "b"),
        ((0.0, 0.9, 0.49), "b"),  # 932 < 952
        ((0.0, 0.9, 0.5), "c"),  # 952
        ((0.0, 0.9, 0.9999), "c"),
        ((0.95,), "everyone"),
    ],
)
def test_draws_are_made_in_envoys_order(numbers: tuple[float, ...], zone: str) -> None:
    """Whether routing is enabled for this call, then the share, then the residual; no draw more than is needed."""
    routing, draws = _route("abbbccc", own_service("abc")), _Draws(numbers)
    pickers = {name: _Named(name) for name in "abc"}
    picker = ZoneAware(routing, pickers, _Named("everyone"), 0.9, draws)  # type: ignore[arg-type]
    assert picks(picker, 1) == [zone]
    assert draws.left == []


def test_with_no_capacity_left_any_zone_is_drawn() -> None:
    """Rounding may leave no residual at all; then zones are equally likely."""
    routing = Routing(zone="a", zones=("a", "b", "c"), share=5000, residuals=(0, 0, 0))
    picker = ZoneAware(routing, {name: _Named(name) for name in "abc"}, _Named("-"), 1.0, _Draws((0.5, 0.7)))  # type: ignore[arg-type,dict-item]
    assert picks(picker, 1) == ["c"]


def test_shares_of_picks_are_those_of_the_arithmetic() -> None:
    """1, 3 and 3 endpoints, callers evenly: 0.4284 stay, the rest in halves; and so ``describe()`` says."""
    picker, subs, localities = picker_over("abbbccc", ENVOY, own=own_service("abc"))
    picked = picks(picker, 30_000)
    got = [sum(sub.endpoint.locality.zone == zone for sub in picked) / len(picked) for zone in "abc"]
    assert got == pytest.approx([0.4284, 0.2858, 0.2858], abs=0.015)
    assert localities.describe() == {
        "mode": "envoy",
        "zone": "a",
        "local_ratio": 0.4284,
        "residuals": {"a": 0, "b": 952, "c": 1904},
    }
    assert set(picked) == set(subs)
