"""A future or a stream that begins later, or may begin again: no endpoint is ready, or its method allows another attempt.

``PendingCall`` stands on grpc's own base classes and behaves as grpc's object does while it is queued: it can be cancelled, waited
for, given callbacks. When an endpoint is found ready it hands the call to grpc and from then on passes everything through. As a rule it
is sent once: from the moment it began, what happens to it is final. It goes back to waiting, until its deadline,

- with ``wait_for_ready``, if it ended as certainly never sent;
- if the rules of its method or its metadata allow another attempt, for any end that ``Call.end_attempt`` says so of, until the first
  message or the initial metadata of the server reached the caller.

Whoever asks first, the worker that grpc's callback wakes or the caller, sees to that, and everybody else asks again. A stream of requests cannot go back:
grpc has taken its first message by then.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

import grpc
from grpc import StatusCode

from meshlb.call.call import Call
from meshlb.core.endpoint import Endpoint
from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Attempt
from meshlb.grpc.errors import cancelled_error
from meshlb.grpc.failures import sent_again
from meshlb.grpc.in_flight import endpoint_of
from meshlb.grpc.link import weakly
from meshlb.grpc.multicallable import Arguments, InternalError, Multicallable, last_word, tell
from meshlb.grpc.status import outcome_of
from meshlb.grpc.stock import CLOSED_IN_FLIGHT

UNREACHABLE = Outcome.UNREACHABLE


class Queue(Protocol):
    """Where pending calls wait: ``pending.PendingCalls``."""

    def wait(self, call: PendingCall) -> None: ...

    def keep(self, call: PendingCall) -> None: ...

    def let_go(self, call: PendingCall) -> None: ...

    def call_back(self, callback: Callable[[], None]) -> None: ...

    def settle(self, act: Callable[[], None]) -> None: ...


class PendingCall(grpc.Call, grpc.Future):  # type: ignore[misc]
    """A call that has not begun yet, or that is grpc's by now. Any thread."""

    def __init__(self, pending: Queue, multicallable: Multicallable, call: Call, verb: str, arguments: Arguments) -> None:
        self._pending = pending
        self._multicallable = multicallable
        self._decisions = call
        self._verb = verb
        self._arguments: Arguments | None = arguments  # None: it is final
        self._returns = call.wait_for_ready or (multicallable.replays and multicallable.rules.may_retry(arguments[2]))
        self._deciding = False  # somebody finds out whether it goes back
        self._attempt: Attempt | None = None
        self._tries = 0
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
    def final(self) -> bool:
        """It does not go back to waiting any more."""
        return self._arguments is None

    @property
    def wait_until_s(self) -> float | None:
        """When to look again even if nothing changes; a point on the pool's clock."""
        return self._decisions.wait_until_s

    def step(self) -> bool:
        """Begin if possible; True if nothing is left to be done."""
        arguments = self._arguments
        if arguments is None or self.begun:
            return True
        if self._deciding:
            return False
        try:
            if self._multicallable.connections.closed:
                raise cancelled_error(CLOSED_IN_FLIGHT)
            call = self._begin(arguments)
        except grpc.RpcError as error:
            self._end_after(error)
            return True
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
            self._attempt = found[0]
            request, timeout, metadata, *others = arguments
            again = (request, timeout, sent_again(metadata, decisions.previous_attempts), *others)
            return multicallable.start(*found, self._verb, again, decisions.attempt_timeout_s(now_s))
        return multicallable.over_stock(internal, self._verb, arguments)

    def _hand_over(self, call: Any) -> None:
        with self._condition:
            gone = self._error is not None
            if not gone:
                self._call = call
                self._tries = tries = self._tries + 1
                self._condition.notify_all()
                if not self._returns:
                    self._arguments = None
                    callbacks, self._callbacks = self._callbacks, []
        if gone:  # cancelled in the meantime
            call.cancel()
            return
        if self._returns:
            if not call.add_callback(functools.partial(weakly(self._ended, tries))):
                self._ended(tries)
            return
        for callback in callbacks:
            if not call.add_callback(callback):
                self._pending.call_back(callback)

    def _ended(self, tries: int) -> None:
        """grpc's call of one that may go back is over; on grpc's thread, which may have more to tell of it (the initial metadata)."""
        self._pending.settle(functools.partial(self._settle, tries))

    def _settle(self, tries: int) -> None:
        """The worker."""
        with self._condition:
            call = self._call if self._tries == tries else None
        if call is None or self._goes_back(call):
            return
        with self._condition:
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._pending.call_back(callback)
        self._pending.let_go(self)

    def _goes_back(self, call: Any) -> bool:
        """True if this call of grpc's is not the one to ask: there is, or will be, another."""
        with self._condition:
            if call is self._error:
                return False
            if self._call is not call:
                return True
            arguments, attempt = self._arguments, self._attempt
            if arguments is None or not call.done():
                return False
            if attempt is None or self._multicallable.connections.closed:
                self._arguments = None
                return False
            self._call = None  # from here on everybody else waits for what comes of it
            self._deciding = True
        goes_back = False
        try:
            goes_back = self._decide(call, attempt, arguments)
        except Exception as bug:  # noqa: BLE001 - then this was it
            self._multicallable.connections.binding.count_internal_error(bug)
        finally:
            with self._condition:
                self._deciding = False
                if self._error is not None:  # cancelled meanwhile
                    goes_back = True
                elif not goes_back:
                    self._call, self._arguments = call, None
                    self._condition.notify_all()
        if goes_back and self._error is None:
            self._pending.wait(self)
        return goes_back

    def _decide(self, call: Any, attempt: Attempt, arguments: Arguments) -> bool:
        """Whether another attempt follows; it has not begun then."""
        multicallable, decisions = self._multicallable, self._decisions
        code = call.code()
        if code is StatusCode.OK:
            decisions.succeeded()
            return False
        outcome = outcome_of(code, call.details())
        now_s = multicallable.connections.binding.clock.now_s()
        failure = None if outcome is UNREACHABLE else multicallable.failure_of(decisions, attempt, call, now_s)
        if (outcome is not UNREACHABLE and failure is None) or not multicallable.can_be_sent_again(arguments):
            return False
        decisions.last = call
        if decisions.end_attempt(attempt, outcome, now_s, failure) is not None:
            return True
        if isinstance(call, BaseException):
            tell(call, decisions)
        return False

    def _end_after(self, error: grpc.RpcError) -> None:
        """No endpoint could take it, or no other one: then it ended with its last attempt."""
        last = last_word(self._decisions, error)
        with self._condition:
            restored = last is not error and not self.begun
            if restored:
                self._call, self._arguments = last, None
                callbacks, self._callbacks = self._callbacks, []
                self._condition.notify_all()
        if not restored:
            self._end(last)
            return
        for callback in callbacks:
            self._pending.call_back(callback)

    def _commit(self, call: Any) -> bool:
        """The caller sees something of what this call of grpc's brought: it is the one that counts. False: it is not any more."""
        with self._condition:
            counts = self._call is call
            first = counts and self._arguments is not None
            if counts:
                self._returns, self._arguments = False, None
        if first:
            self._decisions.succeeded()
        return counts

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
            self._pending.call_back(callback)
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

    def _ask(self, question: Callable[[Any], Any]) -> Any:
        """What grpc's call answers, or the error; of the one that counts."""
        while True:
            call = self._grpcs_or_error()
            answer = question(call)
            if not self._goes_back(call):
                return answer

    def _result_of(self, verb: str, timeout: float | None) -> Any:
        clock = self._multicallable.connections.binding.clock
        started_s = clock.now_s()
        while True:
            left_s = None if timeout is None else max(timeout - (clock.now_s() - started_s), 0.0)
            call = self._grpcs_or_error(left_s)
            if self._cancelled:
                raise grpc.FutureCancelledError
            left_s = None if timeout is None else max(timeout - (clock.now_s() - started_s), 0.0)
            try:
                answer = getattr(call, verb)(left_s)
            except grpc.RpcError:
                if not self._goes_back(call):
                    raise
            else:
                if not self._goes_back(call):
                    return answer

    # --- grpc.Future ---------------------------------------------------------------------------------------------------------

    def cancel(self) -> bool:
        while not self._end(cancelled_error(), cancelled=True):
            with self._condition:
                call = self._call
                if call is not None:
                    self._arguments = None
            if call is not None:
                return bool(call.cancel())
            if self._error is not None:
                return False
        return True

    def cancelled(self) -> bool:
        call = self._call
        return self._cancelled or (call is not None and bool(call.cancelled()))

    def running(self) -> bool:
        return not self.done()

    def done(self) -> bool:
        call = self._call
        return self._error is not None or (call is not None and not self._goes_back(call) and bool(call.done()))

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
            if not self.final:
                self._callbacks.append(named)
                self._pending.keep(self)
                return True
        return self._call is not None and bool(self._call.add_callback(named))

    def is_active(self) -> bool:
        return not self.done()

    def time_remaining(self) -> float | None:
        call = self._call
        if call is not None and self.final:
            left_s: float | None = call.time_remaining()
            return left_s
        return self._decisions.remaining_s(self._multicallable.connections.binding.clock.now_s())

    def initial_metadata(self) -> Any:
        while True:
            call = self._grpcs_or_error()
            answer = call.initial_metadata()
            if not self._goes_back(call) and (call is self._error or self._commit(call)):
                return answer

    def trailing_metadata(self) -> Any:
        return self._ask(lambda call: call.trailing_metadata())

    def code(self) -> StatusCode:
        code: StatusCode = self._ask(lambda call: call.code())
        return code

    def details(self) -> str:
        details: str = self._ask(lambda call: call.details())
        return details

    def debug_error_string(self) -> str:
        text: str = self._ask(lambda call: call.debug_error_string())
        return text

    # --- a stream's answers --------------------------------------------------------------------------------------------------

    def __iter__(self) -> PendingCall:
        return self

    def __next__(self) -> Any:
        if self._arguments is None and self._call is not None:
            return next(self._call)
        while True:
            call = self._grpcs()
            try:
                message = next(call)
            except grpc.RpcError:
                if not self._goes_back(call):
                    raise
            else:
                if self._commit(call):
                    return message

    def next(self) -> Any:
        return next(self)

    @property
    def _meshlb_endpoint(self) -> Endpoint | None:
        call = self._call if self._call is not None else self._error
        return endpoint_of(call) if call is not None else None

    def __repr__(self) -> str:
        if self._call is not None:
            return f"<PendingCall that began: {self._call!r}>"
        return f"<PendingCall waiting for {self._multicallable.connections.binding.target}: {self._error or 'not ready'}>"
