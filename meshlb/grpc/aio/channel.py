"""The asyncio channel: a ``grpc.aio.Channel`` that balances every call over the endpoints of its target.

What a call gets (``meshlb.grpc.channel`` has the table for threads):

=============  ===============================================================  ==========================================
call kind      an endpoint is ready                                             none is ready yet, or one was lost
=============  ===============================================================  ==========================================
unary_unary    an object of ours on grpc's base class, holding grpc's own call  the same object; it waits, then sends
unary_stream   grpc's own object; ours where it may be tried again              an object of ours; it waits, then hands on
stream_unary   grpc's own object                                                an object of ours; it waits, then hands on
stream_stream  grpc's own object                                                an object of ours; it waits, then hands on
=============  ===============================================================  ==========================================

Invoking never blocks and never waits. A unary call that was certainly never sent goes to another endpoint, at most twice, and one that was
sent is tried again where its method's rules or its metadata say so, both paid from the target's budget; a back-off is a timer of the
loop. A stream of answers is tried again by the same rules until something of it reached the caller; other streams are not, once they
are grpc's own. With ``wait_for_ready`` streams are always objects of ours: see ``calls``.

A channel may be made anywhere. At its first use in a running loop it gets a driver there: a view of the pool, and connections of its
own, since grpc's are tied to their loop. Threads: any, one loop each; a call is used in the loop that it was made in.

Interceptors run below the pick, once per attempt, as grpc's channels run them. Deviations from grpc's own channel: ``close()`` wakes
who waits for a state change (grpc leaves them waiting), and closes the channel in every loop, waiting only for the calling one's.
"""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio

from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import Endpoint
from meshlb.errors import MeshError
from meshlb.grpc.addresses import endpoint_target
from meshlb.grpc.aio.driver import Driver
from meshlb.grpc.aio.guards import fork_guard, running_loop
from meshlb.grpc.aio.multicallable import (
    RuledUnaryUnaryMultiCallable,
    StreamStreamMultiCallable,
    StreamUnaryMultiCallable,
    UnaryStreamMultiCallable,
    UnaryUnaryMultiCallable,
)
from meshlb.grpc.aio.stock import CLOSED, Parts, StockChannel
from meshlb.grpc.options import ChannelOptions
from meshlb.runtime.fork import on_fork_child

if TYPE_CHECKING:
    from meshlb.binding import Binding

_GRPC_STATES = {
    Connectivity.IDLE: grpc.ChannelConnectivity.IDLE,
    Connectivity.CONNECTING: grpc.ChannelConnectivity.CONNECTING,
    Connectivity.READY: grpc.ChannelConnectivity.READY,
    Connectivity.TRANSIENT_FAILURE: grpc.ChannelConnectivity.TRANSIENT_FAILURE,
    Connectivity.SHUTDOWN: grpc.ChannelConnectivity.SHUTDOWN,
}


