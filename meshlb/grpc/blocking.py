"""Calls that block their caller's thread: the attempt loop, and the waits in it, which signals and ``close()`` end.

A call without limits waits for whatever changes about its channel, as all such calls do, on one condition. One with limits (``limit``)
has a bell of its own, rung when its turn comes and when anything changes: a hundred threads that wait for their turn are not all woken
by each call that ends.
"""

from __future__ import annotations

from typing import Any

import grpc

from meshlb.call.call import Call
from meshlb.call.entrance import Entrance
from meshlb.call.story import why_first
from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Attempt
from meshlb.errors import MeshError
from meshlb.grpc.errors import cancelled_error
from meshlb.grpc.failures import sent_again
from meshlb.grpc.inners import CANCELLED, Arguments
from meshlb.grpc.marks import mark, tell
from meshlb.grpc.multicallable import InternalError, Multicallable, last_word
from meshlb.grpc.stock import CLOSED_BLOCKING, CLOSED_IN_FLIGHT
from meshlb.runtime.bell import Bell

SUCCESS = Outcome.SUCCESS
UNREACHABLE = Outcome.UNREACHABLE


class Blocking(Multicallable):
    """A kind whose calls may block."""

    def block(self, verb: str, arguments: Arguments, call: Call | None = None) -> Any:
        """Make a call, or go on with one, and wait for its end."""
        try:
            if call is None:
                call = self.new_call(arguments, CLOSED_BLOCKING)
            return self._loop(call, verb, arguments)
        except InternalError as error:
            internal = error
        finally:
            if call is not None:
                try:
                    call.abandon()
                except BaseException:  # a signal's handler raised in there: once more, for what it left
                    call.abandon()
                    raise
        return self.over_stock(internal, verb, arguments)

    def _loop(self, call: Call, verb: str, arguments: Arguments) -> Any:
        """The attempt loop; returns grpc's answer or raises grpc's error, of the last attempt."""
        request, _, metadata, credentials, _, compression = arguments
        while True:
            try:
                attempt, inner = self._wait_in_turn(call) if call.limited else self._wait_next(call)
            except grpc.RpcError as error:
                ended = last_word(call, error)
            else:
                ended = None
            if ended is not None:
                raise ended
            timeout = call.attempt_timeout_s(self.connections.binding.clock.now_s())
            sent = sent_again(metadata, call.previous_attempts)
            try:
                reply = getattr(inner, verb)(self.lent(request), timeout, sent, credentials, None, compression)
            except grpc.RpcError as error:
                if not self._goes_on(call, attempt, error, timeout, arguments):
                    raise
            except BaseException:
                self.end(attempt, CANCELLED)
                raise
            else:
                self.end(attempt, SUCCESS)
                call.succeeded()
                if verb == "with_call":
                    endpoint = attempt.subchannel.endpoint
                    mark(reply[1], endpoint, call.attempts(attempt))
                return reply

    def after_failure(self, attempt: Attempt, error: BaseException, arguments: Arguments) -> Call | None:
        """The first attempt of a call that had no ``Call`` failed: end it; what to go on with, or None if that was all."""
        if not isinstance(error, grpc.RpcError):
            self.end(attempt, CANCELLED)
            return None
        timeout_s = self.limit_s(arguments[1])
        outcome = self.outcome_of(attempt, error, timeout_s, self.connections.binding.clock.now_s())
        if outcome is UNREACHABLE or self.rules.may_retry(arguments[2]):
            try:
                call = self.new_call(arguments, CLOSED_BLOCKING, attempt)
            except (InternalError, MeshError, ValueError):  # the wire's error says more than ours would
                call = None
            if call is not None:
                return self._continued(call, attempt, error, timeout_s, arguments)
        mark(error, attempt.subchannel.endpoint, why=why_first(self.connections.binding.pool, attempt))
        self.end(attempt, outcome)
        return None

    def _continued(self, call: Call, attempt: Attempt, error: Any, timeout_s: float | None, arguments: Arguments) -> Call | None:
        """What began without a ``Call`` goes on as this one; None: it is over with this attempt."""
        goes_on = False
        try:
            if isinstance(self.connections.entrance, Entrance):
                self.connections.entrance.hand_over(attempt, call)
            goes_on = self._goes_on(call, attempt, error, timeout_s, arguments)
        finally:
            if not goes_on:
                call.close()
        return call if goes_on else None

    def _goes_on(self, call: Call, attempt: Attempt, error: Any, timeout_s: float | None, arguments: Arguments) -> bool:
        """The attempt failed on the wire: end it; True if another one follows."""
        endpoint, now_s = attempt.subchannel.endpoint, self.connections.binding.clock.now_s()
        outcome = self.outcome_of(attempt, error, timeout_s, now_s)
        try:
            mark(error, endpoint, call.attempts(attempt, error.code().name))
            failure = None if outcome is UNREACHABLE else self.failure_of(call, attempt, error, now_s)
            if (outcome is UNREACHABLE or failure is not None) and self.can_be_sent_again(arguments):
                call.last = error
                if call.end_attempt(attempt, outcome, now_s, failure) is not None:
                    return True
                tell(error, call)
        except Exception as bug:  # noqa: BLE001
            self.connections.binding.count_internal_error(bug)
        self.end(attempt, outcome)
        return False

    # --- waiting ------------------------------------------------------------------------------------------------------------

    def _wait_next(self, call: Call) -> tuple[Attempt, Any]:
        connections = self.connections
        waited = 0
        while True:
            if connections.closed:
                raise cancelled_error(CLOSED_IN_FLIGHT) if waited else ValueError(CLOSED_BLOCKING)
            seen = connections.changes
            found = self.try_next(call, connections.binding.clock.now_s())
            if found is not None:
                return found
            waited += 1
            connections.wait(seen, call.wait_until_s)

    def _wait_in_turn(self, call: Call) -> tuple[Attempt, Any]:
        connections, now_s = self.connections, self.connections.binding.clock.now_s
        bell = Bell()
        call.wake_with(bell.ring)
        waited = False
        try:
            while True:
                if connections.closed:
                    raise cancelled_error(CLOSED_IN_FLIGHT) if waited else ValueError(CLOSED_BLOCKING)
                bell.clear()  # before it asks, so that nothing is missed between the two
                found = self.try_next(call, now_s())
                if found is not None:
                    return found
                if not waited:
                    waited = True
                    connections.add_watcher(bell)
                    continue  # what changed before it listened
                until_s = call.wait_until_s
                bell.wait(None if until_s is None else until_s - now_s())
        finally:
            if waited:
                connections.remove_watcher(bell)
