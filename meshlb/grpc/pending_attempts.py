"""The attempts of a call that nobody blocks for: it begins when it may, is grpc's from then on, and may go back to waiting.

As a rule it is sent once: from the moment it began, what happens to it is final. It goes back, until its deadline,

- with ``wait_for_ready``, if it ended as certainly never sent;
- if the rules of its method or its metadata allow another attempt, for any end that ``Call.end_attempt`` says so of, until the first
  message or the initial metadata of the server reached the caller.

Whoever asks first, the worker that grpc's callback wakes or the caller, sees to that, and everybody else asks again. A stream of requests
cannot go back: grpc has taken its first message by then.

``per_try_timeout_s`` of a stream of answers ends an attempt whose first message does not come, see ``first_message``.

A call with limits gives its places back when it is final and grpc's call is over, or when it is dropped.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import grpc
from grpc import StatusCode

from meshlb.call.call import Call
from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Attempt
from meshlb.errors import MeshError
from meshlb.grpc.errors import cancelled_error
from meshlb.grpc.failures import sent_again
from meshlb.grpc.first_message import FirstMessage
from meshlb.grpc.inners import Arguments
from meshlb.grpc.link import weakly
from meshlb.grpc.marks import mark, tell
from meshlb.grpc.multicallable import InternalError, Multicallable, last_word
from meshlb.grpc.stock import CLOSED_IN_FLIGHT
from meshlb.retry.tries import Failure

UNREACHABLE = Outcome.UNREACHABLE


class Queue(Protocol):
    """Where pending calls wait: ``pending.PendingCalls``."""

    def wait(self, call: PendingAttempts) -> None: ...

    def nudge(self, call: PendingAttempts) -> None: ...

    def keep(self, call: PendingAttempts) -> None: ...

    def let_go(self, call: PendingAttempts) -> None: ...

    def call_back(self, callback: Callable[[], None]) -> None: ...

    def settle(self, act: Callable[[], None]) -> None: ...


class PendingAttempts:
    """See the module head. Any thread; ``step`` and ``_settle`` on the worker."""

    def __init__(self, pending: Queue, multicallable: Multicallable, call: Call, verb: str, arguments: Arguments) -> None:
        self._pending = pending
        self._multicallable = multicallable
        self._decisions = call
        self._verb = verb
        self._arguments: Arguments | None = arguments  # None: it is final
        rules, replays = multicallable.rules, multicallable.replays
        self._first = FirstMessage(self, multicallable, pending.settle)
        self._returns = bool(call.wait_for_ready or self._first.limit_s or (replays and rules.may_retry(arguments[2])))
        self._deciding = False  # somebody finds out whether it goes back
        self._attempt: Attempt | None = None
        self._timeout_s: float | None = None  # what this attempt was given
        self._tries = 0
        self._answered = False  # a message came
        self._condition = threading.Condition()
        self._call: Any = None  # grpc's own, once it began
        self._slow: Any = None  # the one that was given up because its first message did not come
        self._error: BaseException | None = None  # why it will never begin
        self._cancelled = False
        self._callbacks: list[Callable[[], None]] = []
        if call.limited:
            call.wake_with(_Nudge(self))
            weakref.finalize(self, pending.settle, call.close).atexit = False

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

    def nudge(self) -> bool:
        """Its turn may have come."""
        self._pending.nudge(self)
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
            return self._start(found, arguments, now_s)
        return multicallable.over_stock(internal, self._verb, arguments)

    def begin_with(self, picked: tuple[Attempt, Any], arguments: Arguments) -> None:
        """On an endpoint that was picked already; raises what grpc raises."""
        self._hand_over(self._start(picked, arguments, picked[0].started_s))

    def _start(self, found: tuple[Attempt, Any], arguments: Arguments, now_s: float) -> Any:
        decisions = self._decisions
        self._attempt = found[0]
        self._timeout_s = decisions.attempt_timeout_s(now_s)
        request, timeout, metadata, *others = arguments
        again = (request, timeout, sent_again(metadata, decisions.previous_attempts), *others)
        return self._multicallable.start(*found, self._verb, again, self._timeout_s)

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
        if self._returns or self._decisions.limited:
            if not call.add_callback(functools.partial(weakly(self._ended, tries))):
                self._ended(tries)
            if self._returns:
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
        self._decisions.close()
        with self._condition:
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._pending.call_back(callback)
        self._pending.let_go(self)

    # --- going back ----------------------------------------------------------------------------------------------------------

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
            slow = self._slow is call
        goes_back = False
        try:
            goes_back = self._decide(call, attempt, arguments, slow=slow)
        except Exception as bug:  # noqa: BLE001 - then this was it
            self._multicallable.connections.binding.count_internal_error(bug)
        finally:
            with self._condition:
                self._deciding = False
                if self._error is not None:  # cancelled meanwhile
                    goes_back = True
                elif not goes_back and not slow:
                    self._call, self._arguments = call, None
                    self._condition.notify_all()
        if slow and not goes_back:
            self._end(self._first.error(attempt, self._decisions))
            return True
        if goes_back and self._error is None:
            self._pending.wait(self)
        return goes_back

    def _decide(self, call: Any, attempt: Attempt, arguments: Arguments, *, slow: bool) -> bool:
        """Whether another attempt follows; it has not begun then."""
        multicallable, decisions, endpoint = self._multicallable, self._decisions, attempt.subchannel.endpoint
        code = call.code()
        if code is StatusCode.OK:
            decisions.succeeded()
            mark(call, endpoint, decisions.attempts(attempt))
            return False
        now_s = multicallable.connections.binding.clock.now_s()
        outcome = multicallable.outcome_of(attempt, call, self._timeout_s, now_s)
        if slow:
            failure: Failure | None = Failure(StatusCode.DEADLINE_EXCEEDED.name, lost=True, error=lambda: call)
        else:
            mark(call, endpoint, decisions.attempts(attempt, code.name))
            failure = None if outcome is UNREACHABLE else multicallable.failure_of(decisions, attempt, call, now_s)
        if (outcome is not UNREACHABLE and failure is None) or not multicallable.can_be_sent_again(arguments):
            return False
        decisions.last = self._first.error(attempt, self._decisions) if slow else call
        if decisions.end_attempt(attempt, outcome, now_s, failure) is not None:
            return True
        if isinstance(call, BaseException) and not slow:
            tell(call, decisions)
        return False

    def _end_after(self, error: grpc.RpcError) -> None:
        """No endpoint could take it, or no other one: then it ended with its last attempt."""
        last = last_word(self._decisions, error)
        with self._condition:
            restored = last is not error and not isinstance(last, MeshError) and not self.begun
            if restored:
                self._call, self._arguments = last, None
                callbacks, self._callbacks = self._callbacks, []
                self._condition.notify_all()
        if not restored:
            self._end(last)
            return
        self._decisions.close()
        for callback in callbacks:
            self._pending.call_back(callback)

    def give_up(self, call: Any) -> Attempt | None:
        """Nothing of this call of grpc's is waited for any more: its attempt, which its caller ends; None if it is too late for that."""
        with self._condition:
            if self._call is not call or self._arguments is None or call.done():
                return None
            self._slow = call
            return self._attempt

    def _first_came(self) -> None:
        """The first message of a stream is there: its endpoint serves, however long the stream lasts."""
        self._answered = True
        if self._attempt is not None:
            self._multicallable.answered(self._attempt)

    def _commit(self, call: Any) -> bool:
        """The caller sees something of what this call of grpc's brought: it is the one that counts. False: it is not any more."""
        with self._condition:
            counts = self._call is call and self._slow is not call
            first = counts and self._arguments is not None
            if counts:
                self._returns, self._arguments = False, None
        if first:
            self._decisions.succeeded()
            if self._attempt is not None:
                mark(call, self._attempt.subchannel.endpoint, self._decisions.attempts(self._attempt))
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
        self._decisions.close()
        for callback in callbacks:
            self._pending.call_back(callback)
        return True


class _Nudge:
    """Wakes a call that waits for its turn, as long as somebody holds it."""

    __slots__ = ("_call",)

    def __init__(self, call: PendingAttempts) -> None:
        self._call = weakref.ref(call)

    def __call__(self) -> bool:
        call = self._call()
        return call is not None and call.nudge()
