"""The caller's zone first, until its endpoints are fewer, busier, slower or worse than ``overload_ratio`` allows; then everybody's.

A call that does not stay is picked by the policy from *all* candidates, the zone's included: at the worst there is no preference, never a
preference for elsewhere. A candidate that the policy picks within the zone is taken unless one of four things speaks against it:

1. **Too few.** What a zone's pods get from all of the zone's callers, no single caller sees. So of all calls at most the part stays that
   loads the zone's endpoints ``overload_ratio`` times as much as the mean, if callers are spread over zones as ``own_service`` is
   (without it: evenly):  with s the zone's share of the pool's weight and c that of the callers, r = overload_ratio,

       stay = (t - s) / (1 - s),  t = min(1, r s / c)           (t is what arrives here, s of the calls that do not stay included)

   One endpoint of ten in one of three zones gets 0.375 of its zone's calls; four of twelve get all, two of the ten that are left 3/4.
2. **Too busy.** More attempts in flight than  r * (mean in flight of the zone's endpoints) / latency ratio + slack,  per weight: what it
   would have if it were as fast as the others. This holds at once, before any answer says that it is slow: an endpoint that hangs
   keeps what it has.
3. **Too slow.** Latency here / elsewhere above r makes the part that stays (r / ratio)^2 of the above, so that overload by *other*
   clients is seen, and seen at few calls in flight too.
4. **Failing.** Its metric says that it is ``penalised`` (core/policy.py).

Why not compare attempts in flight here and there: if all calls stay, nothing is in flight elsewhere, however idle or busy it is there, so
a busy caller would spread its calls evenly without need. Latency is comparable, and needs no clock: by Little's law it is attempts in
flight / attempts begun, over the same time here and there. Every ``EVERY`` picks (up to) 16 endpoints here and 16 elsewhere are looked at
(0.1 us a pick); memory is about 4000 picks. ``probe_ratio`` of the calls go to everybody, so that something is known of elsewhere.
What is known from k events there (attempts begun or seen in flight, whichever are fewer) is believed but for 1 / sqrt(k): chance must
not drive calls away.

Limits. A caller that hardly ever has a call in flight when it picks the next (one thread) sees no latency, and one with one or two in
flight on the mean learns of it after thousands of calls; for these 1 and 4 hold. Streams count
in 1 only, as do calls in flight while fewer than ``EVERY`` were picked. Different methods here and elsewhere (``bypass``) have different
latencies, which is taken for a difference of zones. ``round_robin`` penalises nobody: failing endpoints are ejection's (health/ejection.py).

Spec: none; Envoy's load-aware locality routing for the probe, kube's topology hints for bounding what a zone may get.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING

from meshlb.core.clock import Rng
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.health.zones import OwnZones

if TYPE_CHECKING:
    from meshlb.health.locality import Locality

EVERY = 16
_SAMPLE = 16
_KEEP = 255 / 256  # with each look
_PRIOR = 4.0  # events that are assumed to have been as elsewhere
_DOUBT = 1.0


class Sample:
    """Some of a group's endpoints, evenly spread over it, and how many attempts they had begun at the last look."""

    __slots__ = ("_begun", "_subchannels", "weight")

    def __init__(self, subchannels: Sequence[Subchannel]) -> None:
        self._subchannels = subchannels[:: -(-len(subchannels) // _SAMPLE)]
        self.weight = sum(sub.weight for sub in self._subchannels)
        self._begun = self._total()

    def look(self) -> tuple[int, int]:
        """Unary attempts in flight, and attempts begun since."""
        before, self._begun = self._begun, self._total()
        return sum([len(sub.unary) for sub in self._subchannels]), max(0, self._begun - before)

    def _total(self) -> int:
        return sum([sub.started for sub in self._subchannels])


class Latencies:
    """How long calls take in the caller's zone and elsewhere, as a ratio. One a pool: it survives pickers. Estimates: threads that look at
    the same time may lose one look."""

    __slots__ = ("_far_begun", "_far_seen", "_looks", "_near_begun", "_near_load", "_near_seen")

    def __init__(self) -> None:
        self._looks = self._near_load = 0.0
        self._near_seen = self._near_begun = self._far_seen = self._far_begun = 0.0

    def look(self, near: Sample, far: Sample) -> None:
        """Take over what is to be seen now."""
        (near_seen, near_begun), (far_seen, far_begun) = near.look(), far.look()
        self._looks = _KEEP * self._looks + 1.0
        self._near_load = _KEEP * self._near_load + near_seen / near.weight
        self._near_seen = _KEEP * self._near_seen + near_seen
        self._near_begun = _KEEP * self._near_begun + near_begun
        self._far_seen = _KEEP * self._far_seen + far_seen
        self._far_begun = _KEEP * self._far_begun + far_begun

    @property
    def near_load(self) -> float:
        """Mean attempts in flight per weight, in the zone; infinite before the first look."""
        return self._near_load / self._looks if self._looks else float("inf")

    @property
    def ratio(self) -> float:
        """Latency here / elsewhere, as far as it is certain to be above 1; else at most 1."""
        seen, begun = self._near_seen + self._far_seen, self._near_begun + self._far_begun
        if not seen or not begun:
            return 1.0
        both = seen / begun
        prior = _PRIOR / min(1.0, both)
        near = (self._near_seen + prior * both) / (self._near_begun + prior)
        far = (self._far_seen + prior * both) / (self._far_begun + prior)
        events = min(self._near_begun, self._far_begun) * min(1.0, both) + _PRIOR
        return near / far / (1.0 + _DOUBT / sqrt(events))


class PreferZone:
    """See the module head. Any thread; O(1) but for a look now and then, which is bounded."""

    __slots__ = (
        "_always",
        "_everyone",
        "_far",
        "_latencies",
        "_left",
        "_lightest",
        "_limit",
        "_local_ratio",
        "_near",
        "_near_sample",
        "_penalised",
        "_random",
        "_settings",
        "_slack",
        "_stay_ratio",
        "_zone",
    )

    def __init__(
        self,
        zones: Mapping[str, Sequence[Subchannel]],
        zone: str,
        everyone: Picker,
        near: Picker,
        settings: Locality,
        rng: Rng,
        own: OwnZones | None,
        latencies: Latencies,
    ) -> None:
        local = zones[zone]
        others = [sub for name, subs in zones.items() if name != zone for sub in subs]
        weight = sum(sub.weight for sub in local)
        total = weight + sum(sub.weight for sub in others)
        self._zone = zone
        self._everyone = everyone
        self._near = near
        self._settings = settings
        self._random = rng.random
        named = sum(1 for name in zones if name)
        self._stay_ratio = stay_ratio(weight / total, _callers_ratio(named, zone, own), settings.overload_ratio)
        self._slack = settings.slack * (len(local) + len(others)) / total  # per weight
        self._lightest = min(sub.weight for sub in local)
        self._near_sample = Sample(local)
        self._far = Sample(others)
        self._latencies = latencies
        self._penalised: dict[Subchannel, Callable[[float], bool]] = {
            sub: penalised for sub in local if (penalised := getattr(sub.metric, "penalised", None)) is not None
        }
        self._left = EVERY
        self._decide()

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        self._left -= 1
        if self._left <= 0:
            self._left = EVERY
            self._latencies.look(self._near_sample, self._far)
            self._decide()
        if not info.exclude and self._random() >= self._local_ratio:
            return self._everyone.pick(info, now_s)
        sub = self._near.pick(info, now_s)
        if sub is None or self._too_much(sub, now_s) or sub in info.exclude:
            return self._everyone.pick(info, now_s)
        return sub

    def describe(self) -> dict[str, object]:
        """Plain data for ``status()``."""
        return {
            "zone": self._zone,
            "local_ratio": round(self._local_ratio, 3),
            "stay_ratio": round(self._stay_ratio, 3),
            "latency_ratio": round(self._latencies.ratio, 2),
        }

    def _too_much(self, sub: Subchannel, now_s: float) -> bool:
        unary = len(sub.unary)
        if unary > self._always and unary > self._limit * sub.weight:
            return True
        penalised = self._penalised.get(sub)
        return penalised is not None and penalised(now_s)

    def _decide(self) -> None:
        """What holds until the next look."""
        settings, ratio = self._settings, self._latencies.ratio
        self._limit = settings.overload_ratio * self._latencies.near_load / max(1.0, ratio) + self._slack
        self._always = self._limit * self._lightest
        slower = min(1.0, settings.overload_ratio / ratio) ** 2
        self._local_ratio = self._stay_ratio * slower * (1.0 - settings.probe_ratio)


def why_not(zones: Mapping[str, Sequence[Subchannel]], zone: str) -> str:
    """Why there is no zone to prefer; "" if there is."""
    if not zone:
        return "the caller's own zone is not known"
    if len(zones) == 1 and zone in zones:
        return f"all endpoints are in the caller's zone {zone}"
    if zone not in zones:
        known = any(zones)
        return f"no endpoint is in the caller's zone {zone}" if known else "the endpoints' zones are not known"
    return ""


def stay_ratio(capacity: float, callers: float, overload_ratio: float) -> float:
    """The part of a zone's calls that stays without regard to where there is room: ``capacity`` is the zone's part of the pool, ``callers``
    its part of those who call. 0 is no preference."""
    if capacity >= 1.0:  # but for rounding
        return 1.0
    arriving = min(1.0, overload_ratio * capacity / callers)
    return max(0.0, (arriving - capacity) / (1.0 - capacity))


def _callers_ratio(zones: int, zone: str, own: OwnZones | None) -> float:
    """``zones``: how many are known by name; who is nobody knows where calls from none of them."""
    ready = own.ready if own is not None else None
    return ready[zone] / (ready.total() - ready[""]) if ready is not None and ready[zone] else 1.0 / zones
