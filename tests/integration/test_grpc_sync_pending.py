"""Futures and streams that are invoked while no endpoint is ready: never blocked, begun later, or ended for a good reason."""

from __future__ import annotations

import gc
import sys
import threading
import time
from typing import Any

import grpc
import pytest

from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import Endpoint
from meshlb.errors import NoEndpointError
from meshlb.grpc.marks import endpoint_of
from meshlb.grpc.pending import WORKER
from meshlb.grpc.pending_call import PendingCall
from meshlb.grpc.stock import READY
from tests.support.channels import PATIENCE_S, Bench, bench, echo_servers, eventually, request, unused_port


def invoke(channel: Bench, kind: str, **arguments: Any) -> Any:
    """A call of this kind that does not block."""
    method = getattr(channel.stub, kind)
    if kind == "Get":
        return method.future(request(), **arguments)
    if kind == "Collect":
        return method.future(iter([request()]), **arguments)
    return method(iter([request()]) if kind == "Chat" else request(count=1), **arguments)


KINDS = ("Get", "Watch", "Collect", "Chat")


@pytest.mark.parametrize("kind", KINDS)
def test_invoking_never_blocks(kind: str) -> None:
    """Nothing is known, and the caller goes on at once; the call begins when an endpoint is there."""
    with echo_servers(1) as servers, bench() as channel:
        started_s = time.monotonic()
        call = invoke(channel, kind, timeout=PATIENCE_S)
        assert time.monotonic() - started_s < 1.0
        assert isinstance(call, PendingCall)
        assert isinstance(call, grpc.Call)
        assert isinstance(call, grpc.Future)
        assert call.is_active()
        assert call.running()
        assert not call.done()
        assert not call.cancelled()
        assert 0.0 < call.time_remaining() <= PATIENCE_S
        assert endpoint_of(call) is None
        channel.binding.update(servers)
        reply = next(call) if kind in ("Watch", "Chat") else call.result()
        assert reply.pod == "pod-0"
        assert endpoint_of(call) == servers[0].endpoint
        assert call.code() is grpc.StatusCode.OK or next(call, None) is None
        assert call.details() == ""
        assert not call.is_active()
        assert call.done()


@pytest.mark.parametrize("kind", KINDS)
def test_a_ready_endpoint_gives_grpcs_own_object(kind: str) -> None:
    """Full fidelity at no cost; the real state is looked at, not what was last heard."""
    with echo_servers(1) as servers, bench(*servers) as channel:
        channel.ready(1)
        call = invoke(channel, kind)
        assert type(call).__module__ == "grpc._channel"
        assert endpoint_of(call) == servers[0].endpoint
        _ = list(call) if kind in ("Watch", "Chat") else call.result()
        servers[0].stop()
        eventually(lambda: isinstance(_dropped(invoke(channel, kind, wait_for_ready=True)), PendingCall), "a lost one does not")


def _dropped(call: Any) -> Any:
    call.cancel()
    return call


def test_the_deadline_ends_the_waiting() -> None:
    """DEADLINE_EXCEEDED, without anybody asking for it, and the callbacks run."""
    with bench() as channel:
        called = threading.Event()
        call = channel.stub.Get.future(request(), timeout=0.05)
        call.add_done_callback(lambda _: called.set())
        assert called.wait(PATIENCE_S)
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpc.RpcError):
            call.result()
        assert call.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_zero_ready_pods_fail_the_call() -> None:
    """UNAVAILABLE with the reason, for who asks and for who iterates."""
    with bench() as channel:
        channel.binding.update([], note="zero pods")
        with pytest.raises(NoEndpointError, match="zero pods"):
            channel.stub.Get.future(request()).result()
        with pytest.raises(NoEndpointError, match="zero pods"):
            next(channel.stub.Watch(request()))


def test_cancelling_before_it_began_sends_nothing() -> None:
    """As with grpc's queued calls: ``FutureCancelledError`` for ``result``, CANCELLED for who iterates."""
    with echo_servers(1) as servers, bench() as channel:
        future, stream = channel.stub.Get.future(request()), channel.stub.Watch(request(count=1))
        called: list[Any] = []
        future.add_done_callback(called.append)
        assert future.cancel()
        assert stream.cancel()
        assert not future.cancel()
        assert future.cancelled()
        assert future.done()
        with pytest.raises(grpc.FutureCancelledError):
            future.result()
        with pytest.raises(grpc.FutureCancelledError):
            future.exception()
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert caught.value.code() is grpc.StatusCode.CANCELLED
        assert stream.code() is grpc.StatusCode.CANCELLED
        assert stream.details() == "Locally cancelled by application!"
        eventually(lambda: called == [future], "the callback ran")
        channel.binding.update(servers)
        assert channel.stub.Get(request()).pod == "pod-0"
        assert sum(sub.started for sub in channel.binding.subchannels) == 1


