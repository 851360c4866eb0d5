"""The real connections of a channel: opened when wanted, let go gently, shared, freed with their channel; how fast, at what price."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from dataclasses import replace
from typing import Any

import grpc
import pytest

from meshlb._proto import echo_pb2_grpc
from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import Endpoint
from meshlb.grpc import connection, stock
from meshlb.grpc.marks import endpoint_of
from meshlb.runtime.loop import Loop
from tests.support.channels import (
    PATIENCE_S,
    Bench,
    EchoServer,
    LooseBinding,
    bench,
    echo_servers,
    eventually,
    request,
    unused_port,
)
from tests.support.proxy import CountingProxy

# --- opening --------------------------------------------------------------------------------------------------------------------------


def test_nothing_starts_before_the_first_use() -> None:
    """A channel that is made and closed has no view, no thread, no connection."""
    with echo_servers(1) as servers, bench(*servers) as channel:
        assert channel.stub.Get is not None
        assert channel.connections.view is None
        assert channel.binding.pool.describe()["views"] == []
        assert not channel.binding.scheduler.alive


def test_a_new_endpoint_takes_calls_within_milliseconds() -> None:
    """From the update to the picker, connecting included; the best of several, since the machine is shared."""
    with echo_servers(6) as servers, bench(servers[0]) as channel:
        channel.ready(1)
        view = channel.connections.open()
        assert view is not None
        took_s = []
        for count in range(2, 7):
            threading.Event().wait(0.6)  # let the scanner fall asleep
            started_s = time.monotonic()
            channel.binding.update(servers[:count])
            while view.describe()["picking_from"] < count:
                assert time.monotonic() - started_s < PATIENCE_S
                threading.Event().wait(0.0005)  # lets the other threads run: a busy loop would hold each of them up for 5 ms
            took_s.append(time.monotonic() - started_s)
        assert min(took_s) < 0.02, took_s


def test_a_new_endpoint_takes_no_call_before_it_is_connected() -> None:
    """One that cannot be connected never gets any while another is there."""
    with echo_servers(1) as servers, bench(*servers) as channel:
        channel.ready(1)
        channel.binding.update([*servers, Endpoint(host="127.0.0.1", port=unused_port(), name="nobody")])
        for _ in range(50):
            assert channel.stub.Get(request()).pod == "pod-0"
        assert {sub.endpoint.name: sub.started for sub in channel.binding.subchannels} == {"pod-0": 50, "nobody": 0}


def test_many_endpoints_are_connected_in_batches() -> None:
    """More than the queue lets connect at once; all get ready."""
    with echo_servers(1) as (server,):
        endpoints = [Endpoint(host=f"127.0.0.{number}", port=unused_port()) for number in range(1, 31)]
        with bench(server, *endpoints) as channel:
            channel.ready(1)
            view = channel.connections.open()
            assert view is not None
            failed = Connectivity.TRANSIENT_FAILURE
            dead = [sub for sub in channel.binding.subchannels if sub.endpoint in endpoints]
            eventually(lambda: all(view.state_of(sub) is failed for sub in dead), "all were tried")
            assert len(channel.connections.links) == 31


def test_an_endpoint_that_comes_back_takes_calls_again() -> None:
    """The connection is made anew without a call having to try."""
    with echo_servers(2) as servers, bench(*servers) as channel:
        channel.ready(2)
        servers[0].stop()
        eventually(lambda: _picking_from(channel) == 1, "the loss is seen")
        servers[0].start()
        channel.ready(2)


def _picking_from(channel: Bench) -> int:
    view = channel.connections.open()
    assert view is not None
    return int(view.describe()["picking_from"])


# --- letting go -----------------------------------------------------------------------------------------------------------------------


def test_a_removed_endpoint_finishes_what_it_has() -> None:
    """No new call, the stream goes on to its end, then the connection is freed."""
    with echo_servers(2) as servers, bench(*servers) as channel:
        channel.ready(2)
        stream = channel.stub.Watch(request(count=20, interval_s=0.02))
        first = next(stream)
        (leaving,) = (server for server in servers if server.name == first.pod)
        (staying,) = (server for server in servers if server is not leaving)
        channel.binding.update([staying])
        eventually(lambda: len(channel.connections.links) == 1, "it is let go")
        assert {channel.stub.Get(request()).pod for _ in range(10)} == {staying.name}
        assert len(list(stream)) == 19
        assert stream.code() is grpc.StatusCode.OK
        eventually(lambda: not channel.connections._table.draining, "nothing keeps it")


def test_the_connection_to_a_removed_endpoint_is_closed_when_it_is_idle() -> None:
    """Stubs that have used it do not keep it."""
    with echo_servers(2) as servers:
        proxy = CountingProxy(servers[0].port)
        with bench(proxy.endpoint(), servers[1]) as channel:
            channel.ready(2)
            assert {channel.stub.Get(request()).pod for _ in range(4)} == {"pod-0", "pod-1"}
            assert len(list(channel.stub.Watch(request(count=1)))) + len(list(channel.stub.Watch(request(count=1)))) == 2
            channel.binding.update(servers[1:])
            eventually(lambda: gc.collect() is not None and proxy.closed, "it is closed")
        proxy.close()


def test_an_endpoint_that_comes_back_while_it_drains_is_taken_up_again() -> None:
    """The stream goes on, over the same connection as new calls."""
    with echo_servers(2) as servers:
        proxy = CountingProxy(servers[0].port)
        with bench(proxy.endpoint(), servers[1]) as channel:
            channel.ready(2)
            streams = [channel.stub.Watch(request(count=1000, interval_s=0.01)) for _ in range(2)]
            assert {next(stream).pod for stream in streams} == {"pod-0", "pod-1"}
            channel.binding.update(servers[1:])
            eventually(lambda: len(channel.connections._table.draining) == 1, "it drains")
            channel.binding.update([proxy.endpoint(), servers[1]])
            channel.ready(2)
            assert {channel.stub.Get(request()).pod for _ in range(4)} == {"pod-0", "pod-1"}
            assert not channel.connections._table.draining
            assert proxy.connections == 1
            for stream in streams:
                next(stream)
                stream.cancel()
        proxy.close()


def test_an_endpoint_whose_readiness_flaps_keeps_its_connection() -> None:
    """It gets no call meanwhile."""
    with echo_servers(2) as servers:
        proxy = CountingProxy(servers[0].port)
        with bench(proxy.endpoint(), servers[1]) as channel:
            channel.ready(2)
            channel.binding.update([replace(proxy.endpoint(), ready=False), servers[1]])
            assert {channel.stub.Get(request()).pod for _ in range(4)} == {"pod-1"}
            eventually(lambda: not channel.connections._turn_due, "the driver has looked")
            channel.binding.update([proxy.endpoint(), servers[1]])
            assert {channel.stub.Get(request()).pod for _ in range(4)} == {"pod-0", "pod-1"}
            assert (proxy.connections, proxy.closed) == (1, 0)
        proxy.close()


def test_blocking_calls_on_a_removed_endpoint_finish() -> None:
    """Removal is no reason to fail."""
    with echo_servers(1) as (old,), echo_servers(1) as (new,), bench(old) as channel:
        channel.ready(1)
        replies: list[Any] = []
        call = threading.Thread(target=lambda: replies.append(channel.stub.Get(request("slow", delay_s=0.3))))
        call.start()
        eventually(lambda: channel.binding.in_flight == 1, "it is on its way")
        channel.binding.update([new])
        call.join(PATIENCE_S)
        assert [reply.payload for reply in replies] == ["slow"]


def test_closing_ends_calls_on_removed_endpoints_too() -> None:
    """They are this channel's own."""
    with echo_servers(2) as servers, bench(servers[0]) as channel:
        channel.ready(1)
        stream = channel.stub.Watch(request(count=1000, interval_s=0.05))
        next(stream)
        channel.binding.update([servers[1]])
        eventually(lambda: channel.connections._table.draining, "it drains")
        channel.channel.close()
        with pytest.raises(grpc.RpcError):
            list(stream)
        assert stream.code() is grpc.StatusCode.CANCELLED
        assert "Channel closed!" in stream.details()


