"""asyncio calls over real servers, on both loops: spread, never-sent calls that go elsewhere, waiting, deadlines, errors, in-flight."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from meshlb.core.endpoint import Endpoint
from meshlb.core.outcome import Outcome
from meshlb.errors import DeadlineExceededError, NoEndpointError, ResolveError, ServiceNotFoundError
from meshlb.grpc.aio.kinds import UnaryUnaryCall
from meshlb.grpc.marks import endpoint_of
from tests.support.aio import Bench, bench, eventually
from tests.support.channels import PATIENCE_S, EchoServer, LooseBinding, echo_servers, request, unused_port

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(scope="module")
def servers() -> Iterator[list[EchoServer]]:
    with echo_servers(3) as served:
        yield served


def nobody(number: int = 0) -> Endpoint:
    """An endpoint at which nothing listens."""
    return Endpoint(host="127.0.0.1", port=unused_port(), name=f"nobody-{number}")


async def pods(channel: Bench, count: int, **arguments: Any) -> Counter[str]:
    return Counter([(await channel.stub.Get(request(), **arguments)).pod for _ in range(count)])


# --- where calls go -------------------------------------------------------------------------------------------------------------


def test_calls_are_spread_over_the_endpoints(run: Run, servers: list[EchoServer]) -> None:
    """Round robin over three gives each its third."""

    async def case() -> None:
        async with bench(*servers) as channel:
            await channel.ready(3)
            assert await pods(channel, 30) == {"pod-0": 10, "pod-1": 10, "pod-2": 10}

    run(case())


def test_concurrent_calls_are_spread_and_counted(run: Run, servers: list[EchoServer]) -> None:
    """Live attempts are exact while calls run, and gone afterwards."""

    async def case() -> None:
        async with bench(*servers, binding=LooseBinding(policy="least_request")) as channel:
            await channel.ready(3)
            calls = [channel.stub.Get(request(delay_s=0.2)) for _ in range(30)]
            assert sorted(sub.in_flight for sub in channel.binding.subchannels) == [10, 10, 10]
            assert Counter(reply.pod for reply in await asyncio.gather(*calls)) == {"pod-0": 10, "pod-1": 10, "pod-2": 10}
            assert channel.binding.in_flight == 0

    run(case())


def test_private_arguments_of_generated_code_are_tolerated(run: Run, servers: list[EchoServer]) -> None:
    """``_registered_method`` is passed on, what a later grpcio may add is not a TypeError, a method may be bytes."""

    async def case() -> None:
        async with bench(servers[0]) as channel:
            for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
                getattr(channel.channel, kind)("/a/b", None, None, True, _something_new=3)
            get = channel.channel.unary_unary("/meshlb.testing.v1.Echo/Get", _registered_method=True, _something_new=3)
            assert b"pod-0" in await get(request().SerializeToString())

    run(case())


# --- what certainly never left ----------------------------------------------------------------------------------------------------


def test_a_call_that_never_left_goes_to_another_endpoint(run: Run, servers: list[EchoServer]) -> None:
    """The caller does not notice that one of the endpoints is gone."""

    async def case() -> None:
        async with bench(*servers[:2], nobody()) as channel:
            await channel.ready(2)
            (gone,) = await channel.pretend_ready("nobody-0")
            assert set(await pods(channel, 6)) == {"pod-0", "pod-1"}
            assert (gone.failed, gone.in_flight) == (1, 0)

    run(case())


def test_whoever_asks_such_a_call_hears_of_its_last_attempt(run: Run, servers: list[EchoServer]) -> None:
    """Code, metadata, details and done callbacks are those of the attempt that counted, and come once."""

    async def case() -> None:
        async with bench(servers[0], nobody()) as channel:
            await channel.ready(1)
            for _ in range(2):  # round robin: one of the two starts at nobody
                await channel.pretend_ready("nobody-0")
                call = channel.stub.Get(request("hello"))
                ended: list[Any] = []
                call.add_done_callback(ended.append)
                questions = (call.code(), call.details(), call.initial_metadata(), call.trailing_metadata())
                code, details, initial, trailing = await asyncio.gather(*questions)
                await call.wait_for_connection()
                assert (code, details, len(trailing)) == (grpc.StatusCode.OK, "", 0)
                assert isinstance(initial, grpc.aio.Metadata)
                assert ended == [call]
                assert call.done()
                assert not call.cancelled()
                assert (await call).payload == "hello"
                endpoint = endpoint_of(call)
                assert endpoint is not None
                assert endpoint.name == "pod-0"

    run(case())


def test_a_call_goes_elsewhere_at_most_twice(run: Run) -> None:
    """Three attempts in all, each on another endpoint, though a fourth might have been found; then the wire's own error."""

    async def case() -> None:
        dead = [nobody(number) for number in range(5)]
        async with bench(*dead) as channel:
            await channel.pretend_ready(*(endpoint.name for endpoint in dead))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.stub.Get(request(), timeout=PATIENCE_S)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert type(caught.value) is grpc.aio.AioRpcError
            assert sum(sub.failed for sub in channel.binding.subchannels) == 3
            assert endpoint_of(caught.value) in dead

    run(case())


