"""Streams of asyncio: grpc's own object when an endpoint is ready, ours when it has to wait, and no difference that a user sees."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from meshlb.core.endpoint import Endpoint
from meshlb.errors import DeadlineExceededError, NoEndpointError
from meshlb.grpc.aio import kinds
from meshlb.grpc.marks import endpoint_of
from tests.support.aio import Bench, bench, eventually
from tests.support.channels import PATIENCE_S, EchoServer, echo_servers, request, unused_port

Run = Callable[[Coroutine[Any, Any, None]], None]
OURS = {"Watch": kinds.UnaryStreamCall, "Collect": kinds.StreamUnaryCall, "Chat": kinds.StreamStreamCall}
BASES = {"Watch": grpc.aio.UnaryStreamCall, "Collect": grpc.aio.StreamUnaryCall, "Chat": grpc.aio.StreamStreamCall}


@pytest.fixture(scope="module")
def servers() -> Iterator[list[EchoServer]]:
    with echo_servers(2) as served:
        yield served


async def requests(count: int = 3) -> AsyncIterator[Any]:
    for number in range(count):
        yield request(str(number))


def invoked(channel: Bench, method: str, **arguments: Any) -> Any:
    sent = request("0", count=3) if method == "Watch" else requests()
    return getattr(channel.stub, method)(sent, **arguments)


async def replies(call: Any, method: str) -> list[Any]:
    return [await call] if method == "Collect" else [reply async for reply in call]


# --- which object ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", OURS)
def test_a_stream_is_grpcs_own_object_when_an_endpoint_is_ready(run: Run, servers: list[EchoServer], method: str) -> None:
    """And counts as a stream from its invocation to its end."""

    async def case() -> None:
        async with bench(servers[0]) as channel:
            await channel.ready(1)
            call = invoked(channel, method)
            assert type(call).__module__ == "grpc.aio._call"
            (sub,) = channel.binding.subchannels
            assert (len(sub.unary), len(sub.streams)) == (0, 1)
            assert len(await replies(call, method)) == (1 if method == "Collect" else 3)
            await eventually(lambda: not sub.streams, "it ended")
            endpoint = endpoint_of(call)
            assert endpoint is not None
            assert endpoint.name == "pod-0"

    run(case())


@pytest.mark.parametrize("method", OURS)
def test_a_stream_that_has_to_wait_is_ours_and_behaves_alike(run: Run, servers: list[EchoServer], method: str) -> None:
    """On grpc's base class; everything that is asked meanwhile is answered in the end, and callbacks come once."""

    async def case() -> None:
        async with bench() as channel:
            call, ended = invoked(channel, method), []
            call.add_done_callback(ended.append)
            assert isinstance(call, BASES[method])
            assert isinstance(call, OURS[method])
            asked = asyncio.gather(call.code(), call.details(), call.initial_metadata(), call.trailing_metadata())
            connected = asyncio.ensure_future(call.wait_for_connection())
            reading = asyncio.ensure_future(replies(call, method))
            await asyncio.sleep(0.02)
            assert not call.done()
            assert channel.binding.in_flight == 0
            channel.binding.update(servers[:1])
            received = await reading
            await connected
            assert [reply.payload for reply in received] == {"Watch": ["0"] * 3, "Collect": ["2"], "Chat": ["0", "1", "2"]}[method]
            code, details, initial, trailing = await asked
            assert (code, details) == (grpc.StatusCode.OK, "")
            assert isinstance(initial, grpc.aio.Metadata)
            assert isinstance(trailing, grpc.aio.Metadata)
            assert ended == [call]
            assert call.done()
            assert not call.cancel()
            endpoint = endpoint_of(call)
            assert endpoint is not None
            assert endpoint.name == "pod-0"

    run(case())


