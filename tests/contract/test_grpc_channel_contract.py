"""What a channel promises whoever makes the calls: grpc's own and ours, threads and asyncio, endpoint ready or not yet.

Every case also runs on grpc's own channel: where it differs from ours, ours is wrong. At the end of each nothing is in flight.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from meshlb._proto import echo_pb2
from tests.contract.grpc_aio_driver import AIO_DRIVERS
from tests.contract.grpc_driver import DRIVERS as SYNC_DRIVERS
from tests.contract.grpc_driver import KINDS, ContractService, Driver, Result, contract_server
from tests.support.channels import PATIENCE_S, request, unused_port

STREAMS = ("unary_stream", "stream_stream")
DRIVERS = {**SYNC_DRIVERS, **AIO_DRIVERS}
Open = Callable[..., Driver]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[int, ContractService]]:
    with contract_server() as served:
        yield served


@pytest.fixture(params=DRIVERS.values(), ids=DRIVERS.keys())
def opened(request: pytest.FixtureRequest, server: tuple[int, ContractService]) -> Iterator[Open]:
    """Opens a channel of the kind that the case runs with; all are closed at the end, with nothing left in flight."""
    with ExitStack() as stack:
        yield lambda port=server[0], **settings: stack.enter_context(request.param(port, **settings))


@pytest.fixture
def driver(opened: Open) -> Driver:
    return opened()


def sent(kind: str, **fields: Any) -> Any:
    """One request, or a stream of two."""
    if kind == "unary_stream":
        fields.setdefault("count", 2)
    one = request(**fields)
    return [one, one] if kind.startswith("stream_") else one


def unmixed(metadata: Any) -> list[tuple[str, str]]:
    """What the test sent, without what gRPC adds."""
    return [(entry.key, entry.value) for entry in metadata if entry.key.startswith("x-")]


# --- what goes out and comes back ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_call_brings_its_replies(driver: Driver, kind: str) -> None:
    """One reply, or two in order, and OK."""
    result = driver.call(kind, sent(kind, payload="hello"))
    assert [reply.payload for reply in result.replies] == ["hello"] * (2 if kind in STREAMS else 1)
    assert result.code is grpc.StatusCode.OK
    assert result.error is None


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_reaches_the_server_in_order(driver: Driver, kind: str) -> None:
    """Keys, order, doubles and binary values; grpc's asyncio puts equal keys together."""
    result = driver.call(kind, sent(kind), metadata=(("x-b", "1"), ("x-a", "2"), ("x-b", "3"), ("x-bin", b"\x00\xff")))
    expected = [("x-b", "1"), ("x-a", "2"), ("x-b", "3"), ("x-bin", "AP8=")]
    if driver.asyncio:
        expected = [expected[0], expected[2], expected[1], expected[3]]
    assert unmixed(result.replies[0].metadata) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_of_the_server_is_readable(driver: Driver, kind: str) -> None:
    """Initial metadata and trailers, text and binary."""
    result = driver.call(kind, sent(kind), metadata=(("speak", "yes"),))
    assert (result.initial["initial"], result.initial["initial-bin"]) == ("yes", b"\x00\xff")
    assert (result.trailing["trailing"], result.trailing["trailing-bin"]) == ("yes", b"\xff\x00")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL])
def test_an_error_keeps_code_details_and_trailers(driver: Driver, kind: str, code: grpc.StatusCode) -> None:
    """The server's own status arrives unchanged, as an RpcError."""
    fields = {"fail_code": code.value[0], "fail_details": "so it is"}
    requests = sent(kind, **fields)
    if kind == "stream_stream":  # fails at the first; a second on its way can make grpc's asyncio say INTERNAL instead
        requests = requests[:1]
    result = driver.call(kind, requests, metadata=(("speak", "yes"),))
    assert isinstance(result.error, grpc.RpcError)
    assert (result.code, result.details) == (code, "so it is")
    assert result.trailing["trailing"] == "yes"


def test_a_stream_gives_what_came_before_its_error(driver: Driver) -> None:
    """Messages first, then the status."""
    result = driver.call("unary_stream", request(count=3, fail_code=5))
    assert [reply.sequence for reply in result.replies] == [0, 1, 2]
    assert result.code is grpc.StatusCode.NOT_FOUND


def test_an_unknown_method_is_unimplemented(driver: Driver) -> None:
    """The server says so; nothing is made up."""
    assert driver.call("unary_unary", request(), method="Nothing").code is grpc.StatusCode.UNIMPLEMENTED