def test_closing_one_channel_leaves_the_other_alone() -> None:
    """Though they share a pool and connections."""
    with echo_servers(1) as servers, bench(*servers) as first:
        second = Bench(first.binding)
        first.ready(1)
        second.ready(1)
        stream = second.stub.Watch(request(count=5, interval_s=0.02))
        next(stream)
        first.channel.close()
        assert len(list(stream)) == 4
        assert second.stub.Get(request()).pod == "pod-0"
        second.channel.close()


def test_a_forgotten_channel_is_freed_with_its_view_and_connections() -> None:
    """Nothing but the user holds it: not the pool, not the discovery thread, not grpc."""
    with echo_servers(3) as servers:
        binding = LooseBinding()
        binding.update(servers)
        channel = Bench(binding)
        channel.ready(3)
        assert channel.stub.Get(request()).pod
        assert channel.stub.Get.future(request()).result().pod
        assert len(list(channel.stub.Watch(request(count=2)))) == 2
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        freed = [weakref.ref(channel.connections), weakref.ref(channel.connections.open())]
        del channel
        eventually(lambda: gc.collect() is not None and not any(ref() for ref in freed), "it is freed")
        assert binding.pool.describe()["views"] == []
        if before:
            eventually(lambda: len(os.listdir("/proc/self/fd")) <= before - 3, "its sockets are closed")
        binding.scheduler.stop()


