"""The asyncio channel itself, on both loops: life in and out of loops, states, closing, interceptors."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

import meshlb.grpc.aio
from meshlb.core.endpoint import Endpoint
from meshlb.core.outcome import Outcome
from meshlb.errors import ConfigError, MeshError
from meshlb.grpc.aio.guards import NoRunningLoopError
from meshlb.grpc.aio.stock import StockChannel
from meshlb.grpc.marks import endpoint_of
from meshlb.mesh import Mesh
from tests.support.aio import Bench, NewLoop, bench, eventually, run_in
from tests.support.channels import PATIENCE_S, EchoServer, LooseBinding, echo_servers, request, unused_port
from tests.support.channels import eventually as eventually_sync

READY = grpc.ChannelConnectivity.READY
IDLE = grpc.ChannelConnectivity.IDLE
SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN
GRPC = tuple(int(part) for part in grpc.__version__.split(".")[:2])
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(scope="module")
def servers() -> Iterator[list[EchoServer]]:
    with echo_servers(3) as served:
        yield served


# --- loops ------------------------------------------------------------------------------------------------------------------------


def test_a_channel_may_be_made_outside_a_loop_and_used_in_several(new_loop: NewLoop, servers: list[EchoServer]) -> None:
    """At import, say. Each loop has a view and connections of its own; those of a closed loop are let go by the next."""
    binding = LooseBinding()
    binding.update(servers[:1])
    channel = Bench(binding)

    async def one() -> str:
        assert (await channel.stub.Get(request())).pod == "pod-0"
        return channel.driver.view.state.value

    for _ in range(3):
        assert run_in(new_loop, one()) == "ready"
        assert len(channel.channel.drivers) == 1
        assert len(binding.pool.describe()["views"]) == 1
    assert binding.internal_errors == []
    binding.scheduler.stop()


def test_loops_may_run_side_by_side(new_loop: NewLoop, servers: list[EchoServer]) -> None:
    """One channel, several threads, a loop in each; the pool counts all their calls."""
    binding = LooseBinding()
    binding.update(servers)
    channel = Bench(binding)
    errors: list[BaseException] = []
    at_once = threading.Barrier(3)

    async def calls() -> None:
        await channel.stub.Get(request())
        await asyncio.to_thread(at_once.wait, PATIENCE_S)
        assert len(channel.channel.drivers) == 3
        await asyncio.gather(*(channel.stub.Get(request()) for _ in range(20)))
        await asyncio.to_thread(at_once.wait, PATIENCE_S)

    def work() -> None:
        try:
            run_in(new_loop, calls())
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * PATIENCE_S)
    assert errors == []
    assert sum(sub.started for sub in binding.subchannels) == 63
    assert binding.in_flight == 0
    binding.scheduler.stop()


def test_a_closed_loop_is_let_go_by_the_next_change(new_loop: NewLoop, servers: list[EchoServer]) -> None:
    """Its view and connections go, and calls that it left in flight count no more."""
    binding = LooseBinding()
    binding.update(servers[:1])
    channel = Bench(binding)
    loop = new_loop()

    async def leave_calls() -> list[Any]:
        await channel.stub.Get(request())
        left = [channel.stub.Get(request(delay_s=30.0)), channel.stub.Watch(request(count=9, interval_s=9.0))]
        await asyncio.sleep(0.05)
        return left

    left = loop.run_until_complete(leave_calls())
    (driver,) = channel.channel.drivers.values()
    connection = weakref.ref(next(iter(driver.connections)).channel)
    assert binding.in_flight == 2
    tasks = asyncio.all_tasks(loop)
    loop.close()
    binding.update(servers[:2])
    assert binding.in_flight == 0
    assert binding.pool.describe()["views"] == []
    assert len(driver.connections) == 0
    for task in tasks:  # what grpc left pending would be reported when it is freed
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    del left, tasks
    gc.collect()
    assert connection() is None
    binding.scheduler.stop()


def test_calls_outside_a_loop_name_the_rule(servers: list[EchoServer]) -> None:
    """A RuntimeError that is a MeshError; what needs no loop works."""
    binding = LooseBinding()
    binding.update(servers)
    channel = Bench(binding)
    assert channel.channel.get_state() is IDLE
    for use in (
        lambda: channel.stub.Get(request()),
        lambda: channel.stub.Watch(request()),
        lambda: channel.stub.Collect(),
        lambda: channel.channel.get_state(try_to_connect=True),
    ):
        with pytest.raises(NoRunningLoopError, match="event loop") as caught:
            use()
        assert isinstance(caught.value, RuntimeError)
        assert isinstance(caught.value, MeshError)


def test_nothing_starts_before_the_first_use(run: Run, servers: list[EchoServer]) -> None:
    """No view, no thread, no connection; a channel that was never used closes."""

    async def case() -> None:
        async with bench(*servers) as channel:
            assert channel.stub.Get is not None
            assert channel.channel.get_state() is IDLE
            assert channel.binding.pool.describe()["views"] == []
            assert not channel.binding.scheduler.alive

    run(case())


def test_no_task_of_ours_is_ever_left(run: Run, servers: list[EchoServer]) -> None:
    """Frameworks that look at ``asyncio.all_tasks()`` see their own: connected, waiting and idle."""

    async def case() -> None:
        async with bench() as channel:
            waiting = channel.stub.Get(request())
            assert asyncio.all_tasks() - before == set()
            channel.binding.update(servers)
            await waiting
            await channel.ready(3)
            assert asyncio.all_tasks() - before == set()

    async def whole() -> None:
        before.update(asyncio.all_tasks())
        await case()

    before: set[asyncio.Task[Any]] = set()
    run(whole())


# --- states -------------------------------------------------------------------------------------------------------------------------


def test_states_are_those_of_the_whole(run: Run) -> None:
    """READY if any endpoint is, else CONNECTING, else TRANSIENT_FAILURE, SHUTDOWN at the end; waiting sees each change."""

    async def case() -> None:
        with echo_servers(1) as own:
            dead = Endpoint(host="127.0.0.1", port=unused_port())
            async with bench(dead) as made:
                channel = made.channel
                assert channel.get_state() is IDLE
                first_use = asyncio.ensure_future(channel.wait_for_state_change(IDLE))
                await asyncio.sleep(0.01)
                assert not first_use.done()
                assert channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.CONNECTING
                await first_use
                await channel.wait_for_state_change(grpc.ChannelConnectivity.CONNECTING)
                assert channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
                made.binding.update([dead, own[0]])
                await channel.channel_ready()
                assert channel.get_state() is READY
                await asyncio.to_thread(own[0].stop)
                await channel.wait_for_state_change(READY)
                assert channel.get_state() is not READY

    run(case())


def test_closing_wakes_who_waits_for_a_state(run: Run, servers: list[EchoServer]) -> None:
    """grpc leaves them waiting for ever; then waiting is refused, as there."""

    async def case() -> None:
        async with bench(*servers) as used, bench(*servers) as unused:
            await used.channel.channel_ready()
            waits = [
                asyncio.ensure_future(used.channel.wait_for_state_change(READY)),
                asyncio.ensure_future(unused.channel.wait_for_state_change(IDLE)),
            ]
            await asyncio.sleep(0.01)
            for channel in (used.channel, unused.channel):
                await channel.close()
                assert channel.get_state() is channel.get_state(try_to_connect=True) is SHUTDOWN
                with pytest.raises(grpc.aio.UsageError):
                    await channel.wait_for_state_change(SHUTDOWN)
                with pytest.raises(grpc.aio.UsageError):
                    await channel.channel_ready()
            await asyncio.wait_for(asyncio.gather(*waits), PATIENCE_S)

    run(case())


# --- closing --------------------------------------------------------------------------------------------------------------------------


def test_a_grace_lets_calls_finish(run: Run, servers: list[EchoServer]) -> None:
    """Those under way, also on an endpoint that is gone meanwhile, and those that still wait for one."""

    async def case() -> None:
        async with bench(*servers[:1]) as channel:
            await channel.ready(1)
            running = [channel.stub.Get(request(delay_s=0.3)), channel.stub.Watch(request(count=3, interval_s=0.1))]
            await asyncio.sleep(0.02)
            channel.binding.update([])
            await eventually(lambda: len(channel.driver.connections) == 0, "the endpoint is gone")
            waiting = channel.stub.Get(request(), wait_for_ready=True)
            closing = asyncio.ensure_future(channel.channel.close(PATIENCE_S))
            await asyncio.sleep(0.02)
            with pytest.raises(grpc.aio.UsageError, match="Channel is closed"):
                channel.stub.Get(request())
            channel.binding.update(servers[1:2])
            assert (await waiting).pod == "pod-1"
            assert (await running[0]).pod == "pod-0"
            assert len([reply async for reply in running[1]]) == 3
            await asyncio.wait_for(closing, PATIENCE_S)

    run(case())


def test_after_the_grace_calls_are_cancelled(run: Run, servers: list[EchoServer]) -> None:
    """All kinds: in flight, draining and waiting; nothing counts any more."""

    async def case() -> None:
        async with bench(*servers[:1]) as channel:
            await channel.ready(1)
            calls = [channel.stub.Get(request(delay_s=30.0)), channel.stub.Watch(request(count=2, interval_s=30.0))]
            await asyncio.sleep(0.02)
            channel.binding.update([])
            await eventually(lambda: len(channel.driver.connections) == 0, "the endpoint is gone")
            calls += [channel.stub.Get(request(), wait_for_ready=True), channel.stub.Watch(request(), wait_for_ready=True)]
            started_s = time.monotonic()
            await channel.channel.close(0.2)
            assert 0.15 < time.monotonic() - started_s < 5.0
            if GRPC < (1, 83):
                del calls[1]  # closing does not find streams that nobody reads
            assert {await call.code() for call in calls} == {grpc.StatusCode.CANCELLED}
            assert channel.binding.in_flight == 0

    run(case())


def test_a_negative_grace_is_refused(run: Run, servers: list[EchoServer]) -> None:
    """As grpc does, and the channel stays open."""

    async def case() -> None:
        async with bench(*servers) as channel:
            with pytest.raises(ValueError, match="non-negative"):
                await channel.channel.close(-1.0)
            await channel.stub.Get(request())

    run(case())


def test_closing_in_one_loop_closes_in_all(new_loop: NewLoop, servers: list[EchoServer]) -> None:
    """Calls of other loops end too, without being waited for."""
    binding = LooseBinding()
    binding.update(servers[:1])
    channel = Bench(binding)
    under_way = threading.Event()
    ends: list[Any] = []

    async def other() -> None:
        await channel.ready(1)
        call = channel.stub.Get(request(delay_s=30.0))
        await asyncio.sleep(0.02)
        under_way.set()
        try:
            await call
        except asyncio.CancelledError:
            ends.append(await call.code())

    thread = threading.Thread(target=run_in, args=(new_loop, other()))
    thread.start()
    assert under_way.wait(PATIENCE_S)

    async def close() -> None:
        await channel.stub.Get(request())
        await channel.channel.close()

    run_in(new_loop, close())
    thread.join(PATIENCE_S)
    assert ends == [grpc.StatusCode.CANCELLED]
    assert binding.in_flight == 0
    assert binding.pool.describe()["views"] == []
    binding.scheduler.stop()


# --- interceptors ------------------------------------------------------------------------------------------------------------------------


class Stamp(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Adds metadata and counts its turns."""

    def __init__(self) -> None:
        self.calls = 0

    async def intercept_unary_unary(self, continuation: Any, details: Any, sent: Any) -> Any:
        self.calls += 1
        details.metadata.add("x-stamp", str(self.calls))
        return await continuation(details, sent)


