"""Connections that get too old, by our own clock or by the server's: renewed without a lost call, in event loops of either kind."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
import grpc.aio
import pytest

import meshlb.grpc
from tests.support.ageing import ageing, impatient_servers, proxied
from tests.support.aio import Bench, bench, eventually
from tests.support.channels import request
from tests.support.proxy import CountingProxy

Run = Callable[[Coroutine[Any, Any, None]], None]
GRPC = tuple(int(part) for part in grpc.__version__.split(".")[:2])


@pytest.fixture
def proxies() -> Iterator[list[CountingProxy]]:
    """Two, each before a server of its own."""
    with proxied(2) as made:
        yield made


def renewing(*proxies: CountingProxy, **settings: Any) -> AbstractAsyncContextManager[Bench]:
    """A channel that renews its connections every second or so."""
    return bench(binding=ageing(*proxies, **settings))


def described(channel: Bench) -> list[dict[str, Any]]:
    return [one["links"][0] for one in channel.binding.pool.describe()["endpoints"]]


class Load:
    """Tasks that call without pause, and what failed for them; ``fewest`` is the least number of endpoints picked from."""

    def __init__(self, channel: Bench, tasks: int = 4) -> None:
        self.calls = 0
        self.errors: list[BaseException] = []
        self.fewest = 1_000
        self._channel = channel
        self._over = False
        self._tasks = tasks

    async def _run(self) -> None:
        while not self._over:
            try:
                await self._channel.stub.Get(request(), timeout=5)
            except BaseException as error:  # noqa: BLE001
                self.errors.append(error)
            self.calls += 1
            self.fewest = min(self.fewest, self._channel.driver.view.describe()["picking_from"])

    async def __aenter__(self) -> Load:
        self._running = [asyncio.ensure_future(self._run()) for _ in range(self._tasks)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await asyncio.gather(*self._running)


async def closed(condition: Callable[[], bool], what: str) -> None:
    """Wait for the end of connections; before grpcio 1.83 its own channels, too, leave some open for long after a stream."""
    if GRPC >= (1, 83):
        await eventually(lambda: gc.collect() is not None and condition(), what)


async def _all_of(stream: Any) -> list[Any]:
    return [message async for message in stream]


def test_connections_are_renewed_under_load_without_a_lost_call(run: Run, proxies: list[CountingProxy]) -> None:
    """Make before break: every endpoint stays ready all the while, its record goes on, and the old connections are closed."""

    async def case() -> None:
        async with renewing(*proxies) as channel:
            await channel.ready(2)
            async with Load(channel) as load:
                await eventually(lambda: all(proxy.connections >= 3 for proxy in proxies), "each is renewed twice")
            assert load.errors == []
            assert load.fewest == 2
            assert sum(sub.started for sub in channel.binding.subchannels) == load.calls
            assert sum(sub.failed for sub in channel.binding.subchannels) == 0
            await closed(lambda: all(proxy.alive <= 2 for proxy in proxies), "the old ones are closed")
            assert all(0 <= one["connected_for_s"] < 1.7 for one in described(channel))

    run(case())


def test_a_stream_finishes_on_the_connection_that_it_began_on(run: Run, proxies: list[CountingProxy]) -> None:
    """It loses no message to two renewals, and then its connection goes."""

    async def case() -> None:
        async with renewing(proxies[0]) as channel:
            await channel.ready(1)
            stream = channel.stub.Watch(request(count=40, interval_s=0.1))
            messages = [await stream.read()]
            await eventually(lambda: described(channel)[0]["replaced"] == 1, "its connection is replaced")
            assert (await channel.stub.Get(request())).pod == "pod-0"
            while (message := await stream.read()) is not grpc.aio.EOF:
                messages.append(message)
            assert [message.sequence for message in messages] == list(range(40))
            assert proxies[0].connections >= 3
            del stream  # grpc's own call object keeps its connection
            await closed(lambda: proxies[0].alive <= 2, "nothing keeps the old ones")

    run(case())


async def _requests() -> AsyncIterator[Any]:
    for number in range(1000):
        yield request(str(number))
        await asyncio.sleep(0.05)


async def _iterate(stream: Any) -> None:
    async for _ in stream:
        pass


async def _read(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def _await(stream: Any) -> None:
    await stream


STREAMS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Coroutine[Any, Any, None]]]] = {
    "iterated": (lambda stub: stub.Watch(request(count=1000, interval_s=0.05)), _iterate),
    "read": (lambda stub: stub.Watch(request(count=1000, interval_s=0.05)), _read),
    "both ways": (lambda stub: stub.Chat(_requests()), _iterate),
    "of requests": (lambda stub: stub.Collect(_requests()), _await),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_may_be_given_a_limit_and_a_unary_call_is_never_cut_short(
    run: Run, proxies: list[CountingProxy], kind: str
) -> None:
    """Both are on a connection that is replaced: the unary call ends well, and then, long after its grace, the stream ends with an error
    that says why, and not as if its reader had been cancelled."""

    async def case() -> None:
        begin, use = STREAMS[kind]
        async with renewing(proxies[0], max_age_grace_s=0.2) as channel:
            await channel.ready(1)
            began_s, stream = time.monotonic(), begin(channel.stub)
            call = channel.stub.Get(request(delay_s=2.5))
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await use(stream)
            assert time.monotonic() - began_s > 2.0
            assert (ended.value.code(), await stream.code()) == (grpc.StatusCode.UNAVAILABLE,) * 2
            assert str(ended.value.details()).endswith(", which was renewed, by connection.max_age_grace_s=0.2")
            assert meshlb.grpc.attempts_of(stream)[0].ended == "UNAVAILABLE"
            assert call.done()
            assert (await call).pod == "pod-0"
            assert sum(sub.failed for sub in channel.binding.subchannels) == 0

    run(case())


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("task", [False, True])
def test_a_stream_that_its_caller_cancels_is_cancelled_also_when_its_time_is_over(
    run: Run, proxies: list[CountingProxy], kind: str, task: bool
) -> None:
    """By itself, or by its reader's task; in the very moment in which its connection is closed, too."""

    async def case() -> None:
        begin, use = STREAMS[kind]
        async with renewing(proxies[0], max_age_grace_s=0.2) as channel:
            await channel.ready(1)
            stream, begun = begin(channel.stub), list[bool]()

            async def read() -> None:
                begun.append(True)
                await use(stream)

            reader = asyncio.ensure_future(read())
            await eventually(lambda: begun and any(sub.streams for sub in channel.binding.subchannels), "it is on its way")
            for connection in channel.driver.by_subchannel.values():
                connection.outlived = True
            if task:
                reader.cancel()
            else:
                stream.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            assert not any(sub.streams for sub in channel.binding.subchannels)

    run(case())


