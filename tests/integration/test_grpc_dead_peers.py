"""Peers that die without a word, sync and asyncio alike: a frozen process, a vanished node; and servers that do not like to be pinged."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from meshlb._proto import echo_pb2_grpc
from meshlb.core.endpoint import Endpoint
from meshlb.testing.pod_server import EchoService
from tests.support import aio
from tests.support.channels import LooseBinding, bench, echo_servers, request
from tests.support.pod_process import pod_process

Run = Callable[[Coroutine[Any, Any, None]], None]
ROOT = Path(__file__).resolve().parents[2]
EVERY_SECOND = [("grpc.keepalive_time_ms", 1000)]  # the user's options win: the config allows no less than 10 s
needs_a_frozen_process = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")


# --- a frozen process -----------------------------------------------------------------------------------------------------------------------


@needs_a_frozen_process
def test_calls_leave_a_frozen_process() -> None:
    """Its kernel acknowledges everything. A call without a deadline ends, or moves on where it may, and no other goes there until the
    process is back."""
    binding = LooseBinding(
        connection={"ping_timeout_s": 1}, retry={"methods": {"/meshlb.testing.v1.Echo/Get": {"idempotent": True}}}
    )
    with (
        pod_process("frozen") as (process, frozen),
        echo_servers(1) as servers,
        bench(frozen, *servers, binding=binding, options=EVERY_SECOND) as channel,
    ):
        channel.ready(2)
        process.send_signal(signal.SIGSTOP)
        began_s = time.monotonic()
        calls = [channel.stub.Get.future(request()) for _ in range(4)]
        streams = [channel.stub.Watch(request(count=1)) for _ in range(2)]
        assert {call.result(timeout=10).pod for call in calls} == {"pod-0"}
        took_s = time.monotonic() - began_s
        assert 0.9 < took_s < 4.0
        assert sorted(_end_of(stream) for stream in streams) == ["OK", "UNAVAILABLE"]
        assert {channel.stub.Get(request()).pod for _ in range(10)} == {"pod-0"}
        assert channel.connections.open().describe()["picking_from"] == 1  # type: ignore[union-attr]
        process.send_signal(signal.SIGCONT)
        channel.ready(2)
        assert {channel.stub.Get(request()).pod for _ in range(10)} == {"pod-0", "frozen"}


def _end_of(stream: Any) -> str:
    with contextlib.suppress(grpc.RpcError):
        list(stream)
    return str(stream.code().name)


@needs_a_frozen_process
def test_asyncio_calls_leave_a_frozen_process(run: Run) -> None:
    """The same in an event loop."""

    async def case() -> None:
        binding = LooseBinding(
            connection={"ping_timeout_s": 1}, retry={"methods": {"/meshlb.testing.v1.Echo/Get": {"idempotent": True}}}
        )
        with pod_process("frozen") as (process, frozen), echo_servers(1) as servers:
            async with aio.bench(frozen, *servers, binding=binding, options=EVERY_SECOND) as channel:
                await channel.ready(2)
                process.send_signal(signal.SIGSTOP)
                began_s = time.monotonic()
                calls = [channel.stub.Get(request()) for _ in range(4)]
                streams = [channel.stub.Watch(request(count=1)) for _ in range(2)]
                assert {reply.pod for reply in await asyncio.gather(*calls)} == {"pod-0"}
                assert 0.9 < time.monotonic() - began_s < 4.0
                ends = await asyncio.gather(*[stream.read() for stream in streams], return_exceptions=True)
                assert sorted(str(getattr(end, "pod", None) or end.code().name) for end in ends) == ["UNAVAILABLE", "pod-0"]
                assert {(await channel.stub.Get(request())).pod for _ in range(10)} == {"pod-0"}
                process.send_signal(signal.SIGCONT)
                await channel.ready(2)

    run(case())


@needs_a_frozen_process
def test_without_pings_a_call_without_a_deadline_waits_for_ever() -> None:
    """What ``off`` means, which is what grpc does: the same call is still there when the other test's was long over."""
    with pod_process("frozen") as (process, frozen), bench(frozen, binding=LooseBinding(connection="off")) as channel:
        channel.ready(1)
        assert channel.stub.Get(request()).pod == "frozen"
        process.send_signal(signal.SIGSTOP)
        call = channel.stub.Get.future(request())
        with pytest.raises(grpc.FutureTimeoutError):
            call.result(timeout=5)
        call.cancel()


