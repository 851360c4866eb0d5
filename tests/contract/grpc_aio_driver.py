"""The asyncio drivers of the gRPC contract: an event loop in a thread of its own, so that the cases can block.

``fresh`` ones close and remake nothing: they use a new channel of ours for each call, so that no endpoint is ready when it is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

import grpc
import grpc.aio

from meshlb._proto import echo_pb2
from meshlb.core.endpoint import Endpoint
from meshlb.grpc.marks import endpoint_of
from tests.contract.grpc_driver import METHODS, SERVICE, Result
from tests.support.aio import LOOPS, channel_of
from tests.support.channels import PATIENCE_S, LooseBinding, eventually

T = TypeVar("T")


class LoopThread:
    """An event loop that runs until ``stop``, which leaves nothing pending in it."""

    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._loop = new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="test-loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T], patience_s: float = 2 * PATIENCE_S) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(patience_s)

    def stop(self) -> None:
        self.run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class AioDriver:
    """See ``Driver``. ``make`` is called in the loop."""

    closed_errors = (grpc.aio.UsageError, "Channel is closed.")
    asyncio = True

    def __init__(
        self,
        make: Callable[[], grpc.aio.Channel],
        new_loop: Callable[[], asyncio.AbstractEventLoop],
        *,
        fresh: bool = False,
        binding: LooseBinding | None = None,
    ) -> None:
        self._make = make
        self._fresh = fresh
        self._binding = binding
        self._dropped = False
        self._closed = False
        self._channels: list[grpc.aio.Channel] = []
        self.meshlb = binding is not None
        self.loop = LoopThread(new_loop)
        self.channel = self.loop.run(self._opened())

    async def _opened(self) -> grpc.aio.Channel:
        channel = self._make()
        self._channels.append(channel)
        return channel

    async def _invoked(self, kind: str, requests: Any, method: str, serializers: Any, arguments: dict[str, Any]) -> Any:
        if self._fresh and not self._closed:
            self.channel = await self._opened()
        to_wire, from_wire = serializers or (echo_pb2.EchoRequest.SerializeToString, echo_pb2.EchoReply.FromString)
        make = getattr(self.channel, kind)
        path = SERVICE + (method or METHODS[kind])
        return make(path, request_serializer=to_wire, response_deserializer=from_wire)(requests, **arguments)

    def call(self, kind: str, requests: Any, *, method: str = "", serializers: Any = None, **arguments: Any) -> Result:
        async def whole() -> Result:
            try:
                call = await self._invoked(kind, requests, method, serializers, arguments)
            except Exception as error:  # noqa: BLE001 - what it is, is for the case to say
                return Result(error=error)
            return await _result(call, _messages(call, kind))

        return self.loop.run(whole())

    def start(self, kind: str, requests: Any, **arguments: Any) -> AioRunning:
        return AioRunning(self.loop, self.loop.run(self._invoked(kind, requests, "", None, arguments)), kind)

    def drop(self, kind: str, requests: Any) -> None:
        async def read_one() -> None:
            async for _ in await self._invoked(kind, requests, "", None, {}):
                return

        self._dropped = True
        self.loop.run(read_one())

    def ready(self) -> None:
        self.loop.run(self.channel.channel_ready())

    def close(self) -> None:
        async def close_all() -> None:
            for channel in self._channels:
                await channel.close()

        self._closed = True
        self.loop.run(close_all())

    def idle(self) -> None:
        """grpc.aio never ends a stream that is dropped; the end of the channel does."""
        if self._dropped:
            self.close()
        binding = self._binding
        if binding is not None:
            gc.collect()
            eventually(lambda: binding.in_flight == 0, f"nothing in flight: {binding.subchannels}")


class AioRunning:
    def __init__(self, loop: LoopThread, call: Any, kind: str) -> None:
        self._loop = loop
        self._call = call
        self._kind = kind
        self._messages = _messages(call, kind)

    def read(self) -> Any:
        async def one() -> Any:
            return await anext(self._messages)

        return self._loop.run(one())

    def cancel(self) -> bool:
        async def cancel() -> bool:
            return bool(self._call.cancel())

        return self._loop.run(cancel())

    def result(self) -> Result:
        messages = self._messages if self._kind.endswith("_stream") else _messages(self._call, self._kind)
        return self._loop.run(_result(self._call, messages))


async def _messages(call: Any, kind: str) -> AsyncIterator[Any]:
    if kind.endswith("_stream"):
        async for message in call:
            yield message
    else:
        yield await call


async def _result(call: Any, messages: AsyncIterator[Any]) -> Result:
    """What asyncio tells where threads tell the same; grpc keeps the status of a call on the call."""
    replies: list[Any] = []
    raised: BaseException | None = None
    try:
        async for message in messages:
            replies.append(message)
    except asyncio.CancelledError as error:
        raised = error
    except grpc.aio.AioRpcError as error:
        raised = error
    except Exception as error:  # noqa: BLE001
        return Result(replies=replies, error=error)
    code, details = await call.code(), await call.details()
    if isinstance(raised, grpc.aio.AioRpcError):
        assert (raised.code(), raised.details()) == (code, details)
    return Result(
        replies=replies,
        code=code,
        details=details,
        initial=dict(tuple(await call.initial_metadata() or ())),
        trailing=dict(tuple(await call.trailing_metadata() or ())),
        error=raised,
        endpoint=endpoint_of(call),
    )


@contextlib.contextmanager
def stock_aio(
    port: int,
    *,
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    options: Iterable[tuple[str, Any]] = (),
    **settings: Any,
) -> Iterator[AioDriver]:
    """grpc's own channel."""
    driver = AioDriver(lambda: grpc.aio.insecure_channel(f"127.0.0.1:{port}", list(options), **settings), new_loop)
    try:
        yield driver
    finally:
        driver.close()
        driver.loop.stop()


@contextlib.contextmanager
def mesh_aio(
    port: int,
    *,
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    fresh: bool = False,
    options: Iterable[tuple[str, Any]] = (),
    compression: grpc.Compression | None = None,
) -> Iterator[AioDriver]:
    """Ours, over that one endpoint."""
    binding = LooseBinding()
    binding.update([Endpoint(host="127.0.0.1", port=port, name="pod-0")])
    driver = AioDriver(
        lambda: channel_of(binding, options=options, compression=compression),
        new_loop,
        fresh=fresh,
        binding=binding,
    )
    try:
        yield driver
        driver.idle()
        assert binding.internal_errors == []
    finally:
        driver.close()
        driver.loop.stop()
        binding.scheduler.stop(1.0)


AIO_DRIVERS: dict[str, Any] = {
    "stock-aio": stock_aio,
    "meshlb-aio": mesh_aio,
    "meshlb-aio-pending": lambda port, **settings: mesh_aio(port, fresh=True, **settings),
}
if "uvloop" in LOOPS:
    AIO_DRIVERS["meshlb-aio-uvloop"] = lambda port, **settings: mesh_aio(port, new_loop=LOOPS["uvloop"], **settings)
