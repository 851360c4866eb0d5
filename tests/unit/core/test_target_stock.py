"""``:authority`` against stock grpcio over loopback: the same string, the same header."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from meshlb.core.target import Target


class EchoAuthority(grpc.GenericRpcHandler):
    """Answers every call with the ``:authority`` that it came with."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: context._rpc_event.call_details.host)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What to put into the forms below: ports of a server that listens on IPv4, IPv6 and a Unix socket."""
    path: Path = tmp_path_factory.mktemp("s") / "orders.sock"
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads, handlers=[EchoAuthority()])
        v4 = server.add_insecure_port("127.0.0.1:0")
        v6 = server.add_insecure_port("[::1]:0") if socket.has_dualstack_ipv6() else 0
        server.add_insecure_port(f"unix:{path}")
        server.start()
        yield {"v4": str(v4), "v6": str(v6), "path": str(path)}
        server.stop(0).wait()


@pytest.mark.parametrize(
    "form",
    [
        "localhost:{v4}",
        "LocalHost:{v4}",
        "127.0.0.1:{v4}",
        "dns:///LocalHost:{v4}",
        "dns:localhost:{v4}",
        "DNS:///localhost:{v4}",
        "ipv4:127.0.0.1:{v4}",
        "ipv4:///127.0.0.1:{v4}",
        "ipv4:127.0.0.1:{v4},127.0.0.1:{v4}",
        "[::1]:{v6}",
        "ipv6:[::1]:{v6}",
        "ipv6:%5B::1%5D:{v6}",
        "unix:{path}",
        "unix://{path}",
    ],
)
def test_the_authority_is_that_of_stock_grpc(places: dict[str, str], form: str) -> None:
    """A server sees no difference between a stock channel and what ``Target.authority`` says for the same string."""
    if "{v6}" in form and places["v6"] == "0":
        pytest.skip("this host has no IPv6")
    text = form.format(**places)
    target = Target.parse(text)
    with grpc.insecure_channel(target.stock()) as channel:
        echo = channel.unary_unary("/test/Echo", response_deserializer=bytes.decode)
        assert echo(b"", timeout=10) == target.authority()