# --- a vanished node --------------------------------------------------------------------------------------------------------------------------

# In a network namespace of its own: a second one with three servers, each behind a link of its own, that are cut at the far end. Prints
# what became of calls, and after how long.
VANISH = """
import asyncio, contextlib, json, pathlib, subprocess, sys, threading, time
import grpc
from tests.support import aio
from tests.support.channels import LooseBinding, bench, echo_servers, eventually, request
from tests.support.pod_process import pod_process

def ip(*words, there=False):
    subprocess.run([*(ENTER if there else ()), "ip", *words], check=True)

other = subprocess.Popen(["unshare", "-n", "cat"], stdin=subprocess.PIPE)
ENTER = ("nsenter", "-t", str(other.pid), "-n")
eventually(lambda: pathlib.Path(f"/proc/{other.pid}/ns/net").readlink() != pathlib.Path("/proc/self/ns/net").readlink(), "it is apart")
ip("link", "set", "lo", "up")
ip("link", "add", "here", "type", "veth", "peer", "name", "there", "netns", str(other.pid))
ip("addr", "add", "10.250.0.1/24", "dev", "here")
ip("link", "set", "here", "up")
ip("addr", "add", "10.250.0.2/24", "dev", "there", there=True)
ip("link", "set", "there", "up", there=True)
cut_s = []
cut = threading.Event()
waiting = threading.Barrier(4)
said = {}

def since():
    return round(time.monotonic() - cut_s[0], 2)

def idempotent():
    return {"methods": {"/meshlb.testing.v1.Echo/Get": {"idempotent": True}}}

def sync(name, gone, servers, **settings):
    with bench(gone, *servers, binding=LooseBinding(**settings)) as channel:
        channel.ready(2)
        assert {channel.stub.Get(request()).pod for _ in range(4)} == {"gone", "pod-0"}
        waiting.wait()
        cut.wait()
        calls = [channel.stub.Get.future(request(), timeout=8) for _ in range(4)]
        ends = [call.result().pod if call.exception() is None else call.code().name for call in calls]
        said[name] = {"ends": sorted(set(ends)), "after_s": since()}
        if name != "off":
            assert {channel.stub.Get(request(), timeout=1).pod for _ in range(10)} == {"pod-0"}
        said[name]["picking_from"] = channel.connections.open().describe()["picking_from"]

async def with_asyncio(name, gone, servers, **settings):
    async with aio.bench(gone, *servers, binding=LooseBinding(**settings)) as channel:
        await channel.ready(2)
        assert {(await channel.stub.Get(request())).pod for _ in range(4)} == {"gone", "pod-0"}
        await asyncio.to_thread(waiting.wait)
        await asyncio.to_thread(cut.wait)
        calls = [channel.stub.Get(request(), timeout=8) for _ in range(4)]
        ends = [(await call).pod if (await call.code()) is grpc.StatusCode.OK else (await call.code()).name for call in calls]
        said[name] = {"ends": sorted(set(ends)), "after_s": since()}
        assert {(await channel.stub.Get(request(), timeout=1)).pod for _ in range(10)} == {"pod-0"}
        said[name]["picking_from"] = channel.driver.view.describe()["picking_from"]

with echo_servers(1) as servers, pod_process("gone", "10.250.0.2", within=ENTER) as (_, gone):
    threads = [
        threading.Thread(target=sync, args=("sync", gone, servers)),
        threading.Thread(target=sync, args=("off", gone, servers), kwargs={"connection": "off"}),
        threading.Thread(target=lambda: asyncio.run(with_asyncio("asyncio", gone, servers, retry=idempotent()))),
    ]
    for thread in threads:
        thread.start()
    waiting.wait(20)
    ip("link", "set", "there", "down", there=True)
    cut_s.append(time.monotonic())
    cut.set()
    for thread in threads:
        thread.join()
print(json.dumps(said))
other.stdin.close()
other.wait()
"""


