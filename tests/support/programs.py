"""Programs under test: a mesh of their own, one channel for threads and one for asyncio, and callers that never stop.

A case is written once against ``Client`` and run for both kinds. ``Traffic`` makes unary calls, futures and short streams all the
time, so that whatever a test does happens under calls in flight; how each ended is written down. Everything waits for conditions
with a deadline; nothing here fails a call by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
import grpc.aio

import meshlb
import meshlb.grpc
import meshlb.grpc.aio
from meshlb._proto import echo_pb2, echo_pb2_grpc
from meshlb.core.endpoint import Endpoint
from meshlb.grpc.status import never_sent
from meshlb.mesh import Mesh
from meshlb.pool.view import View
from meshlb.testing import FakeCluster
from tests.support.channels import eventually

PATIENCE_S = 20.0
CALL_TIMEOUT_S = 10.0
WORK_S = 0.003  # how long a pod works on a call: there is always one in flight
KINDS = ("sync", "asyncio")


@dataclass
class Sample:
    """How one call ended. ``pod`` answered last; ``error`` is what was raised, ``endpoint`` where the call went."""

    kind: str
    start_s: float
    form: str = "unary"
    end_s: float = 0.0
    pod: str = ""
    replies: list[Any] = field(default_factory=list)
    error: BaseException | None = None
    endpoint: Endpoint | None = None

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def took_s(self) -> float:
        return self.end_s - self.start_s

    @property
    def code(self) -> grpc.StatusCode | None:
        code = getattr(self.error, "code", None)
        return code() if code is not None else None

    @property
    def details(self) -> str:
        details = getattr(self.error, "details", None)
        return (details() if details is not None else str(self.error)) or ""

    def __repr__(self) -> str:
        where = self.endpoint.address if self.endpoint is not None else "nowhere"
        ended = f"from {self.pod}" if self.ok else f"{self.code} {self.details or self.error!r}"
        return f"<{self.kind} {self.form} to {where}, {self.took_s:.3f} s: {ended}>"


class Client(Protocol):
    """One channel. No method but ``close`` raises what a call ended with; it is in the sample."""

    kind: str
    channel: Any

    def call(self, *, timeout: float | None = None, wait_for_ready: bool | None = None, **request: Any) -> Sample:
        """A unary call, to its end."""

    def start(self, *, timeout: float | None = None, wait_for_ready: bool | None = None, **request: Any) -> Running:
        """A unary call that somebody waits for elsewhere (a thread that blocks, or a task)."""

    def future(self, *, timeout: float | None = None, wait_for_ready: bool | None = None, **request: Any) -> Running:
        """A unary call that can be cancelled."""

    def stream(self, *, timeout: float | None = None, wait_for_ready: bool | None = None, **request: Any) -> Running:
        """A server stream, read to its end elsewhere."""

    def traffic(self, samples: list[Sample], ended: threading.Event) -> list[Future[None]]:
        """Callers that call until ``ended``."""

    def close(self) -> None: ...


class Running:
    """A call under way; ``first`` is set when a stream's first message was read."""

    def __init__(self, sample: Sample, future: Future[Any], cancel: Callable[[], Any], first: threading.Event) -> None:
        self.sample = sample
        self.first = first
        self._future = future
        self._cancel = cancel

    @property
    def done(self) -> bool:
        return self._future.done()

    def cancel(self) -> None:
        self._cancel()

    def result(self, patience_s: float = PATIENCE_S) -> Sample:
        self._future.result(patience_s)
        return self.sample


def _request(fields: Mapping[str, Any]) -> echo_pb2.EchoRequest:
    return echo_pb2.EchoRequest(**{"payload": "hello", **fields})


def _begun(kind: str, form: str = "unary") -> Sample:
    return Sample(kind, time.monotonic(), form)


def _answered(sample: Sample, replies: list[Any], call: Any) -> Sample:
    sample.end_s = time.monotonic()
    sample.replies = replies
    sample.pod = replies[-1].pod if replies else ""
    sample.endpoint = meshlb.grpc.endpoint_of(call)
    return sample


