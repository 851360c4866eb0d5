"""Deadlines, cancelling, closing, exiting and forgetting, all while calls wait or run: what grpc promises holds, and nothing stays."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from meshlb.testing import FakeCluster, FakeService
from tests.support.channels import eventually
from tests.support.programs import PATIENCE_S, AioClient, Client, program

DEADLINE_S = 0.3
SLACK_S = 0.4  # a busy machine
EXIT_S = 1.0  # design: an exit never waits more than a second
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop") as cluster:
        cluster.service("orders", replicas=2)
        yield cluster


@pytest.fixture
def cluster(whole: FakeCluster) -> Iterator[FakeCluster]:
    yield whole
    whole.api.recover()
    whole.dns.recover()


@pytest.fixture
def orders(cluster: FakeCluster) -> FakeService:
    return next(service for service in cluster.services if service.name == "orders")


def silence(cluster: FakeCluster) -> None:
    """Nobody answers and nobody refuses."""
    cluster.api.stall()
    cluster.dns.fail("TIMEOUT")


@pytest.mark.parametrize("wait_for_ready", [None, True])
def test_a_deadline_holds_while_nothing_is_known(cluster: FakeCluster, wait_for_ready: bool | None) -> None:
    """DEADLINE_EXCEEDED after 300 ms, for calls that wait for the first answer, in every form."""
    silence(cluster)
    with program(cluster, "orders.shop.svc:grpc") as client:
        arguments: dict[str, Any] = {"timeout": DEADLINE_S, "wait_for_ready": wait_for_ready}
        running = [
            way(**arguments)
            for one in client.clients
            for way in (one.start, one.future, lambda one=one, **a: one.stream(count=1, **a))
        ]
        for sample in (one.result() for one in running):
            assert sample.code is grpc.StatusCode.DEADLINE_EXCEEDED, sample
            assert DEADLINE_S - 0.02 < sample.took_s < DEADLINE_S + SLACK_S, sample
        client.assert_idle()


def test_a_deadline_counts_the_waiting_and_the_work_together(cluster: FakeCluster, orders: FakeService) -> None:
    """Half of it is waited for the sources, and what is left is all that the pod gets."""
    silence(cluster)
    with program(cluster, "orders.shop.svc:grpc") as client:
        running = [one.start(timeout=1.0, delay_s=30.0) for one in client.clients]
        eventually(lambda: time.monotonic() - running[0].sample.start_s > 0.3, "a third is over")
        cluster.api.recover()
        for sample in (one.result() for one in running):
            assert sample.code is grpc.StatusCode.DEADLINE_EXCEEDED, sample
            assert 0.95 < sample.took_s < 1.0 + SLACK_S, sample
            assert sample.endpoint is not None
        client.assert_idle()


def test_a_call_that_waits_can_be_cancelled(cluster: FakeCluster) -> None:
    """A future, a stream and an asyncio call that wait for the first answer end with CANCELLED when they are cancelled."""
    silence(cluster)
    with program(cluster, "orders.shop.svc:grpc") as client:
        running = [
            way for one in client.clients for way in (one.future(wait_for_ready=True), one.stream(count=1, wait_for_ready=True))
        ]
        eventually(lambda: len(client.pool.get("views", ())) == len(client.clients), "both kinds wait")
        assert not any(one.done for one in running)
        for one in running:
            one.cancel()
        for sample in (one.result() for one in running):
            assert_cancelled(sample)
        cluster.api.recover()
        cluster.dns.recover()
        assert [sample.error for sample in client.call()] == [None, None]
        client.assert_idle()


def assert_cancelled(sample: Any) -> None:
    error = sample.error
    ways = (grpc.FutureCancelledError, asyncio.CancelledError)
    assert isinstance(error, ways) or sample.code is grpc.StatusCode.CANCELLED, sample


def close(client: Client) -> None:
    if isinstance(client, AioClient):
        client.run(client.channel.close())
    else:
        client.channel.close()


@pytest.mark.parametrize("while_they", ["wait", "run"])
def test_closing_the_channel_ends_its_calls_as_grpc_does(cluster: FakeCluster, orders: FakeService, while_they: str) -> None:
    """CANCELLED for what is under way, ValueError and UsageError with grpc's words for what comes later; nothing hangs."""
    if while_they == "wait":
        silence(cluster)
    with program(cluster, "orders.shop.svc:grpc") as client:
        if while_they == "run":
            assert [sample.error for sample in client.call()] == [None, None]
        running = [
            way
            for one in client.clients
            for way in (
                one.start(wait_for_ready=True, delay_s=30.0),
                one.future(wait_for_ready=True, delay_s=30.0),
                one.stream(wait_for_ready=True, count=2, interval_s=30.0),
            )
        ]
        if while_they == "run":
            eventually(lambda: client.in_flight == len(running), "all are with a pod")
        else:
            eventually(lambda: len(client.pool.get("views", ())) == len(client.clients), "both kinds wait")
        begun_s = time.monotonic()
        for one in client.clients:
            close(one)
        for sample in (one.result(5.0) for one in running):
            assert_cancelled(sample)
        assert time.monotonic() - begun_s < 2.0
        sync, aio = client.call()
        assert isinstance(sync.error, ValueError)
        assert "Cannot invoke RPC" in str(sync.error)
        assert isinstance(aio.error, grpc.aio.UsageError)
        client.assert_idle()


