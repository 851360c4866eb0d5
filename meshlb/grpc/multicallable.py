"""What the four kinds of call share: how a call becomes a series of decisions, and the start of those that do not block.

``wait_for_ready`` is never passed down to an endpoint, which may be dying: meshlb itself waits, for any of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from grpc import StatusCode

from meshlb.call.call import Call
from meshlb.call.infos import Infos
from meshlb.core.hints import hinted
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt
from meshlb.errors import ClosedError, MeshError
from meshlb.grpc.connection import Connections
from meshlb.grpc.errors import rpc_error_of
from meshlb.grpc.failures import can_be_sent_again, failure_of
from meshlb.grpc.in_flight import end_with
from meshlb.grpc.inners import Arguments, Factory, Inners
from meshlb.grpc.marks import attempts_of, endpoint_of, mark, tell
from meshlb.grpc.status import outcome_of
from meshlb.grpc.stock import CLOSED
from meshlb.retry.tries import Failure

if TYPE_CHECKING:
    from meshlb.grpc.pending import PendingCalls

CANCELLED = Outcome.CANCELLED

MAX_STALE = 8  # endpoints found gone in one pick, before the call waits for the scanner to catch up
RECHECK_S = 0.005  # about as long as a connection that is wanted takes to be opened


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
            mark(error, endpoint, attempts_of(last))
        last = error
    tell(last, call)
    return last


class Multicallable(Inners):
    """See the module head."""

    stream = True  # long-lived calls are counted apart from unary ones
    replays = False  # its requests can be sent again, and its calls be tried again after they were sent

    def __init__(self, connections: Connections, pending: PendingCalls, method: str | bytes, make: Factory) -> None:
        super().__init__(connections, make)
        self._pending = pending
        name = method.decode() if isinstance(method, bytes) else method
        name.encode()  # as grpc does: what is no text fails here, where the mistake is
        self._defaults = connections.options.defaults_of(name)
        self.rules = connections.options.rules_of(name, connections.binding.config, per_try=self.replays)
        self.limited = connections.binding.config.limits.any
        judged = not connections.binding.config.outlier.ignores(name)
        info = PickInfo(name, replays=self.replays and self.rules.retries, judged=judged)
        self.infos = Infos(info, connections.binding.config.hash.for_method(name))
        connections.add_holder(self)

    # --- deciding -----------------------------------------------------------------------------------------------------------

    def new_call(self, arguments: Arguments, closed_text: str, begun: Attempt | None = None) -> Call:
        """Fix the deadline: the shorter of the caller's and the service config's, from the moment the call began. ``begun``: its
        first attempt, where that was made without one."""
        wait_for_ready, defaults = arguments[4], self._defaults
        now_s = self.connections.binding.clock.now_s() if begun is None else begun.started_s
        timeout_s = self.limit_s(arguments[1])
        try:
            view = self.connections.open()
            limits = self.connections.binding.limits
            info = self.info_of(arguments[2]) if begun is None else begun.info
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
            info,
            deadline_s=None if timeout_s is None else now_s + timeout_s,
            wait_for_ready=waits,
            stream=self.stream,
            rules=self.rules,
            idempotent=self.rules.is_idempotent(arguments[2]),
        )

    def info_of(self, metadata: Any) -> PickInfo:
        """What the picks of a call are told that is invoked here and now."""
        infos, view = self.infos, self.connections.open()
        if view is None or (not infos.varies and hinted() is None):
            return infos.plain
        return infos.of(view, metadata)

    def limit_s(self, timeout: float | None) -> float | None:
        """How long a call may take that was given this timeout."""
        default_s = self._defaults.timeout_s
        return default_s if timeout is None else timeout if default_s is None else min(timeout, default_s)

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

    def outcome_of(self, attempt: Attempt, ended: Any, timeout_s: float | None, now_s: float) -> Outcome:
        """What it means that grpc's call or error ended so; ``timeout_s`` is what the attempt was given."""
        return outcome_of(ended.code(), ended.details(), took_s=now_s - attempt.started_s, timeout_s=timeout_s)

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

    def taken_back(self, request: Any) -> bool:
        """True if the request can be sent again."""
        return True

    # --- calls that do not block ----------------------------------------------------------------------------------------------

    def invoke(self, verb: str, arguments: Arguments) -> Any:
        """grpc's own object if the picked endpoint is ready this very moment, else one of ours that waits for one. Always ours if it
        may have to wait for its turn, or to be sent again: with ``wait_for_ready``, and where the rules of its method or its metadata
        allow another attempt."""
        if self.connections.closed:
            raise ValueError(CLOSED)
        waits = self._defaults.wait_for_ready if arguments[4] is None else arguments[4]
        try:
            ours = waits or self.limited or (self.replays and (self.rules.may_retry(arguments[2]) or not self.rules.plain))
            found = None if ours else self._pick_ready(arguments[2])
            if found is None:
                call = self.new_call(arguments, CLOSED)
                return self._pending.add(self, call, verb, arguments, at_once=bool(ours))
        except InternalError as error:
            internal = error
        else:
            return self._start_picked(*found, verb, arguments)
        return self.over_stock(internal, verb, arguments)

    def _start_picked(self, attempt: Attempt, inner: Any, verb: str, arguments: Arguments) -> Any:
        """grpc's own object; but where it is of interest when a stream's first message comes, one of ours, which sees it."""
        if verb != "__call__" or not attempt.info.judged or not attempt.subchannel.watched:
            return self.start(attempt, inner, verb, arguments, arguments[1])
        try:
            call = self.new_call(arguments, CLOSED, attempt)
            return self._pending.begun(self, call, verb, arguments, (attempt, inner))
        except InternalError as error:
            internal = error
        except BaseException:
            self.end(attempt, CANCELLED)
            raise
        self.end(attempt, CANCELLED)
        return self.over_stock(internal, verb, arguments)

    def _pick_ready(self, metadata: Any) -> tuple[Attempt, Any] | None:
        view = self.connections.view
        if view is None:
            return None
        try:
            info = self.info_of(metadata)
            for _ in range(MAX_STALE):
                attempt = view.begin(info, self.stream)
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
            end_with(call, attempt, view, self.connections.binding, timeout_s=self.limit_s(timeout), stream=verb == "__call__")
        return call
