"""What the four kinds of call share: an endpoint's own multicallable, the loop of blocking calls, the start of the others.

A bug of meshlb's on the way (anything that is neither a MeshError nor raised by grpc or by the user's code) is counted, logged
once, and the call goes out over the stock channel. ``wait_for_ready`` is never passed down to an endpoint, which may be dying:
meshlb itself waits, for any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import grpc
from grpc import StatusCode

from meshlb.call.call import Call
from meshlb.core.connectivity import Connectivity
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.errors import ClosedError, MeshError
from meshlb.grpc.connection import Connections
from meshlb.grpc.errors import cancelled_error, rpc_error_of
from meshlb.grpc.failures import can_be_sent_again, failure_of, sent_again
from meshlb.grpc.in_flight import end_with, endpoint_of, mark
from meshlb.grpc.link import Link
from meshlb.grpc.signals import raised_by_handler
from meshlb.grpc.status import outcome_of
from meshlb.grpc.stock import CLOSED, CLOSED_BLOCKING, CLOSED_IN_FLIGHT, STATES
from meshlb.retry.tries import Failure
from meshlb.runtime.fork import on_fork_child

if TYPE_CHECKING:
    from meshlb.grpc.pending import PendingCalls

SUCCESS = Outcome.SUCCESS
CANCELLED = Outcome.CANCELLED
UNREACHABLE = Outcome.UNREACHABLE
READY = Connectivity.READY
IDLE = Connectivity.IDLE
TRANSIENT_FAILURE = Connectivity.TRANSIENT_FAILURE

MAX_STALE = 8  # endpoints found gone in one pick, before the call waits for the scanner to catch up
RECHECK_S = 0.005  # about as long as a connection that is wanted takes to be opened

Factory = Callable[[grpc.Channel | None], Any]
Inner = tuple[Any, Link]  # the endpoint's multicallable, and its channel
# request (or iterator), timeout, metadata, credentials, wait_for_ready, compression
Arguments = tuple[Any, float | None, Any, Any, bool | None, Any]


class InternalError(Exception):
    """A bug of ours (its ``__cause__``) while nothing was sent yet."""


def last_word(call: Call, error: Any) -> Any:
    """No further attempt can be made; ``error`` is ours. What ended the last one says more, unless the deadline or the caller did it."""
    last = call.last
    if last is None or not isinstance(last, grpc.RpcError):
        return error
    if error.code() in (StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED):
        error.__cause__ = last
        endpoint = endpoint_of(last)
        if endpoint is not None:
            mark(error, endpoint)
        last = error
    tell(last, call)
    return last


def tell(error: BaseException, call: Call) -> None:
    """Have the error's traceback say what was tried."""
    story = call.story()
    if story:
        error.add_note(story)


