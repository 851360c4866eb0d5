"""A future or a stream that begins later, or may begin again: no endpoint is ready, its turn has not come, or its method allows
another attempt. Or a stream that is a probe, of which the first message has to be seen.

``PendingCall`` stands on grpc's own base classes and behaves as grpc's object does while it is queued: it can be cancelled, waited
for, given callbacks. When it began it is grpc's object that answers; ``pending_attempts`` says when that is not the last one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any

import grpc
from grpc import StatusCode

from meshlb.call.story import Tried
from meshlb.core.endpoint import Endpoint
from meshlb.grpc.errors import cancelled_error
from meshlb.grpc.marks import attempts_of, endpoint_of
from meshlb.grpc.pending_attempts import PendingAttempts


class PendingCall(PendingAttempts, grpc.Call, grpc.Future):  # type: ignore[misc]
    """A call that has not begun yet, or that is grpc's by now. Any thread."""

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
            timer = None if self.final else self._first.timer(call)
            answer = call.initial_metadata()
            if timer is not None:
                timer.cancel()
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
            message = next(self._call)
            if not self._answered:
                self._first_came()
            return message
        while True:
            call = self._grpcs()
            timer = None if self.final else self._first.timer(call)
            try:
                message = next(call)
            except grpc.RpcError:
                if not self._goes_back(call):
                    raise
            else:
                if timer is not None:
                    timer.cancel()
                if self._commit(call):
                    self._first_came()
                    return message

    def next(self) -> Any:
        return next(self)

    @property
    def _meshlb_endpoint(self) -> Endpoint | None:
        call = self._call if self._call is not None else self._error
        return endpoint_of(call) if call is not None else None

    @property
    def _meshlb_attempts(self) -> tuple[Tried, ...]:
        call = self._call if self._call is not None else self._error
        if call is None:
            return self._decisions.attempts()
        under_way = () if self.final else self._decisions.attempts(self._attempt)
        return under_way or attempts_of(call)

    def __repr__(self) -> str:
        if self._call is not None:
            return f"<PendingCall that began: {self._call!r}>"
        return f"<PendingCall waiting for {self._multicallable.connections.binding.target}: {self._error or 'not ready'}>"
