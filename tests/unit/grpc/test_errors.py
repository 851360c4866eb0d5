"""Errors that are grpc's and meshlb's at once."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import grpc
import pytest

from meshlb.errors import (
    ClosedError,
    DeadlineExceededError,
    MeshError,
    NoEndpointError,
    OverLimitError,
    PortNotFoundError,
    ResolveError,
    ServiceNotFoundError,
)
from meshlb.grpc.errors import aio_rpc_error_of, cancelled_error, rpc_error_of

ERRORS = [
    (NoEndpointError("orders", "3 endpoints known, none ready"), grpc.StatusCode.UNAVAILABLE),
    (ResolveError("orders", ["kubernetes: 403", "dns: SERVFAIL"]), grpc.StatusCode.UNAVAILABLE),
    (ServiceNotFoundError("orders", ["kubernetes: no Service", "dns: NXDOMAIN"]), grpc.StatusCode.UNAVAILABLE),
    (PortNotFoundError("orders", ["ports: grpc, http"]), grpc.StatusCode.UNAVAILABLE),
    (OverLimitError("orders", "limits.max_in_flight", 2, "none may wait"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (DeadlineExceededError("orders", "no source has answered yet"), grpc.StatusCode.DEADLINE_EXCEEDED),
]


@pytest.fixture(params=[rpc_error_of, aio_rpc_error_of], ids=["sync", "aio"])
def convert(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_an_error_is_caught_as_grpcs_and_as_meshlbs(convert: Any, error: MeshError, code: grpc.StatusCode) -> None:
    """Both ``except`` clauses work; the details say everything, in one line."""
    converted = convert(error)
    assert isinstance(converted, grpc.RpcError)
    assert isinstance(converted, type(error))
    assert converted.code() is code
    assert converted.details() == str(converted) == str(error)
    assert "\n" not in converted.details()
    assert not list(converted.initial_metadata())
    assert not list(converted.trailing_metadata())
    assert code.name in repr(converted)


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_fields_and_notes_survive_with_copies_and_pickles(convert: Any, error: MeshError, code: grpc.StatusCode) -> None:
    """What a caller reads from meshlb's error is there, also in another process."""
    error = copy.copy(error)
    error.add_note("a note")
    for converted in (convert(error), pickle.loads(pickle.dumps(convert(error))), copy.copy(convert(error))):
        assert converted.target == "orders"
        assert converted.__notes__ == ["a note"]
        assert (converted.code(), str(converted)) == (code, str(error))


def test_the_threads_errors_are_ended_calls() -> None:
    """As ``_InactiveRpcError`` is one: ``Call`` and ``Future``, done, not cancelled."""
    error: Any = rpc_error_of(NoEndpointError("orders", "none"))
    assert isinstance(error, grpc.Call)
    assert isinstance(error, grpc.Future)
    assert error.done()
    assert not error.running()
    assert not error.is_active()
    assert not error.cancel()
    assert not error.cancelled()
    assert error.time_remaining() is None
    assert error.exception() is error
    assert not error.add_callback(lambda: None)
    called: list[Any] = []
    error.add_done_callback(called.append)
    assert called == [error]
    with pytest.raises(NoEndpointError):
        error.result()


def test_the_asyncio_errors_are_aio_rpc_errors() -> None:
    """What ``except grpc.aio.AioRpcError`` catches."""
    assert isinstance(aio_rpc_error_of(NoEndpointError("orders", "none")), grpc.aio.AioRpcError)


def test_a_mistake_of_the_caller_stays_what_it_is(convert: Any) -> None:
    """Use after close is no status of a call."""
    error = ClosedError("closed")
    assert convert(error) is error


def test_a_cancelled_call_says_so_in_grpcs_words() -> None:
    """CANCELLED, and an RpcError for who iterates."""
    error = cancelled_error()
    assert isinstance(error, grpc.RpcError)
    assert (error.code(), error.details()) == (grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
