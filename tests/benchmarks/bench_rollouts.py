"""Failed calls in rolling updates and kills under load: each form several times, sync and asyncio.

``python -m tests.benchmarks.bench_rollouts [--times N]``. Forms: graceful with preStop; SIGTERM graceful without it; hard exit on SIGTERM;
``kill -9``. In the hard forms a call that was in flight on the dying pod's connection may fail; such calls are counted apart: a failure
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
    """What one run saw; ``lost`` failed without having been in flight on a dying pod."""

    calls: int = 0
    in_flight: int = 0
    lost: list[str] = field(default_factory=list)


class Judge:
    """Knows the addresses of pods that are gone or going, hard."""

    def __init__(self, service: FakeService, hard: bool) -> None:
        self.service = service
        self.hard = hard

    def note(self, tally: Tally, error: grpc.RpcError) -> None:
        endpoint = meshlb.grpc.endpoint_of(error)
        died = endpoint is not None and endpoint.address not in {pod.address for pod in self.service.ready_pods}
        never_sent = "failed to connect" in str(error) or "connections to all backends failing" in str(error)
        if self.hard and died and not never_sent:
            tally.in_flight += 1
        else:
            tally.lost.append(f"{endpoint}: {error}")


def load_sync(channel: grpc.Channel, ended: threading.Event, judge: Judge, tally: Tally) -> None:
    stub = echo_pb2_grpc.EchoStub(channel)

    def work() -> None:
        while not ended.is_set():
            try:
                stub.Get(REQUEST, timeout=10)
            except grpc.RpcError as error:
                judge.note(tally, error)
            tally.calls += 1

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def load_async(mesh: Mesh, ended: threading.Event, judge: Judge, tally: Tally) -> None:
    async def work(stub: object) -> None:
        while not ended.is_set():
            try:
                await stub.Get(REQUEST, timeout=10)  # type: ignore[attr-defined]
            except grpc.RpcError as error:
                judge.note(tally, error)
            tally.calls += 1

    async def run() -> None:
        async with meshlb.grpc.aio.insecure_channel("orders.shop:grpc", mesh=mesh) as channel:
            stub = echo_pb2_grpc.EchoStub(channel)
            await asyncio.gather(*(work(stub) for _ in range(TASKS)))

    asyncio.run(run())


def play(on_sigterm: str, hard: bool, act: Callable[[FakeService], object]) -> dict[str, Tally]:
    tallies = {"sync": Tally(), "asyncio": Tally()}
    with FakeCluster(namespace="shop") as cluster:
        orders = cluster.service("orders", replicas=3, on_sigterm=on_sigterm)
        config = meshlb.Config(
            discovery={"kubeconfig": cluster.kubeconfig, "nameservers": [cluster.nameserver], "resolv_conf": cluster.resolv_conf}
        )
        judge, ended = Judge(orders, hard), threading.Event()
        with Mesh(config) as mesh, meshlb.grpc.insecure_channel("orders.shop:grpc", mesh=mesh) as channel:
            loads = [
                threading.Thread(target=load_sync, args=(channel, ended, judge, tallies["sync"])),
                threading.Thread(target=load_async, args=(mesh, ended, judge, tallies["asyncio"])),
            ]
            for one in loads:
                one.start()
            time.sleep(1.0)
            act(orders)
            time.sleep(0.5)
            ended.set()
            for one in loads:
                one.join()
    return tallies


FORMS: dict[str, tuple[str, bool, Callable[[FakeService], object]]] = {
    "rolling, preStop": ("graceful", False, lambda orders: orders.rolling_update(prestop_s=0.5, grace_s=5)),
    "rolling, SIGTERM graceful": ("graceful", False, lambda orders: orders.rolling_update(grace_s=5)),
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
        runs = [play(on_sigterm, hard, act) for _ in range(arguments.times)]
        for mode in ("sync", "asyncio"):
            tallies = [run[mode] for run in runs]
            lost = [words for tally in tallies for words in tally.lost]
            rows.append((name, mode, str(sum(t.calls for t in tallies)), str(len(lost)), str(sum(t.in_flight for t in tallies))))
            for words in lost[:3]:
                print(f"LOST in {name}, {mode}: {words}")
    common.table((f"{arguments.times} times each", "client", "calls", "failed", "in flight on the dying pod"), rows)


if __name__ == "__main__":
    main()
