"""The calls of one channel that wait for an endpoint, and the two threads that serve those of all channels.

One daemon thread starts and ends all of them, whenever something changed or a deadline came; never one per call, and never the
discovery thread, because starting runs the user's serializer: one that is slow delays the others. Callbacks run on a second thread,
so that no start and no deadline waits for them; they do wait for one another.

Who drops a pending call before it began, and gave it no callback, is not interested any more: it is never sent, as grpc cancels
what is dropped.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable
from typing import Any

from meshlb.call.call import Call
from meshlb.core.scheduler import Timer
from meshlb.core.subchannel import Attempt
from meshlb.errors import ClosedError
from meshlb.grpc.connection import Connections
from meshlb.grpc.inners import Arguments
from meshlb.grpc.link import weakly
from meshlb.grpc.multicallable import Multicallable
from meshlb.grpc.pending_attempts import PendingAttempts
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
        self._calls: weakref.WeakSet[PendingAttempts] = weakref.WeakSet()
        self._kept: set[PendingAttempts] = set()  # somebody wants to be called back
        self._timer: Timer | None = None
        self._timer_s = 0.0
        self._due = False

    def add(self, multicallable: Multicallable, call: Call, verb: str, arguments: Arguments, *, at_once: bool) -> PendingCall:
        """Start it as soon as an endpoint is ready; ``at_once``: nobody has looked for one yet."""
        pending = PendingCall(self, multicallable, call, verb, arguments)
        if not (at_once and pending.step()):
            self.wait(pending)
        return pending

    def begun(
        self, multicallable: Multicallable, call: Call, verb: str, arguments: Arguments, picked: tuple[Attempt, Any]
    ) -> PendingCall:
        """One that begins here and now; raises what grpc raises."""
        pending = PendingCall(self, multicallable, call, verb, arguments)
        pending.begin_with(picked, arguments)
        return pending

    def wait(self, call: PendingAttempts) -> None:
        """Look at it when something changes."""
        with self._lock:
            self._calls.add(call)
        self._connections.add_watcher(self)
        self.nudge(call)  # what has changed since it was looked at

    def nudge(self, call: PendingAttempts) -> None:
        """Look at this one, soon."""
        WORKER.submit(weakly(self._step_one, weakref.ref(call)))

    def keep(self, call: PendingAttempts) -> None:
        """Hold it until its callbacks are grpc's, even if its caller does not."""
        with self._lock:
            self._kept.add(call)

    def let_go(self, call: PendingAttempts) -> None:
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
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._step_all(calls)

    def _step_one(self, ref: Callable[[], PendingAttempts | None]) -> None:
        call = ref()
        with self._lock:
            waits = call is not None and call in self._calls
        if call is not None and waits:  # not one that its maker is still looking at
            self._step_all([call])

    def _step_all(self, calls: list[PendingAttempts]) -> None:
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
        """Have all of them looked at then, unless a timer will do so earlier."""
        if not limits_s or (self._timer is not None and self._timer_s <= min(limits_s)):
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_s = min(limits_s)
        delay_s = min(max(self._timer_s - self._connections.binding.clock.now_s(), 0.0), FOR_EVER_S)
        with contextlib.suppress(ClosedError):  # the mesh is being closed, which ends whoever waits
            self._timer = self._connections.binding.scheduler.call_later(delay_s, weakly(self._expired))

    def _expired(self) -> None:
        self._timer = None
        self.changed()

    def call_back(self, callback: Callable[[], None]) -> None:
        """Run a user's callback, on the thread for those."""
        CALLBACKS.submit(callback)

    def settle(self, act: Callable[[], None]) -> None:
        """Find out what comes of a call of grpc's that is over."""
        WORKER.submit(act)