def test_closing_the_mesh_under_traffic_leaves_the_connections_as_they_are(cluster: FakeCluster, orders: FakeService) -> None:
    """Discovery ends, its watch too; channels keep the endpoints that they know and no call fails."""
    with program(cluster, "orders.shop:grpc") as client:
        with client.traffic() as traffic:
            traffic.go_on(20)
            client.await_source("kubernetes")
            client.await_connected(2)
            eventually(lambda: cluster.api.open_watches == 1, "it watches")
            client.mesh.close()
            eventually(lambda: cluster.api.open_watches == 0, "the watch ended")
            start_s = traffic.go_on(60)
        assert traffic.failed == []
        assert set(traffic.shares(start_s)) == {pod.name for pod in orders.pods}


@pytest.mark.parametrize("wait_for_ready", [None, True])
def test_closing_the_mesh_ends_calls_that_wait_for_a_first_answer(cluster: FakeCluster, wait_for_ready: bool | None) -> None:
    """Nobody will answer them any more: they fail within their own limits instead of hanging."""
    silence(cluster)
    with program(cluster, "orders.shop.svc:grpc", settings={"first_answer_timeout_s": 1.0}) as client:
        running = [one.start(wait_for_ready=wait_for_ready) for one in client.clients]
        eventually(lambda: len(client.pool.get("views", ())) == len(client.clients), "both kinds wait")
        client.mesh.close()
        for sample in (one.result(5.0) for one in running):
            assert sample.code is grpc.StatusCode.UNAVAILABLE, sample
            assert sample.took_s < 1.0 + 2 * SLACK_S


def test_closing_the_mesh_ends_calls_that_wait_for_a_connection(cluster: FakeCluster) -> None:
    """Known, and none reachable; with ``wait_for_ready`` and without a deadline they would wait for ever."""
    service = cluster.service("dead", endpoints=["127.9.9.1:9", "127.9.9.2:9"])
    with program(cluster, "dead.shop:grpc", settings={"fallback": {"enabled": False}}) as client:
        running = [
            start
            for one in client.clients
            for start in (one.start(wait_for_ready=True), one.future(wait_for_ready=True), one.stream(count=1, wait_for_ready=True))
        ]
        eventually(lambda: len(client.pool.get("endpoints", ())) == 2, "known")
        client.mesh.close()
        for sample in (one.result(5.0) for one in running):
            assert sample.code is grpc.StatusCode.UNAVAILABLE, sample
    service.delete()


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_a_forgotten_channel_frees_its_pool_and_ends_its_watch(cluster: FakeCluster, orders: FakeService, kind: str) -> None:
    """``del`` is enough: no ``close`` is needed for the pool to go, and with the last one of a namespace the watch."""
    eventually(lambda: cluster.api.open_watches == 0, "none of an earlier case", PATIENCE_S)
    with program(cluster, "orders.shop:grpc", kinds=[kind]) as made:
        assert [sample.error for sample in made.call()] == [None]
        made.await_source("kubernetes")
        eventually(lambda: cluster.api.open_watches == 1, "it watches")
        client = made.clients.pop()
        channel = weakref.ref(client.channel)
        loop = client.loop if isinstance(client, AioClient) else None
        del client

        def gone() -> bool:
            gc.collect()
            return channel() is None and made.mesh.status()["pools"] == {} and cluster.api.open_watches == 0

        try:
            eventually(gone, f"the channel, its pool and its watch: {made.mesh.status()}", PATIENCE_S)
        finally:
            if loop is not None:
                loop.call_soon_threadsafe(loop.stop)
                eventually(lambda: not loop.is_running(), "the loop ended")
                loop.close()


