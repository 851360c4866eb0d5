"""What the policies benchmark plays: real pods, one of which is odd in most rows, and arms that meet them in turns.

One client a turn, asyncio, Poisson arrivals of one seed a round for all arms. A pod has ``WORKERS`` workers, and a call sleeps there for at
least ``WORK_S``: a machine of two cores cannot hold six busy pods, but it can wake six sleeping ones in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc.aio

import meshlb
import meshlb.grpc.aio
from meshlb.mesh import Mesh
from tests.benchmarks import common
from tests.benchmarks.bench_faults_envoy import sidecar
from tests.support.faulty_pods import Pod, method
from tests.support.steady_load import Ended, called

P2C, ANCHOR, STOCK, ENVOY = ARMS = ("meshlb p2c", "meshlb anchor", "stock round_robin", "Envoy LEAST_REQUEST")
POLICIES: Final = {P2C: "p2c", ANCHOR: "anchor"}

WORK_S, SPREAD, WORKERS = 0.05, 0.5, 4
MEAN_S = WORK_S * 2 * math.exp(SPREAD**2 / 2) * statistics.NormalDist().cdf(SPREAD)  # of a folded log-normal
SLOWER = 4
PAUSE_S, PAUSE_EVERY_S = 0.5, 2.0
EJECTION_S = 1.0  # the first one, in Envoy too, where that is on


def new_pods(count: int) -> Iterator[Pod]:
    return (Pod(f"pod-{number}", work_s=WORK_S, spread=SPREAD, workers=WORKERS) for number in range(count))


def rate_of(count: int, load_ratio: float) -> float:
    """How many calls a second are this much of what so many pods can do."""
    return load_ratio * count * WORKERS / MEAN_S


# --- the rows -------------------------------------------------------------------------------------------------------------------

During = Callable[[Pod, float], Coroutine[Any, Any, None]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """``during``: what becomes of the first pod in each turn of so many seconds; the row heals it at its end. ``ejection``: on, in all arms
    that have one."""

    during: During | None = None
    ejection: bool = False


async def be_slow(pod: Pod, lasts_s: float) -> None:
    """From the first turn to the last: each arm gets to know it once."""
    pod.slow(SLOWER * WORK_S)


async def pause(pod: Pod, lasts_s: float) -> None:
    end_s = time.monotonic() + lasts_s
    while (left_s := end_s - time.monotonic()) > PAUSE_S:
        await asyncio.sleep(min(left_s, PAUSE_EVERY_S) - PAUSE_S)
        pod.freeze()
        try:
            await asyncio.sleep(PAUSE_S)
        finally:
            pod.thaw()


async def fail_fast(pod: Pod, lasts_s: float) -> None:
    """In the middle third."""
    await asyncio.sleep(lasts_s / 3)
    pod.fail()
    try:
        await asyncio.sleep(lasts_s / 3)
    finally:
        pod.heal()


ROWS: Final = {
    "equal pods": Row(),
    "one slow": Row(during=be_slow),
    "one pausing": Row(during=pause),
    "one failing fast": Row(during=fail_fast),
    "one failing fast, ejection on": Row(during=fail_fast, ejection=True),
}


# --- the arms -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """``calls``: those of its turns; ``seen``: how many of them each pod did. ``mesh``: meshlb's arms have one each."""

    name: str
    way: Any
    mesh: Mesh | None
    calls: list[Ended] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    def count(self, pods: Sequence[Pod]) -> Counter[str]:
        return Counter({pod.name: pod.attempts(ARMS.index(self.name)) for pod in pods})

    @property
    def odd_ratio(self) -> float:
        """The first pod's share."""
        return self.seen["pod-0"] / max(1, self.seen.total())


@contextlib.asynccontextmanager
async def arms_of(row: Row, pods: Sequence[Pod], names: Sequence[str] = ARMS) -> AsyncIterator[list[Arm]]:
    """Without Envoy where that is not installed."""
    target = "ipv4:" + ",".join(pod.address for pod in pods)
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for name in names:
            mesh, address, options = None, target, [("grpc.lb_policy_name", "round_robin")]
            if name == ENVOY:
                proxy = stack.enter_context(_envoy(row, pods))
                if proxy is None:
                    continue
                address, options = proxy, []
            if name in POLICIES:
                config = meshlb.Config(policy=POLICIES[name], outlier={"base_ejection_s": EJECTION_S} if row.ejection else "off")
                mesh = stack.enter_context(Mesh(config, environ={}))
                channel = meshlb.grpc.aio.insecure_channel(address, mesh=mesh)
            else:
                channel = grpc.aio.insecure_channel(address, options=options)
            await stack.enter_async_context(channel)
            made.append(Arm(name, channel.unary_unary(method(ARMS.index(name), "Write")), mesh))
        yield made


@contextlib.contextmanager
def _envoy(row: Row, pods: Sequence[Pod]) -> Iterator[str | None]:
    if row.ejection:
        with sidecar(pods, ejection_s=EJECTION_S, try_s=1.0) as proxy:
            yield proxy.address if proxy is not None else None
    else:
        with common.envoy([pod.address for pod in pods]) as address:
            yield address


# --- the turns ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Turns:
    """``rounds`` of them for each arm, each in another order, after one of ``warm_up_s`` on pods that are well; that one is not counted."""

    rounds: int
    turn_s: float
    warm_up_s: float
    rate: float
    deadline_s: float

    async def play(self, row: Row, arms: Sequence[Arm], pods: Sequence[Pod]) -> None:
        for arm in arms:
            await self._turn(arm, None, pods, lasts_s=self.warm_up_s, seed=-1)
            arm.calls.clear()
            arm.seen.clear()
        try:
            for number in range(self.rounds):
                first = number % len(arms)
                for arm in [*arms[first:], *arms[:first]]:
                    await self._turn(arm, row.during, pods, lasts_s=self.turn_s, seed=number)
        finally:
            pods[0].heal()

    async def _turn(
        self,
        arm: Arm,
        during: During | None,
        pods: Sequence[Pod],
        *,
        lasts_s: float,
        seed: int,
    ) -> None:
        """It ends with its last call, so the next arm finds the pods idle."""
        rng, before, begun_s = random.Random(seed), arm.count(pods), time.monotonic()
        tasks = []
        async with asyncio.TaskGroup() as group:
            if during is not None:
                group.create_task(during(pods[0], lasts_s))
            due_s = begun_s + rng.expovariate(self.rate)
            while due_s < begun_s + lasts_s:
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                tasks.append(group.create_task(called(arm.way, due_s, self.deadline_s)))
                due_s += rng.expovariate(self.rate)
        arm.calls.extend(task.result() for task in tasks)
        arm.seen.update(arm.count(pods) - before)