@pytest.mark.parametrize("method", OURS)
def test_a_lost_connection_makes_the_stream_wait(run: Run, method: str) -> None:
    """The view had it as ready; a stream that would fail there waits for another endpoint instead."""

    async def case() -> None:
        with echo_servers(2) as own:
            async with bench(own[0]) as channel:
                await channel.ready(1)
                (connection,) = channel.driver.connections
                await asyncio.to_thread(own[0].stop)
                await eventually(lambda: connection.channel.get_state() is not grpc.ChannelConnectivity.READY, "gRPC knows")
                connection.seen_s = 0.0
                call = invoked(channel, method, wait_for_ready=True)
                assert isinstance(call, OURS[method])
                channel.binding.update(own[1:])
                assert {reply.pod for reply in await replies(call, method)} == {"pod-1"}

    run(case())


# --- reading and writing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ready", [True, False])
def test_messages_may_be_read_and_written_one_by_one(run: Run, servers: list[EchoServer], ready: bool) -> None:
    """``write``, ``read``, ``done_writing`` and ``EOF``, also when the first write has to wait for an endpoint."""

    async def case() -> None:
        async with bench(*servers[: 1 if ready else 0]) as channel:
            if ready:
                await channel.ready(1)
            call = channel.stub.Chat()
            writing = asyncio.ensure_future(call.write(request("a")))
            await asyncio.sleep(0.01)
            channel.binding.update(servers[:1])
            await writing
            assert (await call.read()).payload == "a"
            await call.write(request("b"))
            assert (await call.read()).payload == "b"
            await call.done_writing()
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            with pytest.raises(asyncio.InvalidStateError):
                await call.write(request("c"))
            collect = channel.stub.Collect()
            for payload in "xyz":
                await collect.write(request(payload))
            await collect.done_writing()
            assert (await collect).payload == "z"

    run(case())


def test_the_two_ways_may_not_be_mixed(run: Run, servers: list[EchoServer]) -> None:
    """UsageError with grpc's words, while it waits and afterwards."""

    async def case() -> None:
        async with bench() as channel:
            given = channel.stub.Chat(requests())
            for misuse in (given.write(request()), given.done_writing()):
                with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
                    await misuse
            iterated, read = channel.stub.Watch(request(count=1)), channel.stub.Watch(request(count=1))
            assert iterated.__aiter__() is iterated.__aiter__()
            with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
                await iterated.read()
            reading = asyncio.ensure_future(read.read())
            await asyncio.sleep(0)
            with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
                read.__aiter__()
            channel.binding.update(servers)
            assert (await reading).sequence == 0
            assert len([reply async for reply in iterated]) == 1
            assert len([reply async for reply in given]) == 3
            assert await read.read() is grpc.aio.EOF

    run(case())


# --- ends ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", OURS)
def test_a_stream_that_finds_nobody_in_time_says_so(run: Run, method: str) -> None:
    """DEADLINE_EXCEEDED or UNAVAILABLE, as grpc's error and as meshlb's, from whatever is awaited."""

    async def case() -> None:
        async with bench() as channel:
            call = invoked(channel, method, timeout=0.1)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await replies(call, method)
            assert isinstance(caught.value, DeadlineExceededError)
            assert await call.code() is caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            channel.binding.update([], note="3 endpoints, none ready")
            call = invoked(channel, method)
            with pytest.raises(NoEndpointError, match="none ready") as none:
                await replies(call, method)
            assert isinstance(none.value, grpc.aio.AioRpcError)
            with pytest.raises(NoEndpointError):
                await call.wait_for_connection()
            if method == "Watch":
                with pytest.raises(NoEndpointError):
                    await invoked(channel, method).read()
            if method == "Collect":
                unsent = channel.stub.Collect()
                await eventually(unsent.done, "it ended")
                with pytest.raises(asyncio.InvalidStateError, match="already finished"):
                    await unsent.write(request())
                await unsent.done_writing()

    run(case())