class StampStream(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]
    """The same for streams of responses."""

    async def intercept_unary_stream(self, continuation: Any, details: Any, sent: Any) -> Any:
        details.metadata.add("x-stamp", "stream")
        return await continuation(details, sent)


def stamps(reply: Any) -> list[str]:
    return [entry.value for entry in reply.metadata if entry.key == "x-stamp"]


def test_interceptors_run_below_the_pick(run: Run, servers: list[EchoServer]) -> None:
    """Once per attempt, on whichever endpoint; calls end, count and tell their endpoint as without."""

    async def case() -> None:
        stamp = Stamp()
        dead = Endpoint(host="127.0.0.1", port=unused_port(), name="nobody")
        async with bench(servers[0], dead, interceptors=[stamp, StampStream()]) as channel:
            await channel.ready(1)
            call = channel.stub.Get(request())
            assert stamps(await call) == ["1"]
            endpoint = endpoint_of(call)
            assert endpoint is not None
            assert endpoint.name == "pod-0"
            assert [stamps(reply) async for reply in channel.stub.Watch(request(count=2))] == [["stream"]] * 2
            await channel.pretend_ready("nobody")
            replies = [await channel.stub.Get(request()) for _ in range(4)]
            assert [reply.pod for reply in replies] == ["pod-0"] * 4
            assert stamp.calls == 6  # one attempt of the four calls was never sent
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.stub.Get(request(fail_code=5))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(channel.stub.Get(request(delay_s=30.0)), 0.05)

    run(case())