EXIT_SYNC = """
import sys, threading, time
import meshlb.grpc
from meshlb._proto import echo_pb2, echo_pb2_grpc
channel = meshlb.grpc.insecure_channel("orders.shop:grpc")
stub = echo_pb2_grpc.EchoStub(channel)
assert stub.Get(echo_pb2.EchoRequest(), timeout=20).pod
stream = stub.Watch(echo_pb2.EchoRequest(count=1000, interval_s=0.01))
next(stream)
futures = [stub.Get.future(echo_pb2.EchoRequest(delay_s=60)) for _ in range(3)]
threading.Thread(target=lambda: stub.Get(echo_pb2.EchoRequest(delay_s=60)), daemon=True).start()
waiting = echo_pb2_grpc.EchoStub(meshlb.grpc.insecure_channel("ghost.shop.svc:grpc"))
later = waiting.Get.future(echo_pb2.EchoRequest(), wait_for_ready=True)
"""

EXIT_ASYNC = """
import asyncio, sys, time
import meshlb.grpc.aio
from meshlb._proto import echo_pb2, echo_pb2_grpc
async def main():
    channel = meshlb.grpc.aio.insecure_channel("orders.shop:grpc")
    stub = echo_pb2_grpc.EchoStub(channel)
    assert (await stub.Get(echo_pb2.EchoRequest(), timeout=20)).pod
    stream = stub.Watch(echo_pb2.EchoRequest(count=1000, interval_s=0.01))
    await stream.read()
    calls = [stub.Get(echo_pb2.EchoRequest(delay_s=60)) for _ in range(3)]
    await asyncio.sleep(0)
    ghost = echo_pb2_grpc.EchoStub(meshlb.grpc.aio.insecure_channel("ghost.shop.svc:grpc"))
    later = ghost.Get(echo_pb2.EchoRequest(), wait_for_ready=True)
    await asyncio.sleep(0)
asyncio.run(main())
"""

ENDING = "\nprint('END', time.monotonic(), flush=True)\n"


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_an_interpreter_exits_at_once_and_silently_with_calls_in_flight(
    cluster: FakeCluster, orders: FakeService, kind: str
) -> None:
    """Streams, futures and waiting calls keep no process alive, and leave no traceback behind."""
    environ = {
        "PYTHONPATH": str(REPOSITORY),
        "PATH": "/usr/bin:/bin",
        "MESHLB_DISCOVERY_KUBECONFIG": cluster.kubeconfig,
        "MESHLB_DISCOVERY_NAMESERVERS": cluster.nameserver,
        "MESHLB_DISCOVERY_RESOLV_CONF": cluster.resolv_conf,
    }
    source = (EXIT_SYNC if kind == "sync" else EXIT_ASYNC) + ENDING
    done = subprocess.run([sys.executable, "-c", source], env=environ, capture_output=True, text=True, timeout=60, check=False)
    ended_s = time.monotonic()
    assert done.stderr == ""
    assert done.returncode == 0
    word, at_s = done.stdout.split()
    assert word == "END"
    assert ended_s - float(at_s) < EXIT_S + SLACK_S
