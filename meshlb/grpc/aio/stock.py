"""grpc's own asyncio channels as the parts ours are made of, and one of them per loop as the way around meshlb.

``StockChannel`` is what ``MESHLB_MODE=off`` and ``xds:`` targets get, and what carries a call that a bug of ours would fail. grpc
binds a channel to the loop that is current where it is made; a program that makes its channels at import, as ours allow, must still
run when meshlb is off. So this one makes grpc's channel at its first use in each loop, and adds nothing else.

The factories are unwrapped, as in ``meshlb.grpc.stock``: a channel per endpoint is no channel of the user's.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from meshlb.grpc.aio.guards import fork_guard, running_loop
from meshlb.grpc.options import Option

CLOSED = "Channel is closed."  # grpc's own words

_insecure_channel = inspect.unwrap(grpc.aio.insecure_channel)
_secure_channel = inspect.unwrap(grpc.aio.secure_channel)

_INTERCEPTORS = (
    grpc.aio.UnaryUnaryClientInterceptor,
    grpc.aio.UnaryStreamClientInterceptor,
    grpc.aio.StreamUnaryClientInterceptor,
    grpc.aio.StreamStreamClientInterceptor,
)


class Parts:
    """What the real channels of one channel have in common."""

    __slots__ = ("_compression", "_credentials", "_interceptors")

    def __init__(
        self,
        credentials: grpc.ChannelCredentials | None,
        compression: grpc.Compression | None,
        interceptors: Sequence[grpc.aio.ClientInterceptor] | None,
    ) -> None:
        """Raises what grpc raises when it makes a channel: here channels are made later, the mistake is made now."""
        if compression:
            int(compression)
        for interceptor in interceptors or ():
            if not isinstance(interceptor, _INTERCEPTORS):
                names = " or ".join(kind.__name__ for kind in _INTERCEPTORS)
                raise ValueError(f"Interceptor {interceptor!r} must be {names}.")
        self._credentials = credentials
        self._compression = compression
        self._interceptors = interceptors

    @property
    def secure(self) -> bool:
        """With credentials of a channel."""
        return self._credentials is not None

    def channel(self, target: str, options: Sequence[Option]) -> grpc.aio.Channel:
        """A channel of grpc's own in the running loop; it connects when it is used or told to."""
        if self._credentials is None:
            channel = _insecure_channel(target, options, self._compression, self._interceptors)
        else:
            channel = _secure_channel(target, self._credentials, options, self._compression, self._interceptors)
        fork_guard.connections.add(channel)
        return channel


class StockChannel(grpc.aio.Channel):  # type: ignore[misc]
    """One of grpc's channels per running loop."""

    def __init__(self, make: Callable[[], grpc.aio.Channel]) -> None:
        self._make = make
        self._channels: dict[asyncio.AbstractEventLoop, grpc.aio.Channel] = {}
        self._lock = threading.Lock()
        self._closed = False

    def in_this_loop(self) -> grpc.aio.Channel:
        """Raises NoRunningLoopError, ForkError, or grpc's UsageError after ``close()``."""
        channel = self._channels.get(running_loop())
        return self._made() if channel is None else channel

    def _made(self) -> grpc.aio.Channel:
        fork_guard.check()
        with self._lock:
            if self._closed:
                raise grpc.aio.UsageError(CLOSED)
            for loop in [loop for loop in self._channels if loop.is_closed()]:
                del self._channels[loop]
            channel = self._channels[running_loop()] = self._make()
        return channel

    async def close(self, grace: float | None = None) -> None:
        """grpc's own for this loop; the channels of other loops are let go, and finish what they have under way."""
        with self._lock:
            self._closed = True
            channel = self._channels.pop(running_loop(), None)
            self._channels.clear()
        if channel is not None:
            await channel.close(grace)

    async def __aenter__(self) -> StockChannel:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        return self.in_this_loop().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self.in_this_loop().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.in_this_loop().channel_ready()

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _UnaryUnary(self, "unary_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _UnaryStream(self, "unary_stream", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _StreamUnary(self, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _StreamStream(self, "stream_stream", args, kwargs)


class _PerLoop:
    """grpc's multicallable of the loop that it is called in; the channel's own table is asked, so that nothing outlives it."""

    def __init__(self, channel: StockChannel, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._channel = channel
        self._kind = kind
        self._args = args
        self._kwargs = kwargs

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._channel.in_this_loop(), self._kind)(*self._args, **self._kwargs)(*args, **kwargs)


class _UnaryUnary(_PerLoop, grpc.aio.UnaryUnaryMultiCallable):  # type: ignore[misc]
    pass


class _UnaryStream(_PerLoop, grpc.aio.UnaryStreamMultiCallable):  # type: ignore[misc]
    pass


class _StreamUnary(_PerLoop, grpc.aio.StreamUnaryMultiCallable):  # type: ignore[misc]
    pass


class _StreamStream(_PerLoop, grpc.aio.StreamStreamMultiCallable):  # type: ignore[misc]
    pass
