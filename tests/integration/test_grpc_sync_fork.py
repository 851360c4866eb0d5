"""A forked child uses an inherited channel as if it were new, and the parent does not notice.

Each case runs in a process of its own: a fork in the test runner would copy its threads and sockets. The server is in the runner.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshlb.grpc import stock
from tests.support.channels import EchoServer, echo_servers

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

PRELUDE = """
import os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of every fork with threads
from meshlb.core.endpoint import Endpoint
from meshlb.runtime.fork import on_fork_child
from tests.support.channels import Bench, LooseBinding, eventually, request

binding = LooseBinding()
pods = [Endpoint(host="127.0.0.1", port=int(port)) for port in sys.argv[1:]]
on_fork_child(binding.start_afresh)  # as the mesh does
binding.update(pods)
channel = Bench(binding)

def fork(work):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            binding.update(pods)  # discovery's answer in the child
            work()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return pid

def join(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def get():
    assert channel.stub.Get(request(), timeout=10).pod

def all_kinds():
    get()
    assert channel.stub.Get.future(request(), timeout=10).result().pod
    assert len(list(channel.stub.Watch(request(count=2), timeout=10))) == 2
    assert channel.stub.Collect(iter([request()]), timeout=10).pod
    assert len(list(channel.stub.Chat(iter([request()]), timeout=10))) == 1
    channel.idle()
    assert binding.internal_errors == []
"""

CASES = {
    "before the first use": "join(fork(all_kinds)); all_kinds()",
    "after the first use": "all_kinds(); join(fork(all_kinds)); all_kinds()",
    "twice": "get(); join(fork(lambda: (get(), join(fork(all_kinds)), get()))); all_kinds()",
    "several children at once": "get(); pids = [fork(all_kinds) for _ in range(4)]; [join(pid) for pid in pids]; all_kinds()",
    "while the discovery thread is inside grpc": """
import time
get()
inside = []
def slowly(look):
    def slow(connect):
        inside.append(True)
        time.sleep(0.02)
        inside.pop()
        return look(connect)
    return slow
for link in channel.connections.links.values():
    link.look = slowly(link.look)
def child():
    assert not inside
    all_kinds()
for _ in range(5):
    channel.connections.wake()
    eventually(lambda: inside, "it looks")
    join(fork(child))
""",
    "while a call waits in the parent": """
binding.update([])
results = []
waiting = threading.Thread(target=lambda: results.append(channel.stub.Get(request(), timeout=10, wait_for_ready=True)))
waiting.start()
eventually(lambda: channel.connections._waiters, "it waits")
join(fork(all_kinds))
binding.update(pods)
waiting.join()
assert results[0].pod
""",
    "with a subscription": """
import grpc
states = []
channel.channel.subscribe(states.append, try_to_connect=True)
eventually(lambda: states and states[-1] is grpc.ChannelConnectivity.READY, "ready")
def child():
    del states[:]
    all_kinds()
    channel.channel.subscribe(states.append)
    eventually(lambda: states and states[-1] is grpc.ChannelConnectivity.READY, "ready in the child")
join(fork(child))
""",
    "and keeps its connections": """
get()
def established():
    rows = [line.split() for name in ("tcp", "tcp6") for line in open("/proc/net/" + name).readlines()[1:]]
    ports = tuple(f":{pod.port:04X}" for pod in pods)
    return {row[1] for row in rows if row[2].endswith(ports) and row[3] == "01"}
eventually(lambda: len(established()) == 2, "they are connected")
before = established()
import gc, weakref
inherited = [weakref.ref(link.channel) for link in channel.connections.links.values()]
def child():
    all_kinds()
    gc.collect()
    assert all(ref() is not None for ref in inherited), "freeing one would close it"
join(fork(child))
assert before <= established(), (before, established())
""",
    "while its connections are renewed": """
import gc, meshlb, weakref
binding.config = meshlb.Config(connection={"max_age_s": 1})
channel = Bench(binding)
get()  # no stream: a thread that reads one is inside gRPC, which then leaves the child unprepared
def replaced():
    return [channel.connections.describe(sub)["replaced"] for sub in binding.pool.snapshot.listed]
eventually(lambda: replaced() == [1, 1], "all are replaced")
inherited = [weakref.ref(link.channel) for link in (*channel.connections._renewals.all(), *channel.connections.links.values())]
def child():
    all_kinds()
    gc.collect()
    assert replaced() == [0, 0]
    assert all(ref() is not None for ref in inherited), "freeing one would close it"
join(fork(child))
all_kinds()
""",
    "after a bug of ours": """
class Broken:
    def pick(self, info, now_s):
        raise ZeroDivisionError
binding.stock_target = f"127.0.0.1:{pods[0].port}"
def get_over_stock():
    channel.connections.open().picker = Broken()
    get()
    assert binding.internal_errors.pop()
    return channel.stub.Get._stock[0]
stock = get_over_stock()
def child():
    assert get_over_stock() is not stock
join(fork(child))
""",
    "closed in the child": "get(); join(fork(channel.channel.close)); all_kinds()",
    "closed before": """
channel.channel.close()
def child():
    try:
        get()
    except ValueError:
        return
    raise AssertionError
join(fork(child))
""",
}


@pytest.fixture(scope="module")
def servers() -> Iterator[list[EchoServer]]:
    with echo_servers(2) as served:
        yield served


# Before grpcio 1.80 one of grpc's own threads has to poll (see ``meshlb.grpc.stock``), and gRPC hangs in children forked with that.
BEFORE_USE = ("before the first use", "while a call waits in the parent", "closed before")


if not os.path.exists("/proc/net/tcp"):
    del CASES["and keeps its connections"]


@pytest.mark.parametrize("name", [name for name in CASES if stock.RUNS_BY_ITSELF or name in BEFORE_USE])
def test_a_channel_survives_a_fork(servers: list[EchoServer], name: str) -> None:
    """In the child and in the parent. Where a thread happened to be inside gRPC at that moment, gRPC says that it leaves its child
    unprepared, which is then seldom a working one: that says nothing about ours."""
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + CASES[name] + "\nos._exit(0)", *(str(server.port) for server in servers)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if "skipping fork() handlers" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