class Channel(grpc.aio.Channel):  # type: ignore[misc]
    """See the module head; made by ``insecure_channel`` and ``secure_channel``."""

    def __init__(self, binding: Binding, options: ChannelOptions, parts: Parts) -> None:
        self.options = options
        self.drivers: dict[asyncio.AbstractEventLoop, Driver] = {}
        self.stock = StockChannel(lambda: parts.channel(binding.stock_target, options.stock_options))
        self.config = binding.config
        self._binding = binding
        self._connector = _Connector(binding, options, parts)
        self._idle: list[asyncio.Future[None]] = []  # who waits for the first use
        self._lock = threading.Lock()
        self._closed = False
        on_fork_child(self._after_fork)

    # --- one driver a loop ------------------------------------------------------------------------------------------------

    def driver(self) -> Driver:
        """The running loop's driver, made at the first use. Raises NoRunningLoopError, ForkError, or UsageError after ``close()``."""
        fork_guard.check()
        if self._closed:
            raise grpc.aio.UsageError(CLOSED)
        loop = running_loop()
        with self._lock:
            driver = self.drivers.get(loop)
            if driver is None and not self._closed:
                driver = self._new_driver(loop)
        if driver is None:
            raise grpc.aio.UsageError(CLOSED)
        return driver

    def _new_driver(self, loop: asyncio.AbstractEventLoop) -> Driver:
        for ended in [other for other in self.drivers if other.is_closed()]:
            self.drivers.pop(ended).release()
        try:
            asks_why = self.options.watches_health(self.config)
            driver = self.drivers[loop] = Driver(loop, self._binding, self._connector.connect, asks_why=asks_why)
        except MeshError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug of ours, or no thread to be had: calls go around meshlb
            return _BrokenDriver(loop, self._binding, error)  # type: ignore[return-value]
        idle, self._idle = self._idle, []
        for waiter in idle:
            _wake(waiter)
        return driver

    def _after_fork(self) -> None:
        """In the child: forget what belongs to the parent's loops, without freeing it where that would hang."""
        if fork_guard.broken:
            fork_guard.keep([*self.drivers.values(), self.stock])
        self.drivers.clear()
        self._idle = []
        self._lock = threading.Lock()

    # --- grpc.aio.Channel ---------------------------------------------------------------------------------------------------

    # ``private`` is what generated code of a later grpcio may add; what grpc's own channels take of it is passed on.

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
        **private: Any,
    ) -> UnaryUnaryMultiCallable:
        arguments = (self, method, request_serializer, response_deserializer, _registered_method, private)
        made = UnaryUnaryMultiCallable(*arguments)
        return made if made.rules.plain else RuledUnaryUnaryMultiCallable(*arguments)

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
        **private: Any,
    ) -> UnaryStreamMultiCallable:
        return UnaryStreamMultiCallable(self, method, request_serializer, response_deserializer, _registered_method, private)

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
        **private: Any,
    ) -> StreamUnaryMultiCallable:
        return StreamUnaryMultiCallable(self, method, request_serializer, response_deserializer, _registered_method, private)

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
        **private: Any,
    ) -> StreamStreamMultiCallable:
        return StreamStreamMultiCallable(self, method, request_serializer, response_deserializer, _registered_method, private)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Aggregated as ``round_robin`` does: READY if any endpoint is, else CONNECTING if any is, else TRANSIENT_FAILURE.

        IDLE before the first use in the running loop. With ``try_to_connect`` it is a use.
        """
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        driver = self.driver() if try_to_connect else self._driver_if_used()
        if driver is None:
            return grpc.ChannelConnectivity.IDLE
        driver.connections.look_again()
        return _GRPC_STATES[driver.view.state]

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return when ``get_state()`` gives something else; at once if it does already."""
        if self._closed:
            raise grpc.aio.UsageError(CLOSED)
        while self.get_state() is last_observed_state:
            driver = self._driver_if_used()
            if driver is not None:
                await driver.change()
            else:
                await self._first_use()

    async def channel_ready(self) -> None:
        """Return when an endpoint is ready, however long that takes."""
        state = self.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.READY:
            await self.wait_for_state_change(state)
            state = self.get_state(try_to_connect=True)

    async def close(self, grace: float | None = None) -> None:
        """No new calls from here on. Calls under way have ``grace`` seconds to finish (None: none), then they are cancelled."""
        if self._closed:
            return
        if grace and grace < 0:
            raise ValueError(f"grace must be non-negative, got {grace}.")
        loop = running_loop()
        with self._lock:
            self._closed = True
            own = self.drivers.pop(loop, None)
            others = list(self.drivers.values())
            self.drivers.clear()
            idle, self._idle = self._idle, []
        for waiter in idle:
            _wake(waiter)
        for other in others:
            other.close_from_elsewhere(grace)
        try:
            if own is not None:
                await own.close(grace)
        finally:
            await self.stock.close(grace)

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _driver_if_used(self) -> Driver | None:
        try:
            return self.drivers.get(asyncio.get_running_loop())
        except RuntimeError:
            return None

    async def _first_use(self) -> None:
        waiter: asyncio.Future[None] = running_loop().create_future()
        with self._lock:
            if self._closed:
                return
            self._idle.append(waiter)
        await waiter

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"loops={len(self.drivers)}"
        return f"<meshlb.grpc.aio.Channel {self._binding.target} {state}>"


class _Connector:
    """Makes the real channel of an endpoint. Apart from the channel, so that drivers do not hold it."""

    __slots__ = ("_binding", "_options", "_parts")

    def __init__(self, binding: Binding, options: ChannelOptions, parts: Parts) -> None:
        self._binding = binding
        self._options = options
        self._parts = parts

    def connect(self, endpoint: Endpoint) -> grpc.aio.Channel:
        binding = self._binding
        tls_name = binding.tls_name if self._parts.secure else ""
        options = self._options.endpoint_options(binding.authority, endpoint, binding.config, tls_name=tls_name)
        return self._parts.channel(endpoint_target(endpoint), options)


class _BrokenDriver:
    """In place of a driver that could not be made: every call goes around meshlb, and the next one tries again."""

    def __init__(self, loop: asyncio.AbstractEventLoop, binding: Binding, error: Exception) -> None:
        self.loop = loop
        self.binding = binding
        self._error = error

    def __getattr__(self, name: str) -> NoReturn:
        raise self._error


def _wake(waiter: asyncio.Future[None]) -> None:
    """From any loop."""
    try:
        waiter.get_loop().call_soon_threadsafe(_resolve, waiter)
    except RuntimeError:
        return  # its loop is closed: nobody waits there any more


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
