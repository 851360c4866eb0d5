"""The real channels of one channel in one event loop, one an endpoint: opened, watched and let go as the view wants.

States are read, not waited for. gRPC's ``wait_for_state_change`` leaves an operation open in its core for as long as nothing
changes. If the loop is closed meanwhile (every ``asyncio.run`` does), the end of that operation is delivered to a closed loop and
raises in whichever other loop hears of it, even if the waiter was cancelled (measured, grpcio 1.85); as tasks the waiters would also
be left pending, and show in ``asyncio.all_tasks()``. ``get_state()`` costs 0.6 us and leaves nothing behind. It is asked

- of the picked connection, if it was last seen ready more than ``FRESH_S`` ago, so that no call waits for the next look;
- of all of them every ``STEADY_S`` while all are ready, and more often while one is not: after an eighth of the time that it has
  not been, within ``FASTEST_S`` and ``SLOWEST_S``. A new endpoint is seen ready within 1 ms or an eighth of its connect.

A removed endpoint's channel is forgotten, never closed: that lets what is on the wire finish. It is kept for as long as it carries a
call of ours, so that ``close()`` finds it, and for ``DRAIN_S`` at least: gRPC sends a call one turn of the loop after it was made, and
would fail one whose channel was freed in between. Renewal (``pool/renewal.py``) lets go in the same way; only what streams were given
a time limit is closed, in a task of its own.

Threads: all in the loop's own, except ``live_ended``, which is called when there is no loop any more.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import Endpoint
from meshlb.core.subchannel import Subchannel
from meshlb.grpc.aio.connection import STATES, Connection
from meshlb.grpc.options import is_shared_address
from meshlb.pool.connecting import ConnectQueue
from meshlb.pool.connection_settings import Connection as Settings
from meshlb.pool.renewal import Renewals
from meshlb.pool.view import View
from meshlb.runtime.clock import system_rng

if TYPE_CHECKING:
    import grpc.aio

    from meshlb.grpc.aio.multicallable import MultiCallable

STEADY_S: Final = 0.2  # five looks a second: 0.06 % of a core for 100 endpoints
FASTEST_S: Final = 0.001  # what an event loop's clock resolves
SLOWEST_S: Final = 0.05
DRAIN_S: Final = 1.0
_SETTLED: Final = (Connectivity.READY, Connectivity.TRANSIENT_FAILURE)


class Connections:
    """See the module head. ``connect`` makes the real channel of an endpoint; ``on_error`` hears of bugs in here."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        view: View,
        connect: Callable[[Endpoint], grpc.aio.Channel],
        *,
        settings: Settings,
        asks_why: bool,
        now_s: Callable[[], float],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self.by_subchannel: dict[Subchannel, Connection] = {}
        self.users: weakref.WeakSet[MultiCallable] = weakref.WeakSet()
        self._loop = loop
        self._view = view
        self._connect = connect
        self._now_s = now_s
        self._on_error = on_error
        self._asks_why = asks_why
        self._queue = ConnectQueue(system_rng())
        self._renewals: Renewals[Connection] = Renewals(settings, system_rng())
        self._closing: set[asyncio.Task[None]] = set()
        self._opening: dict[Subchannel, asyncio.TimerHandle] = {}
        self._draining: list[tuple[Connection, float]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._looked_s = now_s()
        self._ended = False
        self.on_look: Callable[[], None] | None = None  # who goes by what is connected

    def __iter__(self) -> Iterator[Connection]:
        """Those that are wanted, about to be, or still drain."""
        return iter([*self.by_subchannel.values(), *self._renewals.all(), *(connection for connection, _ in self._draining)])

    def __len__(self) -> int:
        return len(self.by_subchannel)

    def describe(self, subchannel: Subchannel) -> dict[str, object]:
        """Plain data for ``status()``; from any thread."""
        connection = self.by_subchannel.get(subchannel)
        described = self._renewals.describe(subchannel, connection, self._now_s())
        return described if connection is None or not connection.why else {**described, "why": connection.why}

    # --- opening and letting go -------------------------------------------------------------------------------------------

    def reconcile(self) -> None:
        """Open and let go what the view says."""
        wanted = self._view.wanted()
        opened, gone = self._queue.reconcile(wanted)
        out_of_turn = self.by_subchannel.keys() - set(wanted)  # the queue does not know all of those that calls had opened
        if gone or out_of_turn:
            self._retire({*gone, *out_of_turn})
        self._open_later(opened)

    def open(self, subchannel: Subchannel) -> Connection:
        """The connection to this subchannel, made now if it waits for its turn."""
        connection = self.by_subchannel.get(subchannel)
        if connection is None:
            self._not_opening(subchannel)
            connection = self._still_draining(subchannel) or self._connection(subchannel)
            self.by_subchannel[subchannel] = connection
            connection.channel.get_state(try_to_connect=True)
            self.look_in(FASTEST_S)
        return connection

    def _connection(self, subchannel: Subchannel) -> Connection:
        return Connection(subchannel, self._connect(subchannel.endpoint), self._now_s())

    def _still_draining(self, subchannel: Subchannel) -> Connection | None:
        """That of an endpoint which was let go and is wanted again: taken up, not made anew; the next look sees how it is."""
        connection = next((one for one, _ in self._draining if one.subchannel is subchannel), None)
        if connection is not None:
            self._draining = [entry for entry in self._draining if entry[0] is not connection]
            connection.state, connection.since_s = Connectivity.IDLE, self._now_s()
        return connection

    def forget_all(self) -> None:
        """Let go of everything; nothing is opened or looked at any more."""
        self._ended = True
        self._forget(list(self))
        self.by_subchannel.clear()
        self._renewals.forget_all()
        self._draining.clear()
        self._opening.clear()

    def _open_later(self, opened: Iterable[tuple[Subchannel, float]]) -> None:
        for subchannel, delay_s in opened:
            connection = self.by_subchannel.get(subchannel)
            if connection is None:
                self._opening[subchannel] = self._call_later(delay_s, Connections._open_in_turn, subchannel)
            elif connection.state in _SETTLED:  # opened out of turn, for a call that tries it although it is not ready
                self._open_later(self._queue.settled(subchannel))

    def _open_in_turn(self, subchannel: Subchannel) -> None:
        try:
            self.open(subchannel)
        except Exception:
            # A call that finds nobody ready tries it again, in vain, and so goes around meshlb.
            self._view.set_states([(subchannel, Connectivity.TRANSIENT_FAILURE)])
            self._open_later(self._queue.settled(subchannel))
            raise

    def _not_opening(self, subchannel: Subchannel) -> None:
        timer = self._opening.pop(subchannel, None)
        if timer is not None:
            timer.cancel()

    def _retire(self, gone: set[Subchannel]) -> None:
        now_s = self._now_s()
        for subchannel in gone:
            self._not_opening(subchannel)
            connection = self.by_subchannel.pop(subchannel, None)
            if connection is not None:
                self._draining.append((connection, now_s))
                self._drop_successor(subchannel, connection)
        self._view.set_states([(subchannel, Connectivity.IDLE) for subchannel in gone])

    def _forget_drained(self, now_s: float) -> None:
        drained = [connection for connection, since_s in self._draining if now_s - since_s >= DRAIN_S and not connection.live]
        if drained:
            self._draining = [entry for entry in self._draining if entry[0] not in drained]
            self._forget(drained)

    def _forget(self, connections: list[Connection]) -> None:
        for user in self.users:
            for connection in connections:
                user.inners.pop(connection, None)
        for connection in connections:
            connection.channel = None  # whoever still holds the connection, a call without an end, does not hold the channel

    # --- renewing ---------------------------------------------------------------------------------------------------------

    def _renew(self, now_s: float) -> None:
        renewals, renewed = self._renewals, self.by_subchannel
        for subchannel in renewals.due(renewed, now_s):
            successor = renewals.successors[subchannel] = self._connection(subchannel)
            successor.channel.get_state(try_to_connect=True)
        for subchannel, successor in list(renewals.successors.items()):
            if successor.is_ready(now_s):
                successor.state, successor.since_s = Connectivity.READY, now_s
                renewals.came_up(successor, now_s)
                old, renewed[subchannel] = renewed[subchannel], successor
                renewals.swapped(subchannel, old, old.live, now_s)

    def _let_replaced_go(self, now_s: float) -> None:
        done, close = self._renewals.let_go(now_s)
        self._forget(done)
        for connection in close:
            connection.outlived = True
            task = self._loop.create_task(connection.channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _note_age(self, connection: Connection, now_s: float) -> None:
        """It got ready, or is not any more."""
        if connection.ready_s is None:
            self._renewals.came_up(connection, now_s, renew=not is_shared_address(connection.subchannel.endpoint))
        else:
            self._drop_successor(connection.subchannel, connection)

    def _drop_successor(self, subchannel: Subchannel, connection: Connection) -> None:
        successor = self._renewals.went_down(subchannel, connection)
        if successor is not None:
            self._forget([successor])

    # --- looking ----------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Report every state that the view has otherwise."""
        now_s = self._looked_s = self._now_s()
        view, changes = self._view, []
        settled: list[Subchannel] = []
        for subchannel, connection in self.by_subchannel.items():
            state = STATES[connection.channel.get_state(try_to_connect=True)]
            if state is not connection.state:
                connection.state = state
                connection.since_s = now_s
                if state in _SETTLED:
                    settled.append(subchannel)
            if (state is Connectivity.READY) is (connection.ready_s is None):
                self._note_age(connection, now_s)
            if self._asks_why:
                connection.ask_why(now_s)
            if view.state_of(subchannel) is not state:
                changes.append((subchannel, state))
        if changes:
            view.set_states(changes)
        for subchannel in settled:
            self._open_later(self._queue.settled(subchannel))

    def look_again(self) -> None:
        """``look``, unless that was done within the last millisecond."""
        if self._now_s() - self._looked_s >= FASTEST_S:
            self.look()

    def look_in(self, delay_s: float) -> None:
        """``look`` in ``delay_s`` at the latest."""
        due_s = self._loop.time() + delay_s
        if self._timer is not None:
            if self._timer.when() <= due_s:
                return
            self._timer.cancel()
        self._timer = self._call_later(delay_s, Connections._look_and_go_on, None)

    def correct(self, subchannel: Subchannel) -> None:
        """The view took this subchannel for ready, and it is not: tell it now."""
        connection = self.by_subchannel.get(subchannel)
        state = Connectivity.IDLE if connection is None else STATES[connection.channel.get_state(try_to_connect=True)]
        self._view.set_states([(subchannel, state if state is not Connectivity.READY else Connectivity.CONNECTING)])
        self.look_in(FASTEST_S)

    def _look_and_go_on(self, _: None) -> None:
        self._timer = None
        try:
            self.look()
            self._renew(self._looked_s)
            self._let_replaced_go(self._looked_s)
            self._forget_drained(self._looked_s)
            if self.on_look is not None:
                self.on_look()
        finally:
            self.look_in(self._pause_s())

    def _pause_s(self) -> float:
        changed_s = [connection.since_s for connection in self.by_subchannel.values() if connection.state is not Connectivity.READY]
        changed_s += [successor.since_s for successor in self._renewals.successors.values()]
        if not changed_s:
            return STEADY_S
        return min(max((self._looked_s - max(changed_s)) / 8, FASTEST_S), SLOWEST_S)

    def _call_later(self, delay_s: float, act: Callable[[Connections, Any], object], argument: object) -> asyncio.TimerHandle:
        """A timer that does not keep this alive."""
        return self._loop.call_later(delay_s, _if_alive, weakref.ref(self), act, argument)


def _if_alive(reference: weakref.ref[Connections], act: Callable[[Connections, Any], object], argument: object) -> None:
    connections = reference()
    if connections is not None and not connections._ended:
        try:
            act(connections, argument)
        except Exception as error:  # noqa: BLE001 - one connection that cannot be made must not stop the others
            connections._on_error(error)