def _can_separate() -> bool:
    """May this process make network namespaces?"""
    tools = all(map(shutil.which, ("unshare", "nsenter", "ip")))
    return tools and subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _can_separate(), reason="needs unshare, nsenter, ip and the right to make network namespaces")
def test_the_next_call_on_an_idle_connection_finds_that_its_node_has_vanished() -> None:
    """Packets are dropped without a word. Calls end within the keepalive timeout and a little, or move on where they may, and no other
    goes there; with ``off`` they all wait for their deadline, and the endpoint is still in use."""
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", VANISH],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    print(said)
    assert said["sync"]["ends"] == ["UNAVAILABLE", "pod-0"]
    assert said["asyncio"]["ends"] == ["pod-0"]
    for name in ("sync", "asyncio"):
        assert 2.5 < said[name]["after_s"] < 6.0, said
        assert said[name]["picking_from"] == 1
    assert said["off"]["ends"] == ["DEADLINE_EXCEEDED", "pod-0"]
    assert said["off"]["picking_from"] == 2


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs TCP_USER_TIMEOUT")
@pytest.mark.parametrize(
    ("said", "expected_ms"),
    [
        ("on", 3000),
        ("off", 0),
        ({"keepalive_timeout_s": 7}, 7000),
        ({"keepalive_time_s": 0}, 3000),
        ({"keepalive_timeout_s": 0}, 20_000),
        ({"keepalive_time_s": 0, "keepalive_timeout_s": 0}, 0),
    ],
)
def test_the_kernel_is_told_when_to_give_up(said: Any, expected_ms: int) -> None:
    """On the socket itself; without pings, too."""
    with echo_servers(1) as (server,), bench(server, binding=LooseBinding(connection=said)) as channel:
        channel.ready(1)
        assert _user_timeouts_ms(server.port) == [expected_ms]


def _user_timeouts_ms(port: int) -> list[int]:
    """Of this process's connections to a port."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as copy:
                if copy.family != socket.AF_UNIX and copy.getpeername()[1] == port:
                    found.append(copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
        except OSError:  # no socket, not connected, or gone
            continue
    return found


# --- servers that do not like to be pinged --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ping_ms", "tolerated"), [(1550, True), (300, False)])
def test_a_silent_stream_outlives_our_pings_and_calls_outlive_a_server_that_hates_them(ping_ms: int, tolerated: bool) -> None:
    """Everything at a two hundredth of the defaults, 310 s between pings and 300 s that a server asks for: a silent stream goes on. Pinged
    more often, a server ends the connection (ENHANCE_YOUR_CALM); that costs what it carried, and the next call gets another."""
    options = [("grpc.http2.min_ping_interval_without_data_ms", 1500), ("grpc.so_reuseport", 0)]
    server = grpc.server(futures.ThreadPoolExecutor(8), options=options)
    echo_pb2_grpc.add_EchoServicer_to_server(EchoService(pod="calm", version="v1"), server)
    endpoint = Endpoint(host="127.0.0.1", port=server.add_insecure_port("127.0.0.1:0"), name="calm")
    server.start()
    # Without the throttle of C-core (two pings, then one a minute) all comes to light in seconds.
    pings = [("grpc.keepalive_time_ms", ping_ms), ("grpc.http2.max_pings_without_data", 0)]
    try:
        with bench(endpoint, options=pings) as channel:
            channel.ready(1)
            stream = channel.stub.Watch(request(count=2, interval_s=8.0))
            if tolerated:
                assert len(list(stream)) == 2
            else:
                with pytest.raises(grpc.RpcError) as ended:
                    list(stream)
                assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
                assert "Too many pings" in ended.value.details() or "too_many_pings" in ended.value.details()
            assert channel.stub.Get(request(), timeout=5).pod == "calm"
            channel.ready(1)
    finally:
        server.stop(None)
