"""Who is in which zone, of a target's endpoints and of the caller's own; and the calls for which that does not matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from meshlb.core import patterns
from meshlb.core.endpoint import Endpoint, EndpointSet
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Subchannel

HOSTS: Final = "healthy_hosts_num"
WEIGHT: Final = "healthy_hosts_weight"
BASES: Final = (HOSTS, WEIGHT)


def zone_of(endpoint: Endpoint) -> str:
    """Its zone; "" if it is not known, which is nobody's own."""
    return endpoint.locality.zone


def zones_of(subchannels: Sequence[Subchannel]) -> dict[str, list[Subchannel]]:
    """Who is in which zone, in the order of the zones' names."""
    zones: dict[str, list[Subchannel]] = {}
    for sub in subchannels:
        zones.setdefault(zone_of(sub.endpoint), []).append(sub)
    return {zone: zones[zone] for zone in sorted(zones)}


class OwnZones:
    """How many of the caller's own Service are in each zone. ``listed`` without those that terminate, ``ready`` those that can be called
    (``healthy``: by number or by weight). Immutable."""

    __slots__ = ("healthy", "listed", "ready")

    def __init__(self, latest: EndpointSet, basis: str = HOSTS) -> None:
        self.listed = Counter(zone_of(endpoint) for endpoint in latest.endpoints if endpoint.ready or not endpoint.terminating)
        self.ready = Counter(zone_of(endpoint) for endpoint in latest.endpoints if endpoint.ready)
        self.healthy: dict[str, float] = dict(self.ready)
        if basis == WEIGHT:
            self.healthy = dict.fromkeys(self.ready, 0.0)
            for endpoint in latest.endpoints:
                if endpoint.ready:
                    self.healthy[zone_of(endpoint)] += endpoint.weight

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OwnZones) and self._key() == other._key()

    __hash__ = None  # type: ignore[assignment]

    def _key(self) -> tuple[object, ...]:
        return self.listed, self.ready, self.healthy


class Bypassing:
    """Calls of some methods are picked from all."""

    __slots__ = ("_everyone", "_patterns", "_picker")

    def __init__(self, picker: Picker, everyone: Picker, bypass: Sequence[str]) -> None:
        self._picker = picker
        self._everyone = everyone
        self._patterns = frozenset(bypass)

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        listed = not self._patterns.isdisjoint(patterns.patterns_of(info.method))
        return (self._everyone if listed else self._picker).pick(info, now_s)
