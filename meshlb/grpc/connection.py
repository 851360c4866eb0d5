"""The driver of one channel's real connections: one gRPC channel an endpoint, opened, watched and let go as its view wants.

Level-triggered. Whatever happens (the view changed, a timer fired) ends in the same turn on the discovery thread: compare what the
view wants with what there is, read the states, report them. Being late or called too often does no harm.

Readiness is read, not subscribed to: gRPC's public ``subscribe`` costs a polling thread a channel, crashes forked children, and
takes 3 ms where reading takes half a one. While something connects, it is read after a tenth of the time it has been connecting
(1 ms at least), so that waiting grows by a tenth at most; else every 50 ms while somebody waits for news (stretched so that a scan
stays below half a percent of a core) and every 500 ms while nobody does. Calls wait for no scan: each looks at its connection, and
one that finds it gone tells at once.

Removal drops references and does not close (``links.py``); neither does renewal (``pool/renewal.py``), unless streams were given a
time limit.

With health checking on, gRPC reports a server that is not fit as one that failed. Only the error of a call tells the two apart, so a
connection that failed is asked for one every few seconds; that call fails in the process, within a tenth of a millisecond.

Threads: ``open``, ``wait``, ``changed`` and ``close`` from any; ``_turn`` and what it calls only on the discovery thread.
Ownership: calls and multicallables hold this object (people keep only the stub), the view's listener and the timers hold it weakly,
so that a forgotten channel is freed with its view, its pool and its watch.

Fork: a child forgets what it inherited without closing it, since the sockets are the parent's too, and opens its own at its next
call. During a fork the discovery thread is kept out of gRPC, see ``link.py``.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Protocol

from meshlb.call.entrance import Entrance, entrance_of
from meshlb.core.connectivity import Connectivity
from meshlb.core.scheduler import Timer
from meshlb.core.subchannel import Subchannel
from meshlb.errors import ClosedError
from meshlb.grpc import stock
from meshlb.grpc.link import Link, LinkFactory, fork_gate, weakly
from meshlb.grpc.links import HoldsInner, Links
from meshlb.grpc.options import ChannelOptions, is_shared_address
from meshlb.grpc.reports import OutOfBand
from meshlb.pool.connecting import ConnectQueue
from meshlb.pool.renewal import Renewals
from meshlb.pool.view import View
from meshlb.runtime.clock import system_rng
from meshlb.runtime.fork import on_fork_child

if TYPE_CHECKING:
    import grpc

    from meshlb.binding import Binding

MIN_SCAN_S = 0.001
AWAITED_SCAN_S = 0.05
SCAN_S = 0.5
SCAN_S_PER_LINK = 0.00025  # a read costs 1.2 µs: half a percent of a core
CONNECTING_RATIO = 0.1

IDLE = Connectivity.IDLE
READY = Connectivity.READY
TRANSIENT_FAILURE = Connectivity.TRANSIENT_FAILURE

_inherited: list[object] = []  # the parent's channels, in a forked child: freeing them would close the parent's sockets


class Watcher(Protocol):
    """Told of every change, from any thread; must not block."""

    def changed(self) -> None: ...


class Connections:
    """See the module head. ``view`` is None until the first use, and ``entrance``, where calls begin, as long."""

    def __init__(
        self,
        binding: Binding,
        options: ChannelOptions,
        credentials: grpc.ChannelCredentials | None,
        compression: grpc.Compression | None,
    ) -> None:
        self.binding = binding
        self.options = options
        self.closed = False
        self.view: View | None = None
        self.entrance: View | Entrance | None = None
        self._factory = LinkFactory(binding, options, credentials, compression)
        self._rng = system_rng()
        self._stock: grpc.Channel | None = None
        self._turn_weakly = weakly(self._turn)
        self._holders: weakref.WeakSet[HoldsInner] = weakref.WeakSet()
        self._start_clean()
        on_fork_child(self._after_fork)

    def _start_clean(self) -> None:
        self.view = self.entrance = None
        self.changes = 0  # how often something a waiting caller may want to know has happened
        self._renewals: Renewals[Link] = Renewals(self.binding.config.connection, self._rng)
        self._table = Links(self._renewals, self._holders)
        self.links = self._table.used
        self.lock = self._table.lock
        self._condition = threading.Condition(self.lock)
        self._waiters = 0
        self._watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()
        self._queue = ConnectQueue(self._rng)
        self._opening: dict[Subchannel, Timer] = {}
        self._unsettled: dict[Subchannel, Link] = {}
        self._timer: Timer | None = None
        self._turn_due = False
        self._scanned_s = 0.0
        self._out_of_band = OutOfBand(self) if self.binding.config.weight.oob else None

    # --- any thread -------------------------------------------------------------------------------------------------------

    def open(self) -> View | None:
        """The view; made, and discovery started, at the first use. None after ``close()``."""
        if self.view is None:
            with self.lock:
                if self.view is None and not self.closed:
                    listener = _Listener(self)
                    view = self.binding.view(listener)
                    view.describe_connection = listener.describe
                    self.entrance = entrance_of(view, self.binding.limits.gates)
                    self.view = view
                    self.wake()
                    if self._out_of_band is not None:
                        self._out_of_band.start()
        return None if self.closed else self.view

    def add_holder(self, holder: HoldsInner) -> None:
        """A multicallable was made; held weakly."""
        self._table.add_holder(holder)

    def add_watcher(self, watcher: Watcher) -> None:
        """Held weakly, until ``remove_watcher``."""
        with self.lock:
            self._watchers.add(watcher)
        self.wake()  # an idle scanner would look too rarely for somebody who waits

    def remove_watcher(self, watcher: Watcher) -> None:
        with self.lock:
            self._watchers.discard(watcher)

    def wait(self, seen: int, until_s: float | None) -> None:
        """Block until ``changes`` is no longer ``seen``, or the time has come; a signal's handler may raise out of it."""
        self.wake()
        with self._condition:
            if self.changes != seen:
                return
            self._waiters += 1
            try:
                left_s = None if until_s is None else until_s - self.binding.clock.now_s()
                self._condition.wait(None if left_s is None else min(max(left_s, 0.0), threading.TIMEOUT_MAX))
            finally:
                self._waiters -= 1

    def changed(self) -> None:
        """Something is different: the view's choice, a state, or this channel was closed."""
        with self._condition:
            self.changes += 1
            self._condition.notify_all()
            watchers = list(self._watchers)
        self.wake()
        for watcher in watchers:
            watcher.changed()

    def wake(self) -> None:
        """Have the discovery thread look at everything soon."""
        if not self._turn_due:
            self._turn_due = True
            try:
                self.binding.scheduler.call_soon(self._turn_weakly)
            except ClosedError:  # the mesh was closed: what is connected stays so
                self._turn_due = False

    def describe(self, subchannel: Subchannel) -> dict[str, object]:
        """One connection, as plain data for ``status()``."""
        link = self.links.get(subchannel)
        described = self._renewals.describe(subchannel, link, self.binding.clock.now_s())
        return described if link is None or not link.why else {**described, "why": link.why}

    def stock_channel(self) -> grpc.Channel:
        """What the user would have had without meshlb: for calls on which meshlb itself fails."""
        with self.lock:
            if self.closed:
                raise ValueError(stock.CLOSED)
            if self._stock is None:
                self._stock = self._factory.open_stock()
            return self._stock

    def close(self) -> None:
        """As grpc's: calls in flight end with CANCELLED, waiting ones too, later ones raise ValueError. Idempotent."""
        with self.lock:
            if self.closed:
                return
            self.closed = True
            links = self._table.take_all()
        if self.view is not None:
            self.view.close()
        for link in links:
            link.close()
        if self._stock is not None:
            self._stock.close()
        self.changed()

    # --- the discovery thread ---------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        with fork_gate.lock:
            try:
                self._look_at_all()
            finally:
                self._arm()

    def _tick(self) -> None:
        with fork_gate.lock:
            try:
                self._look_at_some()
            finally:
                self._arm()

    def _open(self, subchannel: Subchannel) -> None:
        with fork_gate.lock:
            try:
                self._open_one(subchannel)
            finally:
                self._arm()

    def _look_at_all(self) -> None:
        self._turn_due = False
        view = self.view
        if view is None or self.closed:
            return
        opened, gone = self._queue.reconcile(view.wanted())
        for subchannel in gone:
            self._drop(subchannel)
        self._open_all(opened)
        self._report(view, self.links, [(subchannel, IDLE) for subchannel in gone])
        now_s = self._scanned_s = self.binding.clock.now_s()
        self._renew(now_s)
        for link in self._table.let_go(now_s):
            link.close()

    def _look_at_some(self) -> None:
        view = self.view
        if self.binding.clock.now_s() - self._scanned_s >= self._pace_s():
            self._look_at_all()
        elif view is not None and not self.closed:
            self._report(view, self._unsettled, [])
            self._swap_ready(self.binding.clock.now_s())

    def _report(self, view: View, links: dict[Subchannel, Link], changes: list[tuple[Subchannel, Connectivity]]) -> None:
        """Read states and tell the view those it does not know; a connect that ended makes room for the next."""
        settled = []
        now_s = self.binding.clock.now_s()
        for subchannel, link in list(links.items()):
            state = link.state()
            if state is IDLE:
                link.state(connect=True)
            if state is not view.state_of(subchannel):
                changes.append((subchannel, state))
            if (state is READY) is (link.ready_s is None):
                self._note_age(subchannel, link, now_s)
            if state is READY or state is TRANSIENT_FAILURE:
                settled.append(subchannel)
                link.ask_why(now_s, failed=state is TRANSIENT_FAILURE)
            elif subchannel not in self._unsettled:
                link.connecting_since_s = now_s
                self._unsettled[subchannel] = link
        for subchannel in settled:
            if self._unsettled.pop(subchannel, None) is not None:
                self._open_all(self._queue.settled(subchannel))
        if changes:
            view.set_states(changes)

    def _open_all(self, opened: list[tuple[Subchannel, float]]) -> None:
        for subchannel, delay_s in opened:
            self._opening[subchannel] = self.binding.scheduler.call_later(delay_s, weakly(self._open, subchannel))

    def _open_one(self, subchannel: Subchannel) -> None:
        if self._opening.pop(subchannel, None) is None:
            return
        link = self._table.take_up(subchannel) or self._factory.open(subchannel.endpoint)
        with self.lock:
            if not self.closed:
                self.links[subchannel] = link
        if self.closed:
            link.close()
            return
        self._unsettled[subchannel] = link

    def _drop(self, subchannel: Subchannel) -> None:
        timer = self._opening.pop(subchannel, None)
        if timer is not None:
            timer.cancel()
        self._unsettled.pop(subchannel, None)
        self._table.drop(subchannel)

    def _note_age(self, subchannel: Subchannel, link: Link, now_s: float) -> None:
        """It got ready, or is not any more."""
        if link.ready_s is None:
            self._renewals.came_up(link, now_s, renew=not is_shared_address(subchannel.endpoint))
        else:
            self._renewals.went_down(subchannel, link)

    def _renew(self, now_s: float) -> None:
        for subchannel in self._renewals.due(self.links, now_s):
            self._table.add_successor(subchannel, self._factory.open(subchannel.endpoint))
        self._swap_ready(now_s)

    def _swap_ready(self, now_s: float) -> None:
        for subchannel, link in list(self._renewals.successors.items()):
            if link.state() is READY:
                self._renewals.came_up(link, now_s)
                self._table.swap(subchannel, link, now_s)

    def _pace_s(self) -> float:
        awaited = self._waiters or self._table.draining or len(self._watchers)
        return max(AWAITED_SCAN_S if awaited else SCAN_S, SCAN_S_PER_LINK * len(self.links))

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.closed:
            return
        delay_s = self._pace_s()
        connecting = [*self._unsettled.values(), *self._renewals.successors.values()]
        if connecting:
            youngest_s = max(link.connecting_since_s for link in connecting)
            age_s = self.binding.clock.now_s() - youngest_s
            delay_s = min(delay_s, max(MIN_SCAN_S, CONNECTING_RATIO * age_s))
        self._timer = self.binding.scheduler.call_later(delay_s, weakly(self._tick))

    # --- fork -------------------------------------------------------------------------------------------------------------

    def _after_fork(self) -> None:
        _inherited.append((self._table, self._stock))
        for holder in list(self._holders):
            holder.forget(list(self.links))
        self._stock = None
        self._start_clean()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "unused" if self.view is None else self.view.state.value
        return f"<Connections {self.binding.target} {state} links={len(self.links)}>"


class _Listener:
    """What the view tells; it outlives neither the driver nor keeps it alive."""

    __slots__ = ("_connections",)

    def __init__(self, connections: Connections) -> None:
        self._connections = weakref.ref(connections)

    def on_change(self) -> None:
        connections = self._connections()
        if connections is not None:
            connections.changed()

    def describe(self, subchannel: Subchannel) -> dict[str, object]:
        connections = self._connections()
        return {} if connections is None else connections.describe(subchannel)
