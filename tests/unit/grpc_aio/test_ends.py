"""What a call that is done says about its end, asked without waiting."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from meshlb.core.outcome import Outcome
from meshlb.grpc.aio.ends import is_ok, outcome_now


class Done:
    """As much of a grpc call as is asked."""

    def __init__(self, code: Any, details: str = "") -> None:
        self._code = code
        self._details = details

    async def code(self) -> Any:
        if isinstance(self._code, BaseException):
            raise self._code
        return self._code

    async def details(self) -> str:
        return self._details


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        (Done(grpc.StatusCode.OK), Outcome.SUCCESS),
        (Done(grpc.StatusCode.NOT_FOUND), Outcome.SUCCESS),
        (Done(grpc.StatusCode.UNAVAILABLE, "Stream removed"), Outcome.FAILURE),
        (Done(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: …"), Outcome.UNREACHABLE),
        (Done(grpc.StatusCode.CANCELLED, "Locally cancelled by application!"), Outcome.CANCELLED),
        (Done(LookupError("of an interceptor")), Outcome.CANCELLED),
    ],
)
def test_an_end_becomes_an_outcome(call: Done, outcome: Outcome) -> None:
    """By code and details; what an interceptor raised blames nobody."""
    assert outcome_now(call) is outcome
    assert is_ok(call) == (call._code is grpc.StatusCode.OK)


def test_a_call_that_makes_its_callback_wait_is_not_waited_for() -> None:
    """It would never come: nobody runs the coroutine on. Nor is the coroutine left behind half-way."""
    closed: list[bool] = []

    class Waits(Done):
        async def code(self) -> Any:
            try:
                await _Never()
            finally:
                closed.append(True)

    assert outcome_now(Waits(None)) is Outcome.CANCELLED
    assert closed == [True]


class _Never:
    def __await__(self) -> Any:
        yield
