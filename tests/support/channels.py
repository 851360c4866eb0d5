"""Real Echo servers in this process, and channels of ours over a real pool that the test fills by hand."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from typing import Any

import grpc

from meshlb._proto import echo_pb2, echo_pb2_grpc
from meshlb.balance.registry import PolicyConfig, policy_of
from meshlb.call.call import CallLimits
from meshlb.config import Config
from meshlb.core.endpoint import Endpoint, EndpointSet
from meshlb.core.subchannel import Subchannel
from meshlb.core.target import Target
from meshlb.grpc.channel import Channel
from meshlb.grpc.connection import Connections
from meshlb.grpc.options import ChannelOptions
from meshlb.limit.gates import Gates
from meshlb.pool.pool import Pool
from meshlb.pool.view import View, ViewListener
from meshlb.retry.budget import BudgetSettings, CallCount, RetryBudget
from meshlb.retry.throttle import Throttle, Throttling
from meshlb.runtime.clock import SystemClock, system_rng
from meshlb.runtime.loop import Loop
from meshlb.testing.pod_server import EchoService

PATIENCE_S = 10.0


def eventually(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Wait for a condition with a deadline; returns its value."""
    deadline_s = time.monotonic() + patience_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {patience_s:g} s: {what}")
        threading.Event().wait(0.002)


class EchoServer:
    """One pod without a process. ``stop`` cuts its connections as an exit does; ``start`` listens on the same port again."""

    def __init__(self, name: str, *, credentials: grpc.ServerCredentials | None = None, workers: int = 16, port: int = 0) -> None:
        self.name = name
        self._credentials = credentials
        self._workers = workers
        self.port = port
        self.service = EchoService(pod=name, version="v1")
        self.start()

    def start(self) -> None:
        self._pool = futures.ThreadPoolExecutor(self._workers)
        self._server = grpc.server(self._pool, options=[("grpc.so_reuseport", 0)])
        echo_pb2_grpc.add_EchoServicer_to_server(self.service, self._server)
        address = f"127.0.0.1:{self.port}"
        if self._credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, self._credentials)
        self._server.start()

    def stop(self, grace_s: float | None = None) -> None:
        self._server.stop(grace_s).wait()
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(host="127.0.0.1", port=self.port, name=self.name, uid=f"uid-{self.name}")


