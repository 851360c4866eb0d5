"""``meshlb.grpc.insecure_channel`` and ``secure_channel`` over a real mesh: what a program writes, to what a server sees."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

import meshlb.grpc
from meshlb._proto import echo_pb2_grpc
from meshlb.config import Config
from meshlb.errors import ConfigError, TargetError
from meshlb.grpc.channel import Channel
from meshlb.mesh import Mesh
from tests.support.channels import PATIENCE_S, EchoServer, echo_servers, eventually, request, unused_port


@pytest.fixture
def servers() -> Iterator[list[EchoServer]]:
    with echo_servers(3) as served:
        yield served


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with Mesh(environ={}) as one:
        yield one


def target_of(*servers: EchoServer) -> str:
    return "static:///" + ",".join(f"127.0.0.1:{server.port}" for server in servers)


def pool_of(mesh: Mesh) -> dict[str, Any]:
    (pool,) = mesh.status()["pools"].values()
    return dict(pool)


def test_one_changed_line_balances_every_call(servers: list[EchoServer], mesh: Mesh) -> None:
    """Stubs, options and errors are grpc's."""
    with meshlb.grpc.insecure_channel(target_of(*servers), [("grpc.lb_policy_name", "round_robin")], mesh=mesh) as channel:
        stub = echo_pb2_grpc.EchoStub(channel)
        stub.Get(request(), timeout=PATIENCE_S)
        eventually(lambda: pool_of(mesh)["views"][0]["picking_from"] == 3, "all are ready")
        assert Counter(stub.Get(request()).pod for _ in range(30)) == {"pod-0": 10, "pod-1": 10, "pod-2": 10}
        assert pool_of(mesh)["policy"] == "round_robin"


def test_channels_of_one_target_share_a_pool(servers: list[EchoServer], mesh: Mesh) -> None:
    """One brain: the second one finds everything known."""
    with (
        meshlb.grpc.insecure_channel(target_of(*servers), mesh=mesh) as first,
        meshlb.grpc.insecure_channel(target_of(*servers), mesh=mesh) as second,
    ):
        for channel in (first, second):
            echo_pb2_grpc.EchoStub(channel).Get(request(), timeout=PATIENCE_S)
        assert len(pool_of(mesh)["views"]) == 2


def test_a_secure_channel_verifies_the_target(mesh: Mesh) -> None:
    """The address itself, where the target is one."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    pair = (certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())
    server = EchoServer("pod-0", credentials=grpc.ssl_server_credentials([pair]))
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with meshlb.grpc.secure_channel(target_of(server), credentials, mesh=mesh) as channel:
        assert echo_pb2_grpc.EchoStub(channel).Get(request(), timeout=PATIENCE_S).pod == "pod-0"
    server.stop()


@pytest.mark.parametrize("environ", [{"MESHLB_MODE": "off"}, {"MESHLB_MODE": "off:localhost"}])
def test_the_operator_turns_it_off(environ: dict[str, str]) -> None:
    """grpc's own channel for the original name, with the options as they were, whatever meshlb thinks of them."""
    with echo_servers(1) as (server,), Mesh(environ=environ) as mesh:
        options = [("grpc.lb_policy_name", "grpclb")]
        with meshlb.grpc.insecure_channel(f"localhost:{server.port}", options, mesh=mesh) as channel:
            assert not isinstance(channel, Channel)
            assert echo_pb2_grpc.EchoStub(channel).Get(request(), timeout=PATIENCE_S).pod == "pod-0"
        assert mesh.status()["pools"] == {}


def test_xds_goes_to_stock_grpc(mesh: Mesh) -> None:
    """Its control plane balances."""
    with meshlb.grpc.insecure_channel("xds:///orders", mesh=mesh) as channel:
        assert type(channel).__module__ == "grpc._channel"


@pytest.mark.parametrize("target", ["", "ftp://orders", "orders..shop", "static:///10.0.0.1"])
def test_a_bad_target_is_refused_where_it_is_named(mesh: Mesh, target: str) -> None:
    """With the place in it."""
    with pytest.raises(TargetError, match="offset"):
        meshlb.grpc.insecure_channel(target, mesh=mesh)


def test_credentials_that_are_none_are_refused(mesh: Mesh) -> None:
    """At once, not at the first call."""
    with pytest.raises(ConfigError, match=r"credentials=None: must be grpc\.ChannelCredentials"):
        meshlb.grpc.secure_channel("orders:443", None, mesh=mesh)  # type: ignore[arg-type]
    insecure = grpc.experimental.insecure_channel_credentials()
    with pytest.raises(ValueError, match="secure_channel cannot be called with insecure credentials"):
        meshlb.grpc.secure_channel("orders:443", insecure, mesh=mesh)


def test_a_policy_of_the_options_counts_as_an_argument(mesh: Mesh) -> None:
    """And a wrong one is refused where it is named."""
    with pytest.raises(ConfigError, match="no such policy"):
        meshlb.grpc.insecure_channel("orders:80", [("grpc.lb_policy_name", "grpclb")], mesh=mesh)


def test_replacing_grpcs_own_function_does_not_turn_in_circles(
    servers: list[EchoServer], mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program may put ours into grpc's place; our own parts are still grpc's."""
    monkeypatch.setattr(grpc, "insecure_channel", lambda target, *args: meshlb.grpc.insecure_channel(target, *args, mesh=mesh))
    with grpc.insecure_channel(target_of(*servers)) as channel:
        assert isinstance(channel, Channel)
        assert echo_pb2_grpc.EchoStub(channel).Get(request(), timeout=PATIENCE_S).pod


def test_an_unreachable_endpoint_says_so(mesh: Mesh) -> None:
    """The transport's own words, with the address, in bounded time."""
    port = unused_port()
    with meshlb.grpc.insecure_channel(f"127.0.0.1:{port}", config=Config(connect_timeout_s=0.5), mesh=mesh) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            echo_pb2_grpc.EchoStub(channel).Get(request())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert f"127.0.0.1:{port}" in caught.value.details()
        assert "refused" in caught.value.details()


def test_a_bug_of_ours_is_counted_in_the_status(servers: list[EchoServer], mesh: Mesh) -> None:
    """The call goes to the target as grpc alone would have sent it."""

    class Broken:
        def pick(self, info: Any, now_s: float) -> Any:
            raise ZeroDivisionError("a bug")

    with meshlb.grpc.insecure_channel(f"127.0.0.1:{servers[0].port}", mesh=mesh) as channel:
        stub = echo_pb2_grpc.EchoStub(channel)
        assert stub.Get(request(), timeout=PATIENCE_S).pod == "pod-0"
        view = stub.Get.connections.view
        view.picker = Broken()
        assert [stub.Get(request(), timeout=PATIENCE_S).pod for _ in range(3)] == ["pod-0"] * 3
        ((kind, count),) = mesh.status()["internal_errors"].items()
        assert "ZeroDivisionError" in kind
        assert count == 3


def test_importing_it_brings_no_asyncio_half_and_no_discovery() -> None:
    """``meshlb.grpc.aio`` comes when it is named, kubernetes when something asks for a Service."""
    program = """
import sys, meshlb.grpc
for name in ("meshlb.grpc.aio", "kubernetes", "dns", "opentelemetry", "tenacity"):
    assert name not in sys.modules, name
assert meshlb.grpc.aio.insecure_channel
assert set(meshlb.grpc.__all__) <= set(dir(meshlb.grpc)), dir(meshlb.grpc)
try:
    meshlb.grpc.nothing
except AttributeError as error:
    assert "nothing" in str(error)
else:
    raise AssertionError
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