def _failed(sample: Sample, error: BaseException, call: Any = None) -> Sample:
    sample.end_s = time.monotonic()
    sample.endpoint = meshlb.grpc.endpoint_of(error) or meshlb.grpc.endpoint_of(call)
    sample.error = error.with_traceback(None)  # its frames would keep the call alive
    return sample


# --- threads ------------------------------------------------------------------------------------------------------------------


class SyncClient:
    kind = "sync"

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.stub = echo_pb2_grpc.EchoStub(channel)

    def call(self, *, timeout: float | None = None, wait_for_ready: bool | None = None, **request: Any) -> Sample:
        sample = _begun(self.kind)
        try:
            reply, call = self.stub.Get.with_call(_request(request), timeout=timeout, wait_for_ready=wait_for_ready)
        except (grpc.RpcError, meshlb.MeshError, ValueError) as error:
            return _failed(sample, error)
        return _answered(sample, [reply], call)

    def start(self, *, timeout: float | None = None, wait_for_ready: bool | None = None, **request: Any) -> Running:
        running = _begun(self.kind)

        def work() -> None:
            ended = self.call(timeout=timeout, wait_for_ready=wait_for_ready, **request)
            running.__dict__.update(ended.__dict__)

        return Running(running, _in_thread(work), lambda: None, threading.Event())

    def future(self, *, timeout: float | None = None, wait_for_ready: bool | None = None, **request: Any) -> Running:
        sample = _begun(self.kind, "future")
        call = self.stub.Get.future(_request(request), timeout=timeout, wait_for_ready=wait_for_ready)

        def work() -> None:
            try:
                reply = call.result()
            except (grpc.RpcError, grpc.FutureCancelledError) as error:
                _failed(sample, error, call)
            else:
                _answered(sample, [reply], call)

        return Running(sample, _in_thread(work), call.cancel, threading.Event())

    def stream(self, *, timeout: float | None = None, wait_for_ready: bool | None = None, **request: Any) -> Running:
        sample, first = _begun(self.kind, "stream"), threading.Event()
        call = self.stub.Watch(_request(request), timeout=timeout, wait_for_ready=wait_for_ready)

        def work() -> None:
            replies = []
            try:
                for reply in call:
                    replies.append(reply)
                    sample.pod = reply.pod
                    first.set()
            except grpc.RpcError as error:
                _failed(sample, error, call)
            else:
                _answered(sample, replies, call)

        return Running(sample, _in_thread(work), call.cancel, first)

    def traffic(self, samples: list[Sample], ended: threading.Event) -> list[Future[None]]:
        def keep(one: Callable[[], Sample]) -> None:
            while not ended.is_set():
                samples.append(one())
                ended.wait(0.004)

        ways: list[Callable[[], Sample]] = [
            lambda: self.call(timeout=CALL_TIMEOUT_S, delay_s=WORK_S),
            self._one_future,
            self._one_stream,
        ]
        return [_in_thread(functools.partial(keep, way)) for way in ways]

    def _one_future(self) -> Sample:
        sample = _begun(self.kind, "future")
        call = self.stub.Get.future(_request({"delay_s": WORK_S}), timeout=CALL_TIMEOUT_S)
        try:
            return _answered(sample, [call.result()], call)
        except grpc.RpcError as error:
            return _failed(sample, error, call)

    def _one_stream(self) -> Sample:
        sample = _begun(self.kind, "stream")
        call = self.stub.Watch(_request({"count": 2, "interval_s": WORK_S}), timeout=CALL_TIMEOUT_S)
        try:
            return _answered(sample, list(call), call)
        except grpc.RpcError as error:
            return _failed(sample, error, call)

    def close(self) -> None:
        self.channel.close()


def _in_thread(work: Callable[[], None]) -> Future[None]:
    future: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - for whoever asks the future
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, name="test-caller", daemon=True).start()
    return future


# --- asyncio ------------------------------------------------------------------------------------------------------------------


