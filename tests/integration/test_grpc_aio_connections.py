"""The real connections of an asyncio channel, on both loops: opened when wanted, let go gently, freed with their channel, cheap."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

import meshlb.grpc.aio
from meshlb.core.endpoint import Endpoint
from meshlb.grpc.aio import connections as connections_module
from tests.support.aio import Bench, NewLoop, bench, eventually, run_in
from tests.support.channels import PATIENCE_S, EchoServer, LooseBinding, echo_servers, request, unused_port

READY = grpc.ChannelConnectivity.READY
IDLE = grpc.ChannelConnectivity.IDLE
SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(scope="module")
def servers() -> Iterator[list[EchoServer]]:
    with echo_servers(3) as served:
        yield served


# --- connections ----------------------------------------------------------------------------------------------------------------------------


def test_a_removed_endpoint_gets_no_new_call_and_finishes_what_it_has(
    run: Run, servers: list[EchoServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its channel is kept while it carries calls and let go afterwards; it is never closed."""
    monkeypatch.setattr(connections_module, "DRAIN_S", 0.1)

    async def case() -> None:
        async with bench(*servers[:2]) as channel:
            await channel.ready(2)
            calls = [channel.stub.Get(request(delay_s=0.4)) for _ in range(2)]
            stream = channel.stub.Watch(request(count=4, interval_s=0.1))
            gone = next(each for each in channel.driver.connections if each.subchannel.endpoint.name == "pod-0")
            freed = weakref.ref(gone.channel)
            channel.binding.update(servers[1:2])
            assert {(await channel.stub.Get(request())).pod for _ in range(10)} == {"pod-1"}
            assert gone.live
            assert gone in list(channel.driver.connections)
            assert {reply.pod for reply in await asyncio.gather(*calls)} == {"pod-0", "pod-1"}
            assert len([reply async for reply in stream]) == 4
            del gone, stream, calls
            await eventually(lambda: (gc.collect(), freed())[1] is None, "its channel is freed")

    run(case())


def test_a_call_made_in_the_same_turn_as_the_removal_is_sent(run: Run, servers: list[EchoServer]) -> None:
    """grpc sends it one turn later: its channel is still there."""

    async def case() -> None:
        async with bench(*servers[:2]) as channel:
            await channel.ready(2)
            for number in range(20):
                calls = [channel.stub.Get(request()) for _ in range(4)]
                channel.binding.update([servers[number % 2]])
                channel.driver.on_change()  # before grpc's own tasks have run
                assert len(await asyncio.gather(*calls)) == 4
                channel.binding.update(servers[:2])
                await channel.ready(2)
            assert sum(sub.failed for sub in channel.binding.subchannels) == 0

    run(case())


def test_a_new_endpoint_takes_no_call_before_it_is_connected(run: Run, servers: list[EchoServer]) -> None:
    """One that cannot be connected never gets any while another is there."""

    async def case() -> None:
        dead = Endpoint(host="127.0.0.1", port=unused_port(), name="nobody")
        async with bench(servers[0]) as channel:
            await channel.ready(1)
            channel.binding.update([servers[0], dead])
            assert {(await channel.stub.Get(request())).pod for _ in range(30)} == {"pod-0"}
            assert {sub.endpoint.name: sub.started for sub in channel.binding.subchannels}["nobody"] == 0

    run(case())


def test_a_new_endpoint_takes_calls_within_milliseconds(run: Run) -> None:
    """From the update to the picker, connecting included; the best of several, since the machine is shared."""

    async def case() -> None:
        with echo_servers(6) as own:
            async with bench(own[0]) as channel:
                await channel.ready(1)
                view, took_s = channel.driver.view, []
                for count in range(2, 7):
                    await asyncio.sleep(2 * connections_module.STEADY_S)
                    started_s = time.monotonic()
                    channel.binding.update(own[:count])
                    while view.describe()["picking_from"] < count:
                        assert time.monotonic() - started_s < PATIENCE_S
                        await asyncio.sleep(0.0005)
                    took_s.append(time.monotonic() - started_s)
                assert min(took_s) < 0.02, took_s

    run(case())


