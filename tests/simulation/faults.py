"""What becomes of calls when pods break: one table over all the ways in which they do, with our ejection and with Envoy's arithmetic in
its place. ``python -m tests.simulation.faults`` prints it; ``... faults on frozen``: only ours, and the rows of that name.

Pods of 8 workers, 10 ms of log-normal work, 30 % load from five client processes, deadline 1 s, every method declared idempotent, all
else as it is by default. The fault lasts from 6 s to 16 s; the run ends at 30 s.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from meshlb.config import Config
from meshlb.health.outlier import MODES
from meshlb.testing.simulation import Record, Server, Simulation, Work, exponential, lognormal
from meshlb.testing.simulation.record import Sent

FAULT_S, HEALED_S, END_S = 6.0, 16.0, 30.0
WORKERS, MEAN_S, LOAD = 8, 0.010, 0.3
WINDOW_S = 0.25
MAX_S = 0.2  # of work: a call that needs longer than a deadline or a per_try_timeout_s fails on every pod
SEED = 101
_drawn = lognormal(MEAN_S)


def usual(rng: random.Random) -> float:
    """Log-normal without its far end."""
    return min(_drawn(rng), MAX_S)


@dataclass
class Scene:
    """A fleet under load, and the pods that something happens to."""

    sim: Simulation
    pods: list[Server]
    hit: list[Server] = field(default_factory=list)

    @property
    def hit_addresses(self) -> set[str]:
        return {pod.endpoint.address for pod in self.hit}


def fleet(
    n: int = 10,
    *,
    seed: int = SEED,
    clients: int = 5,
    rate_per_s: float | None = None,
    load: float = LOAD,
    deadline_s: float = 1.0,
    per_try_timeout_s: float = 0.0,
    work: Work = usual,
    workers: int = WORKERS,
    zones: Iterable[str] = ("",),
    **config: Any,
) -> Scene:
    """n pods, by turns in these zones as the clients are; ``rate_per_s`` for all clients together, else what makes that load."""
    sim, zones = Simulation(seed), list(zones)
    pods = [sim.start(workers=workers, zone=zones[at % len(zones)]) for at in range(n)]
    retry = {"idempotent": "*", "per_try_timeout_s": per_try_timeout_s}
    for at in range(clients):
        sim.add_client(Config(retry=retry, **config), zone=zones[at % len(zones)])
    sim.poisson(rate_per_s if rate_per_s is not None else load * n * workers / MEAN_S, work, deadline_s=deadline_s)
    return Scene(sim, pods)


def _share(sent: list[Sent], address: str, since_s: float, length_s: float) -> float:
    part = [one.address for one in sent if since_s <= one.at_s < since_s + length_s]
    return part.count(address) / len(part)


@dataclass
class Figures:
    """Of one run. ``share`` is that of the broken pods from one second after the fault's begin to its end; ``relapses`` counts the
    windows of that time in which they had more than half of their fair share."""

    name: str
    record: Record
    scene: Scene

    @property
    def during(self) -> Record:
        return self.record.between(FAULT_S, HEALED_S)

    @property
    def share(self) -> float:
        return self.record.between(FAULT_S + 1.0, HEALED_S).share(self.scene.hit_addresses)

    @property
    def fair(self) -> float:
        return len(self.scene.hit) / len(self.scene.pods)

    @property
    def waited_s(self) -> float:
        """From the end of the fault to the first attempt on a pod that had it: of the client and pod that waited longest."""
        return max((probed_s - HEALED_S for probed_s, _ in self._returns), default=0.0)

    @property
    def recovery_s(self) -> float:
        """From that attempt on until the pod has half of its fair share again, of the slowest client."""
        return max((back_s - probed_s for probed_s, back_s in self._returns), default=0.0)

    @cached_property
    def _returns(self) -> list[tuple[float, float]]:
        """For each client and broken pod: first attempt after the end of the fault, and the begin of a second (longer where fewer than 15
        calls would fall into it) in which the pod has its share."""
        returns, after, pods = [], self.record.between(HEALED_S), len(self.scene.pods)
        for client in range(len(self.scene.sim.clients)) if self.scene.hit else ():
            sent = after.of(client).attempts
            length_s = max(1.0, 15.0 * pods * (END_S - HEALED_S) / max(len(sent), 1))
            for address in self.scene.hit_addresses:
                first_s = [one.at_s for one in sent if one.address == address]
                starts_s = [at_s for at_s in first_s if at_s < END_S - length_s]
                back_s = (at_s for at_s in starts_s if _share(sent, address, at_s, length_s) >= 0.5 / pods)
                returns.append((next(iter(first_s), END_S), next(back_s, END_S)))
        return returns

    @property
    def ejections(self) -> int:
        """Of all clients, repeated ones included."""
        said = [client.pool.describe().get("outlier", {}) for client in self.scene.sim.clients]
        return sum(sum(one.get("ejections", {}).values()) for one in said)

    @property
    def relapses(self) -> int:
        windows = int((HEALED_S - FAULT_S - 1.0) / WINDOW_S)
        starts = [FAULT_S + 1.0 + WINDOW_S * at for at in range(windows)]
        return sum(self.record.between(at_s, at_s + WINDOW_S).share(self.scene.hit_addresses) > 0.5 * self.fair for at_s in starts)

    def row(self) -> str:
        before, during = self.record.between(0.0, FAULT_S), self.during
        return (
            f"{self.name:<44} {len(during.calls):>7} {self.record.failed:>7} {during.extra_ratio:>7.2%} {self.share:>8.3%} "
            f"{self.fair:>6.1%} {self.waited_s:>6.2f} {self.recovery_s:>6.2f} {self.relapses:>5} "
            f"{self.record.between(HEALED_S).failed:>6} {before.latency_s(0.99) * 1e3:>7.0f} {during.latency_s(0.99) * 1e3:>7.0f} {during.latency_s(0.999) * 1e3:>7.0f}"
        )


HEAD = (
    f"{'scenario':<44} {'calls':>7} {'failed':>7} {'extra':>7} {'share':>8} {'fair':>6} {'probe':>6} {'back s':>6} {'again':>5} {'later':>6} "
    f"{'p99 was':>7} {'p99 ms':>7} {'p99.9':>7}"
)


Break = tuple[Callable[[Server], None], Callable[[Server], None]]


def fails_fast(ratio: float = 1.0) -> Break:
    return lambda pod: pod.fail(ratio), Server.heal


def slow(times: float) -> Break:
    return lambda pod: pod.set_speed(1.0 / times), lambda pod: pod.set_speed(1.0)


FROZEN: Break = (Server.freeze, Server.thaw)
VANISHED: Break = (Server.vanish, Server.reappear)


def hit_of(hit: int, of: int, by: Break, **kind: Any) -> Scene:
    """The first ``hit`` of the pods break, and heal."""
    scene = fleet(of, **kind)
    scene.hit = scene.pods[:hit]
    for pod in scene.hit:
        scene.sim.at(FAULT_S, by[0], pod)
        scene.sim.at(HEALED_S, by[1], pod)
    return scene


def rolling_restart(**kind: Any) -> Scene:
    """Each of 5 pods in turn, every 2 s: a new one comes up cold, and 1 s later the old one stops without a word. Discovery says so half
    a second after that."""
    scene = fleet(5, **kind)
    sim = scene.sim

    def replace(old: Server) -> None:
        new = sim.start(workers=WORKERS)
        new.warm_up(2.0)
        sim.announce()
        sim.events.after(1.0, lambda: sim.take_out(old, told_after_s=0.5))

    for at, pod in enumerate(scene.pods):
        sim.at(FAULT_S + 2.0 * at, replace, pod)
    return scene


def half_a_zone(by: Break, **kind: Any) -> Scene:
    """Twelve pods and six clients in three zones; two of the four pods of the first zone break."""
    scene = fleet(12, clients=6, zones="abc", **kind)
    scene.hit = scene.pods[0:6:3]
    for pod in scene.hit:
        scene.sim.at(FAULT_S, by[0], pod)
        scene.sim.at(HEALED_S, by[1], pod)
    return scene


def stalled_clients(deaf: bool, **kind: Any) -> Scene:
    """Nothing is wrong with the pods; both clients, each with some 25 calls in flight, stand still for three deadlines, one for half a
    second more."""
    scene = fleet(5, **{"clients": 2, "rate_per_s": 1000.0, "work": exponential(0.05), "workers": 100, **kind})
    for client, at_s, length_s in [(0, FAULT_S, 3.0), (1, FAULT_S + 1.0, 3.0), (0, FAULT_S + 5.0, 0.5)]:
        scene.sim.at(at_s, partial(scene.sim.clients[client].stall, length_s, deaf=deaf))
    return scene


SCENARIOS: dict[str, Callable[..., Scene]] = {
    "one of 2 fails fast": partial(hit_of, 1, 2, fails_fast()),
    "one of 3 fails fast": partial(hit_of, 1, 3, fails_fast()),
    "one of 5 fails fast": partial(hit_of, 1, 5, fails_fast()),
    "one of 10 fails fast": partial(hit_of, 1, 10, fails_fast()),
    "one of 100 fails fast": partial(hit_of, 1, 100, fails_fast(), load=0.05),
    "one of 1000 fails fast": partial(hit_of, 1, 1000, fails_fast(), load=0.005, clients=2),
    "two of 3 fail fast": partial(hit_of, 2, 3, fails_fast(), load=0.2),
    "two of 5 fail fast": partial(hit_of, 2, 5, fails_fast()),
    "two of 10 fail fast": partial(hit_of, 2, 10, fails_fast()),
    "six of 10 fail fast": partial(hit_of, 6, 10, fails_fast()),
    "one of 2 fails 30 %": partial(hit_of, 1, 2, fails_fast(0.3)),
    "one of 2 fails 60 %": partial(hit_of, 1, 2, fails_fast(0.6)),
    "one of 3 fails 30 %": partial(hit_of, 1, 3, fails_fast(0.3)),
    "one of 3 fails 60 %": partial(hit_of, 1, 3, fails_fast(0.6)),
    "one of 10 fails 30 %": partial(hit_of, 1, 10, fails_fast(0.3)),
    "one of 10 fails 60 %": partial(hit_of, 1, 10, fails_fast(0.6)),
    "one of 5 is 10x slow": partial(hit_of, 1, 5, slow(10.0)),
    "one of 5 is 10x slow, per try 400 ms": partial(hit_of, 1, 5, slow(10.0), per_try_timeout_s=0.4),
    "one of 5 is frozen": partial(hit_of, 1, 5, FROZEN),
    "one of 5 is frozen, per try 400 ms": partial(hit_of, 1, 5, FROZEN, per_try_timeout_s=0.4),
    "one of 5 has vanished": partial(hit_of, 1, 5, VANISHED),
    "one of 5 has vanished, per try 400 ms": partial(hit_of, 1, 5, VANISHED, per_try_timeout_s=0.4),
    "one of 5 has vanished, deadline 10 s": partial(hit_of, 1, 5, VANISHED, deadline_s=10.0),
    "all of 5 fail": partial(hit_of, 5, 5, fails_fast()),
    "all of 5 fail 20 %": partial(hit_of, 5, 5, fails_fast(0.2)),
    "all of 5 are 10x slow": partial(hit_of, 5, 5, slow(10.0), load=0.08),
    "all of 5 are frozen": partial(hit_of, 5, 5, FROZEN),
    "rolling restart of 5 without preStop": rolling_restart,
    "half a zone of 3 fails": partial(half_a_zone, fails_fast()),
    "half a zone of 3 fails, locality prefer": partial(half_a_zone, fails_fast(), locality="prefer"),
    "half a zone of 3 is frozen, 400 ms, prefer": partial(half_a_zone, FROZEN, locality="prefer", per_try_timeout_s=0.4),
    "one of 3 fails fast, the rest is full": partial(hit_of, 1, 3, fails_fast(), load=0.75),
    "five of 10 fail fast, the rest is full": partial(hit_of, 5, 10, fails_fast(), load=0.6),
    "both clients stall": partial(stalled_clients, False),
    "both clients stall, transport too": partial(stalled_clients, True),
}


def played(name: str, **kind: Any) -> Figures:
    """One row of the table."""
    scene = SCENARIOS[name](**kind)
    return Figures(name, scene.sim.run(END_S), scene)


def main(words: list[str]) -> None:
    """``words``: the modes of ``outlier`` to compare, and parts of the names wanted."""
    modes = [word for word in words if word in MODES] or ["on", "envoy"]
    wanted = [word for word in words if word not in MODES]
    print(f"seed={SEED}\n{HEAD}")
    for name in SCENARIOS:
        if not wanted or any(word in name for word in wanted):
            for mode in modes:
                print(f"{played(name, outlier=mode).row()} {mode}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
