"""Connections that get too old, by our own clock or by the server's: renewed without a lost call, in blocking and threaded programs."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from tests.support.ageing import AGE, ageing, impatient_servers, proxied
from tests.support.channels import Bench, LooseBinding, bench, echo_servers, eventually, request
from tests.support.proxy import CountingProxy


@pytest.fixture
def proxies() -> Iterator[list[CountingProxy]]:
    """Two, each before a server of its own."""
    with proxied(2) as made:
        yield made


def renewing(*proxies: CountingProxy, **settings: Any) -> Any:
    """A channel that renews its connections every second or so."""
    return bench(binding=ageing(*proxies, **settings))


def described(channel: Bench) -> list[dict[str, Any]]:
    return [one["links"][0] for one in channel.binding.pool.describe()["endpoints"]]


class Load:
    """Threads that call without pause, and what failed for them; ``fewest`` is the least number of endpoints picked from."""

    def __init__(self, channel: Bench, threads: int = 3) -> None:
        self.calls = 0
        self.errors: list[BaseException] = []
        self.fewest = 1_000
        self._channel = channel
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        view = self._channel.connections.view
        assert view is not None
        while not self._over.is_set():
            try:
                self._channel.stub.Get(request(), timeout=5)
            except BaseException as error:  # noqa: BLE001
                self.errors.append(error)
            self.calls += 1
            self.fewest = min(self.fewest, view.describe()["picking_from"])

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def test_connections_are_renewed_under_load_without_a_lost_call(proxies: list[CountingProxy]) -> None:
    """Make before break: every endpoint stays ready all the while, its record goes on, and the old connections are closed."""
    with renewing(*proxies) as channel:
        channel.ready(2)
        started = sum(sub.started for sub in channel.binding.subchannels)
        with Load(channel) as load:
            eventually(lambda: all(proxy.connections >= 3 for proxy in proxies), "each is renewed twice")
        assert load.errors == []
        assert load.fewest == 2
        assert sum(sub.started for sub in channel.binding.subchannels) == started + load.calls
        assert sum(sub.failed for sub in channel.binding.subchannels) == 0
        eventually(lambda: all(proxy.alive <= 2 for proxy in proxies), "the old ones are closed")
        assert all(0 <= one["connected_for_s"] < 1.7 for one in described(channel))


def test_a_stream_finishes_on_the_connection_that_it_began_on(proxies: list[CountingProxy]) -> None:
    """It loses no message to two renewals, and then its connection goes."""
    with renewing(proxies[0]) as channel:
        channel.ready(1)
        stream = channel.stub.Watch(request(count=40, interval_s=0.1))
        messages = [next(stream)]
        eventually(lambda: described(channel)[0]["replaced"] == 1, "its connection is replaced")
        assert channel.stub.Get(request()).pod == "pod-0"
        messages += list(stream)
        assert [message.sequence for message in messages] == list(range(40))
        assert proxies[0].connections >= 3
        channel.idle()
        eventually(lambda: proxies[0].alive <= 2, "nothing keeps the old ones")


def test_a_stream_may_be_given_a_limit_and_a_unary_call_is_never_cut_short(proxies: list[CountingProxy]) -> None:
    """Both are on a connection that is replaced: the unary call ends well, and then, long after its grace, the stream with CANCELLED."""
    with renewing(proxies[0], max_age_grace_s=0.2) as channel:
        channel.ready(1)
        stream = channel.stub.Watch(request(count=1000, interval_s=0.05))
        call = channel.stub.Get.future(request(delay_s=2.5))
        with pytest.raises(grpc.RpcError) as ended:
            for _ in stream:
                assert not call.done() or call.result().pod == "pod-0"
        assert ended.value.code() is grpc.StatusCode.CANCELLED
        assert call.done()
        assert call.result().pod == "pod-0"
        channel.idle()
        assert sum(sub.failed for sub in channel.binding.subchannels) == 0


def test_a_successor_that_cannot_connect_changes_nothing(proxies: list[CountingProxy]) -> None:
    """The old connection serves for as long as it takes; status says that a new one is on its way."""
    with renewing(proxies[0]) as channel:
        channel.ready(1)
        proxies[0].close()
        eventually(lambda: described(channel)[0]["renewing"], "a successor is tried")
        with Load(channel, 1) as load:
            eventually(lambda: load.calls >= 50, "calls go on")
        assert (load.errors, load.fewest) == ([], 1)
        assert described(channel)[0]["connected_for_s"] > 0.8
        proxies[0].open()
        eventually(lambda: proxies[0].connections >= 2 and not described(channel)[0]["renewing"], "it takes over in the end")
        assert channel.stub.Get(request()).pod == "pod-0"


def test_closing_leaves_neither_successors_nor_replaced_connections(proxies: list[CountingProxy]) -> None:
    """In the middle of a renewal: one connection in use, one replaced that carries a stream, and one that cannot connect."""
    with renewing(proxies[0]) as channel:
        channel.ready(1)
        stream = channel.stub.Watch(request(count=1000, interval_s=0.05))
        eventually(lambda: described(channel)[0]["replaced"] == 1, "its connection is replaced")
        proxies[0].close()
        eventually(lambda: described(channel)[0]["renewing"], "the next successor is tried")
        channel.channel.close()
        with pytest.raises(grpc.RpcError) as ended:
            list(stream)
        assert ended.value.code() is grpc.StatusCode.CANCELLED
        eventually(lambda: proxies[0].alive == 0, "nothing is left")


def test_a_closed_mesh_leaves_a_renewal_as_it_is(proxies: list[CountingProxy]) -> None:
    """Nobody renews any more; calls and streams go on with what is connected, and closing finds all of it."""
    with renewing(proxies[0]) as channel:
        channel.ready(1)
        stream = channel.stub.Watch(request(count=18, interval_s=0.1))
        eventually(lambda: described(channel)[0]["replaced"] == 1, "its connection is replaced")
        channel.binding.scheduler.stop(1.0)
        assert channel.stub.Get(request()).pod == "pod-0"
        assert len(list(stream)) == 18
        assert described(channel)[0]["replaced"] == 1
        channel.channel.close()
        eventually(lambda: proxies[0].alive == 0, "nothing is left")


def test_the_connections_of_a_cluster_ip_are_renewed_by_discovery_alone(proxies: list[CountingProxy]) -> None:
    """Which does so anyway (``Fallback.max_age_s``), with a pod of kube-proxy's choice."""
    binding = LooseBinding(connection=AGE)
    with bench(proxies[0].endpoint("uid-0"), proxies[1].endpoint("clusterip/0.0"), binding=binding) as channel:
        channel.ready(2)
        eventually(lambda: proxies[0].connections >= 3, "the pod's connection is renewed twice")
        assert proxies[1].connections == 1