def test_an_empty_bucket_sends_nothing_elsewhere(run: Run, servers: list[EchoServer]) -> None:
    """The retry budget of the pool pays for tries elsewhere, and for nothing else."""

    async def case() -> None:
        async with bench(servers[0], nobody()) as channel:
            await channel.ready(1)
            while channel.binding.limits.budget.withdraw():
                pass
            await channel.pretend_ready("nobody-0")
            failed = 0
            for _ in range(2):
                try:
                    await channel.stub.Get(request())
                except grpc.aio.AioRpcError as error:
                    failed += error.code() is grpc.StatusCode.UNAVAILABLE
            assert failed == 1

    run(case())


def test_what_may_have_been_sent_stays_failed(run: Run, servers: list[EchoServer]) -> None:
    """UNAVAILABLE from the server itself is the caller's to judge: one attempt."""

    async def case() -> None:
        async with bench(*servers[:2]) as channel:
            await channel.ready(2)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.stub.Get(request(fail_code=14, fail_details="not now"))
            assert caught.value.details() == "not now"
            assert sum(sub.started for sub in channel.binding.subchannels) == 1

    run(case())


def test_a_lost_connection_is_found_at_the_call(run: Run) -> None:
    """Nobody has looked since the server went: the pick does, and takes another, so that not even an attempt fails."""

    async def case() -> None:
        with echo_servers(2) as own:
            async with bench(*own) as channel:
                await channel.ready(2)
                connections = channel.driver.connections
                channel.driver.connections.look = lambda: None  # type: ignore[method-assign]
                await asyncio.to_thread(own[0].stop)
                lost = next(each for each in connections if each.subchannel.endpoint.name == "pod-0")
                await eventually(
                    lambda: lost.channel.get_state() is not grpc.ChannelConnectivity.READY, "gRPC knows that it is gone"
                )
                lost.seen_s = 0.0
                assert await pods(channel, 10) == {"pod-1": 10}
                assert lost.subchannel.failed == 0

    run(case())


# --- waiting ----------------------------------------------------------------------------------------------------------------------


def test_calls_wait_for_the_first_answer(run: Run, servers: list[EchoServer]) -> None:
    """Invoking does not block; the answer comes once discovery's does."""

    async def case() -> None:
        async with bench() as channel:
            calls = [channel.stub.Get(request(), timeout=PATIENCE_S) for _ in range(20)]
            await eventually(lambda: len(channel.driver._parked) == 20, "they wait")
            assert not any(call.done() for call in calls)
            channel.binding.update(servers)
            assert len(await asyncio.gather(*calls)) == 20

    run(case())


def test_a_deadline_counts_from_the_invocation_and_once(run: Run, servers: list[EchoServer]) -> None:
    """What was spent waiting is missing on the wire."""

    async def case() -> None:
        async with bench() as channel:
            started_s = time.monotonic()
            call = channel.stub.Get(request(delay_s=30.0), timeout=0.4)
            await asyncio.sleep(0.2)
            assert 0.0 < call.time_remaining() < 0.3
            channel.binding.update(servers)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert 0.35 < time.monotonic() - started_s < 5.0

    run(case())


