"""One loop's connections over channels whose states the test sets: what is opened, looked at, let go, and when."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest

from meshlb.balance.registry import policy_of
from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import Endpoint, EndpointSet
from meshlb.core.policy import PickInfo
from meshlb.grpc.aio import connections as module
from meshlb.grpc.aio.connection import FRESH_S
from meshlb.grpc.aio.connections import Connections
from meshlb.pool.connection_settings import Connection
from meshlb.pool.pool import Pool
from meshlb.runtime.clock import SystemClock, system_rng
from tests.support.aio import eventually

READY = grpc.ChannelConnectivity.READY
CONNECTING = grpc.ChannelConnectivity.CONNECTING
FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE


class FakeChannel:
    """A channel of grpc's, as far as connections know it."""

    def __init__(self) -> None:
        self.state = CONNECTING
        self.looks = 0

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        self.looks += 1
        return self.state


class Harness:
    """Real connections, view and pool; ``channels`` by port."""

    def __init__(self) -> None:
        self.channels: dict[int, FakeChannel] = {}
        self.errors: list[BaseException] = []
        self.refuse: set[int] = set()
        clock = SystemClock()
        self.pool = Pool(
            "orders", policy_of("round_robin").build(system_rng()), clock=clock, rng=system_rng(), new_lock=threading.Lock
        )
        self.view = self.pool.view(self)
        self.connections = Connections(
            asyncio.get_running_loop(),
            self.view,
            self.connect,
            settings=Connection(),
            asks_why=False,
            now_s=clock.now_s,
            on_error=self.errors.append,
        )

    def on_change(self) -> None:
        """The listener of the view: tests reconcile by hand."""

    def connect(self, endpoint: Endpoint) -> Any:
        if endpoint.port in self.refuse:
            raise RuntimeError("cannot")
        channel = self.channels[endpoint.port] = FakeChannel()
        return channel

    def update(self, *ports: int) -> None:
        self.pool.update(EndpointSet.of([Endpoint(host="10.0.0.1", port=port) for port in ports], "static"))
        self.connections.reconcile()

    async def opened(self, *ports: int) -> None:
        await eventually(lambda: set(ports) <= set(self.channels), f"{ports} are opened")

    def states(self) -> dict[int, Connectivity]:
        return {sub.endpoint.port: self.view.state_of(sub) for sub in self.pool.snapshot.listed}


async def settled(condition: Callable[[], bool], what: str) -> None:
    await eventually(condition, what)


async def test_states_reach_the_view_without_anybody_asking() -> None:
    """Each change of a channel, in both directions."""
    harness = Harness()
    harness.update(1, 2)
    await harness.opened(1, 2)
    harness.channels[1].state = READY
    harness.channels[2].state = FAILED
    await settled(
        lambda: harness.states() == {1: Connectivity.READY, 2: Connectivity.TRANSIENT_FAILURE}, "both states are reported"
    )
    harness.channels[1].state = CONNECTING
    await settled(lambda: harness.states()[1] is Connectivity.CONNECTING, "the loss is reported")


async def test_what_the_view_was_told_by_others_is_corrected() -> None:
    """Level-triggered: a state that the view has otherwise is reported again, though the channel's did not change."""
    harness = Harness()
    harness.update(1)
    await harness.opened(1)
    harness.channels[1].state = READY
    await settled(lambda: harness.states() == {1: Connectivity.READY}, "ready")
    harness.view.set_states([(harness.pool.snapshot.listed[0], Connectivity.TRANSIENT_FAILURE)])
    await settled(lambda: harness.states() == {1: Connectivity.READY}, "ready again")


async def test_looking_grows_rare_with_time_and_calm() -> None:
    """Every millisecond for what has just begun to connect, later after an eighth of its age; rarely when all are ready."""
    harness = Harness()
    harness.update(1)
    await harness.opened(1)
    (connection,) = harness.connections
    for age_s, pause_s in ((0.0, 0.001), (0.08, 0.01), (10.0, 0.05)):
        connection.since_s = harness.connections._looked_s - age_s
        assert harness.connections._pause_s() == pytest.approx(pause_s)
    connection.state = Connectivity.READY
    assert harness.connections._pause_s() == module.STEADY_S


async def test_a_fresh_look_is_not_repeated() -> None:
    """A connection seen ready within ``FRESH_S`` is ready; then its channel is asked again."""
    harness = Harness()
    harness.update(1)
    await harness.opened(1)
    (connection,) = harness.connections
    channel = harness.channels[1]
    channel.state, channel.looks = READY, 0
    assert connection.is_ready(100.0)
    assert connection.is_ready(100.0 + FRESH_S / 2)
    assert channel.looks == 1
    channel.state = CONNECTING
    assert not connection.is_ready(100.1)


async def test_at_most_sixteen_connect_at_once() -> None:
    """A settled one, ready or failed, makes room for the next."""
    harness = Harness()
    harness.update(*range(1, 41))
    await settled(lambda: len(harness.channels) == 16, "the first sixteen")
    first = dict(harness.channels)
    for number, channel in enumerate(first.values()):
        channel.state = READY if number % 2 else FAILED
    await settled(lambda: len(harness.channels) == 32, "the next sixteen")