def test_a_stub_keeps_its_channel_alive() -> None:
    """People keep only the stub."""
    with echo_servers(1) as servers:
        binding = LooseBinding()
        binding.update(servers)
        stub = echo_pb2_grpc.EchoStub(Bench(binding).channel)
        gc.collect()
        assert [stub.Get(request()).pod for _ in range(3)] == ["pod-0"] * 3
        stub.Get.connections.close()
        binding.scheduler.stop()


# --- sharing --------------------------------------------------------------------------------------------------------------------------


def test_equal_channels_share_connections() -> None:
    """Two channels to a Service cost one connection an endpoint."""
    with echo_servers(1) as (server,):
        proxy = CountingProxy(server.port)
        with bench(proxy.endpoint("uid")) as first:
            second = Bench(first.binding)
            for channel in (first, second):
                channel.ready(1)
                assert channel.stub.Get(request()).pod == "pod-0"
            assert proxy.connections == 1
            second.channel.close()
        proxy.close()


def test_the_connections_of_a_cluster_ip_are_separate() -> None:
    """kube-proxy chooses a pod a connection: k of them must be k sockets."""
    with echo_servers(1) as (server,):
        proxy = CountingProxy(server.port)
        with bench(*(proxy.endpoint(f"clusterip/{slot}.0") for slot in range(4))) as channel:
            channel.ready(4)
            assert proxy.connections == 4
        proxy.close()


def test_the_fallback_is_used_when_no_endpoint_can_be_connected() -> None:
    """Endpoints that all refuse are no reason to fail while the ClusterIP works."""
    with echo_servers(1) as (server,):
        virtual = Endpoint(host="127.0.0.1", port=server.port, uid="clusterip/0.0", name="ClusterIP #0")
        binding = LooseBinding()
        binding.update([Endpoint(host="127.0.0.1", port=unused_port())], fallback=[virtual])
        with bench(binding=binding) as channel:
            reply, call = channel.stub.Get.with_call(request(), timeout=PATIENCE_S)
            assert reply.pod == "pod-0"
            assert endpoint_of(call) == virtual


# --- what it costs --------------------------------------------------------------------------------------------------------------------


def test_no_thread_of_ours_a_endpoint() -> None:
    """One discovery thread, whatever the number of endpoints; blocking calls need no other."""
    with echo_servers(8) as servers:
        before = {thread.name for thread in threading.enumerate()}
        with bench(*servers) as channel:
            channel.ready(8)
            for _ in range(16):
                channel.stub.Get(request())
            new = [thread.name for thread in threading.enumerate() if thread.name not in before and "Pool" not in thread.name]
            assert new == ["meshlb-discovery"]


