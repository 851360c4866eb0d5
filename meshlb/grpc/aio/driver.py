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

from meshlb.call.entrance import Entrance, entrance_of
from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import Endpoint
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.grpc.aio.connection import Connection
from meshlb.grpc.aio.connections import FASTEST_S, Connections
from meshlb.grpc.aio.reports import OutOfBand

if TYPE_CHECKING:
    import grpc.aio

    from meshlb.binding import Binding
    from meshlb.call.call import Call
    from meshlb.grpc.aio.attempts import BalancedAttempts

FOR_EVER_S: Final = 3600.0  # calls that wait without limit have a timer too: by it the loop holds them, as it holds a sleeping task

_CANCELLED = Outcome.CANCELLED


class Driver:
    """See the module head; everything but ``release`` runs in its loop. ``connect`` makes the real channel of an endpoint."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, binding: Binding, connect: Callable[[Endpoint], grpc.aio.Channel], *, asks_why: bool
    ) -> None:
        self.loop = loop
        self.binding = binding
        self.limits = binding.limits
        self.now_s = binding.clock.now_s
        self.closing = False  # no call goes elsewhere any more
        self.closed = False
        self._parked: dict[BalancedAttempts, asyncio.TimerHandle] = {}
        self._limited: weakref.WeakSet[Call] = weakref.WeakSet()  # those that may hold places, until they are closed
        self._waiters: list[asyncio.Future[None]] = []
        relay = _Relay(self, loop)
        self.view = binding.view(relay)
        self.entrance = entrance_of(self.view, self.limits.gates)
        self.view.describe_connection = relay.describe
        self.connections = Connections(
            loop,
            self.view,
            connect,
            settings=binding.config.connection,
            asks_why=asks_why,
            now_s=self.now_s,
            on_error=binding.count_internal_error,
        )
        self.by_subchannel = self.connections.by_subchannel
        self._out_of_band: OutOfBand | None = None
        if binding.config.weight.oob:
            self._out_of_band = OutOfBand(loop, self.view, self.by_subchannel, binding)
            self.connections.on_look = self._out_of_band.reconcile
        self.connections.reconcile()
        self.connections.look_in(FASTEST_S)

    # --- calls ------------------------------------------------------------------------------------------------------------

    def begin(self, info: PickInfo, stream: bool) -> tuple[Connection, Attempt] | tuple[None, None]:
        """A pick whose connection is ready; nothing if there is none. ``UnaryUnaryMultiCallable`` has it written out."""
        while (attempt := self.entrance.begin(info, stream)) is not None:
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
        self.entrance.end(attempt, _CANCELLED)
        self.connections.correct(attempt.subchannel)

    def end(self, connection: Connection, attempt: Attempt, outcome: Outcome) -> None:
        """Counts once however often it is called."""
        connection.live.discard(attempt)
        self.entrance.end(attempt, outcome)

    def hand_over(self, attempt: Attempt, call: Call) -> None:
        """The call goes on as this one; it keeps what places it has."""
        if isinstance(self.entrance, Entrance):
            self.entrance.hand_over(attempt, call)

    def uncount(self, attempt: Attempt) -> None:
        """Its end failed, by a bug of ours."""
        attempt.live.discard(attempt)
        if isinstance(self.entrance, Entrance):
            self.entrance.leave(attempt)

    def park(self, call: BalancedAttempts, until_s: float | None) -> None:
        """``call.advance()`` when the view changes, or when ``until_s`` has come."""
        delay_s = FOR_EVER_S if until_s is None else min(max(until_s - self.now_s(), 0.0), FOR_EVER_S)
        self._parked[call] = self.loop.call_later(delay_s, self._expire, call)
        self.connections.look_in(FASTEST_S)

    def unpark(self, call: BalancedAttempts) -> None:
        """It waits no more; nothing is left of it here."""
        timer = self._parked.pop(call, None)
        if timer is not None:
            timer.cancel()

    def limited(self, balanced: BalancedAttempts, call: Call) -> None:
        """This call has limits: wake it when its turn comes, and give its places back when this loop is no more."""
        call.wake_with(_Nudge(self, balanced))
        self._limited.add(call)

    def nudge(self, call: BalancedAttempts) -> None:
        """If it waits, it asks again now."""
        if call in self._parked:
            self.unpark(call)
            call.advance()

    def _expire(self, call: BalancedAttempts) -> None:
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
            await self._end_reports()
            left_s = max(until_s - self.now_s(), 0.0) or None
            await asyncio.gather(*(connection.channel.close(left_s) for connection in self.connections))
        finally:
            self._cancel_parked()
            for task in waiting:
                task.cancel()
            self.release()
            self._wake()

    async def _end_reports(self) -> None:
        self.connections.on_look = None
        if self._out_of_band is not None:
            await self._out_of_band.close()

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
        self.connections.on_look = self._out_of_band = None
        for connection in self.connections:
            for attempt in list(connection.live):
                self.end(connection, attempt, _CANCELLED)
        self.connections.forget_all()
        self._parked.clear()
        for call in list(self._limited):
            call.close()

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

    def describe(self, subchannel: Subchannel) -> dict[str, object]:
        """From any thread."""
        driver = self._driver()
        return {} if driver is None else driver.connections.describe(subchannel)

    def _arrive(self) -> None:
        self._on_its_way = False  # first, so that a change from here on makes a wake-up of its own
        driver = self._driver()
        if driver is not None and not driver.closed:
            driver.on_change()


class _Nudge:
    """Wakes a call that waits for its turn, from any thread; False if its loop is closed, or nobody holds it any more."""

    __slots__ = ("_call", "_driver", "_loop")

    def __init__(self, driver: Driver, call: BalancedAttempts) -> None:
        self._call = weakref.ref(call)
        self._driver = weakref.ref(driver)
        self._loop = driver.loop

    def __call__(self) -> bool:
        if self._call() is None:
            return False
        try:
            self._loop.call_soon_threadsafe(self._arrive)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def _arrive(self) -> None:
        driver, call = self._driver(), self._call()
        if driver is not None and call is not None:
            driver.nudge(call)