def test_a_reply_larger_than_the_limit_is_refused(driver: Driver) -> None:
    """gRPC's 4 MiB hold unless the options say otherwise."""
    result = driver.call("unary_unary", request(f"size:{5 << 20}"))
    assert result.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_option_for_larger_replies_is_kept(opened: Open) -> None:
    """Sizes that stock users set mean what they meant."""
    driver = opened(options=[("grpc.max_receive_message_length", 16 << 20)])
    assert len(driver.call("unary_unary", request(f"size:{5 << 20}")).reply.payload) == 5 << 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_may_be_compressed(driver: Driver, kind: str) -> None:
    """``compression`` of one call."""
    result = driver.call(kind, sent(kind, payload="a" * 10_000), compression=grpc.Compression.Gzip)
    assert result.replies[0].payload == "a" * 10_000


def test_a_channel_may_be_compressed(opened: Open) -> None:
    """``compression`` of the whole channel."""
    driver = opened(compression=grpc.Compression.Deflate)
    assert driver.call("unary_unary", request("a" * 10_000)).reply.payload == "a" * 10_000


# --- time ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_deadline_ends_the_call_in_time(driver: Driver, kind: str) -> None:
    """DEADLINE_EXCEEDED, not long after ``timeout``."""
    driver.ready()
    started_s = time.monotonic()
    result = driver.call(kind, sent(kind, delay_s=30.0), timeout=0.1)
    assert result.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert isinstance(result.error, grpc.RpcError)
    assert 0.05 < time.monotonic() - started_s < 5.0


def test_a_deadline_that_has_passed_sends_nothing(driver: Driver) -> None:
    """A negative ``timeout`` is no error of the caller's: the call is over at once."""
    driver.ready()
    assert driver.call("unary_unary", request(), timeout=-1.0).code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_the_service_configs_timeout_holds(opened: Open) -> None:
    """The shorter of the config's and the caller's."""
    config = '{"methodConfig": [{"name": [{"service": "meshlb.testing.v1.Echo"}], "timeout": "0.2s"}]}'
    driver = opened(options=[("grpc.service_config", config)])
    driver.ready()
    started_s = time.monotonic()
    assert driver.call("unary_unary", request(delay_s=30.0), timeout=20.0).code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started_s < 5.0


# --- giving up ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_cancelling_ends_the_call_on_both_sides(driver: Driver, server: tuple[int, ContractService], kind: str) -> None:
    """True from ``cancel``, CANCELLED for who asks, and the server hears of it."""
    service = server[1]
    service.begun.clear()
    service.hung_up.clear()
    running = driver.start(kind, sent(kind, delay_s=30.0))
    assert service.begun.wait(PATIENCE_S)
    assert running.cancel()
    result = running.result()
    assert result.code is grpc.StatusCode.CANCELLED
    assert result.error is not None
    assert service.hung_up.wait(PATIENCE_S)


def test_cancelling_what_is_over_does_nothing(driver: Driver) -> None:
    """False, and the reply stays."""
    running = driver.start("unary_unary", request("hello"))
    assert running.result().reply.payload == "hello"
    assert not running.cancel()
    assert running.result().reply.payload == "hello"


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_may_be_cancelled_half_way(driver: Driver, kind: str) -> None:
    """After one of its messages."""
    requests = sent(kind, payload="hello", count=1000, interval_s=0.05) if kind == "unary_stream" else endless(request("hello"))
    running = driver.start(kind, requests)
    assert running.read().payload == "hello"
    assert running.cancel()
    assert running.result().code is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_that_is_dropped_is_over(driver: Driver, kind: str) -> None:
    """Nobody reads it any more, so nothing stays in flight; checked at the end of every case."""
    driver.drop(kind, sent(kind, payload="hello", count=1000, interval_s=0.05) if kind == "unary_stream" else sent(kind))


def endless(one: Any) -> Iterator[Any]:
    """Requests until nobody asks any more."""
    while True:
        yield one


# --- mistakes of the caller ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_call_credentials_need_a_secure_channel(driver: Driver, kind: str) -> None:
    """UNAUTHENTICATED, for asyncio UsageError, and nothing stays in flight."""
    result = driver.call(kind, sent(kind), credentials=grpc.access_token_call_credentials("token"))
    if driver.asyncio:
        assert isinstance(result.error, grpc.aio.UsageError)
    else:
        assert result.code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_of_the_wrong_type_is_refused(driver: Driver, kind: str) -> None:
    """TypeError, as ever, and nothing stays in flight."""
    assert isinstance(driver.call(kind, sent(kind), metadata=(("x-a", 1),)).error, TypeError)


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
def test_a_serializer_that_fails_fails_the_call(driver: Driver, kind: str) -> None:
    """INTERNAL with grpc's words, and nothing stays in flight. Stock asyncio logs the error and sends an empty message."""

    def broken(_: Any) -> bytes:
        raise RuntimeError("broken")

    result = driver.call(kind, sent(kind), serializers=(broken, echo_pb2.EchoReply.FromString))
    if driver.asyncio:
        assert (result.code, result.error) == (grpc.StatusCode.OK, None)
    else:
        assert (result.code, result.details) == (grpc.StatusCode.INTERNAL, "Exception serializing request!")


