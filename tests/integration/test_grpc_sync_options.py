"""Options that stock users pass keep their meaning on the endpoints' channels."""

from __future__ import annotations

import json
import time
from concurrent import futures
from typing import Any

import grpc
import pytest

from meshlb._proto import echo_pb2, echo_pb2_grpc
from meshlb.core.endpoint import Endpoint
from tests.support.channels import PATIENCE_S, bench, echo_servers, eventually, request


def config(**fields: Any) -> list[tuple[str, Any]]:
    return [("grpc.service_config", json.dumps(fields))]


def test_a_retry_policy_works_as_before() -> None:
    """As often as it says, though there is one pod; the pool does it, so gRPC does not tell the server how often."""

    class Flaky(echo_pb2_grpc.EchoServicer):
        def __init__(self) -> None:
            self.attempts: list[str] = []

        def Get(self, request: Any, context: grpc.ServicerContext) -> Any:
            self.attempts.append(dict(context.invocation_metadata()).get("grpc-previous-rpc-attempts", "-"))
            if len(self.attempts) < 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
            return echo_pb2.EchoReply(pod="flaky")

    server, service = grpc.server(futures.ThreadPoolExecutor(2)), Flaky()
    echo_pb2_grpc.add_EchoServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    policy = {
        "maxAttempts": 3,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.01s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    options = config(methodConfig=[{"name": [{}], "retryPolicy": policy}])
    with bench(Endpoint(host="127.0.0.1", port=port), options=options) as channel:
        assert channel.stub.Get(request(), timeout=PATIENCE_S).pod == "flaky"
        assert service.attempts == ["-", "-", "-"]
    server.stop(None)


def test_a_methods_timeout_holds_on_the_wire() -> None:
    """For the method that is named, and no other."""
    options = config(methodConfig=[{"name": [{"service": "meshlb.testing.v1.Echo", "method": "Get"}], "timeout": "0.1s"}])
    with echo_servers(1) as servers, bench(*servers, options=options) as channel:
        channel.ready(1)
        started_s = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            channel.stub.Get(request(delay_s=30.0))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - started_s < 5.0
        assert channel.stub.Collect(iter([request(delay_s=0.3)])).pod == "pod-0"


def test_health_checking_keeps_calls_from_unhealthy_endpoints() -> None:
    """A17, for each endpoint by itself; it takes calls again when it is well again."""
    health = pytest.importorskip("grpc_health.v1.health")
    health_pb2, stubs = pytest.importorskip("grpc_health.v1.health_pb2"), pytest.importorskip("grpc_health.v1.health_pb2_grpc")
    servicers, servers, endpoints = [], [], []
    for number in range(2):
        server = grpc.server(futures.ThreadPoolExecutor(4))
        servicer = health.HealthServicer()
        stubs.add_HealthServicer_to_server(servicer, server)

        class Pod(echo_pb2_grpc.EchoServicer):
            name = f"pod-{number}"

            def Get(self, request: Any, context: grpc.ServicerContext) -> Any:
                return echo_pb2.EchoReply(pod=self.name)

        echo_pb2_grpc.add_EchoServicer_to_server(Pod(), server)
        endpoints.append(Endpoint(host="127.0.0.1", port=server.add_insecure_port("127.0.0.1:0"), name=Pod.name))
        server.start()
        servers.append(server)
        servicers.append(servicer)
    servicers[0].set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    with bench(*endpoints, options=config(healthCheckConfig={"serviceName": ""})) as channel:
        channel.ready(1)
        assert {channel.stub.Get(request()).pod for _ in range(6)} == {"pod-1"}
        servicers[0].set("", health_pb2.HealthCheckResponse.SERVING)
        channel.ready(2)
        servicers[1].set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        channel.ready(1)
        eventually(lambda: {channel.stub.Get(request()).pod for _ in range(6)} == {"pod-0"}, "calls move")
    for server in servers:
        server.stop(None)


def test_streams_on_one_thread_are_counted_too() -> None:
    """``SingleThreadedUnaryStream``: to its end, cancelled, and dropped unread, where gRPC tells nobody."""
    options = [(grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1)]
    with echo_servers(1) as servers, bench(*servers, options=options) as channel:
        channel.ready(1)
        read = channel.stub.Watch(request(count=3))
        assert "SingleThreaded" in type(read).__name__
        assert len(list(read)) == 3
        cancelled = channel.stub.Watch(request(count=1000, interval_s=0.05))
        next(cancelled)
        cancelled.cancel()
        del cancelled
        unread = channel.stub.Watch(request(count=1000, interval_s=0.05))
        assert channel.binding.in_flight >= 1
        del unread
        channel.idle()
        assert [sub.failed for sub in channel.binding.subchannels] == [0]


def test_sizes_and_compression_reach_the_wire() -> None:
    """A limit that is too small refuses, on the caller's side, and blames no endpoint."""
    options = [("grpc.max_send_message_length", 1000)]
    with echo_servers(1) as servers, bench(*servers, options=options, compression=grpc.Compression.Gzip) as channel:
        assert channel.stub.Get(request("a" * 500)).payload == "a" * 500
        with pytest.raises(grpc.RpcError) as caught:
            channel.stub.Get(request("a" * 5000))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert [sub.failed for sub in channel.binding.subchannels] == [0]


def test_interceptors_stack_over_the_channel() -> None:
    """``grpc.intercept_channel`` twice, and the stub does not notice."""
    seen: list[str] = []

    class Note(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self._name = name

        def intercept_unary_unary(self, continuation: Any, details: Any, sent: Any) -> Any:
            seen.append(f"{self._name} {details.method}")
            return continuation(details, sent)

        intercept_unary_stream = intercept_unary_unary

    with echo_servers(1) as servers, bench(*servers) as channel:
        stub = echo_pb2_grpc.EchoStub(grpc.intercept_channel(channel.channel, Note("outer"), Note("inner")))
        assert stub.Get(request()).pod == "pod-0"
        assert stub.Get.future(request()).result().pod == "pod-0"
        assert len(list(stub.Watch(request(count=2)))) == 2
        assert [word.partition(" ")[0] for word in seen] == ["outer", "inner"] * 3


def test_a_channel_is_a_context_manager() -> None:
    """Closed at the end, as grpc's; what is raised inside comes out."""
    with echo_servers(1) as servers, bench(*servers) as channel:
        with channel.channel as entered:
            assert entered is channel.channel
            assert isinstance(entered, grpc.Channel)
            assert channel.stub.Get(request()).pod == "pod-0"
        with pytest.raises(ValueError, match="Cannot invoke RPC on closed channel!"):
            channel.stub.Get(request())
        with pytest.raises(ZeroDivisionError), channel.channel:
            _ = 1 / 0
