"""The Deployment of a fake Service, and the kubelet under it: keeps the wanted number of pod processes of the wanted version.

`Deployment.reconcile` compares what is there with what is wanted and takes the next steps; it runs after every change, so scaling
during a rolling update, or a kill during either, needs no case of its own. Steps take their time in one task a pod.

A pod ends as on a real node: it is marked terminating (not ready, still serving) first, then comes preStop, SIGTERM, the grace
period, SIGKILL, and only then does its endpoint go. A pod whose process dies is noticed after a while, turns not ready, and is
replaced.

Deviations: the grace period counts from SIGTERM, not from the deletion, so that preStop does not use it up. A crashed container
is replaced by a new pod, not restarted in place. A failed start is an error for whoever waits, not a back-off.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from meshlb.testing.errors import FakeClusterError
from meshlb.testing.pod import Pod

OnSigterm = Literal["graceful", "stop", "exit"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """What is wanted. ``revision`` tells pods of an older template from those of this one."""

    replicas: int
    revision: int
    version: str
    ports: Mapping[str, int]
    prestop_s: float
    grace_s: float
    max_surge: int = 1
    max_unavailable: int = 0

    def __post_init__(self) -> None:
        for name in ("replicas", "prestop_s", "grace_s", "max_surge", "max_unavailable"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be >= 0")
        if self.max_surge == 0 and self.max_unavailable == 0:
            raise ValueError("max_surge=0, max_unavailable=0: one must be > 0, or no pod could ever be replaced")


class Deployment:
    """Belongs to the cluster's loop, all of it. ``publish(readiness_changed)`` writes the endpoints to the API."""

    def __init__(
        self,
        wanted: Rollout,
        *,
        new_pod: Callable[[Rollout], Pod],
        start_process: Callable[[Pod], None],
        publish: Callable[[bool], None],
        restart: bool,
        node_notice_s: float,
    ) -> None:
        self.wanted = wanted
        self.pods: dict[str, Pod] = {}
        self._new_pod = new_pod
        self._start_process = start_process
        self._publish = publish
        self._restart = restart
        self._node_notice_s = node_notice_s
        self._changed = asyncio.Event()
        self._failure: FakeClusterError | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def want(self, wanted: Rollout) -> None:
        """Change what is wanted and begin to get there."""
        self._failure = None
        self.wanted = wanted
        self.reconcile()

    @property
    def settled(self) -> bool:
        """Whether everything is as wanted: the right pods, all ready, nothing ending or starting."""
        right = [pod for pod in self.pods.values() if pod.revision == self.wanted.revision and pod.ready]
        return len(right) == len(self.pods) == self.wanted.replicas

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return once the condition holds. Raises `FakeClusterError` if a pod could not start meanwhile."""
        while not condition():
            if self._failure is not None:
                raise self._failure
            await self._changed.wait()

    def pods_changed(self, readiness_changed: bool) -> None:
        """Publish the pods as they are now, take the next steps, wake who waits."""
        self._publish(readiness_changed)
        self.reconcile()

    def reconcile(self) -> None:
        """Take every step that can be taken now."""
        wanted = self.wanted
        live = [pod for pod in self.pods.values() if not pod.terminating and not (pod.failed and self._restart)]
        new = [pod for pod in live if pod.revision == wanted.revision]
        old = [pod for pod in live if pod.revision != wanted.revision]

        room = wanted.replicas + wanted.max_surge - len(live)
        started = min(wanted.replicas - len(new), room) if self._failure is None else 0
        self._start(wanted, started)

        ready = sum(pod.ready for pod in live)
        spare = ready - (wanted.replicas - wanted.max_unavailable)
        surplus = _least_wanted_first(new)[: max(0, len(new) - wanted.replicas)]
        spare -= sum(pod.ready for pod in surplus)
        unready = [pod for pod in old if not pod.ready]
        ending = [*surplus, *unready, *[pod for pod in old if pod.ready][: max(0, spare)]]
        if ready >= wanted.replicas:  # a failed pod stays in sight, not ready, until it has been replaced
            ending += [pod for pod in self.pods.values() if pod.failed and self._restart and not pod.terminating]
        for pod in ending:
            pod.terminating = True
        for pod in ending:
            self._spawn(self._end(pod, wanted))

        if started > 0 or ending:
            self._publish(False)
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """End every process now."""
        for task in self._tasks:
            task.cancel()
        processes = [pod.process for pod in self.pods.values() if pod.process is not None]
        for process in processes:
            process.signal(signal.SIGKILL)
        for process in processes:
            process.reap()
        self.pods.clear()

    def _start(self, wanted: Rollout, count: int) -> None:
        for _ in range(count):
            try:
                pod = self._new_pod(wanted)
                self._start_process(pod)
            except (FakeClusterError, OSError) as error:
                self._failure = FakeClusterError(f"no pod could be started: {error}")
                return
            self.pods[pod.name] = pod
            self._spawn(self._run(pod))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, pod: Pod) -> None:
        """A pod's life up to its natural end; `_end` takes over when it is deleted."""
        assert pod.process is not None
        try:
            await pod.process.listening
        except FakeClusterError as error:
            if not pod.terminating:
                self._failure = FakeClusterError(f"pod {pod.name} did not start: {error}")
                del self.pods[pod.name]
                self.pods_changed(False)
            return
        pod.listening = True
        self.pods_changed(True)
        await pod.process.ended
        await asyncio.sleep(self._node_notice_s)
        if not pod.terminating:
            pod.failed = True
            self.pods_changed(True)

    async def _end(self, pod: Pod, wanted: Rollout) -> None:
        process = pod.process
        assert process is not None
        await _wait_for(process.ended, wanted.prestop_s)
        process.signal(signal.SIGTERM)
        await _wait_for(process.ended, wanted.grace_s)
        process.signal(signal.SIGKILL)
        await process.ended
        del self.pods[pod.name]
        self.pods_changed(False)


async def _wait_for(ended: asyncio.Future[int], timeout_s: float) -> None:
    if timeout_s > 0:
        await asyncio.wait([ended], timeout=timeout_s)


def _least_wanted_first(pods: list[Pod]) -> list[Pod]:
    """Whom a ReplicaSet deletes first: pods that are not ready, then the youngest."""
    youngest_first = list(reversed(pods))
    youngest_first.sort(key=lambda pod: pod.ready)
    return youngest_first


def next_revision(wanted: Rollout, **changes: object) -> Rollout:
    return replace(wanted, revision=wanted.revision + 1, **changes)  # type: ignore[arg-type]
