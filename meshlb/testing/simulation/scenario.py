"""A scenario: clients, servers, load and disturbances, and what of it chance decides for one seed.

Everything that does not depend on the policy is drawn before it is asked anything: who calls when, how much work it is, how long its
two ways over the network take, what happens to the servers. Each has a stream of chance of its own, so all policies of a seed meet
the same, and a call that two of them send to the same server meets the same wire there.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import NamedTuple

from meshlb.testing.simulation.changes import SPEEDS, Change, Disturbance, Speeds
from meshlb.testing.simulation.link import Network
from meshlb.testing.simulation.work import Work, lognormal

NETWORK = Network()
BOUNDS = {"central_queue", "clairvoyant"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Burst:
    """In each cycle of ``cycle_s`` the rate is ``factor`` times what it is else, for the first part of it, ``ratio``."""

    cycle_s: float = 5.0
    ratio: float = 0.2
    factor: float = 1.8

    def quiet_until_s(self, at_s: float) -> tuple[bool, float]:
        """Is it in a burst, and when that changes."""
        start_s = at_s // self.cycle_s * self.cycle_s
        ends_s = start_s + self.ratio * self.cycle_s
        return (True, ends_s) if at_s < ends_s else (False, start_s + self.cycle_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """``load_ratio`` is of what all servers can do at the speeds that they always have (``Speeds``); a burst comes on top of it.

    FIFO with ``workers`` a server, or processor sharing over so many cores. ``shares``: of the calls, each client's; () is even.
    ``concurrency`` > 0: a closed loop in place of ``load_ratio``, so many users a client, with one call after the other each.
    ``bounds``: whose figures may be the reference (bounds.py).
    ``streams_ratio`` of the calls are streams, of exp(``stream_s``) each, that keep no worker busy; their latency counts nowhere.
    """

    name: str
    load_ratio: float = 0.0
    concurrency: int = 0
    clients: int = 10
    shares: tuple[float, ...] = ()
    servers: int = 10
    workers: int = 2
    sharing: bool = False
    work: Work = lognormal(0.010)  # noqa: RUF009 - immutable
    mean_s: float = 0.010
    length_s: float = 75.0
    warm_up_s: float = 15.0
    streams_ratio: float = 0.0
    stream_s: float = 3.0
    burst: Burst | None = None
    disturbances: tuple[Disturbance, ...] = ()
    bounds: tuple[str, ...] = ("central_queue", "clairvoyant")

    def __post_init__(self) -> None:
        if bool(self.load_ratio) == bool(self.concurrency):
            raise ValueError(f"{self.name}: load_ratio={self.load_ratio} concurrency={self.concurrency}: exactly one must be given")
        if self.shares and len(self.shares) != self.clients:
            raise ValueError(f"{self.name}: shares={self.shares}: must be one for each of the {self.clients} clients")
        if self.load_ratio < 0.0 or min(self.clients, self.servers, self.workers) < 1 or self.warm_up_s >= self.length_s:
            raise ValueError(f"{self.name}: load, clients, servers, workers must be positive, and warm_up_s less than length_s")
        if not set(self.bounds) & ({"clairvoyant"} if self.sharing else BOUNDS) or not set(self.bounds) <= BOUNDS:
            raise ValueError(
                f"{self.name}: bounds={self.bounds}: must be some of {sorted(BOUNDS)}; with sharing there is no central queue"
            )

    @property
    def rate_per_s(self) -> float:
        """Of calls that are no streams, outside of bursts."""
        slow = {server: part.speed for part in self.disturbances if isinstance(part, Speeds) for server in part.of}
        return self.load_ratio * self.workers * (self.servers - len(slow) + sum(slow.values())) / self.mean_s

    def changes(self, seed: int) -> list[Change]:
        """In the order in which they happen."""
        drawn: list[tuple[int, Change]] = []
        for number, part in enumerate(self.disturbances):
            rng = self.chance(seed, f"disturbance {number}")
            drawn += ((number, change) for change in part.changes(rng, self.servers, self.length_s))
        drawn.sort(key=lambda one: one[1].at_s)
        return list(_laid_over(drawn)) if len(self.disturbances) > 1 else [change for _, change in drawn]

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        """An open loop's, in their order; sizes and wires are drawn for each whatever it is."""
        clients, works = self.chance(seed, "clients"), self.chance(seed, "work")
        client_of, work, wires = self._clients(), self.work, Wires(self.chance(seed, "wires"))
        kinds, streams_ratio = self.chance(seed, "kinds"), self.streams_ratio
        for at_s in self._moments(seed):
            work_s = work(works)
            stream = streams_ratio > 0.0 and kinds.random() < streams_ratio
            if stream:
                work_s = kinds.expovariate(1.0 / self.stream_s)
            yield Arrival(at_s, client_of(clients), work_s, stream, *wires.draw())

    def _clients(self) -> Callable[[random.Random], int]:
        if not self.shares:
            count = self.clients
            return lambda rng: int(rng.random() * count)
        sums = list(accumulate(self.shares))
        return lambda rng: bisect(sums, rng.random() * sums[-1], 0, len(sums) - 1)

    def _moments(self, seed: int) -> Iterator[float]:
        rng, rate = self.chance(seed, "arrivals"), self.rate_per_s / (1.0 - self.streams_ratio)
        if self.burst is None:
            at_s = rng.expovariate(rate)
            while at_s < self.length_s:
                yield at_s
                at_s += rng.expovariate(rate)
            return
        at_s, owed = 0.0, rng.expovariate(1.0)
        while at_s < self.length_s:
            high, until_s = self.burst.quiet_until_s(at_s)
            now = rate * (self.burst.factor if high else 1.0)
            if at_s + owed / now < until_s:
                at_s += owed / now
                owed = rng.expovariate(1.0)
                yield at_s
            else:
                owed -= (until_s - at_s) * now
                at_s = until_s

    def chance(self, seed: int, of: str) -> random.Random:
        """A stream of its own for everything."""
        return random.Random(f"{self.name} {seed} {of}")


def _laid_over(drawn: list[tuple[int, Change]]) -> Iterator[Change]:
    """Where several disturbances slow a server down, their speeds are multiplied."""
    speeds: defaultdict[int, dict[int, float]] = defaultdict(dict)
    for number, change in drawn:
        if change.what in SPEEDS:
            speeds[change.server][number] = change.value
            change = change._replace(value=prod(speeds[change.server].values()))
        yield change


class Arrival(NamedTuple):
    """A user's call: when, on which client, how much work (a stream: how long it lives), and its two ways over the network."""

    at_s: float
    client: int
    work_s: float
    stream: bool
    out_s: float
    back_s: float


class Wires:
    """How long a call's two ways take."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def draw(self) -> tuple[float, float]:
        return NETWORK.delay_s(self._rng), NETWORK.delay_s(self._rng)