def test_an_endpoint_that_comes_back_takes_calls_again(run: Run) -> None:
    """Without any call on it: the real channel reconnects by itself."""

    async def case() -> None:
        with echo_servers(2) as own:
            fast = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100)]
            async with bench(*own, options=fast) as channel:
                await channel.ready(2)
                await asyncio.to_thread(own[0].stop)
                await channel.ready(1)
                await asyncio.to_thread(own[0].start)
                await channel.ready(2)
                assert {(await channel.stub.Get(request())).pod for _ in range(4)} == {"pod-0", "pod-1"}

    run(case())


def test_a_connection_that_cannot_be_made_is_counted_and_calls_go_around(run: Run, servers: list[EchoServer]) -> None:
    """A bug while connecting must not fail calls."""

    async def case() -> None:
        binding = LooseBinding(stock_target=f"127.0.0.1:{servers[1].port}")
        binding.update(servers[:1])
        channel = Bench(binding)

        def fails(endpoint: Endpoint) -> Any:
            raise RuntimeError("a bug")

        channel.channel._connector.connect = fails  # type: ignore[method-assign]
        assert (await channel.stub.Get(request(), timeout=PATIENCE_S)).pod == "pod-1"
        assert {str(error) for error in binding.internal_errors} == {"a bug"}
        await channel.channel.close()
        binding.scheduler.stop()

    connector = meshlb.grpc.aio.channel._Connector
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meshlb.grpc.aio.channel, "_Connector", type("_Connector", (connector,), {}))  # without slots
        run(case())


# --- being forgotten -----------------------------------------------------------------------------------------------------------------------


def test_a_stub_alone_keeps_everything(run: Run, servers: list[EchoServer]) -> None:
    """People keep only the stub."""

    async def case() -> None:
        async with bench(*servers) as made:
            stub = Bench(made.binding).stub
            for _ in range(3):
                gc.collect()
                assert (await stub.Get(request())).payload == "hello"

    run(case())


def test_a_forgotten_channel_is_freed_with_its_connections(run: Run, servers: list[EchoServer]) -> None:
    """At once, without the garbage collector, though nobody closed it; its view goes from the pool."""

    async def case() -> None:
        async with bench(*servers) as made:
            channel = Bench(made.binding)
            await channel.ready(3)
            assert (await channel.stub.Get(request())).payload == "hello"
            assert len(made.binding.pool.describe()["views"]) == 1
            freed = [weakref.ref(connection.channel) for connection in channel.driver.connections]
            gc.collect()
            gc.disable()
            try:
                del channel
                assert [ref() for ref in freed] == [None] * 3
                assert made.binding.pool.describe()["views"] == []
            finally:
                gc.enable()

    run(case())


def test_a_call_keeps_its_channel_until_it_is_over(run: Run, servers: list[EchoServer]) -> None:
    """Also one that waits without limit and that only its task knows."""

    async def case() -> None:
        binding = LooseBinding()
        waiting = asyncio.ensure_future(Bench(binding).stub.Get(request(), wait_for_ready=True))
        await asyncio.sleep(0.01)
        gc.collect()
        binding.update(servers)
        assert (await waiting).payload == "hello"
        binding.scheduler.stop()

    run(case())


def test_an_idle_channel_costs_next_to_nothing(new_loop: NewLoop, servers: list[EchoServer]) -> None:
    """Looking at 100 connections takes well under a percent of a core."""
    binding = LooseBinding()
    binding.update([Endpoint(host="127.0.0.1", port=servers[0].port, uid=str(number)) for number in range(100)])
    channel = Bench(binding)

    async def idle() -> float:
        await channel.ready(100)
        await asyncio.sleep(0.5)
        spent_s = time.thread_time()
        await asyncio.sleep(1.0)
        return time.thread_time() - spent_s

    assert min(run_in(new_loop, idle()) for _ in range(2)) < 0.01
    binding.scheduler.stop()