class AioClient:
    kind = "asyncio"

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub = echo_pb2_grpc.EchoStub(channel)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="test-loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Any, patience_s: float = PATIENCE_S) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(patience_s)

    def call(self, *, timeout: float | None = None, wait_for_ready: bool | None = None, **request: Any) -> Sample:
        return self.start(timeout=timeout, wait_for_ready=wait_for_ready, **request).result(2 * PATIENCE_S)

    def start(self, *, timeout: float | None = None, wait_for_ready: bool | None = None, **request: Any) -> Running:
        sample = _begun(self.kind)
        calls: list[Any] = []

        async def work() -> None:
            await self._one(sample, calls, _request(request), timeout, wait_for_ready)

        future = asyncio.run_coroutine_threadsafe(work(), self.loop)
        return Running(sample, future, lambda: self._cancel(calls, future), threading.Event())

    def _cancel(self, calls: list[Any], future: Future[Any]) -> None:
        async def cancel() -> None:
            while not calls and not future.done():  # noqa: ASYNC110 - the task begins within a turn or two of the loop
                await asyncio.sleep(0)
            for call in calls:
                call.cancel()

        asyncio.run_coroutine_threadsafe(cancel(), self.loop)

    future = start

    async def _one(self, sample: Sample, calls: list[Any], request: Any, timeout_s: float | None, wait: bool | None) -> None:
        call = None
        try:
            call = self.stub.Get(request, timeout=timeout_s, wait_for_ready=wait)
            calls.append(call)
            _answered(sample, [await call], call)
        except (grpc.RpcError, meshlb.MeshError, grpc.aio.UsageError, asyncio.CancelledError) as error:
            _failed(sample, error, call)

    def stream(self, *, timeout: float | None = None, wait_for_ready: bool | None = None, **request: Any) -> Running:
        sample, first = _begun(self.kind, "stream"), threading.Event()
        calls: list[Any] = []

        async def work() -> None:
            await self._read(sample, calls, _request(request), timeout, wait_for_ready, first)

        future = asyncio.run_coroutine_threadsafe(work(), self.loop)
        return Running(sample, future, lambda: self._cancel(calls, future), first)

    async def _read(
        self, sample: Sample, calls: list[Any], request: Any, timeout_s: float | None, wait: bool | None, first: threading.Event
    ) -> None:
        replies, call = [], None
        try:
            call = self.stub.Watch(request, timeout=timeout_s, wait_for_ready=wait)
            calls.append(call)
            async for reply in call:
                replies.append(reply)
                sample.pod = reply.pod
                first.set()
            _answered(sample, replies, call)
        except (grpc.RpcError, meshlb.MeshError, grpc.aio.UsageError, asyncio.CancelledError) as error:
            _failed(sample, error, call)

    def traffic(self, samples: list[Sample], ended: threading.Event) -> list[Future[None]]:
        async def keep(one: Callable[[], Any]) -> None:
            while not ended.is_set():
                samples.append(await one())
                await asyncio.sleep(0.004)

        async def unary() -> Sample:
            sample = _begun(self.kind)
            await self._one(sample, [], _request({"delay_s": WORK_S}), CALL_TIMEOUT_S, None)
            return sample

        async def stream() -> Sample:
            sample = _begun(self.kind, "stream")
            request = _request({"count": 2, "interval_s": WORK_S})
            await self._read(sample, [], request, CALL_TIMEOUT_S, None, threading.Event())
            return sample

        return [asyncio.run_coroutine_threadsafe(keep(one), self.loop) for one in (unary, unary, stream)]

    def close(self) -> None:
        async def end() -> None:
            await self.channel.close()
            mine = asyncio.current_task()
            left = [task for task in asyncio.all_tasks() if task is not mine]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await self.loop.shutdown_asyncgens()

        if self.loop.is_closed():
            return
        self.run(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


# --- a program ----------------------------------------------------------------------------------------------------------------


class Program:
    """A process of a user, as far as meshlb is concerned: one mesh, a channel of each kind to one target."""

    def __init__(
        self,
        target: str,
        *,
        config: meshlb.Config | None = None,
        environ: Mapping[str, str] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        options: Iterable[tuple[str, Any]] = (),
        kinds: Collection[str] = KINDS,
    ) -> None:
        self.target = target
        self.mesh = Mesh(config, environ={} if environ is None else environ)
        self.options = tuple(options)
        self.credentials = credentials
        self.clients: list[Client] = []
        for kind in kinds:
            self.clients.append(SyncClient(self._open(meshlb.grpc)) if kind == "sync" else AioClient(self._open(meshlb.grpc.aio)))

    def _open(self, module: Any) -> Any:
        if self.credentials is None:
            return module.insecure_channel(self.target, self.options, mesh=self.mesh)
        return module.secure_channel(self.target, self.credentials, self.options, mesh=self.mesh)

    # --- what the mesh says

    @property
    def pool(self) -> dict[str, Any]:
        """What ``status()`` says of the one pool; empty before there is one."""
        pools = self.mesh.status()["pools"]
        return dict(next(iter(pools.values()))) if pools else {}

    @property
    def source(self) -> str:
        return str(self.pool.get("source", ""))

    @property
    def usable(self) -> list[dict[str, Any]]:
        return [endpoint for endpoint in self.pool.get("endpoints", ()) if endpoint["state"].startswith("usable")]

    @property
    def usable_addresses(self) -> set[str]:
        return {endpoint["address"] for endpoint in self.usable}

    @property
    def in_flight(self) -> int:
        pool = self.pool
        every = [*pool.get("endpoints", ()), *pool.get("fallback", ())]
        return sum(endpoint["in_flight"] + endpoint["streams"] for endpoint in every)

    def await_source(self, source: str) -> None:
        eventually(lambda: self.source == source, f"source {source}: {self.pool}", PATIENCE_S)

    def await_usable(self, addresses: Iterable[str]) -> None:
        """Until exactly these are eligible."""
        wanted = set(addresses)
        eventually(lambda: self.usable_addresses == wanted, f"{wanted} usable", PATIENCE_S)

    def await_connected(self, count: int) -> None:
        """Until every kind that made a call picks from this many connections."""
        eventually(
            lambda: (views := self.pool.get("views")) and all(view["picking_from"] == count for view in views),
            f"{count} connected",
            PATIENCE_S,
        )

    # --- doing

    def call(self, **arguments: Any) -> list[Sample]:
        """One call of each kind, at once."""
        running = [client.start(**arguments) for client in self.clients]
        return [one.result(2 * PATIENCE_S) for one in running]

    @contextlib.contextmanager
    def traffic(self) -> Iterator[Traffic]:
        """Calls without a pause; when it ends nothing may be in flight."""
        traffic = Traffic(self)
        try:
            yield traffic
        finally:
            traffic.stop()
        self.assert_idle()

    def assert_idle(self) -> None:
        gc.collect()
        eventually(lambda: self.in_flight == 0, f"nothing in flight: {self.pool}")
        assert self.mesh.status()["internal_errors"] == {}

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.mesh.close()


class Traffic:
    """Callers of every kind of a program, from now until ``stop``."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.samples: list[Sample] = []
        self._ended = threading.Event()
        self._callers = [caller for client in program.clients for caller in client.traffic(self.samples, self._ended)]

    def stop(self) -> None:
        self._ended.set()
        for caller in self._callers:
            caller.result(2 * PATIENCE_S)

    @property
    def failed(self) -> list[Sample]:
        return [sample for sample in self.samples if not sample.ok]

    def lost(self, *, dead: Collection[str] = (), stopped: Collection[str] = ()) -> list[Sample]:
        """What failed, but for calls that no client can save.

        ``dead``: endpoints that died hard take along what was in flight there. ``stopped``: endpoints whose server was told to stop
        at the moment of their removal. A call that arrives there within the milliseconds that the removal takes to reach us is
        cancelled by grpc's server, which does not say that it was not processed. In both, a future or a stream, which are grpc's own
        objects once sent, may find the port closed in the millisecond before grpc itself notices.
        """
        return [one for one in self.failed if not _in_flight_on(one, dead) and not _too_late_for(one, stopped)]

    def since(self, start_s: float) -> list[Sample]:
        return [sample for sample in self.samples if sample.start_s >= start_s]

    def shares(self, start_s: float = 0.0) -> Counter[str]:
        return Counter(sample.pod for sample in self.since(start_s) if sample.ok)

    def go_on(self, calls: int = 60) -> float:
        """Until so many calls of each kind began and ended from now on; returns when "now" was."""
        start_s = time.monotonic()

        def enough() -> bool:
            self._look_after()
            counts = Counter(sample.kind for sample in list(self.samples) if sample.start_s >= start_s)
            return all(counts[client.kind] >= calls for client in self.program.clients)

        eventually(enough, f"{calls} more calls of each kind", 2 * PATIENCE_S)
        return start_s

    def await_pods(self, pods: Iterable[str] | Callable[[], Iterable[str]], *, calls: int = 60) -> float:
        """Until from some moment on exactly these pods answer both kinds; returns that moment."""
        kinds = [client.kind for client in self.program.clients]
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            start_s = self.go_on(calls)
            wanted = set(pods() if callable(pods) else pods)
            seen = {kind: {s.pod for s in self.since(start_s) if s.kind == kind and s.ok} for kind in kinds}
            if all(seen[kind] == wanted for kind in kinds):
                return start_s
            assert time.monotonic() < deadline_s, f"wanted {sorted(wanted)}, got {seen}"

    def _look_after(self) -> None:
        for caller in self._callers:
            if caller.done():
                caller.result()


def _in_flight_on(sample: Sample, dead: Collection[str]) -> bool:
    if sample.endpoint is None or sample.endpoint.address not in dead:
        return False
    return sample.form != "unary" or not never_sent(sample.code, sample.details)


def _too_late_for(sample: Sample, stopped: Collection[str]) -> bool:
    if sample.endpoint is None or sample.endpoint.address not in stopped:
        return False
    if never_sent(sample.code, sample.details):
        return sample.form != "unary"
    return sample.code is grpc.StatusCode.CANCELLED


class History:
    """What a program's pool held each time it changed: one that shrank, or was displaced, for a moment shows."""

    def __init__(self, program: Program) -> None:
        self.sizes: list[int] = []
        self.sources: set[str] = set()
        self._view: View = program.mesh.bind(program.target).view(self)
        self.on_change()

    def on_change(self) -> None:
        view = getattr(self, "_view", None)
        if view is not None:
            self.sizes.append(len(view.pool.snapshot.eligible))
            self.sources.add(view.pool.snapshot.source)

    @property
    def least(self) -> int:
        return min(self.sizes)


def client_config(
    cluster: FakeCluster, *, fallback: Any = None, settings: Mapping[str, Any] | None = None, **discovery: Any
) -> meshlb.Config:
    """What a program outside of a pod is told about the cluster; None leaves one of them out."""
    found: dict[str, Any] = {
        "kubeconfig": cluster.kubeconfig,
        "nameservers": [cluster.nameserver],
        "resolv_conf": cluster.resolv_conf,
        "service_account_dir": "/nonexistent",
    } | discovery
    given = {name: value for name, value in found.items() if value is not None}
    parts: dict[str, Any] = dict(settings or {})
    if fallback is not None:
        parts["fallback"] = fallback
    return meshlb.Config(discovery=given, **parts)


@contextlib.contextmanager
def program(
    cluster: FakeCluster,
    target: str,
    *,
    environ: Mapping[str, str] | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    options: Iterable[tuple[str, Any]] = (),
    kinds: Collection[str] = KINDS,
    **config: Any,
) -> Iterator[Program]:
    """A program against this cluster; ``config``: see ``client_config``."""
    made = Program(
        target, config=client_config(cluster, **config), environ=environ, credentials=credentials, options=options, kinds=kinds
    )
    try:
        yield made
    finally:
        made.close()
