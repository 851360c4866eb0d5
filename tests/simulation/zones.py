"""Callers of three zones and a fleet in three zones, in virtual time, through the real policy, pickers and sets: Poisson calls from each
caller, exponential work on ``workers`` a pod, first come first served.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from meshlb.balance.config import PolicyConfig
from meshlb.balance.p2c import P2C
from meshlb.core.endpoint import Endpoint, EndpointSet, Locality, Place
from meshlb.core.outcome import Outcome
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.health import locality

NO_INFO = PickInfo()


@dataclass
class Caller:
    """One process: its own pool's worth of subchannels, pods at the same places as everybody's."""

    zone: str
    subchannels: list[Subchannel]
    picker: Picker


@dataclass(frozen=True, kw_only=True)
class World:
    """``pods``: how many in each zone. ``callers``: how many processes in each. ``rate``: calls a second and caller. ``slow``: factor on
    the work of a zone's pods. ``own``: what is known of the callers' own Service."""

    settings: locality.Locality
    pods: Mapping[str, int]
    callers: Mapping[str, int]
    rate: float
    service_s: float = 0.01
    workers: int = 4
    slow: Mapping[str, float] = field(default_factory=dict)
    config: PolicyConfig = field(default_factory=P2C)
    own: EndpointSet | None = None

    def run(self, calls: int, rng: random.Random, warm_up: int = 0) -> Report:
        places = [zone for zone, pods in self.pods.items() for _ in range(pods)]
        callers = [self._caller(zone, places, rng) for zone, number in self.callers.items() for _ in range(number)]
        free_s = [[0.0] * self.workers for _ in places]
        ending: list[tuple[float, int, Attempt]] = []
        report, order, now_s = Report(places), count(), 0.0
        for number in range(calls):
            now_s += rng.expovariate(self.rate * len(callers))
            while ending and ending[0][0] <= now_s:
                end_s, _, attempt = heapq.heappop(ending)
                attempt.live.remove(attempt)
                attempt.subchannel.metric.on_end(end_s, end_s - attempt.started_s, Outcome.SUCCESS)
            caller = rng.choice(callers)
            sub = caller.picker.pick(NO_INFO, now_s)
            assert sub is not None
            pod = caller.subchannels.index(sub)
            worker = free_s[pod].index(min(free_s[pod]))
            work_s = rng.expovariate(1 / self.service_s) * self.slow.get(places[pod], 1.0)
            free_s[pod][worker] = end_s = max(now_s, free_s[pod][worker]) + work_s
            attempt = Attempt()
            attempt.subchannel, attempt.started_s, attempt.live = sub, now_s, sub.unary
            sub.unary.add(attempt)
            sub.started += 1
            heapq.heappush(ending, (end_s, next(order), attempt))
            if number >= warm_up:
                report.note(caller.zone, pod, end_s - now_s)
        return report

    def _caller(self, zone: str, places: Sequence[str], rng: random.Random) -> Caller:
        policy = self.config.build(rng)
        endpoints = [
            Endpoint(host=f"10.0.0.{at}", port=80, locality=Locality(zone=place)) for at, place in enumerate(places, start=1)
        ]
        subs = [Subchannel(endpoint, policy.new_metric(0.0)) for endpoint in endpoints]
        localities = locality.Localities(self.settings, rng)
        if self.own is not None:
            localities.on_own_endpoints(self.own)
        picker = localities.new_picker(subs, Place(zone=zone), lambda chosen: policy.new_picker(chosen, rng))
        return Caller(zone, subs, picker)


class Report:
    """Which pod got how many calls of which zone, and how long they took."""

    def __init__(self, places: Sequence[str]) -> None:
        self.places = places
        self.calls: Counter[tuple[str, int]] = Counter()
        self.took_s: list[float] = []

    def note(self, zone: str, pod: int, took_s: float) -> None:
        self.calls[zone, pod] += 1
        self.took_s.append(took_s)

    def local_ratio(self, zone: str) -> float:
        """The part of a zone's calls that stayed there."""
        own = sum(number for (caller, pod), number in self.calls.items() if caller == zone == self.places[pod])
        return own / sum(number for (caller, _), number in self.calls.items() if caller == zone)

    def load_of(self, zone: str) -> float:
        """Calls a pod of a zone, as a multiple of the mean pod's."""
        pods = self.places.count(zone)
        got = sum(number for (_, pod), number in self.calls.items() if self.places[pod] == zone)
        return got / pods / (sum(self.calls.values()) / len(self.places))

    def percentile_s(self, ratio: float) -> float:
        took_s = sorted(self.took_s)
        return took_s[int(ratio * len(took_s))]