class Multicallable:
    """Thread-safe; holds the connections strongly, as people keep only the stub."""

    stream = True  # long-lived calls are counted apart from unary ones
    replays = False  # its requests can be sent again, and its calls be tried again after they were sent

    def __init__(self, connections: Connections, pending: PendingCalls, method: str | bytes, make: Factory) -> None:
        self.connections = connections
        self._pending = pending
        self._make = make
        self._inner: dict[Subchannel, Inner] = {}
        self._forget_stock()
        on_fork_child(self._forget_stock)
        name = method.decode() if isinstance(method, bytes) else method
        name.encode()  # as grpc does: what is no text fails here, where the mistake is
        self._info = PickInfo(name)
        self._defaults = connections.options.defaults_of(name)
        self.rules = connections.options.rules_of(name, connections.binding.config, per_try=not self.stream)
        connections.add_holder(self)

    # --- one endpoint's own -------------------------------------------------------------------------------------------------

    def inner_of(self, subchannel: Subchannel) -> Inner | None:
        """Made at the first use, under the lock (grpc's registration of methods is not thread-safe); None without a connection."""
        inner = self._inner.get(subchannel)
        if inner is None:
            with self.connections.lock:
                inner = self._inner.get(subchannel)
                link = self.connections.links.get(subchannel)
                if inner is None and link is not None:
                    inner = self._inner[subchannel] = (self._make(link.channel), link)
        return inner

    def inner_for(self, attempt: Attempt) -> Any:
        """What to send this attempt with. None: the connection was lost or dropped a moment ago, and the attempt has ended."""
        view, subchannel = self.connections.view, attempt.subchannel
        try:
            found = self.inner_of(subchannel)
            state = IDLE if found is None else STATES[found[1].look(False)]
        except BaseException:
            self.end(attempt, CANCELLED)
            raise
        if found is not None and state is READY:
            found[1].seen_s = attempt.started_s
        # Failed in the view's eyes too: the one try that a call has when every endpoint did.
        if found is not None and (state is READY or view is None or view.state_of(subchannel) is TRANSIENT_FAILURE):
            return found[0]
        self.end(attempt, CANCELLED)
        if view is not None:
            view.set_states([(subchannel, state)])
        return None

    def _forget_stock(self) -> None:
        self._stock: tuple[grpc.Channel | None, Any] = (None, None)

    def forget(self, subchannels: Iterable[Subchannel]) -> None:
        """Their connections are gone; called under the lock."""
        for subchannel in subchannels:
            self._inner.pop(subchannel, None)

    def rescue(self, error: BaseException, attempt: Attempt | None, verb: str, arguments: Arguments) -> Any:
        """The fast path of a blocking call raised before it sent anything."""
        if attempt is not None:
            self.end(attempt, CANCELLED)
        if not isinstance(error, Exception):
            raise error
        if self.connections.closed:
            raise ValueError(CLOSED_BLOCKING)
        return self.over_stock(error, verb, arguments)

    def over_stock(self, error: BaseException, verb: str, arguments: Arguments) -> Any:
        """meshlb failed: send the call as if it were not there. Not if a signal's handler did, whose error is raised."""
        error = error.__cause__ or error
        if raised_by_handler(error):
            raise error
        self.connections.binding.count_internal_error(error)
        channel = self.connections.stock_channel()
        if self._stock[0] is not channel:  # the first time, or in a forked child
            self._stock = (channel, self._make(channel))
        return getattr(self._stock[1], verb)(self.lent(arguments[0]), *arguments[1:])

    # --- deciding -----------------------------------------------------------------------------------------------------------

    def new_call(self, arguments: Arguments, closed_text: str, started_s: float | None = None) -> Call:
        """Fix the deadline: the shorter of the caller's and the service config's, from the moment the call began."""
        timeout, wait_for_ready, defaults = arguments[1], arguments[4], self._defaults
        now_s = self.connections.binding.clock.now_s() if started_s is None else started_s
        deadline_s = None if timeout is None else now_s + timeout
        if defaults.timeout_s is not None:
            deadline_s = now_s + defaults.timeout_s if deadline_s is None else min(deadline_s, now_s + defaults.timeout_s)
        try:
            view = self.connections.open()
            limits = self.connections.binding.limits
        except MeshError as error:
            raise rpc_error_of(error) from None
        except Exception as error:
            raise InternalError from error
        if view is None:
            raise ValueError(closed_text)
        waits = bool(defaults.wait_for_ready if wait_for_ready is None else wait_for_ready)
        return Call(
            view,
            limits,
            self._info,
            deadline_s=deadline_s,
            wait_for_ready=waits,
            stream=self.stream,
            rules=self.rules,
            idempotent=self.rules.is_idempotent(arguments[2]),
        )

    def try_next(self, call: Call, now_s: float) -> tuple[Attempt, Any] | None:
        """An attempt and what to send it with, or None: wait. Raises grpc's errors, or InternalError."""
        try:
            for _ in range(MAX_STALE):
                attempt = call.begin_attempt(now_s)
                if attempt is None:
                    return None
                inner = self.inner_for(attempt)
                if inner is not None:
                    return attempt, inner
        except ClosedError:
            return None  # in this very moment; whoever waits looks for that first
        except MeshError as error:
            raise rpc_error_of(error) from None
        except Exception as error:
            if self.connections.closed:  # looking at a closed channel raises
                return None
            raise InternalError from error
        call.wait_until_s = now_s + RECHECK_S
        return None

    def end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Count an attempt as ended; a bug in that must not cost the caller an answer that is there."""
        view = self.connections.view
        try:
            if view is not None:
                view.end(attempt, outcome)
        except BaseException as error:  # noqa: BLE001
            self.after_success(attempt, error)

    def after_success(self, attempt: Attempt, error: BaseException) -> None:
        """Counting an end raised: the answer is there, so a bug in it is only counted; what interrupts goes on to the caller."""
        attempt.live.discard(attempt)
        if not isinstance(error, Exception) or raised_by_handler(error):
            raise error
        self.connections.binding.count_internal_error(error)

    # --- calls that block ---------------------------------------------------------------------------------------------------

    def block(self, verb: str, arguments: Arguments, call: Call | None = None) -> Any:
        """Make a call, or go on with one, and wait for its end."""
        try:
            return self._loop(call if call is not None else self.new_call(arguments, CLOSED_BLOCKING), verb, arguments)
        except InternalError as error:
            internal = error
        return self.over_stock(internal, verb, arguments)

    def _loop(self, call: Call, verb: str, arguments: Arguments) -> Any:
        """The attempt loop; returns grpc's answer or raises grpc's error, of the last attempt."""
        request, _, metadata, credentials, _, compression = arguments
        while True:
            try:
                attempt, inner = self._wait_next(call)
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
                if not self.goes_on(call, attempt, error, arguments):
                    raise
            except BaseException:
                self.end(attempt, CANCELLED)
                raise
            else:
                self.end(attempt, SUCCESS)
                call.succeeded()
                if verb == "with_call":
                    mark(reply[1], attempt.subchannel.endpoint)
                return reply

    def goes_on(self, call: Call, attempt: Attempt, error: Any, arguments: Arguments) -> bool:
        """The attempt failed on the wire: end it; True if another one follows."""
        mark(error, attempt.subchannel.endpoint)
        outcome = outcome_of(error.code(), error.details())
        try:
            now_s = self.connections.binding.clock.now_s()
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

    def failure_of(self, call: Call, attempt: Attempt, ended: Any, now_s: float) -> Failure | None:
        """What grpc's call or error, which is over, says about another attempt."""
        return failure_of(
            ended.code(),
            ended.details(),
            ended.initial_metadata(),
            ended.trailing_metadata(),
            timed_out=call.timed_out(attempt, now_s),
            error=lambda: ended,
        )

    def can_be_sent_again(self, arguments: Arguments) -> bool:
        return can_be_sent_again(arguments[2]) and self.taken_back(arguments[0])

    def after_failure(self, attempt: Attempt, error: BaseException, arguments: Arguments) -> Call | None:
        """The first attempt of a call that had no ``Call`` failed: end it; what to go on with, or None if that was all."""
        if not isinstance(error, grpc.RpcError):
            self.end(attempt, CANCELLED)
            return None
        if outcome_of(error.code(), error.details()) is UNREACHABLE or self.rules.may_retry(arguments[2]):
            try:
                call = self.new_call(arguments, CLOSED_BLOCKING, attempt.started_s)
            except (InternalError, MeshError, ValueError):  # the wire's error says more than ours would
                call = None
            if call is not None:
                return call if self.goes_on(call, attempt, error, arguments) else None
        mark(error, attempt.subchannel.endpoint)
        self.end(attempt, outcome_of(error.code(), error.details()))
        return None

    def lent(self, request: Any) -> Any:
        """The request for one attempt."""
        return request

    def taken_back(self, request: Any) -> bool:
        """True if the request can be sent again."""
        return True

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

    # --- calls that do not block ----------------------------------------------------------------------------------------------

    def invoke(self, verb: str, arguments: Arguments) -> Any:
        """grpc's own object if the picked endpoint is ready this very moment, else one of ours that waits for one. Always ours if it
        may have to be sent again: with ``wait_for_ready``, and where the rules of its method or its metadata allow another attempt."""
        if self.connections.closed:
            raise ValueError(CLOSED)
        waits = self._defaults.wait_for_ready if arguments[4] is None else arguments[4]
        try:
            ours = waits or (self.replays and (self.rules.may_retry(arguments[2]) or not self.rules.plain))
            found = None if ours else self._pick_ready()
            if found is None:
                call = self.new_call(arguments, CLOSED)
                return self._pending.add(self, call, verb, arguments, at_once=bool(ours))
        except InternalError as error:
            internal = error
        else:
            return self.start(*found, verb, arguments, arguments[1])
        return self.over_stock(internal, verb, arguments)

    def _pick_ready(self) -> tuple[Attempt, Any] | None:
        view = self.connections.view
        if view is None:
            return None
        try:
            for _ in range(MAX_STALE):
                attempt = view.begin(self._info, self.stream)
                if attempt is None:
                    return None
                inner = self.inner_for(attempt)
                if inner is not None:
                    return attempt, inner
        except Exception as error:
            if self.connections.closed:
                return None
            raise InternalError from error
        return None

    def start(self, attempt: Attempt, inner: Any, verb: str, arguments: Arguments, timeout: float | None) -> Any:
        """Hand the call to grpc and count it until its end."""
        request, _, metadata, credentials, _, compression = arguments
        try:
            call = getattr(inner, verb)(request, timeout, metadata, credentials, None, compression)
        except BaseException:
            self.end(attempt, CANCELLED)
            raise
        view = self.connections.view
        if view is not None:
            end_with(call, attempt, view, self.connections.binding, stream=verb == "__call__")
        return call
