"""The DNS resolver against the fake cluster's DNS server over real sockets, in virtual time; and once with the real thread."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from meshlb.core.scheduler import Scheduler
from meshlb.errors import ServiceNotFoundError
from meshlb.resolve.dns import DnsResolver, lookup
from meshlb.resolve.dns_client import DnsClient
from meshlb.resolve.lookup import Found, Lookup
from meshlb.runtime.loop import Loop
from meshlb.testing.dns_server import DnsServer
from meshlb.testing.dns_zone import Zone
from meshlb.testing.loop import ManualLoop
from meshlb.testing.loop_thread import LoopThread
from tests.support.listeners import Recorder

HOST = "orders.shop.svc.cluster.local"
JITTER_S = 0.5 + 0.001  # a tenth of the TTL of 5 s that the server gives


@pytest.fixture
def server() -> Iterator[DnsServer]:
    thread = LoopThread("test-dns")
    server = DnsServer(thread, host="127.0.0.1", zone=Zone("cluster.local", {}, ttl_s=5))
    yield server
    server.stop()
    thread.close()


def started(server: DnsServer, scheduler: Scheduler) -> tuple[DnsResolver, Recorder]:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    recorder = Recorder()
    resolver = DnsResolver(HOST, 50051, scheduler=scheduler, rng=random.Random(seed), nameservers=(server.address,))
    scheduler.call_soon(lambda: resolver.start(recorder))
    return resolver, recorder


def test_a_scale_up_is_seen_within_the_ttl_and_its_jitter(server: DnsServer) -> None:
    """What stock gRPC never sees: a healthy channel learns of new pods."""
    server.add(HOST, ["10.0.0.1"])
    loop = ManualLoop()
    _, recorder = started(server, loop)
    loop.run_until_idle()
    assert recorder.hosts == ["10.0.0.1"]
    server.add(HOST, ["10.0.0.1", "10.0.0.2", "10.0.0.3"], ttl_s=5)
    loop.advance(5.0 + JITTER_S)
    assert recorder.hosts == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


def test_a_scale_down_is_seen_after_two_polls(server: DnsServer) -> None:
    """And not after one."""
    server.add(HOST, ["10.0.0.1", "10.0.0.2"])
    loop = ManualLoop()
    _, recorder = started(server, loop)
    loop.run_until_idle()
    server.add(HOST, ["10.0.0.1"])
    loop.advance(5.0 + JITTER_S)
    assert recorder.hosts == ["10.0.0.1", "10.0.0.2"]
    loop.advance(5.0 + JITTER_S)
    assert recorder.hosts == ["10.0.0.1"]


@pytest.mark.parametrize("fault", ["SERVFAIL", "REFUSED", "stopped"])
def test_no_fault_of_the_server_ever_empties_the_set(server: DnsServer, fault: str) -> None:
    """An hour of it: the pods are kept, the questions become rare, and the recovery is seen."""
    server.add(HOST, ["10.0.0.1"])
    loop = ManualLoop()
    _, recorder = started(server, loop)
    loop.run_until_idle()
    server.stop() if fault == "stopped" else server.fail(fault)
    loop.advance(3600.0)
    assert recorder.hosts == ["10.0.0.1"]
    assert len(recorder.errors) < 3600 / 27 + 10
    server.start() if fault == "stopped" else server.recover()
    server.add(HOST, ["10.0.0.2"])
    loop.advance(33.0 + 6.0)
    assert recorder.hosts == ["10.0.0.2"]


def test_no_such_name_for_less_than_the_grace_keeps_the_set_and_longer_empties_it(server: DnsServer) -> None:
    """A headless Service without a ready pod is NXDOMAIN: believed after 60 s of nothing else."""
    server.add(HOST, ["10.0.0.1"])
    loop = ManualLoop()
    _, recorder = started(server, loop)
    loop.run_until_idle()
    server.remove(HOST)
    loop.advance(55.0)
    assert recorder.hosts == ["10.0.0.1"]
    server.add(HOST, ["10.0.0.1"])
    loop.advance(10.0)
    server.remove(HOST)
    loop.advance(59.0)
    assert recorder.hosts == ["10.0.0.1"]
    loop.advance(10.0)
    assert recorder.hosts == []
    assert recorder.sets[-1].note == "NXDOMAIN for 60 s"
    server.add(HOST, ["10.0.0.5"])
    loop.advance(5.0 + JITTER_S)
    assert recorder.hosts == ["10.0.0.5"]


def test_an_unknown_name_is_an_error_that_says_what_was_answered(server: DnsServer) -> None:
    """Never seen is unknown, not empty."""
    loop = ManualLoop()
    _, recorder = started(server, loop)
    loop.advance(120.0)
    assert recorder.hosts is None
    assert isinstance(recorder.errors[0], ServiceNotFoundError)
    assert str(recorder.errors[0]) == f"{HOST}:50051: no source knows its endpoints (dns: NXDOMAIN)"


def test_an_answer_too_long_for_a_datagram_comes_whole(server: DnsServer) -> None:
    """300 pods: cut over UDP, fetched over TCP."""
    server.add(HOST, [f"10.0.{number // 250}.{number % 250 + 1}" for number in range(300)])
    loop = ManualLoop()
    _, recorder = started(server, loop)
    loop.run_until_idle()
    assert recorder.hosts is not None
    assert len(recorder.hosts) == 300
    assert [query.transport for query in server.queries] == ["udp", "tcp"]


def test_a_one_shot_look_up_always_answers(server: DnsServer) -> None:
    """For the classifier and the chain: the answer on the discovery thread, an error as a FAILED one."""
    server.add(HOST, ["10.0.0.1"])
    loop, heard = ManualLoop(), []
    client = DnsClient(nameservers=[server.address])
    lookup(HOST, heard.append, client=client, scheduler=loop)
    lookup("nobody.shop.svc.cluster.local", heard.append, client=client, scheduler=loop)
    loop.run_until_idle()
    assert [found.found for found in heard] == [Found.ADDRESSES, Found.NO_NAME]
    assert (heard[0].addresses, heard[0].canonical_name) == (("10.0.0.1",), HOST)

    class Broken(DnsClient):
        def lookup(self, name: str, *, search: bool = False) -> Lookup:
            raise ImportError("no dnspython")

    lookup(HOST, heard.append, client=Broken(), scheduler=loop)
    loop.run_until_idle()
    assert (heard[-1].found, heard[-1].reason) == (Found.FAILED, "ImportError: no dnspython")


def test_in_real_time_on_the_real_thread(server: DnsServer) -> None:
    """The whole of it once: real thread, real helper, real clock, TTL of one second."""
    server.add(HOST, ["10.0.0.1"], ttl_s=1)
    loop = Loop()
    try:
        resolver, recorder = started(server, loop)
        wait_until(lambda: recorder.hosts == ["10.0.0.1"])
        server.add(HOST, ["10.0.0.1", "10.0.0.2"], ttl_s=1)
        changed_s = time.monotonic()
        wait_until(lambda: recorder.hosts == ["10.0.0.1", "10.0.0.2"])
        assert time.monotonic() - changed_s < 2.0
        loop.call_soon(resolver.close)
    finally:
        loop.stop()


def wait_until(condition, timeout_s: float = 10.0) -> None:  # type: ignore[no-untyped-def]
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