def test_an_endpoint_that_goes_takes_its_successor_with_it(proxies: list[CountingProxy]) -> None:
    """Its stream finishes all the same, on the connection that was replaced before."""
    with renewing(*proxies) as channel:
        channel.ready(2)
        streams = [channel.stub.Watch(request(count=18, interval_s=0.1)) for _ in range(2)]
        eventually(lambda: all(one["replaced"] for one in described(channel)), "both are replaced")
        proxies[0].close()
        eventually(lambda: described(channel)[0]["renewing"], "and the first is renewed again")
        channel.binding.update([proxies[1].endpoint("uid-1")])
        assert {channel.stub.Get(request()).pod for _ in range(4)} == {"pod-1"}
        assert [len(list(stream)) for stream in streams] == [18, 18]
        channel.idle()
        eventually(lambda: proxies[0].alive == 0, "nothing is left of it")


def test_a_channel_that_is_forgotten_while_it_renews_is_freed(proxies: list[CountingProxy]) -> None:
    """With the successor, and what it was to succeed."""
    binding = ageing(proxies[0])
    channel = Bench(binding)
    channel.ready(1)
    proxies[0].close()
    eventually(lambda channel=channel: described(channel)[0]["renewing"], "a successor is tried")
    freed = weakref.ref(channel.connections)
    del channel
    eventually(lambda: (gc.collect(), freed())[1] is None, "it is freed")
    eventually(lambda: proxies[0].alive == 0, "its connections are closed")
    binding.scheduler.stop(1.0)


def test_the_connections_of_one_process_are_not_renewed_in_step() -> None:
    """Twelve that were made together are renewed one after the other."""
    with echo_servers(1) as (server,):
        proxies = [CountingProxy(server.port) for _ in range(12)]
        with renewing(*proxies, max_age_jitter_ratio=0.5) as channel:
            channel.ready(12)
            at_s: dict[int, float] = {}

            def all_renewed() -> bool:
                for number, proxy in enumerate(proxies):
                    if proxy.connections >= 2:
                        at_s.setdefault(number, time.monotonic())
                return len(at_s) == 12

            eventually(all_renewed, "all were renewed once")
            assert max(at_s.values()) - min(at_s.values()) > 0.4
        for proxy in proxies:
            proxy.close()


def test_two_channels_renew_each_its_own(proxies: list[CountingProxy]) -> None:
    """They do not share connections, so that a new one is new."""
    with renewing(proxies[0]) as first, renewing(proxies[0]) as second:
        first.ready(1)
        second.ready(1)
        assert proxies[0].connections == 2


# --- the server's own age ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_a_server_that_ends_old_connections_costs_no_call(count: int) -> None:
    """``max_connection_age_ms`` at a second with little grace, GOAWAY after GOAWAY under load; streams end as the server says."""
    with impatient_servers(count) as endpoints, bench(*endpoints) as channel:
        channel.ready(count)
        began_s = time.monotonic()
        stream = channel.stub.Watch(request(count=1000, interval_s=0.02))
        with Load(channel) as load:
            with pytest.raises(grpc.RpcError) as ended:
                list(stream)
            eventually(lambda: time.monotonic() - began_s > 5.0, "some more GOAWAYs")
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert load.errors == []
        assert load.calls > 500