def test_callbacks_run_once_and_never_on_the_discovery_thread() -> None:
    """Before and after the beginning, after the end; with the object that the caller has."""
    with echo_servers(1) as servers, bench() as channel:
        names: list[str] = []
        seen: list[Any] = []
        call = channel.stub.Get.future(request())

        def note(future: Any) -> None:
            names.append(threading.current_thread().name)
            seen.append(future)

        call.add_done_callback(note)
        assert call.add_callback(lambda: note("plain"))
        channel.binding.update(servers)
        call.result()
        eventually(lambda: len(seen) == 2, "both ran")
        call.add_done_callback(note)
        assert not call.add_callback(lambda: note("too late"))
        assert seen == [call, "plain", call]
        assert "meshlb-discovery" not in names


def test_a_callback_that_raises_harms_nobody() -> None:
    """The other one runs, the call has its answer."""
    with echo_servers(1) as servers, bench() as channel:
        called = threading.Event()
        call = channel.stub.Get.future(request())
        call.add_done_callback(lambda _: 1 / 0)
        call.add_done_callback(lambda _: called.set())
        channel.binding.update(servers)
        assert call.result().pod == "pod-0"
        assert called.wait(PATIENCE_S)


def test_waiting_for_a_result_has_its_own_timeout() -> None:
    """``FutureTimeoutError``, and the call lives on."""
    with echo_servers(1) as servers, bench() as channel:
        call = channel.stub.Get.future(request(delay_s=0.2))
        with pytest.raises(grpc.FutureTimeoutError):
            call.result(timeout=0.02)
        with pytest.raises(grpc.FutureTimeoutError):
            call.exception(timeout=0.02)
        channel.binding.update(servers)
        with pytest.raises(grpc.FutureTimeoutError):
            call.result(timeout=0.05)
        assert call.result(timeout=PATIENCE_S).pod == "pod-0"
        assert call.exception() is None
        assert call.traceback() is None
        assert dict(call.initial_metadata()) is not None
        assert call.debug_error_string() is not None


def test_a_pending_call_that_is_dropped_is_never_sent() -> None:
    """Nobody is interested any more, unless they want to be called back."""
    with echo_servers(1) as servers, bench() as channel:
        dropped = channel.stub.Get.future(request())
        del dropped
        called = threading.Event()
        channel.stub.Get.future(request()).add_done_callback(lambda _: called.set())
        gc.collect()
        channel.binding.update(servers)
        assert called.wait(PATIENCE_S)
        assert sum(sub.started for sub in channel.binding.subchannels) == 1


def test_mistakes_of_the_caller_end_the_call_when_it_begins() -> None:
    """Metadata of the wrong type, a serializer that fails: known when the call is handed to grpc."""
    with echo_servers(1) as servers, bench() as channel:
        metadata = channel.stub.Get.future(request(), metadata=(("a", 1),))
        channel.binding.update(servers)
        with pytest.raises(TypeError):
            metadata.result()
        with pytest.raises(TypeError):
            metadata.code()


def test_one_thread_starts_them_all() -> None:
    """A hundred pending calls cost no hundred threads."""
    with echo_servers(1) as servers, bench() as channel:
        before = threading.active_count()
        calls = [channel.stub.Get.future(request(), timeout=PATIENCE_S) for _ in range(100)]
        assert threading.active_count() - before <= 2
        channel.binding.update(servers)
        assert {call.result().pod for call in calls} == {"pod-0"}


def test_closing_ends_pending_calls() -> None:
    """CANCELLED with grpc's words; later ones are refused."""
    with bench() as channel:
        call = channel.stub.Get.future(request())
        channel.channel.close()
        assert (call.code(), call.details()) == (grpc.StatusCode.CANCELLED, "Channel closed!")
        with pytest.raises(ValueError, match="Cannot invoke RPC: Channel closed!"):
            channel.stub.Get.future(request())


def test_a_pending_call_says_what_it_is() -> None:
    """For who prints it."""
    with echo_servers(1) as servers, bench() as channel:
        call = channel.stub.Get.future(request())
        assert "waiting for orders.shop:50051" in repr(call)
        channel.binding.update(servers)
        call.result()
        assert "that began" in repr(call)


@pytest.mark.parametrize("harm", [lambda release: sys.exit(3), lambda release: release.wait(PATIENCE_S)], ids=["exit", "slow"])
def test_a_callback_that_exits_or_takes_long_delays_no_other_call(harm: Any) -> None:
    """The deadlines and the beginnings of other pending calls do not wait for the user's code."""
    release = threading.Event()
    with echo_servers(1) as servers, bench() as channel:
        reached = threading.Event()
        first = channel.stub.Get.future(request(), timeout=0.02)
        first.add_done_callback(lambda _: (reached.set(), harm(release)))
        assert reached.wait(PATIENCE_S)
        late = channel.stub.Get.future(request(), timeout=0.05)
        assert late.exception(timeout=PATIENCE_S / 2).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        begun = channel.stub.Get.future(request())
        channel.binding.update(servers)
        assert begun.result(timeout=PATIENCE_S / 2).pod == "pod-0"
        release.set()


