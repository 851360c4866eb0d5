"""One channel in one event loop: its view of the pool, its connections, and the calls that wait for one.

The view says that something changed, from any thread; any number of changes make one wake-up of the loop, in which the driver
compares what is wanted with what it has and lets every waiting call ask again. Nothing is polled for a waiting call, and a call that
is cancelled while it waits leaves nothing behind.

A driver lives as long as its channel, or a call that it carries. When its loop is closed it is released by the next change of the
view, or by the next loop that uses the channel, whichever comes first.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import Endpoint
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt
from meshlb.grpc.aio.connections import FASTEST_S, Connection, Connections

if TYPE_CHECKING:
    import grpc.aio

    from meshlb.binding import Binding
    from meshlb.call.call import Call
    from meshlb.grpc.aio.calls import BalancedCall

FOR_EVER_S: Final = 3600.0  # calls that wait without limit have a timer too: by it the loop holds them, as it holds a sleeping task

_CANCELLED = Outcome.CANCELLED


class Driver:
    """See the module head; everything but ``release`` runs in its loop. ``connect`` makes the real channel of an endpoint."""

    def __init__(self, loop: asyncio.AbstractEventLoop, binding: Binding, connect: Callable[[Endpoint], grpc.aio.Channel]) -> None:
        self.loop = loop
        self.binding = binding
        self.limits = binding.limits
        self.now_s = binding.clock.now_s
        self.closing = False  # no call goes elsewhere any more
        self.closed = False
        self._parked: dict[BalancedCall, asyncio.TimerHandle] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self.view = binding.view(_Relay(self, loop))
        self.connections = Connections(loop, self.view, connect, now_s=self.now_s, on_error=binding.count_internal_error)
        self.by_subchannel = self.connections.by_subchannel
        self.connections.reconcile()
        self.connections.look_in(FASTEST_S)

    # --- calls ------------------------------------------------------------------------------------------------------------

    def begin(self, info: PickInfo, stream: bool) -> tuple[Connection, Attempt] | tuple[None, None]:
        """A pick whose connection is ready; nothing if there is none. ``UnaryUnaryMultiCallable`` has it written out."""
        while (attempt := self.view.begin(info, stream)) is not None:
            connection = self.by_subchannel.get(attempt.subchannel)
            if connection is not None and connection.is_ready(attempt.started_s):
                return connection, attempt
            self.lost(attempt)
        return None, None

    def begin_attempt(self, call: Call) -> Attempt | None:
        """The same for a call that may also try one that is not ready; None: it has to wait."""
        while (attempt := call.begin_attempt(self.now_s())) is not None:
            subchannel = attempt.subchannel
            if self.view.state_of(subchannel) is not Connectivity.READY:
                return attempt
            connection = self.by_subchannel.get(subchannel)
            if connection is not None and connection.is_ready(attempt.started_s):
                return attempt
            self.lost(attempt)
        return None

    def lost(self, attempt: Attempt) -> None:
        """The view took this attempt's connection for ready, and it is not: nothing was tried, and the view is corrected."""
        self.view.end(attempt, _CANCELLED)
        self.connections.correct(attempt.subchannel)

    def end(self, connection: Connection, attempt: Attempt, outcome: Outcome) -> None:
        """Counts once however often it is called."""
        connection.live.discard(attempt)
        self.view.end(attempt, outcome)

    def park(self, call: BalancedCall, until_s: float | None) -> None:
        """``call.advance()`` when the view changes, or when ``until_s`` has come."""
        delay_s = FOR_EVER_S if until_s is None else min(max(until_s - self.now_s(), 0.0), FOR_EVER_S)
        self._parked[call] = self.loop.call_later(delay_s, self._expire, call)
        self.connections.look_in(FASTEST_S)

    def unpark(self, call: BalancedCall) -> None:
        """It waits no more; nothing is left of it here."""
        timer = self._parked.pop(call, None)
        if timer is not None:
            timer.cancel()

    def _expire(self, call: BalancedCall) -> None:
        if self._parked.pop(call, None) is not None:
            call.advance()

    # --- what changes -----------------------------------------------------------------------------------------------------

    def on_change(self) -> None:
        """The view is not what it was."""
        self.connections.reconcile()
        self._wake()

    async def change(self) -> None:
        """Return when anything about the view is different."""
        changed: asyncio.Future[None] = self.loop.create_future()
        self._waiters.append(changed)
        await changed

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        for call in list(self._parked):
            self.unpark(call)
            call.advance()

    # --- the end ----------------------------------------------------------------------------------------------------------

    async def close(self, grace: float | None) -> None:
        """Calls under way have ``grace`` seconds, those that still wait for an endpoint too; then grpc's own close cancels them."""
        until_s = self.now_s() + (grace or 0.0)
        waiting = [self.loop.create_task(call.code()) for call in self._parked] if grace else []
        try:
            if waiting:
                await asyncio.wait(waiting, timeout=grace)
            self._cancel_parked()
            left_s = max(until_s - self.now_s(), 0.0) or None
            await asyncio.gather(*(connection.channel.close(left_s) for connection in self.connections))
        finally:
            self._cancel_parked()
            for task in waiting:
                task.cancel()
            self.release()
            self._wake()

    def _cancel_parked(self) -> None:
        self.closing = True
        for call in list(self._parked):
            call.cancel()

    def close_from_elsewhere(self, grace: float | None) -> None:
        """``close`` in its own loop, from a coroutine of another."""
        try:
            self.loop.call_soon_threadsafe(lambda: self.loop.create_task(self.close(grace)))
        except RuntimeError:  # the loop is closed
            self.release()

    def release(self) -> None:
        """Want nothing any more and forget the connections. If the loop is closed, from any thread, and the calls that it left in
        flight end here: nobody else can tell that they have."""
        self.closing = self.closed = True
        self.view.close()
        for connection in self.connections:
            for attempt in list(connection.live):
                self.end(connection, attempt, _CANCELLED)
        self.connections.forget_all()
        self._parked.clear()

    def __repr__(self) -> str:
        return f"<Driver {self.binding.target} {self.view.state.value} connections={len(self.connections)} waiting={len(self._parked)}>"


class _Relay:
    """The view's listener: it keeps neither the driver alive nor the loop busy."""

    __slots__ = ("_driver", "_loop", "_on_its_way")

    def __init__(self, driver: Driver, loop: asyncio.AbstractEventLoop) -> None:
        self._driver = weakref.ref(driver)
        self._loop = loop
        self._on_its_way = False

    def on_change(self) -> None:
        """From any thread. Two threads may both find nothing on its way: then the driver looks twice."""
        if self._on_its_way:
            return
        self._on_its_way = True
        try:
            self._loop.call_soon_threadsafe(self._arrive)
        except RuntimeError:  # the loop is closed
            driver = self._driver()
            if driver is not None and not driver.closed:
                driver.release()

    def _arrive(self) -> None:
        self._on_its_way = False  # first, so that a change from here on makes a wake-up of its own
        driver = self._driver()
        if driver is not None and not driver.closed:
            driver.on_change()
