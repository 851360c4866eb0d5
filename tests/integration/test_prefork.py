"""Servers that fork: a channel made at import serves every worker, whether or not the master used it.

Each case runs in processes of its own: a fork in the test runner would copy its threads and sockets. The upstream is one echo server.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshlb.testing import FakeCluster, FakeService

ROOT = Path(__file__).resolve().parents[2]

APP = """
import os, threading
import meshlb, meshlb.grpc
from meshlb._proto import echo_pb2, echo_pb2_grpc

channel = meshlb.grpc.insecure_channel(os.environ["TARGET"])      # at import: in the master with --preload
stub = echo_pb2_grpc.EchoStub(channel)
MASTER = os.getpid()
if os.environ.get("USE_IN_MASTER"):
    stub.Get(echo_pb2.EchoRequest(payload="master"), timeout=10)

def app(environ, start_response):
    pod = stub.Get(echo_pb2.EchoRequest(payload="x"), timeout=10).pod
    in_flight = sum(one["in_flight"] for pool in meshlb.status()["pools"].values() for one in pool["endpoints"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {pod} {in_flight}".encode()]
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop") as one:
        one.service("orders", replicas=2)
        yield one


@pytest.fixture
def environ(cluster: FakeCluster) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TARGET": "orders.shop:grpc",
        "MESHLB_DISCOVERY_KUBECONFIG": cluster.kubeconfig,
        "MESHLB_DISCOVERY_NAMESERVERS": cluster.nameserver,
        "MESHLB_DISCOVERY_RESOLV_CONF": cluster.resolv_conf,
    }


def orders(cluster: FakeCluster) -> FakeService:
    return cluster.services[0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def gunicorn(directory: Path, environ: dict[str, str], *arguments: str) -> Iterator[str]:
    (directory / "served.py").write_text(APP)
    port = free_port()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "gunicorn",
            "-w",
            "2",
            "-b",
            f"127.0.0.1:{port}",
            "--chdir",
            str(directory),
            *arguments,
            "served:app",
        ],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            output, _ = process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            pytest.fail(f"gunicorn did not end in 15 s:\n{output}")
        assert "Traceback" not in output, output
        assert "SIGSEGV" not in output, output


def get(url: str, deadline_s: float) -> list[str]:
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return str(response.read(), "ascii").split()
        except (ConnectionError, urllib.error.URLError):
            if time.monotonic() > deadline_s:
                raise


@pytest.mark.parametrize("used_in_master", [False, True], ids=["unused in the master", "used in the master"])
@pytest.mark.parametrize("preload", [False, True], ids=["no preload", "preload"])
@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_gunicorn_workers_are_balanced(
    cluster: FakeCluster, environ: dict[str, str], tmp_path: Path, worker: str, preload: bool, used_in_master: bool
) -> None:
    """Every worker answers, each over both pods, and nothing stays in flight."""
    if used_in_master:
        environ["USE_IN_MASTER"] = "1"
    arguments = ["-k", worker, *(["--preload"] if preload else []), *(["--threads", "4"] if worker == "gthread" else [])]
    seen: dict[str, set[str]] = {}
    with gunicorn(tmp_path, environ, *arguments) as url:
        deadline_s = time.monotonic() + 30
        while len(seen) < 2 or any(len(pods) < 2 for pods in seen.values()):
            assert time.monotonic() < deadline_s, f"after 30 s: {seen}"
            pid, pod, in_flight = get(url, deadline_s)
            seen.setdefault(pid, set()).add(pod)
            assert worker == "gthread" or in_flight == "0"
    names = {pod.name for pod in orders(cluster).pods}
    assert all(pods == names for pods in seen.values())


def run(program: str, environ: dict[str, str], timeout_s: float = 60) -> str:
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its children too: one that hangs in gRPC would spin for ever
        stdout, stderr = process.communicate()
        pytest.fail(f"it did not end in {timeout_s:g} s:\n{stdout}{stderr}")
    assert process.returncode == 0, stdout + stderr
    return stdout


FORK = """
import os, sys, threading, time
import meshlb, meshlb.grpc
from meshlb._proto import echo_pb2, echo_pb2_grpc

stub = echo_pb2_grpc.EchoStub(meshlb.grpc.insecure_channel(os.environ["TARGET"]))
call = lambda: stub.Get(echo_pb2.EchoRequest(payload="x"), timeout=10).pod
if {used}: call()
ended, failed = threading.Event(), []
def traffic():
    while not ended.is_set():
        try: call()
        except BaseException as error: failed.append(error)
threads = [threading.Thread(target=traffic) for _ in range({threads})]
for thread in threads: thread.start()
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            pods, until_s = set(), time.monotonic() + 20
            while len(pods) < 2 and time.monotonic() < until_s:
                pods.add(call())
            left = sum(one["in_flight"] for pool in meshlb.status()["pools"].values() for one in pool["endpoints"])
            code = 0 if len(pods) == 2 and left == 0 else 3
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            code = 4
        os._exit(code)
    children.append(pid)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
ended.set()
for thread in threads: thread.join()
call()
assert not failed, failed
assert codes == [0, 0, 0], codes
print("done")
"""


@pytest.mark.parametrize("used", [False, True], ids=["unused before", "used before"])
def test_a_forked_child_starts_clean(environ: dict[str, str], used: bool) -> None:
    """Children call over both pods on a channel that they inherited, and the parent goes on."""
    assert "done" in run(FORK.format(used=used, threads=0), environ)


AIO_FORK = """
import asyncio, os, sys
import meshlb, meshlb.grpc.aio
from meshlb._proto import echo_pb2, echo_pb2_grpc

async def once(channel):
    return (await echo_pb2_grpc.EchoStub(channel).Get(echo_pb2.EchoRequest(payload="x"), timeout=10)).pod

async def parent():
    channel = meshlb.grpc.aio.insecure_channel(os.environ["TARGET"])
    await once(channel)
    pid = os.fork()
    if pid == 0:
        os._exit(5)  # the child of a running loop is of no use to anyone; it only must not hang
    os.waitpid(pid, 0)
    return channel

loop = asyncio.new_event_loop()
channel = loop.run_until_complete(parent())
pid = os.fork()
if pid == 0:
    try:
        asyncio.new_event_loop().run_until_complete(once(channel))
    except meshlb.ForkError as error:
        print(error, flush=True)
        os._exit(0)
    except BaseException as error:
        print(repr(error), flush=True)
    os._exit(6)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
loop.run_until_complete(once(channel))
loop.run_until_complete(channel.close())
print("done")
"""


def test_an_asyncio_channel_says_so_in_a_child_whose_parent_had_live_ones(environ: dict[str, str]) -> None:
    """gRPC itself hangs there: a clear error at once instead, and the parent goes on."""
    output = run(AIO_FORK, environ)
    assert "fork" in output
    assert "done" in output


AIO_LATE = """
import asyncio, os, time
import meshlb.grpc.aio
from meshlb._proto import echo_pb2, echo_pb2_grpc

channel = meshlb.grpc.aio.insecure_channel(os.environ["TARGET"])   # outside a loop, before the fork, never used
pid = os.fork()
async def main():
    stub = echo_pb2_grpc.EchoStub(channel)
    pods, until_s = set(), time.monotonic() + 20
    while len(pods) < 2 and time.monotonic() < until_s:
        pods.add((await stub.Get(echo_pb2.EchoRequest(payload="x"), timeout=10)).pod)
    await channel.close()
    assert len(pods) == 2, pods
asyncio.run(main())
if pid == 0:
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
print("done")
"""


def test_an_asyncio_channel_made_before_the_fork_and_used_after_it_works(environ: dict[str, str]) -> None:
    """In the child and in the parent alike."""
    assert "done" in run(AIO_LATE, environ)


UVLOOP = """
import asyncio, os, time
import uvloop
import meshlb.grpc.aio
from meshlb._proto import echo_pb2, echo_pb2_grpc

async def main():
    async with meshlb.grpc.aio.insecure_channel(os.environ["TARGET"]) as channel:
        stub = echo_pb2_grpc.EchoStub(channel)
        pods, until_s = set(), time.monotonic() + 20
        while len(pods) < 2 and time.monotonic() < until_s:
            replies = await asyncio.gather(*(stub.Get(echo_pb2.EchoRequest(payload="x"), timeout=10) for _ in range(10)))
            pods |= {reply.pod for reply in replies}
        assert len(pods) == 2
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
print("done")
"""


def test_uvloop_works(environ: dict[str, str]) -> None:
    """Balanced calls on another event loop."""
    pytest.importorskip("uvloop")
    assert "done" in run(UVLOOP, environ)


GEVENT = """
import gevent.monkey; gevent.monkey.patch_all()
import grpc.experimental.gevent; grpc.experimental.gevent.init_gevent()
import gevent, os, time
import meshlb, meshlb.grpc
from meshlb._proto import echo_pb2, echo_pb2_grpc

try:
    with meshlb.grpc.insecure_channel(os.environ["TARGET"]) as channel:
        stub = echo_pb2_grpc.EchoStub(channel)
        pods, until_s = set(), time.monotonic() + 20
        while len(pods) < 2 and time.monotonic() < until_s:
            jobs = [gevent.spawn(lambda: stub.Get(echo_pb2.EchoRequest(payload="x"), timeout=10).pod) for _ in range(10)]
            gevent.joinall(jobs, raise_error=True)
            pods |= {job.value for job in jobs}
        assert len(pods) == 2
except meshlb.MeshError as error:
    assert "gevent" in str(error), error
print("done")
"""


def test_gevent_works_or_says_why_not(environ: dict[str, str]) -> None:
    """With everything patched and grpc's own gevent mode on."""
    pytest.importorskip("gevent")
    assert "done" in run(GEVENT, environ)
