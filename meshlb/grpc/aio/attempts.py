"""The attempts of a call of ours: it sends when it may, decides in grpc's done callback, and ends once.

grpc's call object belongs to one channel from the moment it is made, and grpc sends it one turn of the event loop later: a pod that
leaves in between fails a call that never left the client. So a unary call is an object of ours around grpc's. When grpc's ends,
its done callback decides at once, without a task: if another attempt follows, the call parks until that is due, or the next one of
grpc's is made, and takes its place before anyone who awaits the first is woken. No back-off blocks the loop.

In-flight. The attempt ends in grpc's done callback: on success, error, deadline, cancellation in any form, and ``close()``. A call
that nobody awaits ends when its reply comes, as in grpc. Where grpc never reports an end (a unary call with malformed metadata), the
await does it, or the garbage collector when nobody awaits. An abandoned stream that is grpc's own counts until grpc cancels it, when
the garbage collector frees its object, or else until it or its loop ends. A call with limits gives its places back when it is finished,
or with its loop.

``per_try_timeout_s`` of a stream of answers is no deadline of grpc's, since the stream may last. It limits how long a caller waits for the
first message of one attempt (``first_message``): what comes too late is cancelled, and ended as a deadline would end it.

A stream that outlives ``connection.max_age_grace_s`` is cancelled by meshlb, not by its caller, who would get a CancelledError as if he had
been himself. grpc.aio gives its own calls no other end; one of ours ends with UNAVAILABLE and says why, so where there is such a limit
every stream is one.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from meshlb.call.call import Call
from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Attempt
from meshlb.errors import DeadlineExceededError, MeshError
from meshlb.grpc.aio.ends import cancel_if_unsendable, error_now, failure_now, is_ok, outcome_now
from meshlb.grpc.aio.unsent import Unsent
from meshlb.grpc.errors import aio_rpc_error_of
from meshlb.grpc.failures import can_be_sent_again, sent_again
from meshlb.grpc.status import heard_late
from meshlb.retry.tries import Failure

if TYPE_CHECKING:
    from meshlb.grpc.aio.connection import Connection
    from meshlb.grpc.aio.driver import Driver
    from meshlb.grpc.aio.multicallable import MultiCallable

_CANCELLED = Outcome.CANCELLED
_SUCCESS = Outcome.SUCCESS
_DEADLINE = grpc.StatusCode.DEADLINE_EXCEEDED


class BalancedAttempts(ABC):
    """See the module head. ``request`` is the message, or the iterator of messages."""

    # Written only when a call waits or goes elsewhere, so that the others need not set them.
    _inner: Any = None  # grpc's call, or an Unsent; None while the call waits
    _attempt: Attempt | None = None
    _connection: Connection | None = None
    _call: Call | None = None
    _callbacks: list[Callable[[Any], Any]] | None = None
    _waiters: list[asyncio.Future[None]] | None = None
    _last: tuple[Any, Attempt] | None = None  # grpc's call before this one
    _given_s: float | None = None  # the time that this attempt was given, where it is not the call's own
    _slow: Any = None  # grpc's call that was given up because its first message did not come
    _cancelled = False  # by its caller
    _told = False  # how the attempt that was the last one ended is in the story
    _committed = False  # the caller has seen something of the answer
    _answered = False  # a message of a stream came
    _finished = False
    _channel = None  # grpcio before 1.83 looks for calls in all tasks when it closes a channel, and asks each whose it is

    def __init__(
        self,
        multi: MultiCallable,
        driver: Driver,
        request: Any,
        timeout_s: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
        connection: Connection | None = None,
        attempt: Attempt | None = None,
        inner: Any = None,
    ) -> None:
        """Around a grpc call that is made already; or without one, which sends as soon as it may."""
        self._multi = multi
        self._driver = driver
        self._request = request
        self._timeout_s = timeout_s
        self._metadata = metadata
        self._credentials = credentials
        self._wait_for_ready = wait_for_ready
        self._compression = compression
        if connection is None or attempt is None:
            if timeout_s is not None:
                _ = 0.0 + timeout_s  # what is no number is the caller's mistake, and heard of at once, as with grpc
            self.advance()
        else:
            connection.live.add(attempt)
            self._connection = connection
            self._attempt = attempt
            self._inner = inner
            inner.add_done_callback(self._inner_done)

    @abstractmethod
    def cancel(self) -> bool: ...

    @abstractmethod
    async def code(self) -> Any: ...

    # --- sending ----------------------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Send, wait for a change, or end. Raises nothing."""
        driver = self._driver
        try:
            call = self._logical()
            attempt = driver.begin_attempt(call)
            if attempt is None:
                driver.park(self, call.wait_until_s)
                return
            connection = driver.connections.open(attempt.subchannel)
        except MeshError as error:
            self._end_after(error)
            return
        except Exception as error:  # noqa: BLE001 - a bug of ours
            self._send_stock(error)
            return
        try:
            self._send(connection, attempt, call.attempt_timeout_s(driver.now_s()), call.previous_attempts)
        except Exception as error:  # noqa: BLE001 - the caller's arguments, heard of late
            self._end_unsent(error)

    def _send(self, connection: Connection, attempt: Attempt, timeout_s: float | None, previous_attempts: int) -> None:
        multi = self._multi
        try:
            inner = (multi.inners.get(connection) or multi.inner_of(self._driver, connection))(
                self._request,
                timeout=timeout_s,
                metadata=sent_again(self._metadata, previous_attempts),
                credentials=self._credentials,
                compression=self._compression,
            )
        except BaseException:
            self._driver.end(connection, attempt, _CANCELLED)
            raise
        connection.live.add(attempt)
        self._connection = connection
        self._attempt = attempt
        self._given_s = timeout_s
        self._inner = inner
        inner.add_done_callback(self._inner_done)
        if multi.stream:
            cancel_if_unsendable(inner)
        self._wake()

    def _send_stock(self, error: Exception) -> None:
        """A bug of ours must not fail a call of theirs."""
        driver = self._driver
        driver.binding.count_internal_error(error)
        self._attempt = None
        try:
            inner = self._multi.stock()(
                self._request,
                timeout=self._timeout_s if self._call is None else self._call.remaining_s(driver.now_s()),
                metadata=self._metadata,
                credentials=self._credentials,
                wait_for_ready=self._wait_for_ready,
                compression=self._compression,
            )
        except Exception as wrong:  # noqa: BLE001 - as if meshlb were not there
            self._end_unsent(wrong)
            return
        self._inner = inner
        inner.add_done_callback(self._inner_done)
        self._wake()

    def _logical(self) -> Call:
        """The call as a series of decisions; made when it is not over with its first attempt."""
        call = self._call
        if call is None:
            multi, driver, timeout_s = self._multi, self._driver, self._multi.limit_s(self._timeout_s)
            started_s = driver.now_s() if self._attempt is None else self._attempt.started_s
            call = self._call = Call(
                driver.view,
                driver.limits,
                multi.info_of(driver, self._metadata) if self._attempt is None else self._attempt.info,
                deadline_s=None if timeout_s is None else started_s + timeout_s,
                wait_for_ready=self._waits_for_ready(),
                stream=multi.stream,
                rules=multi.rules,
                idempotent=multi.rules.is_idempotent(self._metadata),
            )
            if call.limited:
                driver.limited(self, call)
                if self._attempt is not None:
                    driver.hand_over(self._attempt, call)
        return call

    def _waits_for_ready(self) -> bool:
        return self._multi.wait_for_ready if self._wait_for_ready is None else bool(self._wait_for_ready)

    def _can_move(self) -> bool:
        """Nothing that grpc's call was given or gave is lost with it."""
        return not self._multi.stream and not self._committed

    # --- when an attempt ends -----------------------------------------------------------------------------------------------------------

    def _inner_done(self, inner: Any) -> None:
        """grpc's call is over. An exception from here would reach the user's await in place of the reply, so none leaves."""
        driver, attempt, connection = self._driver, self._attempt, self._connection
        try:
            if attempt is not None and connection is not None:
                self._connection = None  # whoever keeps the call does not keep the connection
                connection.live.discard(attempt)
                try:
                    ok = inner._cython_call.is_ok()  # private: see ``ends``
                except AttributeError:
                    ok = is_ok(inner)
                if ok:
                    driver.entrance.end(attempt, _SUCCESS)
                    if self._call is not None:
                        self._call.succeeded()
                elif self._moves_on(attempt, connection, inner):
                    return
            self._finished = True
            if self._call is not None:
                self._call.close()
            if self._callbacks is not None:
                self._run_callbacks()
        except Exception as error:  # noqa: BLE001 - a bug of ours
            driver.binding.count_internal_error(error)
            if attempt is not None:
                driver.uncount(attempt)
            self._finish()

    def _moves_on(self, attempt: Attempt, connection: Connection, inner: Any) -> bool:
        """End a failed attempt; True if another is on its way, or waits for its time or an endpoint."""
        driver, now_s, slow = self._driver, self._driver.now_s(), self._slow is inner
        timeout_s = self._multi.limit_s(self._timeout_s) if self._given_s is None else self._given_s
        outcome = outcome_now(inner, now_s - attempt.started_s, timeout_s)
        never_sent = outcome is Outcome.UNREACHABLE
        may = never_sent or self._multi.may_retry(self._metadata)
        delay_s = None
        if may and not driver.closing and self._can_move() and can_be_sent_again(self._metadata):
            call = self._logical()
            failure = None if never_sent else self._failure(inner, timed_out=call.timed_out(attempt, now_s))
            delay_s = call.end_attempt(attempt, outcome, now_s, failure)
            self._told = delay_s is None
        if delay_s is None:
            driver.end(connection, attempt, outcome)
            outlived = connection.outlived and outcome is _CANCELLED and not self._cancelled
            if slow or outlived:  # grpc.aio's object would raise CancelledError
                self._slow = inner
                self._inner = Unsent(self._slow_error(attempt) if slow else self._outlived_error(attempt))
                self._wake()
            return False
        self._last = (inner, attempt)
        self._inner = self._attempt = None
        driver.connections.look_again()  # what killed this endpoint may have killed others
        self.advance()
        return True

    def _failure(self, inner: Any, *, timed_out: bool) -> Failure | None:
        if self._slow is inner:
            return Failure(_DEADLINE.name, lost=True, error=lambda: error_now(inner))
        return failure_now(inner, timed_out=timed_out)

    def _end_after(self, error: MeshError) -> None:
        """No endpoint could take it, or no other one: then it ended as its last attempt did, unless its deadline came meanwhile."""
        ended = aio_rpc_error_of(error)
        if self._last is None:
            self._end_unsent(ended)
            return
        inner, self._attempt = self._last
        self._told = True
        # Anew: what has been read to its end tells an iterator nothing a second time.
        last = self._slow_error(self._attempt) if self._slow is inner else error_now(inner)
        if isinstance(error, DeadlineExceededError):
            ended.__cause__ = last
            last = ended
        self._end_unsent(last)

    def _first_came(self) -> None:
        """The first message of a stream is there: its endpoint serves, however long the stream lasts."""
        self._answered = True
        attempt, driver = self._attempt, self._driver
        try:
            if attempt is not None:
                driver.view.answered(attempt)
        except Exception as error:  # noqa: BLE001 - a bug of ours
            driver.binding.count_internal_error(error)

    # --- the time limit of a stream's attempt -----------------------------------------------------------------------------

    def _limit_first_message(self, inner: Any) -> asyncio.TimerHandle | None:
        """For somebody who is about to wait for it."""
        limit_s = self._multi.first_message_s
        if not limit_s or self._committed:
            return None
        return self._driver.loop.call_later(limit_s, self._give_up, inner, self._driver.now_s())

    def _give_up(self, inner: Any, from_s: float) -> None:
        attempt, connection = self._attempt, self._connection
        if self._inner is not inner or self._committed or attempt is None or connection is None or inner.done():
            return
        self._slow = inner
        stalled = heard_late(self._driver.now_s() - from_s, self._multi.first_message_s)
        self._driver.view.end(attempt, _CANCELLED if stalled else Outcome.FAILURE)
        inner.cancel()

    def _slow_error(self, attempt: Attempt) -> BaseException:
        endpoint = attempt.subchannel.endpoint
        limit = f"per_try_timeout_s={self._multi.first_message_s:g}"
        said = f"no answer of {endpoint.name or endpoint.address} within {limit}"
        return aio_rpc_error_of(DeadlineExceededError(str(self._driver.binding.target), said))

    def _outlived_error(self, attempt: Attempt) -> grpc.aio.AioRpcError:
        endpoint, grace = attempt.subchannel.endpoint, f"connection.max_age_grace_s={self._multi.graced:g}"
        said = f"the stream outlived its connection to {endpoint.name or endpoint.address}, which was renewed, by {grace}"
        return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), said)

    # --- its end ----------------------------------------------------------------------------------------------------------

    def _end_unsent(self, error: BaseException) -> None:
        self._inner = Unsent(error)
        self._wake()
        self._finish()

    def _finish(self) -> None:
        self._finished = True
        if self._call is not None:
            self._call.close()
        self._run_callbacks()

    def _run_callbacks(self) -> None:
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback(self)
            except Exception as error:  # noqa: BLE001 - the caller's own
                self._driver.loop.call_exception_handler({"message": f"a done callback of {self!r} failed", "exception": error})

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)