def test_a_deadline_that_comes_while_waiting_says_what_for(run: Run) -> None:
    """DEADLINE_EXCEEDED, as grpc's error and as meshlb's."""

    async def case() -> None:
        async with bench() as channel:
            call = channel.stub.Get(request(), timeout=0.1)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            error = caught.value
            assert isinstance(error, DeadlineExceededError)
            assert error.code() is await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "no source has answered" in error.details()
            assert error.details() == await call.details()
            assert call.done()
            assert endpoint_of(error) is endpoint_of(call) is None

    run(case())


def test_without_a_deadline_the_wait_is_bounded(run: Run) -> None:
    """By ``first_answer_timeout_s`` while nothing is known, by ``connect_timeout_s`` while nothing is connected."""

    async def case() -> None:
        async with bench(binding=LooseBinding(first_answer_timeout_s=0.1)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.stub.Get(request())
            assert isinstance(caught.value, ResolveError)
            assert "first_answer_timeout_s=0.1" in caught.value.details()
        # A port that takes connections and never speaks: gRPC waits for the server's settings.
        with socket.create_server(("127.0.0.1", 0)) as silent:
            endpoint = Endpoint(host="127.0.0.1", port=silent.getsockname()[1])
            async with bench(endpoint, binding=LooseBinding(connect_timeout_s=0.1)) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.stub.Get(request())
                assert isinstance(caught.value, NoEndpointError)
                assert "connect_timeout_s=0.1" in caught.value.details()

    run(case())


def test_wait_for_ready_waits_on(run: Run, servers: list[EchoServer]) -> None:
    """Beyond every limit, through failing endpoints, until somebody is there."""

    async def case() -> None:
        async with bench(binding=LooseBinding(first_answer_timeout_s=0.05, connect_timeout_s=0.1)) as channel:
            call = channel.stub.Get(request(), wait_for_ready=True)
            await asyncio.sleep(0.15)
            channel.binding.update([nobody()])
            await asyncio.sleep(0.25)
            assert not call.done()
            channel.binding.update(servers)
            assert (await call).pod in {"pod-0", "pod-1", "pod-2"}

    run(case())


def test_the_service_config_may_ask_for_waiting(run: Run, servers: list[EchoServer]) -> None:
    """``waitForReady`` of a method holds unless the call says otherwise."""

    async def case() -> None:
        config = '{"methodConfig": [{"name": [{}], "waitForReady": true}]}'
        binding = LooseBinding(first_answer_timeout_s=0.05)
        async with bench(binding=binding, options=[("grpc.service_config", config)]) as channel:
            call = channel.stub.Get(request())
            with pytest.raises(ResolveError):
                await channel.stub.Get(request(), wait_for_ready=False)
            assert not call.done()
            channel.binding.update(servers)
            await call

    run(case())


def test_an_unreachable_endpoint_gives_the_transports_own_reason(run: Run) -> None:
    """One attempt where nothing can be connected, and no other."""

    async def case() -> None:
        async with bench(nobody()) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.stub.Get(request(), timeout=PATIENCE_S)
            assert type(caught.value) is grpc.aio.AioRpcError
            assert "refused" in caught.value.details()
            await eventually(lambda: channel.driver.view.state.value == "transient_failure", "known")
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.stub.Get(request())
            assert sum(sub.started for sub in channel.binding.subchannels) == 2

    run(case())


@pytest.mark.parametrize("kind", [ResolveError, ServiceNotFoundError])
def test_an_error_of_discovery_is_grpcs_and_meshlbs(run: Run, kind: type[ResolveError]) -> None:
    """UNAVAILABLE with every source's word, at once."""

    async def case() -> None:
        async with bench() as channel:
            waiting = channel.stub.Get(request())
            channel.binding.pool.on_error(kind("orders.shop", ["DNS: NXDOMAIN", "API: 404"]))
            for call in (waiting, channel.stub.Get(request())):
                with pytest.raises(kind) as caught:
                    await call
                assert isinstance(caught.value, grpc.aio.AioRpcError)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert "DNS: NXDOMAIN" in caught.value.details()

    run(case())


# --- cancelling --------------------------------------------------------------------------------------------------------------------


def test_cancelling_a_call_that_waits_leaves_nothing_behind(run: Run) -> None:
    """asyncio.CancelledError for who awaits, CANCELLED for who asks, and nobody waits any more."""

    async def case() -> None:
        async with bench() as channel:
            call, ended = channel.stub.Get(request(), timeout=PATIENCE_S), []
            call.add_done_callback(ended.append)
            asked = asyncio.ensure_future(call.code())
            await asyncio.sleep(0)
            assert call.cancel()
            assert not call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await asked is grpc.StatusCode.CANCELLED
            assert await call.details() == "Locally cancelled by application!"
            assert call.cancelled()
            assert call.done()
            assert ended == [call]
            assert channel.driver._parked == {}

    run(case())


def test_cancelling_the_task_that_waits_cancels_the_call(run: Run) -> None:
    """As grpc has it; whoever only asks for the code does not."""

    async def case() -> None:
        async with bench() as channel:
            call = channel.stub.Get(request())
            asking = asyncio.ensure_future(call.code())
            await asyncio.sleep(0.01)
            asking.cancel()
            await asyncio.sleep(0.01)
            assert not call.done()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(call, 0.05)
            assert call.cancelled()
            assert await call.code() is grpc.StatusCode.CANCELLED
            assert channel.driver._parked == {}

    run(case())


def test_cancelling_before_the_call_is_sent_ends_it(run: Run, servers: list[EchoServer]) -> None:
    """grpc sends it one turn of the loop later; the live attempt ends at once."""

    async def case() -> None:
        async with bench(servers[0]) as channel:
            await channel.ready(1)
            call = channel.stub.Get(request())
            assert channel.binding.in_flight == 1
            assert call.cancel()
            assert channel.binding.in_flight == 0
            with pytest.raises(asyncio.CancelledError):
                await call
            assert [sub.failed for sub in channel.binding.subchannels] == [0]

    run(case())


def test_cancelling_the_task_in_flight_ends_it(run: Run, servers: list[EchoServer]) -> None:
    """And blames nobody."""

    async def case() -> None:
        async with bench(servers[0]) as channel:
            await channel.ready(1)
            call = channel.stub.Get(request(delay_s=30.0))
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(call, 0.05)
            assert call.cancelled()
            assert channel.binding.in_flight == 0
            assert [sub.failed for sub in channel.binding.subchannels] == [0]

    run(case())


def test_cancelling_between_two_attempts_ends_the_call(run: Run) -> None:
    """The first was never sent, the second waits for an endpoint."""

    async def case() -> None:
        async with bench(nobody()) as channel:
            await channel.pretend_ready("nobody-0")
            call = channel.stub.Get(request(), wait_for_ready=True)
            await eventually(lambda: channel.driver._parked, "it waits for another endpoint")
            assert channel.binding.in_flight == 0
            assert call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    run(case())


# --- the end, once ------------------------------------------------------------------------------------------------------------------


def test_a_call_that_nobody_awaits_is_made_and_ends(run: Run, servers: list[EchoServer]) -> None:
    """As grpc has it: dropped, it still goes out, and counts until its reply is there."""

    async def case() -> None:
        async with bench(servers[0]) as channel:
            channel.stub.Get(request())  # it waits for the connection
            await channel.ready(1)
            channel.stub.Get(request(delay_s=0.1))
            gc.collect()
            await eventually(lambda: channel.binding.in_flight == 0, "both ended")
            assert sum(sub.started for sub in channel.binding.subchannels) == 2

    run(case())


def test_malformed_metadata_is_raised_as_grpc_raises_it_and_counts_no_more(run: Run, servers: list[EchoServer]) -> None:
    """grpc never gives such a call a status; ours ends with the await, or with the garbage collector."""

    async def case() -> None:
        async with bench(servers[0]) as channel:
            await channel.ready(1)
            bad = (("Not A Key", "x"),)
            with pytest.raises(grpc.aio.BaseError):
                await channel.stub.Get(request(), metadata=bad)
            assert channel.binding.in_flight == 0
            channel.stub.Get(request(), metadata=bad)
            await asyncio.sleep(0.01)
            gc.collect()
            assert channel.binding.in_flight == 0

    run(case())


def test_a_call_may_be_awaited_as_often_as_one_likes(run: Run, servers: list[EchoServer]) -> None:
    """At once, one after another, and with ``gather``."""

    async def case() -> None:
        async with bench(servers[0]) as channel:
            call = channel.stub.Get(request("hello"))
            replies = await asyncio.gather(call, asyncio.ensure_future(call), asyncio.wait_for(call, PATIENCE_S))
            assert {reply.payload for reply in (*replies, await call)} == {"hello"}
            assert sum(sub.started for sub in channel.binding.subchannels) == 1

    run(case())


def test_a_done_callback_that_raises_harms_nobody(run: Run, servers: list[EchoServer]) -> None:
    """It is reported to the loop, the others run, and the reply arrives."""

    async def case() -> None:
        async with bench(servers[0]) as channel:
            reported: list[Any] = []
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))
            call, ended = channel.stub.Get(request("hello")), []
            call.add_done_callback(lambda call: 1 / 0)
            call.add_done_callback(ended.append)
            assert (await call).payload == "hello"
            call.add_done_callback(ended.append)
            assert ended == [call, call]
            assert [type(error) for error in reported] == [ZeroDivisionError]

    run(case())