def test_an_idle_channel_is_looked_at_twice_a_second() -> None:
    """Calls change nothing in that, since they look for themselves; twenty times a second while somebody waits for news."""
    with echo_servers(1) as servers, bench(*servers) as channel:
        connections = channel.connections
        channel.ready(1)
        eventually(lambda: connections._pace_s() == connection.SCAN_S, "nothing happens")
        channel.stub.Get(request())
        assert connections._pace_s() == connection.SCAN_S
        future = grpc.channel_ready_future(channel.channel)
        eventually(lambda: connections._pace_s() == connection.AWAITED_SCAN_S, "somebody wants to know")
        future.cancel()
        eventually(lambda: connections._pace_s() == connection.SCAN_S, "and no more")


def test_without_the_private_look_at_a_state_the_public_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grpcio that hides it costs threads, not calls."""

    class Hidden(grpc.Channel):  # type: ignore[misc]
        def __init__(self, inner: grpc.Channel) -> None:
            self._inner = inner

        def __getattribute__(self, name: str) -> Any:
            if name == "_channel":
                raise AttributeError(name)
            if name in ("_inner", "__class__", "__dict__"):
                return object.__getattribute__(self, name)
            return getattr(object.__getattribute__(self, "_inner"), name)

    for name in ("unary_unary", "unary_stream", "stream_unary", "stream_stream", "subscribe", "unsubscribe", "close"):
        setattr(Hidden, name, lambda self, *args, _name=name, **kwargs: getattr(self._inner, _name)(*args, **kwargs))
    Hidden.__abstractmethods__ = frozenset()
    original = stock.open_channel
    monkeypatch.setattr(stock, "open_channel", lambda *arguments: Hidden(original(*arguments)))
    with echo_servers(2) as servers, bench(*servers) as channel:
        channel.ready(2)
        assert {channel.stub.Get(request()).pod for _ in range(4)} == {"pod-0", "pod-1"}
        servers[0].stop()
        eventually(lambda: _picking_from(channel) == 1, "the loss is seen")


def test_a_closed_mesh_leaves_a_channel_what_it_has() -> None:
    """Discovery ended; the endpoints that are known still take calls."""
    with echo_servers(2) as servers:
        binding = LooseBinding(loop=Loop())
        binding.update(servers)
        channel = Bench(binding)
        channel.ready(2)
        binding.scheduler.stop()
        assert {channel.stub.Get(request()).pod for _ in range(4)} == {"pod-0", "pod-1"}
        assert channel.stub.Get.future(request()).result().pod
        stream = channel.stub.Watch(request(count=2))
        assert len(list(stream)) == 2
        del stream
        channel.idle()
        channel.channel.close()


def test_servers_may_be_many_and_calls_from_many_threads() -> None:
    """Counts are exact afterwards, whatever came and went meanwhile."""
    with echo_servers(4, workers=32) as servers, bench(*servers) as channel:
        channel.ready(4)
        errors: list[BaseException] = []

        def load(seed: int) -> None:
            try:
                for turn in range(40):
                    if (turn + seed) % 4 == 0:
                        channel.stub.Get.future(request()).result(PATIENCE_S)
                    elif (turn + seed) % 4 == 1:
                        list(channel.stub.Watch(request(count=2)))
                    else:
                        channel.stub.Get(request(), timeout=PATIENCE_S)
            except BaseException as error:  # noqa: BLE001
                errors.append(error)

        threads = [threading.Thread(target=load, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for turn in range(20):
            channel.binding.update(servers[turn % 3 :])
            threading.Event().wait(0.01)
        for thread in threads:
            thread.join(3 * PATIENCE_S)
        assert errors == []


def test_a_server_of_this_suite_listens_where_it_says() -> None:
    """The port is taken once."""
    with echo_servers(1) as (server,), pytest.raises(RuntimeError):
        EchoServer("second", port=server.port)
