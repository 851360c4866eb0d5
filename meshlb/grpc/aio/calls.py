"""A call of ours: it waits for an endpoint, is sent another time, and otherwise is the grpc call that it holds.

Streams are grpc's own objects when the picked endpoint is ready, and these objects while they wait; once there is a stream it is final,
since messages may have been read or written. Always an object of ours is a stream of answers whose method's rules or metadata allow
another attempt: it is made until the first message, or the server's initial metadata, reached the caller. Ours, too, is a stream of
answers on an endpoint that is ejected, whose probe it may be: its first message brings the endpoint back. So is, with
``wait_for_ready``, any stream: one that was certainly never sent waits again, until its deadline; unless its requests come from an
iterator, of which grpc has taken the first by then.

Whoever awaits or asks something is passed on to the grpc call of the moment, and asked again if that one was replaced meanwhile. A
call that ends without one has an ``Unsent`` in its place. Done callbacks of users run once, at the end.

Used in the event loop it was made in, like everything in ``grpc.aio``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio

from meshlb.call.story import Tried, why_first
from meshlb.core.endpoint import Endpoint
from meshlb.core.subchannel import Attempt
from meshlb.grpc.aio.attempts import BalancedAttempts
from meshlb.grpc.marks import mark


class BalancedCall(BalancedAttempts):
    """What the four kinds share, for those who wait for it or ask it something."""

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
        if self._slow is inner and not _is_cancelled():
            return False
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
            timer = self._limit_first_message(inner)
            try:
                answer = await getattr(inner, verb)(*args)
            except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
                if self._stays(inner, error):
                    raise
            else:
                if self._slow is not inner:
                    return answer
            finally:
                if timer is not None:
                    timer.cancel()

    def _tell(self, error: BaseException) -> None:
        """Have ``endpoint_of`` and the traceback of what the caller gets say where it was tried."""
        if self._attempt is not None:
            ended = error.code().name if isinstance(error, grpc.aio.AioRpcError) else ""
            mark(error, self._attempt.subchannel.endpoint, self._attempts(ended))
        story = self._call.story() if self._call is not None else ""
        if story and story not in getattr(error, "__notes__", ()):
            error.add_note(story)

    async def _ask(self, question: str) -> Any:
        while True:
            await self._sent()
            inner = self._inner
            timer = self._limit_first_message(inner) if question == "initial_metadata" else None
            try:
                answer = await getattr(inner, question)()
            finally:
                if timer is not None:
                    timer.cancel()
            if self._inner is inner and self._slow is not inner:
                return answer

    # --- what grpc's calls have -------------------------------------------------------------------------------------------

    @property
    def _meshlb_attempt(self) -> Attempt | None:
        return self._attempt if self._attempt is not None or self._last is None else self._last[1]

    @property
    def _meshlb_endpoint(self) -> Endpoint | None:
        """For ``endpoint_of``: where the call went last; None before it went anywhere."""
        attempt = self._meshlb_attempt
        return None if attempt is None else attempt.subchannel.endpoint

    @property
    def _meshlb_attempts(self) -> tuple[Tried, ...]:
        """For ``attempts_of``; empty while there is no more to tell than that."""
        return self._attempts("")

    @property
    def _meshlb_why(self) -> str:
        attempt = self._meshlb_attempt
        return "" if attempt is None else why_first(self._driver.view.pool, attempt)

    def _attempts(self, ended: str) -> tuple[Tried, ...]:
        """``ended``: the last one, if that was not told."""
        if self._call is None:
            return ()
        return self._call.attempts(None if self._told else self._meshlb_attempt, ended)

    def cancel(self) -> bool:
        if self._finished:
            return False
        self._cancelled = True
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
        return f"<{type(self).__name__} {self._multi.infos.plain.method}: {self._inner!r}>"


def _is_cancelled() -> bool:
    """Whoever runs this was cancelled, and not only what it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