@pytest.mark.parametrize("timeout", [float("inf"), float(sys.maxsize), 1e10])
def test_an_endless_timeout_waits(timeout: float) -> None:
    """Longer than any timer takes: no OverflowError, neither in the caller's thread nor in ours."""
    with bench() as channel:
        call = channel.stub.Get.future(request(), timeout=timeout)
        ended: list[BaseException] = []

        def block() -> None:
            try:
                channel.stub.Get(request(), timeout=timeout)
            except BaseException as error:  # noqa: BLE001
                ended.append(error)

        blocked = threading.Thread(target=block)
        blocked.start()
        with pytest.raises(grpc.FutureTimeoutError):
            call.result(timeout=0.1)
        assert ended == []
        channel.channel.close()
        blocked.join(PATIENCE_S)
        assert [type(error).__name__ for error in ended] == ["CancelledError"]
        assert call.code() is grpc.StatusCode.CANCELLED


def pretend_ready(channel: Bench) -> None:
    """The view and the looks at connections take endpoints at which nobody listens for ready."""
    view = channel.connections.open()
    assert view is not None
    subchannels = channel.binding.subchannels
    eventually(lambda: all(view.state_of(sub) is Connectivity.TRANSIENT_FAILURE for sub in subchannels), "they were tried")
    channel.connections._look_at_all = channel.connections._look_at_some = lambda: None  # type: ignore[method-assign]
    for link in channel.connections.links.values():
        link.look = lambda connect: READY
    view.set_states([(sub, Connectivity.READY) for sub in subchannels])


@pytest.mark.parametrize("kind", ["Get", "Watch"])
def test_wait_for_ready_waits_again_when_its_endpoint_vanishes_before_it_was_sent(kind: str) -> None:
    """It is handed to endpoints that are gone, several times, and is answered when one is back; callbacks run once, at the end."""
    gone = [Endpoint(host="127.0.0.1", port=unused_port(), name=f"gone-{number}") for number in range(4)]
    with echo_servers(1) as servers, bench(*gone) as channel:
        pretend_ready(channel)
        call = invoke(channel, kind, wait_for_ready=True, timeout=PATIENCE_S)
        called: list[Any] = []
        call.add_done_callback(called.append)
        eventually(lambda: sum(sub.failed for sub in channel.binding.subchannels) >= 3, "it was tried elsewhere")
        assert not call.done()
        assert called == []
        del channel.connections._look_at_all, channel.connections._look_at_some  # it looks again
        channel.binding.update([*gone, *servers])
        reply = next(call) if kind == "Watch" else call.result()
        assert reply.pod == "pod-0"
        assert endpoint_of(call) == servers[0].endpoint
        assert list(call) == [] if kind == "Watch" else True
        assert call.code() is grpc.StatusCode.OK
        eventually(lambda: called == [call], "called back")


@pytest.mark.parametrize("kind", ["Get", "Watch"])
@pytest.mark.parametrize("ending", ["deadline", "cancel", "close"])
def test_wait_for_ready_that_was_never_sent_ends_as_a_waiting_call_does(kind: str, ending: str) -> None:
    """With its deadline, cancelled, or with its channel; never with the UNAVAILABLE of an endpoint that it was handed to."""
    gone = [Endpoint(host="127.0.0.1", port=unused_port(), name=f"gone-{number}") for number in range(4)]
    with bench(*gone) as channel:
        pretend_ready(channel)
        call = invoke(channel, kind, wait_for_ready=True, timeout=0.5 if ending == "deadline" else PATIENCE_S)
        eventually(lambda: sum(sub.failed for sub in channel.binding.subchannels) >= 3, "it was tried elsewhere")
        if ending == "cancel":
            assert call.cancel()
        elif ending == "close":
            channel.channel.close()
        expected = grpc.StatusCode.DEADLINE_EXCEEDED if ending == "deadline" else grpc.StatusCode.CANCELLED
        assert call.code() is expected
        assert call.done()


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_waits_while_the_mesh_is_closed_ends_without_a_traceback_in_the_log(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody keeps times any more in the moment between the end of discovery and the word of it; that is no failure of the worker's."""
    with bench() as channel:
        channel.connections.open()
        channel.binding.scheduler.stop(1.0)
        call = invoke(channel, kind, timeout=PATIENCE_S)
        looked_at = threading.Event()
        WORKER.submit(looked_at.set)
        assert looked_at.wait(PATIENCE_S)
        assert not call.done()
        channel.binding.pool.end_waiting()
        assert call.code() is grpc.StatusCode.UNAVAILABLE
        assert "the mesh was closed" in call.details()
    assert caplog.records == []