@pytest.mark.parametrize("method", OURS)
def test_an_unreachable_endpoint_gives_the_transports_own_reason(run: Run, method: str) -> None:
    """The stream is handed to grpc, which says why."""

    async def case() -> None:
        async with bench(Endpoint(host="127.0.0.1", port=unused_port())) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await replies(invoked(channel, method, timeout=PATIENCE_S), method)
            assert type(caught.value) is grpc.aio.AioRpcError
            assert "refused" in caught.value.details()

    run(case())


@pytest.mark.parametrize("method", OURS)
@pytest.mark.parametrize("ready", [True, False])
def test_cancelling_ends_a_stream_at_every_stage(run: Run, servers: list[EchoServer], method: str, ready: bool) -> None:
    """Before it is sent, while it waits, while it is read: CANCELLED, asyncio.CancelledError, nothing in flight."""

    async def case() -> None:
        async with bench(*servers[: 1 if ready else 0]) as channel:
            if ready:
                await channel.ready(1)
            at_once = invoked(channel, method)
            assert at_once.cancel()
            waiting = asyncio.ensure_future(replies(invoked(channel, method, wait_for_ready=True), method))
            await asyncio.sleep(0)
            waiting.cancel()
            for awaited in (replies(at_once, method), waiting):
                with pytest.raises(asyncio.CancelledError):
                    await awaited
            assert at_once.cancelled()
            assert await at_once.code() is grpc.StatusCode.CANCELLED

    run(case())


def test_an_abandoned_stream_ends_with_its_server_or_its_channel(run: Run, servers: list[EchoServer]) -> None:
    """grpc never ends one that is dropped, and while the server sends it does run: it counts until then, not for ever."""

    async def case() -> None:
        async with bench(*servers[:1]) as channel:
            await channel.ready(1)

            async def abandon(**fields: Any) -> None:
                async for _ in channel.stub.Watch(request(**fields)):
                    break

            await abandon(count=1)
            gc.collect()
            await eventually(lambda: channel.binding.in_flight == 0, "the server ended it")
            await abandon(count=1000, interval_s=0.05)
            gc.collect()
            assert channel.binding.in_flight == 1
            await channel.channel.close()
            assert channel.binding.in_flight == 0

    run(case())


@pytest.mark.parametrize("method", OURS)
@pytest.mark.parametrize("ready", [True, False])
def test_what_cannot_be_sent_counts_no_more(run: Run, servers: list[EchoServer], method: str, ready: bool) -> None:
    """Metadata of a wrong type: TypeError for who reads, though grpc itself never gives such a stream a status."""

    async def case() -> None:
        async with bench(*servers[: 1 if ready else 0]) as channel:
            if ready:
                await channel.ready(1)
            call = invoked(channel, method, metadata=(("x-a", 1),))
            channel.binding.update(servers[:1])
            with pytest.raises(TypeError, match="Expected str"):
                await replies(call, method)
            await eventually(lambda: channel.binding.in_flight == 0, "it ended")
            del call

    run(case())


def test_arguments_that_grpc_refuses_are_refused_where_the_stream_is_made(run: Run, servers: list[EchoServer]) -> None:
    """Or, if it had to wait, where it is awaited; nothing stays in flight."""

    async def case() -> None:
        async with bench() as channel:
            waiting = channel.stub.Watch(request(), credentials=grpc.access_token_call_credentials("token"))
            channel.binding.update(servers[:1])
            with pytest.raises(grpc.aio.UsageError, match="secure"):
                await waiting.read()
            assert await waiting.code() is grpc.StatusCode.UNKNOWN
            assert "secure" in await waiting.details()
            await channel.ready(1)
            with pytest.raises(grpc.aio.UsageError, match="secure"):
                channel.stub.Watch(request(), credentials=grpc.access_token_call_credentials("token"))
            assert channel.binding.in_flight == 0

    run(case())


