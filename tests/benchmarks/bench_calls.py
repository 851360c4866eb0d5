"""Client CPU and latency of a unary call: meshlb beside stock channels called in turn by hand, stock round_robin, and an Envoy sidecar.

``python -m tests.benchmarks.bench_calls [--rounds N] [--calls N]``. Interleaved rounds in one process; CPU is the process's own (all
threads), so the server's and Envoy's do not count. The ratio of CPU is to the by-hand arm of the same round, then the median.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import grpc
import grpc.aio

import meshlb.grpc
import meshlb.grpc.aio
from meshlb.mesh import Mesh
from tests.benchmarks import common

PAYLOAD = b"x"
HAND = "stock by hand"


class Arm:
    """One way to call; ``cpu_us`` a call and ``wall_us`` of single calls, a list entry a round and a call."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cpu_us: list[float] = []
        self.wall_us: list[float] = []

    def measure_sync(self, call: Callable[[], object], calls: int) -> None:
        clock = time.perf_counter
        cpu_s = time.process_time()
        for _ in range(calls):
            start_s = clock()
            call()
            self.wall_us.append((clock() - start_s) * 1e6)
        self.cpu_us.append((time.process_time() - cpu_s) / calls * 1e6)

    async def measure_async(self, call: Callable[[], Awaitable[object]], calls: int) -> None:
        clock = time.perf_counter
        cpu_s = time.process_time()
        for _ in range(calls):
            start_s = clock()
            await call()
            self.wall_us.append((clock() - start_s) * 1e6)
        self.cpu_us.append((time.process_time() - cpu_s) / calls * 1e6)


def run_sync(endpoints: list[str], rounds: int, calls: int) -> list[Arm]:
    with ExitStack() as stack:
        hand = [stack.enter_context(grpc.insecure_channel(one)).unary_unary(common.METHOD) for one in endpoints]
        turn = itertools.cycle(hand)
        robin = stack.enter_context(
            grpc.insecure_channel("ipv4:" + ",".join(endpoints), options=[("grpc.lb_policy_name", "round_robin")])
        ).unary_unary(common.METHOD)
        mesh = stack.enter_context(Mesh())
        ours = stack.enter_context(meshlb.grpc.insecure_channel("static:///" + ",".join(endpoints), mesh=mesh)).unary_unary(
            common.METHOD
        )
        ways: dict[str, Callable[[], object]] = {
            HAND: lambda: next(turn)(PAYLOAD),
            "stock round_robin": lambda: robin(PAYLOAD),
            "meshlb p2c": lambda: ours(PAYLOAD),
        }
        proxy = stack.enter_context(common.envoy(endpoints))
        if proxy is not None:
            through = stack.enter_context(grpc.insecure_channel(proxy)).unary_unary(common.METHOD)
            ways["Envoy LEAST_REQUEST"] = lambda: through(PAYLOAD)
        arms = {name: Arm(name) for name in ways}
        for way in ways.values():
            for _ in range(max(200, 2 * len(endpoints))):
                way()
        common.interleave({name: lambda name=name: arms[name].measure_sync(ways[name], calls) for name in ways}, rounds)
        return list(arms.values())


async def run_async(endpoints: list[str], rounds: int, calls: int) -> list[Arm]:
    with ExitStack() as stack:
        hand = [grpc.aio.insecure_channel(one) for one in endpoints]
        turn = itertools.cycle([channel.unary_unary(common.METHOD) for channel in hand])
        robin = grpc.aio.insecure_channel("ipv4:" + ",".join(endpoints), options=[("grpc.lb_policy_name", "round_robin")])
        mesh = stack.enter_context(Mesh())
        ours = meshlb.grpc.aio.insecure_channel("static:///" + ",".join(endpoints), mesh=mesh)
        robin_call, our_call = robin.unary_unary(common.METHOD), ours.unary_unary(common.METHOD)
        ways: dict[str, Callable[[], Awaitable[object]]] = {
            HAND: lambda: next(turn)(PAYLOAD),
            "stock round_robin": lambda: robin_call(PAYLOAD),
            "meshlb p2c": lambda: our_call(PAYLOAD),
        }
        channels = [*hand, robin, ours]
        proxy = stack.enter_context(common.envoy(endpoints))
        if proxy is not None:
            channels.append(grpc.aio.insecure_channel(proxy))
            through = channels[-1].unary_unary(common.METHOD)
            ways["Envoy LEAST_REQUEST"] = lambda: through(PAYLOAD)
        arms = {name: Arm(name) for name in ways}
        for way in ways.values():
            for _ in range(max(200, 2 * len(endpoints))):
                await way()
        for number in range(rounds):
            names = list(ways)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                await arms[name].measure_async(ways[name], calls)
        for channel in channels:
            await channel.close()
        return list(arms.values())


def report(title: str, arms: list[Arm]) -> None:
    hand = next(arm for arm in arms if arm.name == HAND)
    print(title)
    rows = []
    for arm in arms:
        ratios = [one / other for one, other in zip(arm.cpu_us, hand.cpu_us, strict=True)]
        rows.append(
            (
                arm.name,
                f"{common.median(arm.cpu_us):.1f}",
                f"{common.median(ratios):.3f}",
                f"{common.quantile(arm.wall_us, 0.5):.0f}",
                f"{common.quantile(arm.wall_us, 0.99):.0f}",
            )
        )
    common.table(("", "client CPU µs", "ratio", "p50 µs", "p99 µs"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--endpoints", type=int, nargs="*", default=[1, 3, 100])
    arguments = parser.parse_args()
    print(f"lock acquire/release pair: {common.lock_pair_ns():.0f} ns\n")
    with common.server() as port:
        for count in arguments.endpoints:
            endpoints = common.addresses(count, port)
            report(f"sync, {count} endpoints", run_sync(endpoints, arguments.rounds, arguments.calls))
            report(f"asyncio, {count} endpoints", asyncio.run(run_async(endpoints, arguments.rounds, arguments.calls)))


if __name__ == "__main__":
    main()
