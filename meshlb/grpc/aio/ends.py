"""How a grpc call that is done has ended, asked from its own done callback: without waiting, and without an exception getting out.

A done callback of ``grpc.aio`` that raises breaks the await of whoever made the call, so those here are total.

Private, with a way around: ``Call._cython_call.is_ok()`` tells success in 0.1 us. ``code()`` takes two coroutines to say the same,
2 us of the 10 that a call may cost; it is asked where the other is missing (calls with interceptors have none), and after failures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio

from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Attempt
from meshlb.grpc.failures import failure_of
from meshlb.grpc.status import outcome_of
from meshlb.retry.tries import Failure

if TYPE_CHECKING:
    from meshlb.grpc.aio.connection import Connection
    from meshlb.grpc.aio.driver import Driver

T = TypeVar("T")


def is_ok(call: Any) -> bool:
    """Did this call, which is done, succeed? The way around."""
    return _code(call) is grpc.StatusCode.OK


def outcome_now(call: Any, took_s: float = 0.0, timeout_s: float | None = None) -> Outcome:
    """What the end of this call, which is done, means; ``took_s``: since it began, ``timeout_s``: what it was given."""
    code = _code(call)
    if code is grpc.StatusCode.OK:
        return Outcome.SUCCESS
    return outcome_of(code, None if code is None else answer_now(call.details()), took_s=took_s, timeout_s=timeout_s)


def failure_now(call: Any, *, timed_out: bool) -> Failure | None:
    """What the end of this call, which is done and failed, says about another attempt."""
    code = _code(call)
    if code is None:
        return None
    details, initial, trailing = (answer_now(ask()) for ask in (call.details, call.initial_metadata, call.trailing_metadata))
    return failure_of(code, details, initial, trailing, timed_out=timed_out, error=partial(error_now, call))


def error_now(call: Any) -> grpc.aio.AioRpcError:
    """What awaiting this call, which is done and failed, raises."""
    details, text = answer_now(call.details()), answer_now(call.debug_error_string())
    initial, trailing = answer_now(call.initial_metadata()), answer_now(call.trailing_metadata())
    return grpc.aio.AioRpcError(_code(call) or grpc.StatusCode.UNKNOWN, initial, trailing, details, text)


class StreamEnd:
    """The done callback of a stream that is grpc's own object."""

    __slots__ = ("_attempt", "_connection", "_driver", "_timeout_s")

    def __init__(self, driver: Driver, connection: Connection, attempt: Attempt, timeout_s: float | None) -> None:
        self._driver = driver
        self._connection = connection
        self._attempt = attempt
        self._timeout_s = timeout_s

    def __call__(self, call: Any) -> None:
        driver, outcome = self._driver, Outcome.CANCELLED
        try:
            outcome = outcome_now(call, driver.now_s() - self._attempt.started_s, self._timeout_s)
        except Exception as error:  # noqa: BLE001 - a bug of ours
            driver.binding.count_internal_error(error)
        driver.end(self._connection, self._attempt, outcome)


def cancel_if_unsendable(stream: Any) -> None:
    """A stream whose metadata or first message is of a wrong type: whoever reads it gets the TypeError, but grpc gives it no status,
    ever, and it would count as live for ever. Private: the task that starts it; where there is none, the garbage collector comes."""
    start = getattr(stream, "_preparation", None) or getattr(stream, "_call_response", None)
    if start is not None:
        start.add_done_callback(partial(_cancel_if_failed, stream))


def _cancel_if_failed(stream: Any, start: asyncio.Task[Any]) -> None:
    if not start.cancelled() and start.exception() is not None:
        stream.cancel()


def _code(call: Any) -> grpc.StatusCode | None:
    try:
        code: grpc.StatusCode = answer_now(call.code())
    except Exception:  # noqa: BLE001 - an interceptor of the user raised something of its own
        return None
    return code


def answer_now(question: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has nothing to wait for."""
    try:
        question.send(None)
    except StopIteration as stop:
        answer: T = stop.value
        return answer
    question.close()
    raise RuntimeError("a grpc call that is done made its caller wait")