async def test_one_opened_out_of_turn_neither_opens_twice_nor_takes_a_turn_for_ever() -> None:
    """A call may try an endpoint that still waits for its turn."""
    harness = Harness()
    harness.update(*range(1, 41))
    await settled(lambda: len(harness.channels) == 16, "the first sixteen")
    waiting = [sub for sub in harness.pool.snapshot.listed if sub.endpoint.port not in harness.channels]
    opened = [harness.connections.open(sub) for sub in waiting[:10]]
    assert harness.connections.open(waiting[0]) is opened[0]
    for channel in harness.channels.values():
        channel.state = READY
    await settled(lambda: len(harness.channels) == 40, "all are opened")
    assert len(harness.connections._queue._connecting) <= 16
    for channel in harness.channels.values():
        channel.state = READY
    await settled(lambda: not harness.connections._queue._connecting, "all are settled")


async def test_one_opened_out_of_turn_is_let_go_like_any_other() -> None:
    """Even if the queue never came to it."""
    harness = Harness()
    harness.update(*range(1, 41))
    await settled(lambda: len(harness.channels) == 16, "the first sixteen")
    waiting = next(sub for sub in harness.pool.snapshot.listed if sub.endpoint.port not in harness.channels)
    harness.connections.open(waiting)
    harness.update()
    assert len(harness.connections) == 0


async def test_a_removed_one_is_kept_while_it_carries_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """And for ``DRAIN_S`` at least; then nothing of ours holds it."""
    monkeypatch.setattr(module, "DRAIN_S", 0.05)
    harness = Harness()
    harness.update(1, 2)
    await harness.opened(1, 2)
    for channel in harness.channels.values():
        channel.state = READY
    await settled(lambda: set(harness.states().values()) == {Connectivity.READY}, "ready")
    used = next(each for each in harness.connections if each.subchannel.endpoint.port == 1)
    attempt = harness.view.begin(PickInfo())
    assert attempt is not None
    used.live.add(attempt)
    freed = {port: weakref.ref(channel) for port, channel in harness.channels.items()}
    harness.channels.clear()
    del channel
    harness.update(3)
    assert len(list(harness.connections)) == 2
    await settled(lambda: freed[2]() is None, "the idle one is freed")
    assert freed[1]() is not None
    used.live.discard(attempt)
    await settled(lambda: freed[1]() is None, "the other one too")
    assert harness.view.state_of(used.subchannel) is Connectivity.IDLE


async def test_one_that_comes_back_while_it_drains_is_taken_up_again() -> None:
    """Not made anew, and it keeps no other from its turn to connect."""
    harness = Harness()
    harness.update(1, 2)
    await harness.opened(1, 2)
    for channel in harness.channels.values():
        channel.state = READY
    await settled(lambda: set(harness.states().values()) == {Connectivity.READY}, "ready")
    channel = harness.channels.pop(1)
    harness.update(2)
    assert len(harness.connections) == 1
    harness.update(1, 2)
    await settled(lambda: harness.states() == {1: Connectivity.READY, 2: Connectivity.READY}, "ready again")
    assert 1 not in harness.channels
    assert {connection.channel for connection in harness.connections} == {channel, harness.channels[2]}
    assert not harness.connections._queue._connecting


async def test_one_whose_readiness_flaps_keeps_its_connection() -> None:
    """Nothing is let go, nothing is made."""
    harness = Harness()
    harness.update(1, 2)
    await harness.opened(1, 2)
    for channel in harness.channels.values():
        channel.state = READY
    await settled(lambda: set(harness.states().values()) == {Connectivity.READY}, "ready")
    kept = list(harness.connections)
    one, two = (sub.endpoint for sub in harness.pool.snapshot.listed)
    harness.pool.update(EndpointSet.of([replace(one, ready=False), two], "static"))
    harness.connections.reconcile()
    assert list(harness.connections) == kept
    harness.update(1, 2)
    assert list(harness.connections) == kept
    assert harness.states() == {1: Connectivity.READY, 2: Connectivity.READY}


async def test_one_that_cannot_be_made_does_not_stop_the_others() -> None:
    """It is counted, and counts as failed."""
    harness = Harness()
    harness.refuse.add(2)
    harness.update(1, 2, 3)
    await harness.opened(1, 3)
    await settled(lambda: harness.states()[2] is Connectivity.TRANSIENT_FAILURE, "failed")
    assert [str(error) for error in harness.errors] == ["cannot"]


async def test_a_look_that_fails_is_not_the_last() -> None:
    """A bug there is counted, and the connections are looked at again."""
    harness = Harness()
    harness.update(1)
    await harness.opened(1)
    channel = harness.channels[1]
    get_state = channel.get_state

    def fails(try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        channel.get_state = get_state  # type: ignore[method-assign]
        raise RuntimeError("a bug")

    channel.get_state = fails  # type: ignore[method-assign]
    await settled(lambda: bool(harness.errors), "the bug is counted")
    channel.state = READY
    await settled(lambda: harness.states() == {1: Connectivity.READY}, "looked at again")


async def test_its_timers_keep_nothing_alive() -> None:
    """A forgotten channel's connections are freed at once, in the middle of whatever they waited for."""
    harness = Harness()
    harness.update(*range(1, 41))
    gone = weakref.ref(harness.connections)
    del harness.connections
    assert gone() is None
    await asyncio.sleep(0.02)
    assert harness.errors == []