# --- wait_for_ready -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["Get", "Watch", "Collect", "Chat"])
def test_wait_for_ready_waits_again_when_its_endpoint_vanishes_before_it_was_sent(run: Run, method: str) -> None:
    """A call is handed to an endpoint that is gone, several times, and is answered when one is back."""

    async def case() -> None:
        with echo_servers(1) as served:
            gone = [Endpoint(host="127.0.0.1", port=unused_port(), name=f"gone-{number}") for number in range(4)]
            async with bench(*gone) as channel:
                await channel.pretend_ready(*(endpoint.name for endpoint in gone))
                arguments = {"wait_for_ready": True, "timeout": PATIENCE_S}
                if method in ("Get", "Watch"):
                    call = getattr(channel.stub, method)(request("0", count=1), **arguments)
                else:
                    call = getattr(channel.stub, method)(**arguments)
                reading = asyncio.ensure_future(call.read() if method in ("Watch", "Chat") else call)
                if method in ("Collect", "Chat"):
                    writing = asyncio.ensure_future(call.write(request("0")))
                await eventually(lambda: sum(sub.failed for sub in channel.binding.subchannels) >= 3, "it was tried elsewhere")
                assert not reading.done()
                assert not call.done()
                del channel.driver.connections.look  # it looks again
                channel.binding.update([*gone, *served])
                if method in ("Collect", "Chat"):
                    await writing
                    await call.done_writing()
                assert (await reading).pod == "pod-0"
                assert endpoint_of(call) == served[0].endpoint
                if method in ("Watch", "Chat"):
                    assert await call.read() is grpc.aio.EOF
                assert await call.code() is grpc.StatusCode.OK

    run(case())


@pytest.mark.parametrize("method", ["Get", "Watch"])
def test_wait_for_ready_that_was_never_sent_ends_with_its_deadline(run: Run, method: str) -> None:
    """DEADLINE_EXCEEDED, not the UNAVAILABLE of an endpoint that it was handed to."""

    async def case() -> None:
        gone = [Endpoint(host="127.0.0.1", port=unused_port(), name=f"gone-{number}") for number in range(4)]
        async with bench(*gone) as channel:
            await channel.pretend_ready(*(endpoint.name for endpoint in gone))
            call = getattr(channel.stub, method)(request(count=1), wait_for_ready=True, timeout=0.5)
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    run(case())


def test_who_is_cancelled_while_the_call_goes_elsewhere_cancels_the_call(run: Run) -> None:
    """grpc cancels the one that is gone already; the one in its place must not go on."""

    async def case() -> None:
        gone = [Endpoint(host="127.0.0.1", port=unused_port(), name=f"gone-{number}") for number in range(2)]
        async with bench(*gone) as channel:
            await channel.pretend_ready(*(endpoint.name for endpoint in gone))
            call = channel.stub.Get(request(), wait_for_ready=True, timeout=PATIENCE_S)
            awaiting = asyncio.ensure_future(_awaited(call))
            inner = call._inner
            inner.add_done_callback(lambda _: awaiting.cancel())
            with pytest.raises(asyncio.CancelledError):
                await awaiting
            await eventually(call.done, "the call is over")
            assert call.cancelled()

    run(case())


def test_a_timeout_of_a_wrong_type_is_the_callers_mistake(run: Run) -> None:
    """Raised at once, also while nothing is ready; meshlb has no part in it."""

    async def case() -> None:
        async with bench() as channel:
            for invoke in (channel.stub.Get, channel.stub.Watch):
                with pytest.raises(TypeError):
                    invoke(request(), timeout="1")

    run(case())


@pytest.mark.parametrize("timeout", [float("inf"), 1e10])
def test_an_endless_timeout_waits(run: Run, timeout: float) -> None:
    """For what becomes ready; grpc itself, to which it is handed then, takes it for one that is over."""

    async def case() -> None:
        async with bench() as channel:
            call = channel.stub.Get(request(), timeout=timeout)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(_awaited(call)), 0.05)
            assert not call.done()
            call.cancel()

    run(case())


async def _awaited(call: Any) -> Any:
    return await call
