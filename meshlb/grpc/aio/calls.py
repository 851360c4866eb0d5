"""A call of ours: it waits for an endpoint, is sent another time, and otherwise is the grpc call that it holds.

grpc's call object belongs to one channel from the moment it is made, and grpc sends it one turn of the event loop later: a pod that
leaves in between fails a call that never left the client. So a unary call is an object of ours around grpc's. When grpc's ends,
its done callback decides at once, without a task: if another attempt follows, the call parks until that is due, or the next one of
grpc's is made, and takes its place before anyone who awaits the first is woken. No back-off blocks the loop.

Streams are grpc's own objects when the picked endpoint is ready, and these objects while they wait; once there is a stream it is final,
since messages may have been read or written. Always an object of ours is a stream of answers whose method's rules or metadata allow
another attempt: it is made until the first message, or the server's initial metadata, reached the caller. So is, with
``wait_for_ready``, any stream: one that was certainly never sent waits again, until its deadline; unless its requests come from an
iterator, of which grpc has taken the first by then.

Whoever awaits or asks something is passed on to the grpc call of the moment, and asked again if that one was replaced meanwhile. A
call that ends without one has an ``Unsent`` in its place. Done callbacks of users run once, at the end.

In-flight. The attempt ends in grpc's done callback: on success, error, deadline, cancellation in any form, and ``close()``. A call
that nobody awaits ends when its reply comes, as in grpc. Where grpc never reports an end (a unary call with malformed metadata), the
await does it, or the garbage collector when nobody awaits. An abandoned stream that is grpc's own counts until grpc cancels it, when
the garbage collector frees its object, or else until it or its loop ends.

Used in the event loop it was made in, like everything in ``grpc.aio``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from meshlb.call.call import Call
from meshlb.core.endpoint import Endpoint
from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Attempt
from meshlb.errors import DeadlineExceededError, MeshError
from meshlb.grpc.aio.ends import cancel_if_unsendable, error_now, failure_now, is_ok, outcome_now
from meshlb.grpc.aio.unsent import Unsent
from meshlb.grpc.errors import aio_rpc_error_of
from meshlb.grpc.failures import can_be_sent_again, sent_again
from meshlb.grpc.in_flight import mark

if TYPE_CHECKING:
    from meshlb.grpc.aio.connections import Connection
    from meshlb.grpc.aio.driver import Driver
    from meshlb.grpc.aio.multicallable import MultiCallable

_CANCELLED = Outcome.CANCELLED
_SUCCESS = Outcome.SUCCESS


class BalancedCall:
    """What the four kinds share. ``request`` is the message, or the iterator of messages."""

    # Written only when a call waits or goes elsewhere, so that the others need not set them.
    _inner: Any = None  # grpc's call, or an Unsent; None while the call waits
    _attempt: Attempt | None = None
    _connection: Connection | None = None
    _call: Call | None = None
    _callbacks: list[Callable[[Any], Any]] | None = None
    _waiters: list[asyncio.Future[None]] | None = None
    _last: tuple[Any, Attempt] | None = None  # grpc's call before this one
    _committed = False  # the caller has seen something of the answer
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
            multi, driver, timeout_s = self._multi, self._driver, self._timeout_s
            if timeout_s is None or (multi.timeout_s is not None and multi.timeout_s < timeout_s):
                timeout_s = multi.timeout_s
            started_s = driver.now_s() if self._attempt is None else self._attempt.started_s
            call = self._call = Call(
                driver.view,
                driver.limits,
                multi.info,
                deadline_s=None if timeout_s is None else started_s + timeout_s,
                wait_for_ready=self._waits_for_ready(),
                stream=multi.stream,
                rules=multi.rules,
                idempotent=multi.rules.is_idempotent(self._metadata),
            )
        return call

    def _waits_for_ready(self) -> bool:
        return self._multi.wait_for_ready if self._wait_for_ready is None else bool(self._wait_for_ready)

    def _can_move(self) -> bool:
        """Nothing that grpc's call was given or gave is lost with it."""
        return not self._multi.stream and not self._committed

    # --- ending -----------------------------------------------------------------------------------------------------------

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
                    driver.view.end(attempt, _SUCCESS)
                    if self._call is not None:
                        self._call.succeeded()
                elif self._moves_on(attempt, inner):
                    return
            self._finished = True
            if self._callbacks is not None:
                self._run_callbacks()
        except Exception as error:  # noqa: BLE001 - a bug of ours
            driver.binding.count_internal_error(error)
            if attempt is not None:
                attempt.live.discard(attempt)
            self._finish()

    def _moves_on(self, attempt: Attempt, inner: Any) -> bool:
        """End a failed attempt; True if another is on its way, or waits for its time or an endpoint."""
        driver, outcome = self._driver, outcome_now(inner)
        never_sent = outcome is Outcome.UNREACHABLE
        may = never_sent or self._multi.may_retry(self._metadata)
        if not may or driver.closing or not self._can_move() or not can_be_sent_again(self._metadata):
            driver.view.end(attempt, outcome)
            return False
        call, now_s = self._logical(), driver.now_s()
        failure = None if never_sent else failure_now(inner, timed_out=call.timed_out(attempt, now_s))
        if call.end_attempt(attempt, outcome, now_s, failure) is None:
            return False
        self._last = (inner, attempt)
        self._inner = self._attempt = None
        driver.connections.look_again()  # what killed this endpoint may have killed others
        self.advance()
        return True

    def _end_after(self, error: MeshError) -> None:
        """No endpoint could take it, or no other one: then it ended as its last attempt did, unless its deadline came meanwhile."""
        ended = aio_rpc_error_of(error)
        if self._last is None:
            self._end_unsent(ended)
            return
        inner, self._attempt = self._last
        last = error_now(inner)  # anew: what has been read to its end tells an iterator nothing a second time
        if isinstance(error, DeadlineExceededError):
            ended.__cause__ = last
            last = ended
        self._end_unsent(last)

    def _end_unsent(self, error: BaseException) -> None:
        self._inner = Unsent(error)
        self._wake()
        self._finish()

    def _finish(self) -> None:
        self._finished = True
        self._run_callbacks()

    def _run_callbacks(self) -> None:
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback(self)
            except Exception as error:  # noqa: BLE001 - the caller's own
                self._driver.loop.call_exception_handler({"message": f"a done callback of {self!r} failed", "exception": error})

    # --- waiting ----------------------------------------------------------------------------------------------------------

    async def _sent(self) -> None:
        """Wait until there is an inner call again, or an end."""
        while self._inner is None:
            waiter: asyncio.Future[None] = self._driver.loop.create_future()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            await waiter

    async def _sent_or_cancel(self) -> None:
        """The same for those whose own cancellation cancels the call, as it does in grpc."""
        try:
            await self._sent()
        except asyncio.CancelledError:
            self.cancel()
            raise

    def _stays(self, inner: Any, error: BaseException) -> bool:
        """The grpc call of the moment ended so for who read or wrote; False: another has taken its place, to be asked in turn."""
        if self._inner is inner:
            if not isinstance(error, asyncio.CancelledError):
                self._tell(error)
            return True
        if isinstance(error, asyncio.CancelledError):  # grpc has cancelled the one that is gone already
            self.cancel()
            return True
        return False

    async def _do(self, verb: str, *args: Any) -> Any:
        """What grpc cancels the call for when it is cancelled itself; once more if the call goes elsewhere meanwhile."""
        while True:
            await self._sent_or_cancel()
            inner = self._inner
            try:
                return await getattr(inner, verb)(*args)
            except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
                if self._stays(inner, error):
                    raise

    def _tell(self, error: BaseException) -> None:
        """Have ``endpoint_of`` and the traceback of what the caller gets say where it was tried."""
        if self._attempt is not None:
            mark(error, self._attempt.subchannel.endpoint)
        story = self._call.story() if self._call is not None else ""
        if story and story not in getattr(error, "__notes__", ()):
            error.add_note(story)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    async def _ask(self, question: str) -> Any:
        while True:
            await self._sent()
            inner = self._inner
            answer = await getattr(inner, question)()
            if self._inner is inner:
                return answer

    # --- what grpc's calls have -------------------------------------------------------------------------------------------

    @property
    def _meshlb_endpoint(self) -> Endpoint | None:
        """For ``endpoint_of``: where the call went last; None before it went anywhere."""
        attempt = self._attempt if self._attempt is not None or self._last is None else self._last[1]
        return None if attempt is None else attempt.subchannel.endpoint

    def cancel(self) -> bool:
        if self._finished:
            return False
        if self._inner is not None:
            cancelled: bool = self._inner.cancel()
            return cancelled
        self._driver.unpark(self)
        self._end_unsent(asyncio.CancelledError())
        return True

    def cancelled(self) -> bool:
        return self._inner is not None and self._inner.cancelled()

    def done(self) -> bool:
        return self._finished

    def add_done_callback(self, callback: Callable[[Any], Any]) -> None:
        if self._finished:
            callback(self)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def time_remaining(self) -> float | None:
        if self._timeout_s is None:
            return None
        return self._logical().remaining_s(self._driver.now_s())

    async def initial_metadata(self) -> Any:
        answer = await self._ask("initial_metadata")
        self._committed = True
        return answer

    async def trailing_metadata(self) -> Any:
        return await self._ask("trailing_metadata")

    async def code(self) -> Any:
        return await self._ask("code")

    async def details(self) -> Any:
        return await self._ask("details")

    async def debug_error_string(self) -> Any:
        return await self._ask("debug_error_string")

    async def wait_for_connection(self) -> None:
        await self._do("wait_for_connection")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._multi.info.method}: {self._inner!r}>"
