"""Several channels, loops and threads to one target: one pool, exact counts, and nobody's close is anybody else's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import grpc
import pytest

import meshlb.grpc
import meshlb.grpc.aio
from meshlb._proto import echo_pb2, echo_pb2_grpc
from meshlb.testing import FakeCluster, FakeService
from tests.support.channels import eventually
from tests.support.programs import PATIENCE_S, AioClient, Client, SyncClient, program

LOOPS = 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def orders(cluster: FakeCluster) -> FakeService:
    return cluster.service("orders", replicas=2)


def test_channels_to_one_target_share_a_pool_and_closing_one_ends_only_its_own_calls(
    cluster: FakeCluster, orders: FakeService
) -> None:
    """Four channels, two spellings, one pool and one watch; the calls of the channels that stay go on."""
    with program(cluster, "orders.shop:grpc") as client:
        threads = SyncClient(meshlb.grpc.insecure_channel("orders:grpc", mesh=client.mesh))
        loop = AioClient(meshlb.grpc.aio.insecure_channel("orders:grpc", mesh=client.mesh))
        others: list[Client] = [threads, loop]
        try:
            with client.traffic() as traffic:
                traffic.go_on(1)
                assert [other.call().error for other in others] == [None, None]
                assert len(client.mesh.status()["pools"]) == 1
                assert len(client.pool["views"]) == 4
                client.await_source("kubernetes")
                eventually(lambda: cluster.api.open_watches == 1, "one watch for all of them", PATIENCE_S)
                kept = [one.stream(count=30, interval_s=0.02) for one in client.clients]
                ended = [one.stream(count=1000, interval_s=0.02) for one in others]
                assert all(stream.first.wait(PATIENCE_S) for stream in (*kept, *ended))
                threads.channel.close()
                loop.run(loop.channel.close())
                for stream in ended:
                    sample = stream.result(5.0)
                    assert sample.code is grpc.StatusCode.CANCELLED or isinstance(sample.error, asyncio.CancelledError), sample
                assert [stream.result().error for stream in kept] == [None, None]
                assert all(len(stream.sample.replies) == 30 for stream in kept)
                traffic.go_on(20)
            assert traffic.failed == []
            eventually(lambda: len(client.pool["views"]) == 2, "the closed ones' views are gone")
        finally:
            for other in others:
                other.close()


def test_a_pod_busy_by_one_channel_is_avoided_by_another(cluster: FakeCluster, orders: FakeService) -> None:
    """Load is the pool's: what one channel has in flight moves the other's picks."""
    with program(cluster, "orders.shop:grpc", settings={"policy": "least_request"}) as client:
        sync, aio = client.clients
        assert [sample.error for sample in client.call()] == [None, None]
        client.await_source("kubernetes")
        client.await_connected(2)
        slow = sync.future(delay_s=1.5)
        eventually(lambda: client.in_flight == 1, "it is with a pod")
        busy = next(endpoint["name"] for endpoint in client.usable if endpoint["in_flight"])
        picked = {aio.call().pod for _ in range(20)}
        assert busy not in picked
        assert slow.result().pod == busy
        client.assert_idle()


def test_one_asyncio_channel_serves_several_loops_in_several_threads_at_once(cluster: FakeCluster, orders: FakeService) -> None:
    """Each loop has connections of its own over one pool; a loop that ends takes nothing of the others along."""
    with program(cluster, "orders.shop:grpc", kinds=[]) as made:
        channel = meshlb.grpc.aio.insecure_channel("orders.shop:grpc", mesh=made.mesh)  # outside of any loop
        stub = echo_pb2_grpc.EchoStub(channel)
        errors: list[BaseException] = []
        pods: list[set[str]] = []
        together = threading.Barrier(LOOPS, timeout=PATIENCE_S)

        async def one() -> str:
            return str((await stub.Get(echo_pb2.EchoRequest(delay_s=0.002), timeout=PATIENCE_S)).pod)

        async def many(calls: int) -> set[str]:
            seen: set[str] = set()
            while len(seen) < 2 or calls > 0:
                seen |= set(await asyncio.gather(*(one() for _ in range(4))))
                calls -= 4
            return seen

        def run(number: int) -> None:
            try:
                together.wait()
                pods.append(asyncio.run(asyncio.wait_for(many(40 * (number + 1)), 2 * PATIENCE_S)))
            except BaseException as error:  # noqa: BLE001 - shown below
                errors.append(error)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(LOOPS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * PATIENCE_S)
        assert errors == []
        assert pods == [{pod.name for pod in orders.pods}] * LOOPS
        assert len(made.mesh.status()["pools"]) == 1
        made.assert_idle()
        asyncio.run(channel.close())


def test_many_threads_on_one_blocking_channel_are_counted_exactly(cluster: FakeCluster, orders: FakeService) -> None:
    """Hundreds of calls at once: each is in flight once, and none is left over."""
    with program(cluster, "orders.shop:grpc", kinds=["sync"]) as client:
        (sync,) = client.clients
        assert sync.call().ok
        client.await_source("kubernetes")
        client.await_connected(2)
        running = [sync.start(delay_s=1.0) for _ in range(60)]
        eventually(lambda: client.in_flight == 60, "all are in flight")
        loads = [endpoint["in_flight"] for endpoint in client.usable]
        assert [sample.error for sample in (one.result() for one in running)] == [None] * 60
        assert min(loads) >= 20, loads
        client.assert_idle()
