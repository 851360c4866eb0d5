"""Targets that are no Services, the operator's switch, and a bug of ours: calls go where stock gRPC would send them, or better."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import meshlb
import meshlb.grpc
import meshlb.grpc.aio
from meshlb._proto import echo_pb2_grpc
from meshlb.balance.config import PolicyConfig
from meshlb.balance.p2c import P2C
from meshlb.core.clock import Rng
from meshlb.core.policy import LoadMetric, Picker, Policy
from meshlb.core.subchannel import Subchannel
from meshlb.mesh import Mesh
from meshlb.testing import FakeCluster
from meshlb.testing.pod_server import EchoService
from tests.support.channels import echo_servers, eventually
from tests.support.programs import PATIENCE_S, Program


@contextlib.contextmanager
def echo_at(address: str, name: str) -> Iterator[int]:
    """A server on this address, in gRPC's notation; gives its port."""
    workers = futures.ThreadPoolExecutor(16)
    server = grpc.server(workers, options=[("grpc.so_reuseport", 0)])
    echo_pb2_grpc.add_EchoServicer_to_server(EchoService(pod=name, version="v1"), server)
    port = server.add_insecure_port(address)
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()
        workers.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def calls_to(target: str, **settings: Any) -> Iterator[Program]:
    """A program without a cluster."""
    made = Program(target, **settings)
    try:
        yield made
    finally:
        made.close()


def assert_all_answer(target: str, names: set[str], **settings: Any) -> None:
    with calls_to(target, **settings) as client:
        with client.traffic() as traffic:
            traffic.go_on(1)
            client.await_connected(len(names))
            traffic.await_pods(names, calls=30)
        assert traffic.failed == []


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback")
@pytest.mark.parametrize("form", ["static:///[::1]:{0},[::1]:{1}", "ipv6:[::1]:{0},[::1]:{1}", "ipv6:%5B::1%5D:{0},%5B::1%5D:{1}"])
def test_ipv6_addresses_are_called_in_every_form(form: str) -> None:
    """Two servers on ::1, balanced, by both schemes."""
    with echo_at("[::1]:0", "a") as first, echo_at("[::1]:0", "b") as second:
        assert_all_answer(form.format(first, second), {"a", "b"})


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
def test_a_unix_socket_is_called(tmp_path: Path, form: str) -> None:
    """By path, as with stock gRPC."""
    path = tmp_path / "echo.sock"
    with echo_at(f"unix:{path}", "socket"):
        assert_all_answer(form.format(path), {"socket"})


@pytest.mark.parametrize("form", ["localhost:{}", "dns:///localhost:{}", "127.0.0.1:{}", "ipv4:127.0.0.1:{}"])
def test_an_ordinary_name_is_called_as_the_system_resolves_it(form: str) -> None:
    """One server behind names that no cluster knows."""
    with echo_servers(1) as (server,):
        assert_all_answer(form.format(server.port), {server.name})


def test_a_name_of_a_given_nameserver_is_polled_and_followed() -> None:
    """dns://server/name: an address that is added gets calls, one that is gone loses them, within a few TTLs and no failed call."""
    with FakeCluster() as cluster, echo_at("127.0.0.11:0", "a") as port, echo_at(f"127.0.0.12:{port}", "b"):
        cluster.dns.add("db.example.com", ["127.0.0.11"], ttl_s=1)
        with calls_to(f"dns://{cluster.nameserver}/db.example.com:{port}") as client, client.traffic() as traffic:
            traffic.await_pods({"a"}, calls=20)
            cluster.dns.add("db.example.com", ["127.0.0.11", "127.0.0.12"], ttl_s=1)
            client.await_connected(2)
            traffic.await_pods({"a", "b"}, calls=20)
            cluster.dns.add("db.example.com", ["127.0.0.12"], ttl_s=1)
            client.await_usable([f"127.0.0.12:{port}"])
            traffic.await_pods({"b"}, calls=20)
        assert traffic.failed == []


@pytest.mark.parametrize("mode", ["off", "off:localhost:{port}", "off:localhost"])
def test_the_operator_turns_meshlb_off_and_the_stock_channel_calls(mode: str) -> None:
    """Wholly, or for the one target; calls go on, and the mesh knows nothing of them."""
    with echo_servers(1) as (server,):
        environ = {"MESHLB_MODE": mode.format(port=server.port)}
        with calls_to(f"localhost:{server.port}", environ=environ) as client:
            with client.traffic() as traffic:
                traffic.go_on(20)
            assert traffic.failed == []
            assert client.mesh.status()["pools"] == {}
            sync, _ = client.clients
            assert not isinstance(sync.channel, meshlb.grpc.Channel)


def test_turning_off_one_target_leaves_the_others_on() -> None:
    """``off:<target>`` names what it turns off."""
    with echo_servers(1) as (server,), calls_to(f"localhost:{server.port}", environ={"MESHLB_MODE": "off:orders.shop"}) as client:
        assert [sample.error for sample in client.call()] == [None, None]
        assert len(client.mesh.status()["pools"]) == 1


# --- a bug of ours --------------------------------------------------------------------------------------------------------------


class BrokenPicker:
    def pick(self, info: object, now_s: float, /) -> Subchannel | None:
        raise ZeroDivisionError("a bug in a picker")


class BrokenPolicy:
    name = "broken"

    def __init__(self, inner: Policy) -> None:
        self._inner = inner

    def new_metric(self, now_s: float, /) -> LoadMetric:
        return self._inner.new_metric(now_s)

    def new_picker(self, subchannels: Any, rng: Rng, /) -> Picker:
        return BrokenPicker()


@dataclass(frozen=True, kw_only=True)
class Broken(PolicyConfig):
    """As p2c, but for its picker."""

    name = "broken"

    def build(self, rng: Rng) -> Policy:
        return BrokenPolicy(P2C().build(rng))


def test_a_bug_in_a_picker_is_counted_logged_once_and_costs_no_call(caplog: pytest.LogCaptureFixture) -> None:
    """Calls go out over the stock channel to the original name; ``status()`` says how many."""
    with echo_servers(1) as (server,), caplog.at_level(logging.ERROR, logger="meshlb"):
        policy: PolicyConfig = Broken()
        with calls_to(f"localhost:{server.port}", config=meshlb.Config(policy=policy)) as client:
            samples = [sample for _ in range(20) for sample in client.call(timeout=PATIENCE_S)]
            streams = [one.stream(count=3).result() for one in client.clients]
            assert [sample for sample in (*samples, *streams) if not sample.ok] == []
            assert {sample.pod for sample in samples} == {server.name}
            counted = client.mesh.status()["internal_errors"]
            assert [kind for kind in counted if "ZeroDivisionError" not in kind] == []
            assert sum(counted.values()) >= 30  # not every call: the first find nobody ready and wait
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1, [record.getMessage() for record in errors]
    assert f"localhost:{server.port}" in errors[0].getMessage()


def test_channels_of_a_closed_mesh_say_that_it_is_closed() -> None:
    """A channel that was never used cannot start any more; its error names the target and the reason."""
    mesh = Mesh(environ={})
    channel = meshlb.grpc.insecure_channel("localhost:1", mesh=mesh)
    mesh.close()
    stub = echo_pb2_grpc.EchoStub(channel)
    with pytest.raises(meshlb.ClosedError, match=r"localhost:1.*closed"):
        stub.Get(None, timeout=1)
    eventually(lambda: mesh.status()["pools"] == {}, "nothing was made")
    channel.close()
