"""asyncio channels and ``os.fork``: a clear error where gRPC itself would hang, and none where it would not.

Each case runs in a process of its own: a fork in the test runner would copy its threads and sockets. The server is in the runner.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.channels import EchoServer, echo_servers

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

PRELUDE = """
import asyncio, gc, os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of every fork with threads
import grpc.aio
import meshlb
from meshlb.core.endpoint import Endpoint
from meshlb.runtime.fork import on_fork_child
from tests.support.aio import Bench
from tests.support.channels import LooseBinding, request

binding = LooseBinding()
pods = [Endpoint(host="127.0.0.1", port=int(port)) for port in sys.argv[1:]]
on_fork_child(binding.start_afresh)  # as the mesh does
binding.update(pods)
channel = Bench(binding)

async def get(channel=channel):
    assert (await channel.stub.Get(request(), timeout=10)).pod

def refused(use=get):
    try:
        asyncio.run(use())
    except meshlb.ForkError as error:
        assert isinstance(error, RuntimeError) and "fork" in str(error)
    else:
        raise AssertionError("not refused")

def fork(work, crashes=0):
    pid = os.fork()
    if pid == 0:
        binding.update(pods)  # discovery's answer in the child
        work()
        sys.exit(0)  # as workers do: the interpreter ends, and nothing may hang or print there
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code in (-6, -11) and crashes:  # gRPC's own threads in the child; its own channels, made with our options, crash as often
        return fork(work, crashes - 1)
    assert code == 0, code
"""

CASES = {
    "never used": """
fork(lambda: asyncio.run(get()))
asyncio.run(get())
""",
    "live in the parent": """
loop = asyncio.new_event_loop()
loop.run_until_complete(get())
fork(refused)
loop.run_until_complete(get())
fork(lambda: fork(refused))
loop.run_until_complete(channel.channel.close())
""",
    "a new channel in such a child": """
loop = asyncio.new_event_loop()
loop.run_until_complete(get())
def child():
    async def use():
        await get(Bench(binding))
    refused(use)
fork(child)
loop.run_until_complete(channel.channel.close())
""",
    "inside a running loop": """
async def main():
    await get()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            channel.stub.Get(request())
        except meshlb.ForkError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    await get()
    await channel.channel.close()
asyncio.run(main())
""",
    "calls in flight in the parent": """
loop = asyncio.new_event_loop()
async def begin():
    await get()
    call = channel.stub.Get(request(delay_s=0.5))
    await asyncio.sleep(0.05)
    return call
call = loop.run_until_complete(begin())
fork(lambda: (refused(), os._exit(0)), crashes=5)  # an interpreter that frees an inherited call crashes in gRPC, with its own channels too
async def end():
    assert (await call).pod
    await channel.channel.close()
loop.run_until_complete(end())
""",
    "grpc's own channel live in the parent": """
loop = asyncio.new_event_loop()
async def stock():
    own = grpc.aio.insecure_channel(f"127.0.0.1:{sys.argv[1]}")
    await own.channel_ready()
    return own
own = loop.run_until_complete(stock())
fork(lambda: (refused(), os._exit(0)), crashes=5)  # what becomes of grpc's own in the child is grpc's business
loop.run_until_complete(own.close())
""",
    "closed and forgotten": """
async def once():
    async with Bench(binding).channel as used:
        await used.channel_ready()
asyncio.run(once())
gc.collect()
fork(lambda: asyncio.run(get()))
asyncio.run(get())
""",
}


@pytest.fixture(scope="module")
def servers() -> Iterator[list[EchoServer]]:
    with echo_servers(2) as served:
        yield served


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_fork_is_survived_or_refused(servers: list[EchoServer], case: str) -> None:
    """In the child at once, and the parent goes on."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + case, *(str(server.port) for server in servers)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GRPC_VERBOSITY": "NONE"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
