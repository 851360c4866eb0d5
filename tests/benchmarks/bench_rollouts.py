"""Failed calls in rolling updates and kills under load: each form several times, sync and asyncio.

``python -m tests.benchmarks.bench_rollouts [--times N]``. Forms: graceful with preStop; SIGTERM graceful without it; a server that
stops at once on SIGTERM; hard exit on SIGTERM; ``kill -9``. In the hard forms a call that was in flight on the dying pod's connection may fail; such calls are counted apart: a failure
belongs to them if meshlb says that it was sent to a pod which died while the call ran.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

import meshlb
import meshlb.grpc
import meshlb.grpc.aio
from meshlb._proto import echo_pb2, echo_pb2_grpc
from meshlb.mesh import Mesh
from meshlb.testing import FakeCluster, FakeService
from tests.benchmarks import common

THREADS = TASKS = 6
REQUEST = echo_pb2.EchoRequest(payload="x", delay_s=0.005)  # long enough that a dying pod always has some in flight


@dataclass
class Tally:
    """What one client of one run saw: how many calls, and each failure with the pod it was sent to."""

    calls: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    def note(self, error: grpc.RpcError) -> None:
        endpoint = meshlb.grpc.endpoint_of(error)
        self.failures.append((endpoint.address if endpoint is not None else "", f"{endpoint}: {error}"))

    def lost(self, hard: bool, alive: set[str]) -> list[str]:
        """The failures that were not in flight on a pod that died hard. ``alive``: addresses of the pods that are there at the end."""
        return [
            words for address, words in self.failures if not (hard and address and address not in alive and not _never_sent(words))
        ]


def _never_sent(words: str) -> bool:
    return "failed to connect" in words or "connections to all backends failing" in words


def load_sync(channel: grpc.Channel, ended: threading.Event, tally: Tally) -> None:
    stub = echo_pb2_grpc.EchoStub(channel)

    def work() -> None:
        while not ended.is_set():
            try:
                stub.Get(REQUEST, timeout=10)
            except grpc.RpcError as error:
                tally.note(error)
            tally.calls += 1

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def load_async(mesh: Mesh, ended: threading.Event, tally: Tally) -> None:
    async def work(stub: object) -> None:
        while not ended.is_set():
            try:
                await stub.Get(REQUEST, timeout=10)  # type: ignore[attr-defined]
            except grpc.RpcError as error:
                tally.note(error)
            tally.calls += 1

    async def run() -> None:
        async with meshlb.grpc.aio.insecure_channel("orders.shop:grpc", mesh=mesh) as channel:
            stub = echo_pb2_grpc.EchoStub(channel)
            await asyncio.gather(*(work(stub) for _ in range(TASKS)))

    asyncio.run(run())


def play(on_sigterm: str, act: Callable[[FakeService], object]) -> tuple[dict[str, Tally], set[str]]:
    tallies = {"sync": Tally(), "asyncio": Tally()}
    with FakeCluster(namespace="shop") as cluster:
        orders = cluster.service("orders", replicas=3, on_sigterm=on_sigterm)
        config = meshlb.Config(
            discovery={"kubeconfig": cluster.kubeconfig, "nameservers": [cluster.nameserver], "resolv_conf": cluster.resolv_conf}
        )
        ended = threading.Event()
        with Mesh(config) as mesh, meshlb.grpc.insecure_channel("orders.shop:grpc", mesh=mesh) as channel:
            loads = [
                threading.Thread(target=load_sync, args=(channel, ended, tallies["sync"])),
                threading.Thread(target=load_async, args=(mesh, ended, tallies["asyncio"])),
            ]
            for one in loads:
                one.start()
            time.sleep(1.0)
            act(orders)
            time.sleep(0.5)
            ended.set()
            for one in loads:
                one.join()
        return tallies, {pod.address for pod in orders.ready_pods}


FORMS: dict[str, tuple[str, bool, Callable[[FakeService], object]]] = {
    "rolling, preStop": ("graceful", False, lambda orders: orders.rolling_update(prestop_s=0.5, grace_s=5)),
    "rolling, SIGTERM graceful": ("graceful", False, lambda orders: orders.rolling_update(grace_s=5)),
    "rolling, server.stop at once": ("stop", True, lambda orders: orders.rolling_update(grace_s=5)),
    "rolling, hard exit": ("exit", True, lambda orders: orders.rolling_update(grace_s=5)),
    "kill -9": ("graceful", True, lambda orders: (orders.pods[0].kill(), time.sleep(0.2), orders.wait_ready())),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--form", choices=list(FORMS))
    arguments = parser.parse_args()
    rows = []
    for name, (on_sigterm, hard, act) in FORMS.items():
        if arguments.form not in (None, name):
            continue
        runs = [play(on_sigterm, act) for _ in range(arguments.times)]
        for mode in ("sync", "asyncio"):
            calls = sum(tallies[mode].calls for tallies, _ in runs)
            failures = sum(len(tallies[mode].failures) for tallies, _ in runs)
            lost = [words for tallies, alive in runs for words in tallies[mode].lost(hard, alive)]
            rows.append((name, mode, str(calls), str(len(lost)), str(failures - len(lost))))
            for words in lost[:3]:
                print(f"LOST in {name}, {mode}: {words}")
    common.table((f"{arguments.times} times each", "client", "calls", "failed", "in flight on the dying pod"), rows)


if __name__ == "__main__":
    main()
