"""``subscribe`` and ``channel_ready_future``: one state for many endpoints."""

from __future__ import annotations

import gc
import itertools
import sys
import threading

import grpc
import pytest
from grpc import ChannelConnectivity as State

from meshlb.core.endpoint import Endpoint
from tests.support.channels import PATIENCE_S, bench, echo_servers, eventually, request, unused_port


def test_an_unused_channel_is_idle_and_stays_so() -> None:
    """Only ``try_to_connect`` or a call wakes it."""
    with echo_servers(1) as servers, bench(*servers) as channel:
        states: list[State] = []
        channel.channel.subscribe(states.append)
        eventually(lambda: states == [State.IDLE], "told at once")
        assert channel.connections.view is None
        channel.stub.Get(request())
        eventually(lambda: states[-1] is State.READY, "a call wakes it")


def test_states_are_told_in_order_and_once() -> None:
    """From nothing over connecting to ready, to failed when all are gone, and back."""
    with echo_servers(2) as servers, bench(*servers) as channel:
        states: list[State] = []
        channel.channel.subscribe(states.append, try_to_connect=True)
        eventually(lambda: states and states[-1] is State.READY, "ready")
        servers[0].stop()
        servers[1].stop()
        eventually(lambda: states[-1] is State.TRANSIENT_FAILURE, "all are gone")
        servers[1].start()
        eventually(lambda: states[-1] is State.READY, "one is back")
        assert all(first is not second for first, second in itertools.pairwise(states))


def test_one_ready_endpoint_makes_the_channel_ready() -> None:
    """As round_robin aggregates."""
    with echo_servers(1) as servers, bench(*servers, Endpoint(host="127.0.0.1", port=unused_port())) as channel:
        states: list[State] = []
        channel.channel.subscribe(states.append, try_to_connect=True)
        eventually(lambda: states and states[-1] is State.READY, "ready")


def test_nobody_to_connect_to_is_a_failure() -> None:
    """All endpoints refuse."""
    with bench(Endpoint(host="127.0.0.1", port=unused_port())) as channel:
        states: list[State] = []
        channel.channel.subscribe(states.append, try_to_connect=True)
        eventually(lambda: states and states[-1] is State.TRANSIENT_FAILURE, "failed")


def test_channel_ready_future_works() -> None:
    """grpc's own helper, on top of ``subscribe``."""
    with echo_servers(1) as servers, bench() as channel:
        future = grpc.channel_ready_future(channel.channel)
        with pytest.raises(grpc.FutureTimeoutError):
            future.result(timeout=0.05)
        channel.binding.update(servers)
        future.result(timeout=PATIENCE_S)
        assert future.done()
        grpc.channel_ready_future(channel.channel).result(timeout=PATIENCE_S)
        cancelled = grpc.channel_ready_future(channel.channel)
        cancelled.cancel()
        del cancelled
        gc.collect()


def test_an_unsubscribed_callback_hears_nothing() -> None:
    """Nor does unsubscribing twice, or a stranger, hurt."""
    with echo_servers(1) as servers, bench(*servers) as channel:
        states: list[State] = []
        others: list[State] = []
        channel.channel.subscribe(states.append)
        eventually(lambda: states == [State.IDLE], "told at once")
        channel.channel.unsubscribe(states.append)
        channel.channel.unsubscribe(states.append)
        channel.channel.unsubscribe(print)
        channel.channel.subscribe(others.append, try_to_connect=True)
        eventually(lambda: others and others[-1] is State.READY, "the other one hears")
        assert states == [State.IDLE]


def test_a_callback_may_call_wait_and_fail() -> None:
    """It runs in a thread of its own, so that it may use the channel it hears of; what it raises is logged."""
    with echo_servers(1) as servers, bench(*servers) as channel:
        pods: list[str] = []

        def call(state: State) -> None:
            pods.append(channel.stub.Get.future(request(), timeout=PATIENCE_S).result().pod)
            raise RuntimeError("the user's")

        channel.channel.subscribe(call)
        states: list[State] = []
        channel.channel.subscribe(states.append)
        eventually(lambda: pods and states and states[-1] is State.READY, "both were told")


def test_after_close_nobody_is_told_and_nobody_subscribes() -> None:
    """ValueError with grpc's words, instead of a thread that dies."""
    with echo_servers(1) as servers, bench(*servers) as channel:
        states: list[State] = []
        channel.channel.subscribe(states.append)
        eventually(lambda: states == [State.IDLE], "told at once")
        channel.channel.close()
        with pytest.raises(ValueError, match="Channel closed!"):
            channel.channel.subscribe(states.append)
        assert states == [State.IDLE]


def test_a_callback_that_exits_leaves_the_others_theirs() -> None:
    """``sys.exit`` in a thread of ours ends nothing."""
    with echo_servers(1) as servers, bench(*servers) as channel:
        states: list[State] = []
        channel.channel.subscribe(lambda state: sys.exit(3))
        channel.channel.subscribe(states.append, try_to_connect=True)
        eventually(lambda: states and states[-1] is State.READY, "the other one hears")


def test_no_thread_stays_for_a_channel_that_tells_nobody() -> None:
    """Many channels whose readiness was waited for once would keep a thread each."""
    with echo_servers(1) as servers, bench(*servers) as channel:
        grpc.channel_ready_future(channel.channel).result(timeout=PATIENCE_S)
        names = lambda: [thread.name for thread in threading.enumerate()]  # noqa: E731
        eventually(lambda: "meshlb-grpc-connectivity" not in names(), "its thread ended", patience_s=3.0)
