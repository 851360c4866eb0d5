"""Calls survive what happens to pods: real servers in processes of their own, callers in threads and in asyncio, counts instead of times.

The long form, with times and beside a real Envoy, is tests/benchmarks/bench_faults.py; there a pod also vanishes from the network.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest

from tests.support.channels import eventually
from tests.support.faulty_pods import Pod, method
from tests.support.faulty_world import TARGET, World, world
from tests.support.programs import client_config
from tests.support.steady_load import ARMS, Ended, Load

RATE = 150.0
TRY_S = 0.25  # how long one try of a read may take, where a pod may be silent
DEADLINE_S = 10.0  # of calls, where none may be: a busy machine is no fault
OUT_S = 0.4  # no ejection is longer, none is shorter than half of it
PATIENCE_S = 20.0
IN_FLIGHT = 10  # calls that are counted at one end and not at the other
ZONES = ("zone-a", "zone-b", "zone-c")


class Faults:
    """A world under steady traffic from both kinds of callers, each with a mesh of its own."""

    def __init__(self, made: World, load: Load) -> None:
        self.world = made
        self.load = load
        self.arms = tuple(load.ended)

    def go_on(self, calls: int = 100) -> float:
        """Until so many calls of each kind began from now on and ended; returns when "now" was."""
        start_s = time.monotonic()
        self._until(lambda arm: len(self.since(arm, start_s)) >= calls, f"{calls} more calls of each kind")
        return start_s

    def since(self, arm: str, start_s: float) -> list[Ended]:
        return [call for call in list(self.load.ended[arm]) if call.due_s >= start_s]

    def failed(self, arm: str, start_s: float = 0.0, *, read: bool) -> list[Ended]:
        return [call for call in self.since(arm, start_s) if call.error and call.read is read]

    def said(self, arm: str, pod: Pod) -> dict[str, Any]:
        """What ``status()`` says of it; empty while the arm does not know it by its uid, so from the API."""
        return next((said for said in self.load.endpoints(arm) if said["uid"] == pod.uid), {})

    def pool(self, arm: str) -> dict[str, Any]:
        return dict(next(iter(self.load.meshes[arm].status()["pools"].values())))

    def attempts(self, arm: str, pods: Sequence[Pod] | None = None) -> int:
        return sum(pod.attempts(ARMS.index(arm)) for pod in (self.world.pods if pods is None else pods))

    def await_ejected(self, pod: Pod) -> None:
        self._until(lambda arm: self.said(arm, pod)["state"] == "ejected", f"{pod.name} is ejected")

    def assert_one_call_brings_it_back(self, pod: Pod, heal: Callable[[Pod], object]) -> None:
        """Nothing else is sent meanwhile: one of the next reads goes to it, and it is as good as the others."""
        self.load.stop()
        heal(pod)
        for arm in self.arms:
            eventually(functools.partial(self._due, arm, pod), f"{pod.name} is due for a probe: {self.said(arm, pod)}", PATIENCE_S)
            before = self.attempts(arm, [pod])
            served = (self.load.call(arm).pod for _ in range(3 * len(self.world.pods) + 1))  # a probe waits for picks, too
            assert pod.name in served
            assert self.attempts(arm, [pod]) == before + 1
            assert self.said(arm, pod)["state"] == "usable"
        self.load.start()
        before_all = {arm: self.attempts(arm, [pod]) for arm in self.arms}
        self._until(lambda arm: self.attempts(arm, [pod]) >= before_all[arm] + 5, f"{pod.name} serves again")

    def assert_idle(self) -> None:
        def in_flight(arm: str) -> int:
            return sum(said["in_flight"] + said["streams"] for said in self.load.endpoints(arm))

        self._until(lambda arm: in_flight(arm) == 0, "nothing is in flight")
        assert all(mesh.status()["internal_errors"] == {} for mesh in self.load.meshes.values())

    def probing(self, arm: str, count: int) -> bool:
        """So many wait for a probe, and pickers know it."""
        return [view["probing"] for view in self.pool(arm)["views"]] == [count]

    def _due(self, arm: str, pod: Pod) -> bool:
        return self.probing(arm, 1) and self.said(arm, pod)["connections"] == ["ready"]

    def _until(self, is_so: Callable[[str], bool], what: str) -> None:
        eventually(lambda: all(is_so(arm) for arm in self.arms), what, PATIENCE_S)


@contextlib.contextmanager
def faults(
    count: int,
    *,
    work_s: float = 0.002,
    zones: Sequence[str] = ("",),
    try_s: float = 0.0,
    deadline_s: float = DEADLINE_S,
    **settings: Any,
) -> Iterator[Faults]:
    """So many pods, all in use by both callers; at the end nothing is in flight. Zones in turn; the callers are in the first."""

    def config_of(arm: int) -> Any:
        retry = {"methods": {method(arm, "Read"): {"idempotent": True, "per_try_timeout_s": try_s}}}
        outlier = {"base_ejection_s": OUT_S, "max_ejection_s": OUT_S}
        zone = {"zone": zones[0]} if zones[0] else {}
        return client_config(made.cluster, settings={"retry": retry, "outlier": outlier, **settings}, **zone)

    started = (Pod(f"pod-{number}", work_s=work_s, zone=zones[number % len(zones)]) for number in range(count))
    with world(started) as made, Load(TARGET, config_of, rate=RATE, deadline_s=deadline_s) as load:
        load.start()
        running = Faults(made, load)
        eventually(lambda: all(_served(running, arm) for arm in running.arms), "every pod serves both", PATIENCE_S)
        yield running
        load.stop()
        running.assert_idle()


def _served(running: Faults, arm: str) -> bool:
    served = {call.pod for call in running.since(arm, 0.0)}
    own = {pod.name for pod in running.world.pods if pod.zone in ("", ZONES[0])}
    return served >= own and all(running.said(arm, pod).get("connections") == ["ready"] for pod in running.world.pods)


@pytest.mark.parametrize("count", [10, 2], ids=["one of ten", "one of two"])
def test_a_pod_that_fails_fast_is_left_alone_until_one_call_brings_it_back(count: int) -> None:
    """No read fails; once it is ejected it gets its probes and nothing else, and the first that succeeds is the last."""
    with faults(count) as running:
        pod = running.world.pods[0]
        pod.fail()
        running.await_ejected(pod)
        before = {arm: running.attempts(arm, [pod]) for arm in running.arms}
        start_s = running.go_on(150)
        probes = math.ceil((time.monotonic() - start_s) / (OUT_S / 2)) + 1
        assert all(running.attempts(arm, [pod]) - before[arm] <= probes for arm in running.arms)
        running.assert_one_call_brings_it_back(pod, Pod.heal)
    for arm in running.arms:
        assert running.failed(arm, read=True) == []
        assert len(running.failed(arm, read=False)) <= 15


def test_a_call_risks_one_probe_at_the_most() -> None:
    """Two of four are out and due: a read that was the probe of one goes on to a pod that works, not to the other."""
    with faults(4) as running:
        broken = running.world.pods[:2]
        for pod in broken:
            pod.fail()
            running.await_ejected(pod)
        running.load.stop()
        for arm in running.arms:
            eventually(functools.partial(running.probing, arm, 2), f"both are due: {running.pool(arm)}", PATIENCE_S)
            before = running.attempts(arm, broken)
            for _ in range(3 * 4 + 1):  # a probe waits for picks, too
                assert running.load.call(arm).error == ""
                if running.attempts(arm, broken) > before:
                    break
            assert running.attempts(arm, broken) == before + 1


def test_a_slow_pod_gets_less_and_is_not_ejected() -> None:
    """Ten times slower than the other four: nothing fails, and it has less than its share."""
    with faults(5, work_s=0.01) as running:
        slow = running.world.pods[0]
        slow.slow(0.1)
        before = {arm: running.attempts(arm, [slow]) for arm in running.arms}
        start_s = running.go_on(200)
        for arm in running.arms:
            calls = len(running.since(arm, start_s))
            assert running.attempts(arm, [slow]) - before[arm] < calls / 5
            assert running.said(arm, slow)["state"] == "usable"
    assert all(call.error == "" for arm in running.arms for call in running.load.ended[arm])


def test_when_all_fail_the_load_stays_and_the_first_good_moment_serves() -> None:
    """Ejection steps back, retries stay within the budget, and no call fails that began after the pods were well again."""
    with faults(3) as running:
        before = {arm: (running.attempts(arm), len(running.load.ended[arm])) for arm in running.arms}
        for pod in running.world.pods:
            pod.fail()
        start_s = running.go_on(200)
        for arm in running.arms:
            calls = len(running.load.ended[arm])
            retries = running.attempts(arm) - before[arm][0] - (calls - before[arm][1])
            assert retries <= 0.2 * (calls + IN_FLIGHT) + 10 * 10 + IN_FLIGHT, "the budget of the last ten seconds"
            assert all(call.error for call in running.since(arm, start_s)[5:100])
        for pod in running.world.pods:
            pod.heal()
        well_s = running.go_on(150)
        for arm in running.arms:
            assert [call for call in running.since(arm, well_s) if call.error] == []
            assert {call.pod for call in running.since(arm, well_s)} == {pod.name for pod in running.world.pods}


def thaw(pod: Pod) -> None:
    """It has worked off what it had been sent, and answers."""
    pod.thaw()
    with grpc.insecure_channel(pod.address) as channel:
        channel.unary_unary(method(len(ARMS), "Read"))(b"", timeout=PATIENCE_S, wait_for_ready=True)


def test_a_frozen_pod_is_left_alone_until_one_call_brings_it_back() -> None:
    """It is connected and silent: each read that it takes goes on elsewhere, and then it takes none."""
    with faults(4, try_s=TRY_S, deadline_s=8 * TRY_S) as running:
        pod = running.world.pods[0]
        pod.freeze()
        running.await_ejected(pod)
        running.go_on(100)
        running.assert_one_call_brings_it_back(pod, thaw)
    for arm in running.arms:
        assert running.failed(arm, read=True) == []


def test_a_rolling_restart_without_prestop_fails_no_read() -> None:
    """Each pod stops taking calls in the moment in which it is marked; what it cut off goes on elsewhere."""
    with faults(3) as running:
        old = list(running.world.pods)
        for pod in old:
            running.world.restart(pod, Pod(f"new-{pod.name}", work_s=pod.work_s))
            running.go_on(20)
        start_s = running.go_on(100)
        for arm in running.arms:
            assert {call.pod for call in running.since(arm, start_s)} == {f"new-{pod.name}" for pod in old}
    for arm in running.arms:
        assert running.failed(arm, read=True) == []


def test_half_of_the_own_zone_dies_and_then_the_rest() -> None:
    """Calls prefer the own zone while it has pods that work, and fail in neither case."""
    with faults(12, zones=ZONES, locality="prefer") as running:
        own = [pod for pod in running.world.pods if pod.zone == ZONES[0]]
        for pod in own[:2]:
            pod.kill()
        start_s = running.go_on(150)
        for arm in running.arms:
            answers = [call.pod for call in running.since(arm, start_s) if call.pod]
            near = sum(answer in {pod.name for pod in own} for answer in answers)
            assert near > len(answers) / 3, "more than a third: what the zone's pods would get if zones did not matter is a fifth"
        for pod in own[2:]:
            pod.kill()
        start_s = running.go_on(100)
        for arm in running.arms:
            assert {call.pod for call in running.since(arm, start_s)[20:]}.isdisjoint(pod.name for pod in own)
    for arm in running.arms:
        assert running.failed(arm, read=True) == []


def test_a_process_that_stands_still_ejects_no_one() -> None:
    """Somebody holds the GIL for longer than a try may take, again and again: that is nobody's fault but ours."""
    stand_still = ctypes.PyDLL(None).usleep
    with faults(3, try_s=TRY_S) as running:
        for _ in range(4):
            stand_still(int(2 * TRY_S * 1e6))
            running.go_on(5)
        running.go_on(50)
        for arm in running.arms:
            assert [said for pod in running.world.pods if (said := running.said(arm, pod))["state"] != "usable"] == []
            assert running.pool(arm)["outlier"]["ejections"] == {}
