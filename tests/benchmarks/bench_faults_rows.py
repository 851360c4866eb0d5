"""The faults, as rows: how many pods, what becomes of the first of them, for how long, and how it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.benchmarks.bench_faults_network import OtherHost
from tests.support.faulty_pods import Pod
from tests.support.faulty_world import World

ZONES = ("zone-a", "zone-b", "zone-c")  # the callers' own first


@dataclass(frozen=True, kw_only=True)
class Row:
    """``faulty``: how many of the pods, the first ones. ``begin`` and ``end`` act on the world, and may take their time."""

    pods: int
    faulty: int
    begin: Callable[[World, OtherHost | None], object]
    end: Callable[[World, OtherHost | None], object]
    lasts_s: float = 4.0
    work_s: float = 0.005
    zones: tuple[str, ...] = ()
    counts: bool = True  # the faulty pods count what is sent to them
    fast: bool = False
    survivors: bool = True
    replaces: bool = False  # they do not come back; others take their place
    apart: bool = False  # needs a network of its own, in which the first pod is another host

    def awaited(self, made: World) -> tuple[set[str], float]:
        """The pods whose return ends the fault, and their fair share."""
        names = {pod.name for pod in (made.pods[self.pods :] if self.replaces else made.pods[: self.faulty])}
        return names, len(names) / self.pods


# --- the faults -------------------------------------------------------------------------------------------------------------------


def each(count: int, act: Callable[[Pod], object]) -> Callable[[World, OtherHost | None], None]:
    def on_the_first(made: World, other: OtherHost | None) -> None:
        for pod in made.pods[:count]:
            act(pod)

    return on_the_first


def vanish(made: World, other: OtherHost | None) -> None:
    assert other is not None
    other.vanish()


def come_back(made: World, other: OtherHost | None) -> None:
    assert other is not None
    other.come_back()


def replace_dead(made: World, other: OtherHost | None) -> None:
    """What a cluster does about pods that died: new ones, and the old are listed no more."""
    dead = [pod for pod in made.pods if not pod.alive]
    made.pods += [Pod(f"new-{old.name}", zone=old.zone, work_s=old.work_s) for old in dead]
    made.remove(*dead)


def restart_all(made: World, other: OtherHost | None) -> None:
    for old in list(made.pods):
        made.restart(old, Pod(f"new-{old.name}", work_s=old.work_s))
        time.sleep(0.2)  # the pace of a rollout


def nothing(made: World, other: OtherHost | None) -> None:
    """Over already."""


ROWS: dict[str, Row] = {
    "one of ten fails fast": Row(pods=10, faulty=1, begin=each(1, Pod.fail), end=each(1, Pod.heal), fast=True),
    "one of five 10x slow": Row(
        pods=5, faulty=1, begin=each(1, lambda pod: pod.slow(10 * pod.work_s)), end=each(1, Pod.heal), work_s=0.02
    ),
    "two pods, one broken": Row(pods=2, faulty=1, begin=each(1, Pod.fail), end=each(1, Pod.heal), fast=True),
    "all fail for 10 s": Row(pods=5, faulty=5, begin=each(5, Pod.fail), end=each(5, Pod.heal), lasts_s=10.0, survivors=False),
    "one of five frozen": Row(pods=5, faulty=1, begin=each(1, Pod.freeze), end=each(1, Pod.thaw), lasts_s=6.0, counts=False),
    "one of five vanished": Row(pods=5, faulty=1, begin=vanish, end=come_back, lasts_s=6.0, counts=False, apart=True),
    "rolling restart, no preStop": Row(pods=6, faulty=0, begin=restart_all, end=nothing, lasts_s=0.5),
    "own of three zones half down": Row(pods=12, faulty=2, begin=each(2, Pod.kill), end=replace_dead, zones=ZONES, replaces=True),
}
