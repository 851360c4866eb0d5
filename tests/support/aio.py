"""The asyncio twin of ``channels``: channels of ours in event loops of either kind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio

from meshlb._proto import echo_pb2_grpc
from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import Endpoint
from meshlb.core.subchannel import Subchannel
from meshlb.grpc.aio.channel import Channel
from meshlb.grpc.aio.driver import Driver
from meshlb.grpc.aio.stock import Parts
from meshlb.grpc.options import ChannelOptions
from tests.support.channels import PATIENCE_S, EchoServer, LooseBinding

try:
    import uvloop
except ImportError:  # not on every system
    uvloop = None

T = TypeVar("T")
NewLoop = Callable[[], asyncio.AbstractEventLoop]

LOOPS: dict[str, NewLoop] = {"asyncio": asyncio.new_event_loop}
if uvloop is not None:
    LOOPS["uvloop"] = uvloop.new_event_loop


def run_in(new_loop: NewLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run it in a loop of its own, for ``3 * PATIENCE_S`` at most, and close the loop as ``asyncio.run`` does."""

    async def bounded() -> T:
        return await asyncio.wait_for(coroutine, 3 * PATIENCE_S)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(bounded())


async def eventually(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Wait for a condition with a deadline; returns its value."""
    deadline_s = time.monotonic() + patience_s
    while not (value := condition()):
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {patience_s:g} s: {what}")
        await asyncio.sleep(0.002)
    return value


def channel_of(
    binding: LooseBinding,
    *,
    options: Iterable[tuple[str, Any]] = (),
    credentials: grpc.ChannelCredentials | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] | None = None,
) -> Channel:
    """A channel of ours over a pool that the test fills; made where no loop need run."""
    return Channel(binding, ChannelOptions.of(options), Parts(credentials, compression, interceptors))  # type: ignore[arg-type]


class Bench:
    """A channel of ours, its binding and its stub."""

    def __init__(self, binding: LooseBinding, **settings: Any) -> None:
        self.binding = binding
        self.channel = channel_of(binding, **settings)
        self.stub: Any = echo_pb2_grpc.EchoStub(self.channel)

    @property
    def driver(self) -> Driver:
        return self.channel.driver()

    async def ready(self, count: int) -> None:
        """Wait until ``count`` endpoints are picked from."""
        view = self.driver.view
        await eventually(lambda: view.describe()["picking_from"] == count, f"{count} endpoints are ready")

    async def idle(self) -> None:
        """Wait until nothing is in flight, and nothing waits."""
        gc.collect()  # an error that was raised holds its frame, and that the call
        await eventually(lambda: self.binding.in_flight == 0, f"nothing in flight: {self.binding.subchannels}")
        assert [driver._parked for driver in self.channel.drivers.values() if driver._parked] == []

    async def pretend_ready(self, *names: str) -> list[Subchannel]:
        """The view takes these endpoints, at which nobody listens, for ready, and has seen them so just now."""
        driver = self.driver
        view, connections = driver.view, driver.connections
        gone = [sub for sub in self.binding.subchannels if sub.endpoint.name in names]
        await eventually(lambda: all(sub in connections.by_subchannel for sub in gone), "they were opened")
        failed = grpc.ChannelConnectivity.TRANSIENT_FAILURE
        for sub in gone:
            connection = connections.by_subchannel[sub]
            await eventually(lambda connection=connection: connection.channel.get_state() is failed, "it was tried")
            connection.seen_s = driver.now_s() + 3600.0
        connections.look = lambda: None  # type: ignore[method-assign]
        view.set_states([(sub, Connectivity.READY) for sub in gone])
        return gone


@contextlib.asynccontextmanager
async def bench(*endpoints: EchoServer | Endpoint, binding: LooseBinding | None = None, **settings: Any) -> AsyncIterator[Bench]:
    """A channel over these endpoints; at the end nothing may be in flight and no bug may have been hidden."""
    used = binding if binding is not None else LooseBinding()
    if endpoints:
        used.update(endpoints)
    made = Bench(used, **settings)
    try:
        yield made
        await made.idle()
        assert used.internal_errors == []
    finally:
        await made.channel.close()
        used.scheduler.stop(1.0)