def test_a_bug_in_our_done_callback_does_not_reach_the_reply(
    run: Run, servers: list[EchoServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception from there would break the user's await: it is counted instead."""

    async def case() -> None:
        async with bench(servers[0]) as channel:
            await channel.ready(1)
            with monkeypatch.context() as broken:

                def fails(attempt: Any, outcome: Outcome = Outcome.SUCCESS) -> bool:
                    raise RuntimeError("a bug")

                broken.setattr(channel.driver.view, "end", fails)
                assert (await channel.stub.Get(request("hello"))).payload == "hello"
            assert [str(error) for error in channel.binding.internal_errors] == ["a bug"]
            channel.binding.internal_errors.clear()

    run(case())


def test_the_object_is_grpcs_by_its_class(run: Run, servers: list[EchoServer]) -> None:
    """``isinstance`` of the public base classes, and a repr that says where it stands."""

    async def case() -> None:
        async with bench() as channel:
            call = channel.stub.Get(request())
            assert isinstance(call, grpc.aio.UnaryUnaryCall)
            assert isinstance(call, grpc.aio.Call)
            assert type(call) is UnaryUnaryCall
            assert "Echo/Get" in repr(call)
            channel.binding.update(servers)
            await call
            assert "StatusCode.OK" in repr(call)

    run(case())


# --- a bug of ours on the way --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["Get", "Watch"])
def test_a_bug_of_ours_sends_the_call_around_meshlb(run: Run, servers: list[EchoServer], method: str) -> None:
    """Counted, and the call goes out over grpc's own channel for the target; so does one that waited when the bug struck."""

    async def case() -> None:
        binding = LooseBinding(stock_target=f"127.0.0.1:{servers[1].port}")
        async with bench(servers[0], binding=binding) as channel:
            await channel.ready(1)

            def fails(*_: Any) -> None:
                raise RuntimeError("a bug")

            channel.driver.view.begin = fails  # type: ignore[method-assign,assignment]
            call = getattr(channel.stub, method)(request(count=1), timeout=PATIENCE_S)
            reply = await call if method == "Get" else await call.read()
            assert reply.pod == "pod-1"
            if method == "Watch":
                assert await call.read() is grpc.aio.EOF
            assert [str(error) for error in binding.internal_errors] == ["a bug"]
            binding.internal_errors.clear()

    run(case())


def test_a_driver_that_cannot_be_made_sends_calls_around_meshlb(run: Run, servers: list[EchoServer]) -> None:
    """No thread for discovery to be had, for instance; the next call tries again."""

    async def case() -> None:
        binding = LooseBinding(stock_target=f"127.0.0.1:{servers[1].port}")
        async with bench(servers[0], binding=binding) as channel:
            view = binding.view

            def fails(_: Any) -> Any:
                raise RuntimeError("can't start new thread")

            binding.view = fails  # type: ignore[method-assign]
            assert (await channel.stub.Get(request(), timeout=PATIENCE_S)).pod == "pod-1"
            assert [reply.pod async for reply in channel.stub.Watch(request(count=1))] == ["pod-1"]
            assert {str(error) for error in binding.internal_errors} == {"can't start new thread"}
            binding.internal_errors.clear()
            binding.view = view  # type: ignore[method-assign]
            assert (await channel.stub.Get(request())).pod == "pod-0"

    run(case())