def test_a_successor_that_cannot_connect_changes_nothing(run: Run, proxies: list[CountingProxy]) -> None:
    """The old connection serves for as long as it takes; status says that a new one is on its way."""

    async def case() -> None:
        async with renewing(proxies[0]) as channel:
            await channel.ready(1)
            proxies[0].close()
            await eventually(lambda: described(channel)[0]["renewing"], "a successor is tried")
            async with Load(channel, 1) as load:
                await eventually(lambda: load.calls >= 50, "calls go on")
            assert (load.errors, load.fewest) == ([], 1)
            proxies[0].open()
            done = lambda: proxies[0].connections >= 2 and not described(channel)[0]["renewing"]  # noqa: E731
            await eventually(done, "it takes over in the end")
            assert (await channel.stub.Get(request())).pod == "pod-0"

    run(case())


def test_closing_leaves_neither_successors_nor_replaced_connections(run: Run, proxies: list[CountingProxy]) -> None:
    """In the middle of a renewal: one connection in use, one replaced that carries a stream, and one that cannot connect."""

    async def case() -> None:
        async with renewing(proxies[0]) as channel:
            await channel.ready(1)
            stream = channel.stub.Watch(request(count=1000, interval_s=0.05))
            reading = asyncio.ensure_future(_all_of(stream))  # grpcio 1.60 closes only what is being read
            await eventually(lambda: described(channel)[0]["replaced"] == 1, "its connection is replaced")
            proxies[0].close()
            await eventually(lambda: described(channel)[0]["renewing"], "the next successor is tried")
            await channel.channel.close()
            with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
                await reading
            assert stream.cancelled()
            del stream, reading  # grpc's own call object keeps its connection
        await closed(lambda: proxies[0].alive == 0, "nothing is left")

    run(case())


def test_an_endpoint_that_goes_takes_its_successor_with_it(run: Run, proxies: list[CountingProxy]) -> None:
    """Its stream finishes all the same, on the connection that was replaced before."""

    async def case() -> None:
        async with renewing(*proxies) as channel:
            await channel.ready(2)
            streams = [channel.stub.Watch(request(count=25, interval_s=0.1)) for _ in range(2)]
            await eventually(lambda: all(one["replaced"] for one in described(channel)), "both are replaced")
            proxies[0].close()
            await eventually(lambda: described(channel)[0]["renewing"], "and the first is renewed again")
            channel.binding.update([proxies[1].endpoint("uid-1")])
            assert {(await channel.stub.Get(request())).pod for _ in range(4)} == {"pod-1"}
            assert [len(await _all_of(stream)) for stream in streams] == [25, 25]
            await channel.idle()
            del streams  # grpc's own call objects keep their connections
            await closed(lambda: proxies[0].alive == 0, "nothing is left of it")

    run(case())


def test_a_channel_that_is_forgotten_while_it_renews_is_freed(run: Run, proxies: list[CountingProxy]) -> None:
    """With the successor, and what it was to succeed."""

    async def case() -> None:
        binding = ageing(proxies[0])
        channel = Bench(binding)
        await channel.ready(1)
        proxies[0].close()
        await eventually(lambda channel=channel: described(channel)[0]["renewing"], "a successor is tried")
        freed = weakref.ref(channel.driver)
        del channel
        await eventually(lambda: (gc.collect(), freed())[1] is None, "it is freed")
        await closed(lambda: proxies[0].alive == 0, "its connections are closed")
        binding.scheduler.stop(1.0)

    run(case())


@pytest.mark.parametrize("count", [1, 3])
def test_a_server_that_ends_old_connections_costs_no_call(run: Run, count: int) -> None:
    """``max_connection_age_ms`` at a second with little grace, GOAWAY after GOAWAY under load; streams end as the server says."""

    async def case() -> None:
        with impatient_servers(count) as endpoints:
            async with bench(*endpoints) as channel:
                await channel.ready(count)
                began_s = time.monotonic()
                stream = channel.stub.Watch(request(count=1000, interval_s=0.02))
                async with Load(channel) as load:
                    with pytest.raises(grpc.aio.AioRpcError) as ended:
                        await _all_of(stream)
                    await eventually(lambda: time.monotonic() - began_s > 5.0, "some more GOAWAYs")
                assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
                assert load.errors == []
                assert load.calls > 500

    run(case())
