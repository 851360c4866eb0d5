"""Futures and streams that are invoked while no endpoint is ready: never blocked, begun later, or ended for a good reason."""

from __future__ import annotations

import gc
import threading
import time
from typing import Any

import grpc
import pytest

from meshlb.errors import NoEndpointError
from meshlb.grpc.in_flight import endpoint_of
from meshlb.grpc.pending import PendingCall
from tests.support.channels import PATIENCE_S, Bench, bench, echo_servers, eventually, request


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