def test_an_interceptor_that_raises_fails_its_call_only(run: Run, servers: list[EchoServer]) -> None:
    """The caller gets its exception; no endpoint is blamed, nothing stays in flight."""

    class Broken(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
        async def intercept_unary_unary(self, continuation: Any, details: Any, sent: Any) -> Any:
            raise LookupError("mine")

    async def case() -> None:
        async with bench(servers[0], interceptors=[Broken()]) as channel:
            await channel.ready(1)
            with pytest.raises(LookupError, match="mine"):
                await channel.stub.Get(request())
            assert [(sub.failed, sub.in_flight) for sub in channel.binding.subchannels] == [(0, 0)]

    run(case())


# --- made by the public functions --------------------------------------------------------------------------------------------------------------


def test_the_public_functions_make_channels_that_balance(run: Run, servers: list[EchoServer]) -> None:
    """``static:`` over the loopback servers, as a context manager, with a mesh of its own."""

    async def case() -> None:
        target = "static:///" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
        with Mesh(environ={}) as mesh:
            async with meshlb.grpc.aio.insecure_channel(target, mesh=mesh) as channel:
                assert isinstance(channel, grpc.aio.Channel)
                assert "static:" in repr(channel)
                stub = meshlb._proto.echo_pb2_grpc.EchoStub(channel)
                await eventually(lambda: channel.get_state(try_to_connect=True) is READY, "ready")
                seen = {(await stub.Get(request())).pod for _ in range(60)}
            assert seen == {"pod-0", "pod-1", "pod-2"}
            assert channel.get_state() is SHUTDOWN

    run(case())


def test_mistakes_are_told_where_the_channel_is_made() -> None:
    """Not at the first call: a bad target, option, interceptor, credentials."""
    with Mesh(environ={}) as mesh:
        with pytest.raises(ConfigError, match="bad target"):
            meshlb.grpc.aio.insecure_channel("orders..shop", mesh=mesh)
        with pytest.raises(ConfigError, match="lb_policy_name"):
            meshlb.grpc.aio.insecure_channel("orders.shop:1", [("grpc.lb_policy_name", "grpclb")], mesh=mesh)
        with pytest.raises(ValueError, match="Interceptor"):
            meshlb.grpc.aio.insecure_channel("orders.shop:1", interceptors=[object()], mesh=mesh)
        with pytest.raises(ConfigError, match="credentials"):
            meshlb.grpc.aio.secure_channel("orders.shop:1", None, mesh=mesh)
        with pytest.raises(ValueError, match="invalid literal"):
            meshlb.grpc.aio.insecure_channel("orders.shop:1", compression="gzip", mesh=mesh)


@pytest.mark.parametrize("loops", [1, 2])
def test_turned_off_calls_go_over_grpcs_own_channel(new_loop: NewLoop, servers: list[EchoServer], loops: int) -> None:
    """Also where the channel was made outside a loop, as ours may be: turning meshlb off must not break the program."""
    with Mesh(environ={"MESHLB_MODE": "off"}) as mesh:
        channel = meshlb.grpc.aio.insecure_channel(f"127.0.0.1:{servers[0].port}", interceptors=[Stamp()], mesh=mesh)
        assert isinstance(channel, StockChannel)
        stub = meshlb._proto.echo_pb2_grpc.EchoStub(channel)
        with pytest.raises(NoRunningLoopError):
            stub.Get(request())

        async def calls() -> None:
            assert channel.get_state() is IDLE
            assert stamps(await stub.Get(request())) != []
            assert type(stub.Get(request())).__module__.startswith("grpc.aio")
            assert len([reply async for reply in stub.Watch(request(count=2))]) == 2
            assert (await stub.Collect(iter([request()]))).pod == "pod-0"
            assert len([reply async for reply in stub.Chat(iter([request()]))]) == 1
            await channel.channel_ready()
            assert channel.get_state() is READY

        for _ in range(loops):
            run_in(new_loop, calls())

        async def close() -> None:
            async with channel:
                await stub.Get(request())
            assert channel.get_state() is SHUTDOWN
            with pytest.raises(grpc.aio.UsageError, match="Channel is closed"):
                stub.Get(request())

        run_in(new_loop, close())


def test_xds_goes_to_grpc() -> None:
    """Its targets are not ours."""
    with Mesh(environ={}) as mesh:
        assert isinstance(meshlb.grpc.aio.insecure_channel("xds:///orders", mesh=mesh), StockChannel)


def test_in_flight_ends_once_however_often_it_is_told(run: Run, servers: list[EchoServer]) -> None:
    """A cancel after the end, a close after a cancel: one end each."""

    async def case() -> None:
        async with bench(servers[0]) as channel:
            await channel.ready(1)
            ends: list[Outcome] = []
            end = channel.driver.view.end

            def counted(attempt: Any, outcome: Outcome = Outcome.SUCCESS) -> bool:
                first = end(attempt, outcome)
                if first:
                    ends.append(outcome)
                return first

            channel.driver.view.end = counted  # type: ignore[method-assign]
            call = channel.stub.Get(request())
            await call
            call.cancel()
            other = channel.stub.Get(request(delay_s=30.0))
            await asyncio.sleep(0.02)
            other.cancel()
            await channel.channel.close()
            assert ends == [Outcome.SUCCESS, Outcome.CANCELLED]

    run(case())


def test_nothing_is_printed_when_a_loop_ends_under_a_live_channel(
    new_loop: NewLoop, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Not then, and not in the next loop when the server of the first is gone, which is when gRPC's own waits would report."""
    with echo_servers(1) as own:
        binding = LooseBinding()
        binding.update(own)
        channels = [Bench(binding)]
        loop = new_loop()

        async def first_loop() -> None:
            await channels[0].stub.Get(request())

        loop.run_until_complete(first_loop())
        loop.close()
        own[0].stop()

        async def next_loop() -> None:
            with pytest.raises(grpc.aio.AioRpcError):
                await channels[0].stub.Get(request(), timeout=PATIENCE_S)

        capfd.readouterr()
        run_in(new_loop, next_loop())
        channels.clear()
        gc.collect()
    eventually_sync(lambda: binding.pool.describe()["views"] == [], "all are freed")
    binding.scheduler.stop()
    assert [record.getMessage() for record in caplog.records] == []
    told = [line for line in capfd.readouterr().err.splitlines() if "chttp2_transport.cc" not in line]  # gRPC's own, of a GOAWAY
    assert not any("Error" in line for line in told), told
