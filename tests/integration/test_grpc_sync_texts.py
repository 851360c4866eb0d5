"""The words of grpcio by which "certainly never sent" is known, against the grpcio that is installed.

A new grpcio that says it otherwise fails here, before a call that could have gone elsewhere fails at a user's.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from meshlb.core.outcome import Outcome
from meshlb.grpc.status import never_sent, outcome_of
from tests.integration.test_grpc_sync_calls import SwallowingSocket
from tests.support.channels import PATIENCE_S, EchoServer, echo_servers, eventually, request, unused_port

POLICIES = ("round_robin", "pick_first")  # round_robin is what endpoints' channels run, pick_first what grpc's own do


def failure(port: int, policy: str, *options: tuple[str, Any], **arguments: Any) -> Any:
    """The error of one call over grpc's own channel."""
    config = json.dumps({"loadBalancingConfig": [{policy: {}}]})
    channel = grpc.insecure_channel(f"ipv4:127.0.0.1:{port}", [("grpc.service_config", config), *options])
    with channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/meshlb.testing.v1.Echo/Get")(b"", timeout=PATIENCE_S, **arguments)
    return caught.value


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_refused_connects_were_never_sent(policy: str) -> None:
    """Nobody listens."""
    error = failure(unused_port(), policy)
    assert never_sent(error.code(), error.details())


def test_connects_that_time_out_were_never_sent(policy: str) -> None:
    """Packets vanish."""
    with SwallowingSocket() as swallowing:
        error = failure(swallowing.endpoint.port, policy, ("grpc.min_reconnect_backoff_ms", 200))
        assert never_sent(error.code(), error.details())


@pytest.fixture
def http1() -> Iterator[int]:
    """A server that speaks something else."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            client.close()

    threading.Thread(target=answer, daemon=True).start()
    yield server.getsockname()[1]
    server.close()


def test_servers_that_do_not_speak_http2_were_never_sent_anything(policy: str, http1: int) -> None:
    """No connection was made, though somebody listens."""
    error = failure(http1, policy)
    assert never_sent(error.code(), error.details())


def test_failed_tls_handshakes_were_never_sent() -> None:
    """A certificate for another name."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    certificate = authority.issue_cert("other.shop")
    pair = (certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())
    server = EchoServer("pod-0", credentials=grpc.ssl_server_credentials([pair]))
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with (
        grpc.secure_channel(f"ipv4:127.0.0.1:{server.port}", credentials, [("grpc.default_authority", "orders.shop")]) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary("/a/b")(b"", timeout=PATIENCE_S)
    assert never_sent(caught.value.code(), caught.value.details())
    server.stop()


def test_an_unhealthy_server_was_never_sent_anything() -> None:
    """Client-side health checking (A17) says so before any call."""
    health = pytest.importorskip("grpc_health.v1.health")
    health_pb2, stubs = pytest.importorskip("grpc_health.v1.health_pb2"), pytest.importorskip("grpc_health.v1.health_pb2_grpc")
    from concurrent import futures

    server = grpc.server(futures.ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    stubs.add_HealthServicer_to_server(servicer, server)
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    config = json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}})
    with grpc.insecure_channel(f"ipv4:127.0.0.1:{port}", [("grpc.service_config", config)]) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/a/b")(b"", timeout=PATIENCE_S)
        assert never_sent(caught.value.code(), caught.value.details())
    server.stop(None)


def test_a_call_under_way_when_its_server_dies_may_have_been_processed() -> None:
    """However the connection went: it counts as sent."""
    with echo_servers(1) as (server,), grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.unary_unary(
            "/meshlb.testing.v1.Echo/Get", request_serializer=lambda message: message.SerializeToString()
        ).future(request(delay_s=30.0))
        threading.Event().wait(0.1)
        server.stop()
        eventually(call.done, "it fails")
        assert call.code() is grpc.StatusCode.UNAVAILABLE
        assert not never_sent(call.code(), call.details())
        assert outcome_of(call.code(), call.details()) is Outcome.FAILURE


@pytest.mark.parametrize(
    ("arguments", "broken"),
    [
        ({}, {"request_serializer": lambda _: 1 / 0}),
        ({}, {"response_deserializer": lambda _: 1 / 0}),
        ({"metadata": (("bad key", "1"),)}, {}),
        ({}, {"options": [("grpc.max_send_message_length", 1)], "payload": "xx"}),
        ({}, {"options": [("grpc.max_receive_message_length", 1)], "payload": "xx"}),
    ],
)
def test_what_the_callers_side_makes_up_blames_no_endpoint(arguments: dict[str, Any], broken: dict[str, Any]) -> None:
    """Serializers, metadata, message limits: grpcio's words for them, or a ValueError that is no status at all."""
    options = broken.pop("options", ())
    payload = request(broken.pop("payload", "")).SerializeToString()
    with echo_servers(1) as (server,), grpc.insecure_channel(f"127.0.0.1:{server.port}", options) as channel:
        call = channel.unary_unary("/meshlb.testing.v1.Echo/Get", **broken)
        with pytest.raises((grpc.RpcError, ValueError)) as caught:
            call(payload, timeout=PATIENCE_S, **arguments)
        error: Any = caught.value
        if isinstance(error, grpc.RpcError):
            assert outcome_of(error.code(), error.details()) is Outcome.CANCELLED, error
        else:  # older ones, for metadata
            assert "metadata was invalid" in str(error)
