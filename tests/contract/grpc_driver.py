"""What the gRPC contract is written against: one way to make calls, whatever makes them.

A driver owns a channel to one server and blocks until a call is over, so that a case reads the same for threads and asyncio.
``stock`` drivers run grpc's own channel: what they do is what ours must do. ``pending`` ones use a fresh channel for each call, so that
no endpoint is ready when it is invoked.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc

from meshlb._proto import echo_pb2, echo_pb2_grpc
from meshlb.core.endpoint import Endpoint
from meshlb.grpc.marks import endpoint_of
from meshlb.testing.pod_server import EchoService
from tests.support.channels import PATIENCE_S, Bench, LooseBinding

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
METHODS = {"unary_unary": "Get", "unary_stream": "Watch", "stream_unary": "Collect", "stream_stream": "Chat"}
SERVICE = "/meshlb.testing.v1.Echo/"


@dataclass
class Result:
    """How a call ended. ``error`` is what was raised; a call that was refused before it became one has no code."""

    replies: list[Any] = field(default_factory=list)
    code: grpc.StatusCode | None = None
    details: str | None = None
    initial: dict[str, Any] = field(default_factory=dict)
    trailing: dict[str, Any] = field(default_factory=dict)
    error: BaseException | None = None
    endpoint: Endpoint | None = None

    @property
    def reply(self) -> Any:
        assert self.error is None, self
        (only,) = self.replies
        return only


class Running(Protocol):
    """A call under way."""

    def read(self) -> Any:
        """The next message of a stream."""

    def cancel(self) -> bool: ...

    def result(self) -> Result:
        """Wait for its end, reading what is left."""


class Driver(Protocol):
    """See the module head; made by a factory that takes the server's port and the channel's settings."""

    closed_errors: tuple[type[BaseException], str]
    meshlb: bool
    asyncio: bool

    def call(self, kind: str, requests: Any, *, method: str = "", serializers: Any = None, **arguments: Any) -> Result: ...

    def start(self, kind: str, requests: Any, **arguments: Any) -> Running: ...

    def drop(self, kind: str, requests: Any) -> None:
        """Read one message of a stream and forget it."""

    def ready(self) -> None:
        """Wait until the channel is connected."""

    def close(self) -> None: ...

    def idle(self) -> None:
        """Wait until nothing is in flight."""


class ContractService(EchoService):
    """Echo that also sends initial metadata and trailers, if the request's metadata asks for it, and tells who hung up."""

    def __init__(self) -> None:
        super().__init__(pod="pod-0", version="v1")
        self.begun = threading.Event()
        self.hung_up = threading.Event()

    @contextlib.contextmanager
    def _call(self, context: grpc.ServicerContext) -> Iterator[None]:
        over = threading.Event()
        context.add_callback(lambda: over.is_set() or self.hung_up.set())
        asked = dict(context.invocation_metadata())
        if "speak" in asked:
            context.send_initial_metadata((("initial", asked["speak"]), ("initial-bin", b"\x00\xff")))
            context.set_trailing_metadata((("trailing", asked["speak"]), ("trailing-bin", b"\xff\x00")))
        try:
            yield
        finally:
            if not context.is_active():  # the requests may end with an error before the callback comes
                self.hung_up.set()
            over.set()

    def _begun(self, requests: Iterator[Any]) -> Iterator[Any]:
        """With the first message: a stream that is cancelled before it may look like one that was ended."""
        for request in requests:
            self.begun.set()
            yield request

    def Get(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._call(context):
            self.begun.set()
            if request.payload.startswith("size:"):
                return echo_pb2.EchoReply(payload="x" * int(request.payload[5:]))
            return super().Get(request, context)

    def Watch(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._call(context):
            self.begun.set()
            yield from super().Watch(request, context)

    def Collect(self, requests: Any, context: grpc.ServicerContext) -> Any:
        with self._call(context):
            return super().Collect(self._begun(requests), context)

    def Chat(self, requests: Any, context: grpc.ServicerContext) -> Any:
        with self._call(context):
            yield from super().Chat(self._begun(requests), context)


@contextlib.contextmanager
def contract_server(port: int = 0) -> Iterator[tuple[int, ContractService]]:
    """A loopback server of the service above."""
    service = ContractService()
    workers = futures.ThreadPoolExecutor(8)
    server = grpc.server(workers, options=[("grpc.so_reuseport", 0)])
    echo_pb2_grpc.add_EchoServicer_to_server(service, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield bound, service
    finally:
        server.stop(None).wait()
        workers.shutdown(wait=False, cancel_futures=True)


# --- threads ------------------------------------------------------------------------------------------------------------------


class SyncDriver:
    """``via``: ``blocking`` (``with_call``) where the kind allows, ``call`` (``()``), or ``future``. ``fresh``: a new channel for each call."""

    closed_errors = (ValueError, "Cannot invoke RPC")
    asyncio = False

    def __init__(self, make: Callable[[], Any], *, via: str = "blocking", fresh: bool = False, bench: Bench | None = None) -> None:
        self._make = make
        self._via = via
        self._fresh = fresh
        self._channels: list[Any] = []
        self._bench = bench
        self.meshlb = bench is not None
        self.channel = self._opened()

    def _opened(self) -> Any:
        channel = self._make()
        self._channels.append(channel)
        return channel

    def _multicallable(self, kind: str, method: str = "", serializers: Any = None) -> Any:
        channel = self.channel
        if self._fresh:
            if not self._channels:  # closed
                channel = self.channel
            else:
                channel = self.channel = self._opened()
        to_wire, from_wire = serializers or (echo_pb2.EchoRequest.SerializeToString, echo_pb2.EchoReply.FromString)
        make = getattr(channel, kind)
        return make(SERVICE + (method or METHODS[kind]), request_serializer=to_wire, response_deserializer=from_wire)

    def call(self, kind: str, requests: Any, *, method: str = "", serializers: Any = None, **arguments: Any) -> Result:
        multicallable = self._multicallable(kind, method, serializers)
        sent = iter(requests) if kind.startswith("stream_") else requests
        try:
            if kind.endswith("_stream"):
                return SyncRunning(multicallable(sent, **arguments), streams=True).result()
            if self._via == "future":
                return SyncRunning(multicallable.future(sent, **arguments), streams=False).result()
            if self._via == "call":
                return Result(replies=[multicallable(sent, **arguments)], code=grpc.StatusCode.OK)
            reply, call = multicallable.with_call(sent, **arguments)
        except Exception as error:  # noqa: BLE001 - what it is, is for the case to say
            return _failed(error)
        return _ended(call, [reply])

    def start(self, kind: str, requests: Any, **arguments: Any) -> SyncRunning:
        multicallable = self._multicallable(kind)
        sent = iter(requests) if kind.startswith("stream_") else requests
        if kind.endswith("_stream"):
            return SyncRunning(multicallable(sent, **arguments), streams=True)
        return SyncRunning(multicallable.future(sent, **arguments), streams=False)

    def drop(self, kind: str, requests: Any) -> None:
        multicallable = self._multicallable(kind)
        next(multicallable(iter(requests) if kind.startswith("stream_") else requests))

    def intercepted(self, *interceptors: Any) -> None:
        """From now on calls go through these."""
        make = self._make
        self._make = lambda: grpc.intercept_channel(make(), *interceptors)
        self.channel = self._opened()

    def ready(self) -> None:
        grpc.channel_ready_future(self.channel).result(PATIENCE_S)

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        self._channels.clear()

    def idle(self) -> None:
        if self._bench is not None:
            self._bench.idle()


class SyncRunning:
    def __init__(self, call: Any, *, streams: bool) -> None:
        self.call = call
        self._streams = streams

    def read(self) -> Any:
        return next(self.call)

    def cancel(self) -> bool:
        return bool(self.call.cancel())

    def result(self) -> Result:
        replies: list[Any] = []
        try:
            if self._streams:
                replies.extend(self.call)
            else:
                replies.append(self.call.result(PATIENCE_S))
        except grpc.FutureCancelledError as error:
            result = _ended(self.call, replies)
            result.error = error
            return result
        except Exception as error:  # noqa: BLE001
            failed = _failed(error)
            failed.replies = replies
            return failed
        return _ended(self.call, replies)


def _failed(error: Any) -> Result:
    if not isinstance(error, grpc.RpcError):
        return Result(error=error)
    result = _ended(error, [])
    result.error = error
    return result


def _ended(call: Any, replies: list[Any]) -> Result:
    return Result(
        replies=replies,
        code=call.code(),
        details=call.details(),
        initial=dict(call.initial_metadata() or ()),
        trailing=dict(call.trailing_metadata() or ()),
        endpoint=endpoint_of(call),
    )


@contextlib.contextmanager
def stock_sync(
    port: int, *, via: str = "blocking", options: Iterable[tuple[str, Any]] = (), **settings: Any
) -> Iterator[SyncDriver]:
    """grpc's own channel."""
    driver = SyncDriver(lambda: grpc.insecure_channel(f"127.0.0.1:{port}", list(options), **settings), via=via)
    try:
        yield driver
    finally:
        driver.close()


@contextlib.contextmanager
def mesh_sync(
    port: int, *, via: str = "blocking", fresh: bool = False, options: Iterable[tuple[str, Any]] = (), **settings: Any
) -> Iterator[SyncDriver]:
    """Ours, over that one endpoint."""
    binding = LooseBinding()
    binding.update([Endpoint(host="127.0.0.1", port=port, name="pod-0")])
    bench = Bench(binding, options=options, **settings)
    first = iter([bench.channel])
    driver = SyncDriver(
        lambda: next(first, None) or Bench(binding, options=options, **settings).channel, via=via, fresh=fresh, bench=bench
    )
    try:
        yield driver
        driver.idle()
        assert binding.internal_errors == []
    finally:
        driver.close()
        binding.scheduler.stop(1.0)


DRIVERS: dict[str, Any] = {
    "stock-sync": stock_sync,
    "stock-sync-future": lambda port, **settings: stock_sync(port, via="future", **settings),
    "meshlb-sync": mesh_sync,
    "meshlb-sync-future": lambda port, **settings: mesh_sync(port, via="future", **settings),
    "meshlb-sync-pending": lambda port, **settings: mesh_sync(port, via="future", fresh=True, **settings),
}
