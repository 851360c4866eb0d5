"""Calls that must not block their caller while no endpoint is ready: futures and streams that begin later.

``PendingCall`` stands on grpc's own base classes and behaves as grpc's object does while it is queued: it can be cancelled, waited
for, given callbacks. When an endpoint is found ready it hands the call to grpc and from then on passes everything through. It is
sent once: from the moment it began, what happens to it is final.

One daemon thread starts all of them, whenever something changed or a deadline came; never one per call, and never the discovery
thread, because starting runs the user's serializer and failing runs the user's callbacks.

Who drops a pending call before it began, and gave it no callback, is not interested any more: it is never sent, as grpc cancels
what is dropped.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

import grpc
from grpc import StatusCode

from meshlb.call.call import Call
from meshlb.core.endpoint import Endpoint
from meshlb.core.scheduler import Timer
from meshlb.grpc.connection import Connections
from meshlb.grpc.errors import cancelled_error
from meshlb.grpc.in_flight import endpoint_of
from meshlb.grpc.link import weakly
from meshlb.grpc.multicallable import Arguments, InternalError, Multicallable
from meshlb.grpc.stock import CLOSED_IN_FLIGHT
from meshlb.grpc.worker import Worker
from meshlb.runtime.fork import on_fork_child

WORKER = Worker("meshlb-grpc-calls")


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

    def add(self, multicallable: Multicallable, call: Call, verb: str, arguments: Arguments) -> PendingCall:
        """Start it as soon as an endpoint is ready."""
        pending = PendingCall(self, multicallable, call, verb, arguments)
        with self._lock:
            self._calls.add(pending)
        self._connections.add_watcher(self)
        self.changed()
        return pending

    def keep(self, call: PendingCall) -> None:
        """Hold it until it began, even if its caller does not."""
        with self._lock:
            self._kept.add(call)

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
                    self._kept.discard(call)
            if not self._calls:
                self._connections.remove_watcher(self)
        self._arm([limit_s for limit_s in limits_s if limit_s is not None])

    def _arm(self, limits_s: list[float]) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if limits_s:
            delay_s = max(min(limits_s) - self._connections.binding.clock.now_s(), 0.0)
            self._timer = self._connections.binding.scheduler.call_later(delay_s, weakly(self.changed))


class PendingCall(grpc.Call, grpc.Future):  # type: ignore[misc]
    """A call that has not begun yet, or that is grpc's by now. Any thread."""

    def __init__(self, pending: PendingCalls, multicallable: Multicallable, call: Call, verb: str, arguments: Arguments) -> None:
        self._pending = pending
        self._multicallable = multicallable
        self._decisions = call
        self._verb = verb
        self._arguments: Arguments | None = arguments
        self._condition = threading.Condition()
        self._call: Any = None  # grpc's own, once it began
        self._error: BaseException | None = None  # why it will never begin
        self._cancelled = False
        self._callbacks: list[Callable[[], None]] = []

    # --- beginning (the worker) ----------------------------------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """It is grpc's, or over."""
        return self._call is not None or self._error is not None

    @property
    def wait_until_s(self) -> float | None:
        """When to look again even if nothing changes; a point on the pool's clock."""
        return self._decisions.wait_until_s

    def step(self) -> bool:
        """Begin if possible; True if nothing is left to be done."""
        arguments = self._arguments
        if arguments is None:
            return True
        try:
            if self._multicallable.connections.closed:
                raise cancelled_error(CLOSED_IN_FLIGHT)
            call = self._begin(arguments)
        except BaseException as error:  # noqa: BLE001 - whatever it is, its caller is waiting for it
            self._end(error)
            return True
        if call is None:
            return False
        self._hand_over(call)
        return True

    def _begin(self, arguments: Arguments) -> Any:
        multicallable, decisions = self._multicallable, self._decisions
        now_s = multicallable.connections.binding.clock.now_s()
        try:
            found = multicallable.try_next(decisions, now_s)
        except InternalError as error:
            internal = error
        else:
            if found is None:
                return None
            return multicallable.start(*found, self._verb, arguments, decisions.remaining_s(now_s))
        return multicallable.over_stock(internal, self._verb, arguments)

    def _hand_over(self, call: Any) -> None:
        with self._condition:
            gone = self._error is not None
            if not gone:
                self._call = call
                self._arguments = None
                callbacks, self._callbacks = self._callbacks, []
                self._condition.notify_all()
        if gone:  # cancelled in the meantime
            call.cancel()
            return
        for callback in callbacks:
            if not call.add_callback(callback):
                callback()

    def _end(self, error: BaseException, *, cancelled: bool = False) -> bool:
        with self._condition:
            if self.begun:
                return False
            self._error = error
            self._cancelled = cancelled
            self._arguments = None
            callbacks, self._callbacks = self._callbacks, []
            self._condition.notify_all()
        for callback in callbacks:
            WORKER.submit(callback)
        return True

    # --- waiting for it ------------------------------------------------------------------------------------------------------

    def _grpcs(self, timeout: float | None = None) -> Any:
        """grpc's own call; raises what ended this one before it began."""
        with self._condition:
            if not self._condition.wait_for(lambda: self.begun, timeout):
                raise grpc.FutureTimeoutError
        if self._error is not None:
            raise self._error.with_traceback(None)
        return self._call

    def _grpcs_or_error(self, timeout: float | None = None) -> Any:
        """grpc's own call, or the error as one that ended; only an error that is no status of grpc's is raised."""
        try:
            return self._grpcs(timeout)
        except grpc.RpcError as error:
            return error

    def _result_of(self, verb: str, timeout: float | None) -> Any:
        clock = self._multicallable.connections.binding.clock
        started_s = clock.now_s()
        call = self._grpcs_or_error(timeout)
        if self._cancelled:
            raise grpc.FutureCancelledError
        return getattr(call, verb)(None if timeout is None else max(timeout - (clock.now_s() - started_s), 0.0))

    # --- grpc.Future ---------------------------------------------------------------------------------------------------------

    def cancel(self) -> bool:
        if self._end(cancelled_error(), cancelled=True):
            return True
        return self._call is not None and bool(self._call.cancel())

    def cancelled(self) -> bool:
        return self._cancelled or (self._call is not None and bool(self._call.cancelled()))

    def running(self) -> bool:
        return not self.done()

    def done(self) -> bool:
        return self._error is not None or (self._call is not None and bool(self._call.done()))

    def result(self, timeout: float | None = None) -> Any:
        return self._result_of("result", timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        error: BaseException | None = self._result_of("exception", timeout)
        return error

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        trace: TracebackType | None = self._result_of("traceback", timeout)
        return trace

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        if not self.add_callback(lambda: fn(self)):
            fn(self)

    # --- grpc.Call -----------------------------------------------------------------------------------------------------------

    def add_callback(self, callback: Callable[[], None]) -> bool:
        named = functools.partial(callback)  # grpc logs .func of one that raises
        with self._condition:
            if not self.begun:
                self._callbacks.append(named)
                self._pending.keep(self)
                return True
        return self._call is not None and bool(self._call.add_callback(named))

    def is_active(self) -> bool:
        return not self.done()

    def time_remaining(self) -> float | None:
        if self._call is not None:
            left_s: float | None = self._call.time_remaining()
            return left_s
        return self._decisions.remaining_s(self._multicallable.connections.binding.clock.now_s())

    def initial_metadata(self) -> Any:
        return self._grpcs_or_error().initial_metadata()

    def trailing_metadata(self) -> Any:
        return self._grpcs_or_error().trailing_metadata()

    def code(self) -> StatusCode:
        code: StatusCode = self._grpcs_or_error().code()
        return code

    def details(self) -> str:
        details: str = self._grpcs_or_error().details()
        return details

    def debug_error_string(self) -> str:
        text: str = self._grpcs_or_error().debug_error_string()
        return text

    # --- a stream's answers --------------------------------------------------------------------------------------------------

    def __iter__(self) -> PendingCall:
        return self

    def __next__(self) -> Any:
        return next(self._grpcs())

    def next(self) -> Any:
        return next(self)

    @property
    def _meshlb_endpoint(self) -> Endpoint | None:
        return endpoint_of(self._call) if self._call is not None else None

    def __repr__(self) -> str:
        if self._call is not None:
            return f"<PendingCall that began: {self._call!r}>"
        return f"<PendingCall waiting for {self._multicallable.connections.binding.target}: {self._error or 'not ready'}>"
