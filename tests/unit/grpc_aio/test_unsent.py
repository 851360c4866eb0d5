"""The end of a call that was never sent, asked everything that a grpc call may be asked."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from meshlb.errors import NoEndpointError
from meshlb.grpc.aio.unsent import Unsent
from meshlb.grpc.errors import aio_rpc_error_of

ENDS = {
    "status": (aio_rpc_error_of(NoEndpointError("orders", "nobody")), grpc.StatusCode.UNAVAILABLE, "orders: nobody"),
    "cancelled": (asyncio.CancelledError(), grpc.StatusCode.CANCELLED, "Locally cancelled by application!"),
    "argument": (TypeError("no such thing"), grpc.StatusCode.UNKNOWN, "no such thing"),
}


async def awaited(call: Unsent) -> Any:
    return await call


async def iterated(call: Unsent) -> list[Any]:
    return [message async for message in call]


@pytest.mark.parametrize(("error", "code", "details"), ENDS.values(), ids=ENDS.keys())
async def test_it_answers_like_a_call_that_is_over(error: BaseException, code: grpc.StatusCode, details: str) -> None:
    """Code, details, empty metadata; a cancel comes too late, a last word from the writer is nothing."""
    call = Unsent(error)
    assert await call.code() is code
    assert await call.details() == await call.debug_error_string() == details
    assert await call.initial_metadata() == await call.trailing_metadata() == grpc.aio.Metadata()
    assert call.cancelled() == (code is grpc.StatusCode.CANCELLED)
    assert not call.cancel()
    assert await call.done_writing() is None
    with pytest.raises(asyncio.InvalidStateError, match="already finished"):
        await call.write(object())
    assert type(error).__name__ in repr(call)


@pytest.mark.parametrize("error", [end[0] for end in ENDS.values()], ids=ENDS.keys())
@pytest.mark.parametrize("how", [awaited, iterated, Unsent.read, Unsent.wait_for_connection])
async def test_whoever_waits_for_it_hears_why(error: BaseException, how: Any) -> None:
    """Each time anew; of a cancellation each gets its own, since tasks hang their traceback on it."""
    call = Unsent(error)
    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            await how(call)
        assert (caught.value is error) == (not isinstance(error, asyncio.CancelledError))