def unused_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LooseBinding:
    """What ``Mesh.bind`` gives, over a pool that the test fills; the discovery thread, clock, pool and view are real."""

    def __init__(
        self,
        target: str = "orders.shop:50051",
        *,
        policy: str | PolicyConfig = "round_robin",
        hash_keys: Any = "on",
        loop: Loop | None = None,
        first_answer_timeout_s: float = 5.0,
        connect_timeout_s: float = 3.0,
        stock_target: str = "",
        retry: str | Mapping[str, Any] = "on",
        connection: str | Mapping[str, Any] = "on",
        limits: str | Mapping[str, Any] = "off",
        outlier: str | Mapping[str, Any] = "off",
        weight: str | Mapping[str, Any] = "static",
    ) -> None:
        self.target = Target.parse(target)
        self.config = Config(
            first_answer_timeout_s=first_answer_timeout_s,
            connect_timeout_s=connect_timeout_s,
            retry=retry,
            connection=connection,
            limits=limits,
            outlier=outlier,
            hash=hash_keys,
            weight=weight,
        )
        self.off = False
        self.stock_target = stock_target or target
        self.scheduler = loop if loop is not None else Loop()
        self.clock = SystemClock()
        self.internal_errors: list[BaseException] = []
        self.endpoints: list[Endpoint] = []
        self._rng = system_rng()
        self._policy = policy
        self._seen: set[Subchannel] = set()
        self.start_afresh()

    def start_afresh(self) -> None:
        """A new pool, as the mesh makes one in a forked child."""
        self.pool = Pool(
            str(self.target),
            policy_of(self._policy).build(self._rng),
            clock=self.clock,
            rng=self._rng,
            new_lock=threading.Lock,
            wake=self._wake,
            fallback_after_s=self.config.connect_timeout_s / 3,
            outlier=self.config.outlier,
            weight=self.config.weight,
            max_in_flight=self.config.limits.max_in_flight_per_endpoint if self.config.limits.enabled else 0,
        )
        self.gates = Gates(self.config.limits, threading.Lock) if self.config.limits.any else None
        retry, throttles = self.config.retry, dict[Throttling, Throttle]()
        count = CallCount(lambda: self.pool.snapshot.listed, self.clock.now_s())
        settings = BudgetSettings(retry.budget_ratio, retry.budget_min_per_s, retry.budget_ttl_s)
        self.budget = RetryBudget(self.clock, threading.Lock(), count.rise, settings=settings)
        self.limits = CallLimits(
            self.budget,
            first_answer_timeout_s=self.config.first_answer_timeout_s,
            connect_timeout_s=self.config.connect_timeout_s,
            rng=self._rng,
            throttle_of=lambda said: throttles.setdefault(said, Throttle(said, threading.Lock())),
            gates=self.gates,
        )

    def _wake(self, delay_s: float) -> None:
        self.scheduler.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        again_s = self.pool.tick()
        if again_s is not None:
            self._wake(again_s)

    def update(self, endpoints: Iterable[Endpoint | EchoServer], *, fallback: Iterable[Endpoint] = (), note: str = "") -> None:
        """What discovery says now."""
        self.endpoints = [item.endpoint if isinstance(item, EchoServer) else item for item in endpoints]
        _ = self.subchannels
        self.pool.update(EndpointSet.of(self.endpoints, "static", fallback=fallback, note=note))

    def view(self, listener: ViewListener) -> View:
        return self.pool.view(listener)

    @property
    def authority(self) -> str:
        return self.target.authority(50051)

    @property
    def tls_name(self) -> str:
        return self.target.tls_name

    def count_internal_error(self, error: BaseException) -> None:
        self.internal_errors.append(error)

    @property
    def in_flight(self) -> int:
        """Live attempts on all endpoints there ever were, those that drain included."""
        return sum(sub.in_flight for sub in self.subchannels)

    @property
    def subchannels(self) -> set[Subchannel]:
        snapshot = self.pool.snapshot
        self._seen.update(snapshot.listed, snapshot.fallback)
        return self._seen


class Bench:
    """A channel of ours, its binding and its stub; closed at the end, with nothing left in flight."""

    def __init__(
        self,
        binding: LooseBinding,
        *,
        options: Iterable[tuple[str, Any]] = (),
        credentials: grpc.ChannelCredentials | None = None,
        compression: grpc.Compression | None = None,
    ) -> None:
        self.binding = binding
        self.connections = Connections(binding, ChannelOptions.of(options), credentials, compression)  # type: ignore[arg-type]
        self.channel = Channel(self.connections)
        self.stub = echo_pb2_grpc.EchoStub(self.channel)

    def ready(self, count: int) -> None:
        """Wait until ``count`` endpoints are picked from."""
        view = self.connections.open()
        assert view is not None
        eventually(lambda: view.describe()["picking_from"] == count, f"{count} endpoints are ready")

    def idle(self) -> None:
        """Wait until nothing is in flight, which ends of streams report from other threads, some when they are freed."""
        gc.collect()  # an error that was raised holds its frame, and that the stream
        eventually(lambda: self.binding.in_flight == 0, f"nothing in flight: {self.binding.subchannels}")


@contextlib.contextmanager
def echo_servers(count: int, **settings: Any) -> Iterator[list[EchoServer]]:
    """``pod-0`` and so on."""
    servers = [EchoServer(f"pod-{number}", **settings) for number in range(count)]
    try:
        yield servers
    finally:
        for server in servers:
            server.stop()


@contextlib.contextmanager
def bench(*endpoints: EchoServer | Endpoint, binding: LooseBinding | None = None, **settings: Any) -> Iterator[Bench]:
    """A channel over these endpoints; at the end nothing may be in flight and no bug may have been hidden."""
    used = binding if binding is not None else LooseBinding()
    if endpoints:
        used.update(endpoints)
    made = Bench(used, **settings)
    try:
        yield made
        made.idle()
        assert used.internal_errors == []
    finally:
        made.channel.close()
        used.scheduler.stop(1.0)


def request(payload: str = "hello", **fields: Any) -> echo_pb2.EchoRequest:
    return echo_pb2.EchoRequest(payload=payload, **fields)
