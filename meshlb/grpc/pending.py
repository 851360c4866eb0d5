"""The calls of one channel that wait for an endpoint, and the two threads that serve those of all channels.

One daemon thread starts and ends all of them, whenever something changed or a deadline came; never one per call, and never the
discovery thread, because starting runs the user's serializer: one that is slow delays the others. Callbacks run on a second thread,
so that no start and no deadline waits for them; they do wait for one another.

Who drops a pending call before it began, and gave it no callback, is not interested any more: it is never sent, as grpc cancels
what is dropped.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

from meshlb.call.call import Call
from meshlb.core.scheduler import Timer
from meshlb.grpc.connection import Connections
from meshlb.grpc.link import weakly
from meshlb.grpc.multicallable import Arguments, Multicallable
from meshlb.grpc.pending_call import PendingCall
from meshlb.grpc.worker import Worker
from meshlb.runtime.fork import on_fork_child

WORKER = Worker("meshlb-grpc-calls")
CALLBACKS = Worker("meshlb-grpc-callbacks")
FOR_EVER_S = 3600.0  # a deadline may be too far away for a timer; looking once an hour costs nothing


class PendingCalls:
    """Those of one channel. Any thread; ``_step`` on the worker."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._start_clean()
        on_fork_child(self._start_clean)

    def _start_clean(self) -> None:
        self._lock = threading.RLock()
        self._calls: weakref.WeakSet[PendingCall] = weakref.WeakSet()
        self._kept: set[PendingCall] = set()  # somebody wants to be called back
        self._timer: Timer | None = None
        self._due = False

    def add(self, multicallable: Multicallable, call: Call, verb: str, arguments: Arguments, *, at_once: bool) -> PendingCall:
        """Start it as soon as an endpoint is ready; ``at_once``: nobody has looked for one yet."""
        pending = PendingCall(self, multicallable, call, verb, arguments)
        if not (at_once and pending.step()):
            self.wait(pending)
        return pending

    def wait(self, call: PendingCall) -> None:
        """Look at it when something changes."""
        with self._lock:
            self._calls.add(call)
        self._connections.add_watcher(self)
        self.changed()

    def keep(self, call: PendingCall) -> None:
        """Hold it until its callbacks are grpc's, even if its caller does not."""
        with self._lock:
            self._kept.add(call)

    def let_go(self, call: PendingCall) -> None:
        """It has called back."""
        with self._lock:
            self._kept.discard(call)

    def changed(self) -> None:
        """Something is different; look at all of them, soon."""
        if not self._due:
            self._due = True
            WORKER.submit(self._step)

    def _step(self) -> None:
        self._due = False
        with self._lock:
            calls = list(self._calls)
        limits_s = [call.wait_until_s for call in calls if not call.step()]
        with self._lock:
            for call in calls:
                if call.begun:
                    self._calls.discard(call)
                    if call.final:
                        self._kept.discard(call)
            if not self._calls:
                self._connections.remove_watcher(self)
        self._arm([limit_s for limit_s in limits_s if limit_s is not None])

    def _arm(self, limits_s: list[float]) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if limits_s:
            delay_s = min(max(min(limits_s) - self._connections.binding.clock.now_s(), 0.0), FOR_EVER_S)
            self._timer = self._connections.binding.scheduler.call_later(delay_s, weakly(self.changed))

    def call_back(self, callback: Callable[[], None]) -> None:
        """Run a user's callback, on the thread for those."""
        CALLBACKS.submit(callback)

    def settle(self, act: Callable[[], None]) -> None:
        """Find out what comes of a call of grpc's that is over."""
        WORKER.submit(act)
