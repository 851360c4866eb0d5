"""Whose zone first? The settings, and the one object a pool asks; the two ways have files of their own.

- ``prefer`` (prefer_zone.py): the caller's zone, until its endpoints are busier, slower or fewer than they may be.
- ``envoy`` (zone_aware.py): Envoy's zone-aware arithmetic over numbers of hosts, which keeps the load of all zones even if callers are
  as many as the caller's own Service has pods in each zone.

Both stand around the policy's pickers and only ever choose among the candidates that they are given: who is ejected, not ready or not
connected is none, so nothing here depends on ejection or changes it. Where zones cannot be told apart the policy picks from all, and
``describe()`` says why. Topology hints (selection.py) come first: what they leave is mostly of one zone, and then nothing is left to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from meshlb.core import patterns, validate
from meshlb.core.clock import Rng
from meshlb.core.endpoint import EndpointSet, Place
from meshlb.core.policy import Picker
from meshlb.core.subchannel import Subchannel
from meshlb.core.target import Target
from meshlb.errors import ConfigError, TargetError
from meshlb.health.prefer_zone import Latencies, PreferZone, why_not
from meshlb.health.zone_aware import ZoneAware, route
from meshlb.health.zones import BASES, HOSTS, Bypassing, OwnZones, zones_of

MODES: Final = ("off", "prefer", "envoy")
_READ_BY: Final = {
    **dict.fromkeys(("overload_ratio", "slack", "probe_ratio"), ("prefer",)),
    **dict.fromkeys(("min_cluster_size", "routing_enabled_ratio", "locality_basis", "force_local_zone_min_size"), ("envoy",)),
}

NewPicker = Callable[[Sequence[Subchannel]], Picker]


@dataclass(frozen=True, kw_only=True, slots=True)
class Locality:
    """``mode``: ``off`` (default), ``prefer``, ``envoy``.

    ``own_service``: the caller's own Service, a target such as ``frontend.shop``: how many of it are in each zone. ``envoy`` needs it;
    ``prefer`` takes callers to be as many in each zone without it.
    ``bypass``: methods (``/shop.Orders/Get``) and services (``/shop.Orders/*``) for which zones do not matter.

    For ``prefer``: ``overload_ratio``: how much more load (or latency) than elsewhere an endpoint of the zone may have, >= 1 (1.25).
    ``slack``: attempts beyond that which never count as load, for each endpoint of average weight (2). ``probe_ratio``: the share of
    calls that go to any zone, to know what it is like there (0.03).

    For ``envoy``: ``min_cluster_size`` (6): with fewer healthy endpoints zones do not matter. ``routing_enabled_ratio`` (1): the share
    of calls for which they do. ``locality_basis``: zones are compared by ``healthy_hosts_num`` (default) or ``healthy_hosts_weight``.
    ``force_local_zone_min_size``: all stay in the zone while it has so many healthy endpoints (0, the default: off).
    """

    mode: str = "off"
    own_service: str = ""
    bypass: tuple[str, ...] = ()
    overload_ratio: float = 1.25
    slack: float = 2.0
    probe_ratio: float = 0.03
    min_cluster_size: int = 6
    routing_enabled_ratio: float = 1.0
    locality_basis: str = HOSTS
    force_local_zone_min_size: int = 0

    def __post_init__(self) -> None:
        validate.one_of("locality.mode", self.mode, MODES)
        _target("locality.own_service", self.own_service)
        _set(self, "bypass", _methods("locality.bypass", self.bypass))
        _set(self, "overload_ratio", validate.number("locality.overload_ratio", self.overload_ratio, minimum=1.0))
        _set(self, "slack", validate.number("locality.slack", self.slack, minimum=0.0))
        _set(self, "probe_ratio", validate.ratio("locality.probe_ratio", self.probe_ratio))
        validate.integer("locality.min_cluster_size", self.min_cluster_size, minimum=0)
        _set(self, "routing_enabled_ratio", validate.ratio("locality.routing_enabled_ratio", self.routing_enabled_ratio))
        validate.one_of("locality.locality_basis", self.locality_basis, BASES)
        validate.integer("locality.force_local_zone_min_size", self.force_local_zone_min_size, minimum=0)

    @classmethod
    def of(cls, value: str | Mapping[str, Any] | Locality) -> Locality:
        """``off``, ``prefer``, ``envoy``, a dict of the fields, or a Locality."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls(mode=validate.one_of("locality", value, MODES))
        if not isinstance(value, Mapping):
            raise ConfigError(f"locality={value!r}: must be {', '.join(MODES)}, a dict or a Locality")
        validate.known_keys("locality", value, [field.name for field in fields(cls)])
        locality = cls(**value)
        if value and "mode" not in value:
            raise ConfigError(f"locality.mode: must be said, prefer or envoy, for {', '.join(value)} to mean something")
        for name in value:
            if locality.mode not in (*modes_that_read(name), "off"):  # off has the last word, whatever else is said
                where = " and ".join(modes_that_read(name))
                raise ConfigError(f"locality.{name}={value[name]!r}: is not read in mode {locality.mode!r}, only in {where}")
        return locality

    def check_complete(self) -> None:
        """Raises ConfigError for ``envoy`` without ``own_service``. Not at construction: the two may be said in different layers."""
        if self.mode == "envoy" and not self.own_service:
            raise ConfigError("locality.mode='envoy': needs locality.own_service, the caller's own Service such as frontend.shop")


def modes_that_read(name: str) -> tuple[str, ...]:
    """The modes to which a field of ``Locality`` means something."""
    return _READ_BY.get(name, ("prefer", "envoy"))


class Localities:
    """One pool's. ``new_picker`` and ``on_own_endpoints`` are called under the pool's lock."""

    def __init__(self, settings: Locality, rng: Rng) -> None:
        """Raises ConfigError for ``envoy`` without ``own_service``: there is nothing that could be computed."""
        settings.check_complete()
        self.settings = settings
        self._rng = rng
        self._own: OwnZones | None = None
        self._latencies = Latencies()
        self._said: Callable[[], dict[str, object]] = dict

    def new_picker(self, candidates: Sequence[Subchannel], place: Place, new_picker: NewPicker) -> Picker:
        """The policy's picker over all, and what chooses zones around it. O(n)."""
        everyone = new_picker(candidates)
        if self.settings.mode == "off":
            return everyone
        zones = zones_of(candidates)
        if self.settings.mode == "prefer":
            picker, self._said = self._prefer(zones, place.zone, everyone, new_picker)
        else:
            picker, self._said = self._zone_aware(zones, place.zone, everyone, new_picker)
        if picker is not everyone and self.settings.bypass:
            return Bypassing(picker, everyone, self.settings.bypass)
        return picker

    def on_own_endpoints(self, latest: EndpointSet) -> bool:
        """The caller's own Service. True if pickers must be built anew."""
        before, self._own = self._own, OwnZones(latest, self.settings.locality_basis)
        return self._own != before

    def stand_back(self, reason: str) -> None:
        """Zones will not be minded; ``describe`` says why."""
        self._said = lambda: {"reason": reason}

    def describe(self) -> dict[str, object]:
        """Plain data: which zone comes first, for which part of the calls, or (``reason``) why none does. Of the view that chose last."""
        return {"mode": self.settings.mode, **self._said()}

    def _prefer(
        self, zones: Mapping[str, Sequence[Subchannel]], zone: str, everyone: Picker, new_picker: NewPicker
    ) -> tuple[Picker, Callable[[], dict[str, object]]]:
        reason = why_not(zones, zone)
        if reason:
            return everyone, lambda: {"zone": zone, "reason": reason}
        picker = PreferZone(zones, zone, everyone, new_picker(zones[zone]), self.settings, self._rng, self._own, self._latencies)
        return picker, picker.describe

    def _zone_aware(
        self, zones: Mapping[str, Sequence[Subchannel]], zone: str, everyone: Picker, new_picker: NewPicker
    ) -> tuple[Picker, Callable[[], dict[str, object]]]:
        routing = route(zones, zone, self._own, self.settings)
        if routing.reason:
            return everyone, routing.describe
        others = {name: new_picker(routed) for name, routed in zones.items() if name != zone}
        pickers = {**others, zone: new_picker(zones[zone])} if zone in zones else others  # own last: round robin goes on with it
        return ZoneAware(routing, pickers, everyone, self.settings.routing_enabled_ratio, self._rng), routing.describe


def _set(config: object, name: str, value: object) -> None:
    object.__setattr__(config, name, value)


def _target(where: str, text: object) -> None:
    if text == "":
        return
    if not isinstance(text, str):
        raise ConfigError(f"{where}={text!r}: must be a target such as frontend.shop")
    try:
        Target.parse(text)
    except TargetError as error:
        raise ConfigError(f"{where}={text!r}: must be a target such as frontend.shop ({error})") from None


def _methods(where: str, value: object) -> tuple[str, ...]:
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise ConfigError(f"{where}={value!r}: must be a list of methods, or one string with commas")
    methods = tuple(word.strip() for word in words)
    for method in methods:
        patterns.check(where, method, everything=False)
    return methods