@pytest.mark.parametrize("kind", KINDS)
def test_a_deserializer_that_fails_fails_the_call(driver: Driver, kind: str) -> None:
    """INTERNAL with grpc's words, and nothing stays in flight. Stock asyncio logs the error and gives None for the message."""

    def broken(_: bytes) -> Any:
        raise RuntimeError("broken")

    result = driver.call(kind, sent(kind), serializers=(echo_pb2.EchoRequest.SerializeToString, broken))
    if driver.asyncio:
        assert (result.code, set(result.replies)) == (grpc.StatusCode.OK, {None})
    else:
        assert (result.code, result.details) == (grpc.StatusCode.INTERNAL, "Exception deserializing response!")


# --- a server that is not there --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_listening_is_unavailable_and_says_why(opened: Open, kind: str) -> None:
    """At once, without ``wait_for_ready``; the details are those of the transport."""
    driver = opened(unused_port())
    result = driver.call(kind, sent(kind), timeout=20.0)
    assert result.code is grpc.StatusCode.UNAVAILABLE
    assert result.details is not None
    assert "refused" in result.details
    assert isinstance(result.error, grpc.RpcError)


@pytest.mark.parametrize("kind", KINDS)
def test_wait_for_ready_waits_for_a_server(opened: Open, kind: str) -> None:
    """Nobody listens when the call is made; it is answered once somebody does."""
    port = unused_port()
    driver = opened(port, options=[("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100)])
    results: list[Result] = []
    call = threading.Thread(target=lambda: results.append(driver.call(kind, sent(kind), wait_for_ready=True, timeout=PATIENCE_S)))
    call.start()
    threading.Event().wait(0.2)  # long enough to have failed
    with contract_server(port):
        call.join(PATIENCE_S)
        assert [result.code for result in results] == [grpc.StatusCode.OK]


@pytest.mark.parametrize("kind", KINDS)
def test_wait_for_ready_waits_until_the_deadline(opened: Open, kind: str) -> None:
    """And then says DEADLINE_EXCEEDED."""
    driver = opened(unused_port())
    assert driver.call(kind, sent(kind), wait_for_ready=True, timeout=0.3).code is grpc.StatusCode.DEADLINE_EXCEEDED


# --- the end of a channel --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_channel_refuses_calls(driver: Driver, kind: str) -> None:
    """With grpc's own error and words."""
    driver.close()
    kind_of_error, words = driver.closed_errors
    error = driver.call(kind, sent(kind)).error
    assert isinstance(error, kind_of_error)
    assert words in str(error)


def test_closing_twice_is_closing_once(driver: Driver) -> None:
    """No error the second time."""
    assert driver.call("unary_unary", request()).code is grpc.StatusCode.OK
    driver.close()
    driver.close()


@pytest.mark.parametrize("kind", KINDS)
def test_closing_ends_calls_under_way(driver: Driver, kind: str) -> None:
    """CANCELLED, also for one that was not sent yet."""
    driver.ready()
    running = driver.start(kind, sent(kind, delay_s=30.0))
    driver.close()
    assert running.result().code is grpc.StatusCode.CANCELLED


# --- around it -------------------------------------------------------------------------------------------------------------------


class Stamp(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):  # type: ignore[misc]
    """Adds one entry of metadata."""

    def intercept_unary_unary(self, continuation: Any, details: Any, sent: Any) -> Any:
        return continuation(self._stamped(details), sent)

    def intercept_stream_stream(self, continuation: Any, details: Any, sent: Any) -> Any:
        return continuation(self._stamped(details), sent)

    def _stamped(self, details: Any) -> Any:
        return details._replace(metadata=[*(details.metadata or ()), ("x-stamp", "yes")])


@pytest.mark.parametrize("kind", ["unary_unary", "stream_stream"])
def test_interceptors_see_the_call(driver: Any, kind: str) -> None:
    """``grpc.intercept_channel`` over the channel."""
    if not hasattr(driver, "intercepted"):
        pytest.skip("this driver takes its interceptors otherwise")
    driver.intercepted(Stamp())
    result = driver.call(kind, sent(kind))
    assert unmixed(result.replies[0].metadata) == [("x-stamp", "yes")]
    assert (result.endpoint is not None) == driver.meshlb


@pytest.mark.parametrize("kind", KINDS)
def test_the_endpoint_of_a_call_is_known(driver: Driver, kind: str) -> None:
    """``endpoint_of`` what was returned and of what was raised; None for channels that are not ours."""
    answered = driver.call(kind, sent(kind))
    failed = driver.call(kind, sent(kind, fail_code=5))
    for endpoint in (answered.endpoint, failed.endpoint):
        assert (endpoint.name if endpoint is not None else None) == ("pod-0" if driver.meshlb else None)
