"""Envoy's zone-aware routing, number by number: of the caller's zone's calls as many stay as its share of endpoints can bear, and the
rest goes where endpoints are left over.

    p_z = 10000 * healthy_z // healthy        of the target (upstream) and of the caller's own Service (local)
    upstream p_me >= local p_me, and > 0:     all calls stay
    else                                      10000 * upstream p_me // local p_me of 10000 calls stay, and the others go to zone z
                                              with probability residual_z / sum, residual_z = max(0, upstream p_z - local p_z)

It presumes that every caller is one pod of ``own_service`` with the same load, and knows nothing of the load of endpoints: that is what
``prefer`` looks at. An endpoint whose zone is not known is in a zone of its own, which is no caller's.

Not used, so that the policy picks from all, where the conditions in ``route`` fail. No endpoint in the caller's zone is no such
condition: all of its calls are residual.

Spec: Envoy's ZoneAwareLoadBalancerBase (regenerateLocalityRoutingStructures, tryChooseLocalLocalityHosts) with min_cluster_size,
routing_enabled, locality_basis and force_local_zone; the order of random draws is its own (routing_enabled, share, residual).
Deviations: zones, not (region, zone, sub-zone); a draw is a float in [0, 1) times 10000, not an integer mod 10000, and is not made where
nothing depends on it; the panic threshold of the own Service is fixed at 50 %; an endpoint that a retry must avoid is replaced by
one elsewhere when its zone has no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from meshlb.core.clock import Rng
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.health.zones import WEIGHT, OwnZones

if TYPE_CHECKING:
    from meshlb.health.locality import Locality

_ALL = 10_000
_PANIC_RATIO = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Routing:
    """What was worked out. ``reason``: why zones do not matter, "" if they do. ``zones``: the caller's first, if it has endpoints.
    ``share``: of 10000 calls those that stay. ``residuals``: cumulative, in the order of ``zones``; empty if all calls stay."""

    zone: str
    reason: str = ""
    zones: tuple[str, ...] = ()
    share: int = _ALL
    residuals: tuple[int, ...] = ()

    def describe(self) -> dict[str, object]:
        if self.reason:
            return {"zone": self.zone, "reason": self.reason}
        return {
            "zone": self.zone,
            "local_ratio": self.share / _ALL,
            "residuals": dict(zip(self.zones, self.residuals, strict=False)),
        }


def route(zones: Mapping[str, Sequence[Subchannel]], zone: str, own: OwnZones | None, settings: Locality) -> Routing:
    """``zones``: the candidates; ``zone``: the caller's."""
    reason = _why_not(zones, zone, own, settings)
    if reason or own is None:
        return Routing(zone=zone, reason=reason)
    near = zones.get(zone, ())
    order = (*((zone,) if near else ()), *(name for name in sorted(zones) if name != zone))
    upstream = _shares({name: _size(zones[name], settings) for name in order})
    local = _shares(own.healthy)
    here, callers = upstream.get(zone, 0), local.get(zone, 0)
    forced = 0 < settings.force_local_zone_min_size <= len(near)
    if near and (forced or 0 < here >= callers):
        return Routing(zone=zone, zones=order)
    left = [0 if name == zone else max(0, upstream[name] - local.get(name, 0)) for name in order]
    share = _ALL * here // callers if near and callers else 0
    return Routing(zone=zone, zones=order, share=share, residuals=tuple(accumulate(left)))


class ZoneAware:
    """Draws a zone, and lets the policy pick there."""

    __slots__ = ("_enabled_ratio", "_everyone", "_pickers", "_random", "_residuals", "_share")

    def __init__(self, routing: Routing, pickers: Mapping[str, Picker], everyone: Picker, enabled_ratio: float, rng: Rng) -> None:
        self._pickers = tuple(pickers[name] for name in routing.zones)
        self._everyone = everyone
        self._enabled_ratio = enabled_ratio
        self._share = routing.share
        self._residuals = routing.residuals
        self._random = rng.random

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        if self._enabled_ratio < 1.0 and self._random() >= self._enabled_ratio:
            return self._everyone.pick(info, now_s)
        sub = self._pickers[self._zone()].pick(info, now_s)
        return self._everyone.pick(info, now_s) if sub in info.exclude else sub

    def _zone(self) -> int:
        residuals = self._residuals
        if not residuals or int(self._random() * _ALL) < self._share:
            return 0
        if not residuals[-1]:
            return int(self._random() * len(residuals))
        drawn = int(self._random() * residuals[-1])
        return next(at for at, cumulative in enumerate(residuals) if cumulative > drawn)


def _why_not(zones: Mapping[str, Sequence[Subchannel]], zone: str, own: OwnZones | None, settings: Locality) -> str:
    """In Envoy's order."""
    if not zone:
        return "the caller's own zone is not known"
    if len(zones) < 2:
        return "all endpoints are in one zone"
    if own is None:
        return f"nothing is known of the caller's own Service {settings.own_service} yet"
    if len(own.listed) < 2:
        return f"{settings.own_service} has pods in fewer than two zones"
    if zone not in own.listed:
        return f"{settings.own_service} has no pod in the caller's zone {zone}"
    if (healthy := sum(map(len, zones.values()))) < settings.min_cluster_size:
        return f"{healthy} endpoints are fewer than min_cluster_size={settings.min_cluster_size}"
    if own.ready.total() < _PANIC_RATIO * own.listed.total():
        return f"fewer than half of {settings.own_service}'s pods are ready"
    return ""


def _size(subchannels: Sequence[Subchannel], settings: Locality) -> float:
    return sum(sub.endpoint.weight for sub in subchannels) if settings.locality_basis == WEIGHT else len(subchannels)


def _shares(sizes: Mapping[str, float]) -> dict[str, int]:
    """In 1/10000, rounded down; whole numbers stay exact."""
    total = sum(sizes.values())
    return {name: int(_ALL * size // total) for name, size in sizes.items()} if total else {}
