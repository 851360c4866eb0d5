"""Pods as processes that misbehave when told to, and count what reaches them: for tests and benchmarks of faults.

A page of memory shared through a file is the whole protocol: the parent writes how to behave, the pod reads that at every call and
counts the call. So a pod that is frozen, dead or cut off can still be asked what it saw, and no order has to get through to it.

A method is ``/faults.<arm>/Read`` or ``/faults.<arm>/Write``; each is counted by itself, and answered with the pod's name. Work is
sleep, which leaves a small machine's cores to the callers.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import mmap
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import grpc
import grpc.aio

ARMS = 8
VERBS = ("Read", "Write")
_CODE, _DELAY_US, _FIRST_COUNT = 0, 1, 2
_BYTES = 8 * (_FIRST_COUNT + ARMS * len(VERBS))
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_ROOT = str(Path(__file__).resolve().parents[2])
_PATIENCE_S = 30.0


def method(arm: int, verb: str) -> str:
    return f"/faults.{arm}/{verb}"


def _slot(path: str) -> int:
    _, service, verb = path.split("/")
    return _FIRST_COUNT + len(VERBS) * int(service.rpartition(".")[2]) + VERBS.index(verb)


class Pod:
    """One process. ``inside``: a command to run it with, such as one that enters a network namespace.

    A call is ``work_s`` long, times the exponential of the size of a normal deviate with sigma ``spread``: never shorter, sometimes much
    longer, in an order that the name decides. ``workers``: how many calls are worked on at once, while others wait; 0: any number.

    On SIGTERM it does what most servers do: takes no new call and finishes those that run.
    """

    def __init__(
        self,
        name: str,
        *,
        host: str = "127.0.0.1",
        zone: str = "",
        work_s: float = 0.0,
        spread: float = 0.0,
        workers: int = 0,
        inside: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.host = host
        self.zone = zone
        self.uid = f"uid-{name}"
        self.work_s = work_s
        self._file = tempfile.NamedTemporaryFile(prefix="meshlb-pod-")  # noqa: SIM115 - it lives as long as the pod
        self._file.truncate(_BYTES)
        self._memory = mmap.mmap(self._file.fileno(), _BYTES)
        self._page = memoryview(self._memory).cast("Q")
        self.heal()
        self._process = subprocess.Popen(
            [*inside, sys.executable, "-m", "tests.support.faulty_pods", name, host, self._file.name, str(spread), str(workers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            process_group=0,
        )
        self._port = 0

    @property
    def port(self) -> int:
        """Waits until it listens."""
        if not self._port:
            assert self._process.stdout is not None
            self._port = int(self._process.stdout.readline() or 0)
            assert self._port, f"{self.name} ended before it listened"
        return self._port

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    # --- how it behaves

    def heal(self) -> None:
        self._page[_CODE], self._page[_DELAY_US] = 0, int(self.work_s * 1e6)

    def fail(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        """Every call, at once."""
        self._page[_DELAY_US], self._page[_CODE] = 0, code.value[0]

    def slow(self, work_s: float) -> None:
        self._page[_DELAY_US] = int(work_s * 1e6)

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> None:
        self._process.wait(_PATIENCE_S)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    # --- what it saw

    def attempts(self, arm: int, *verbs: str) -> int:
        """How many reached it; all, or those of some verbs."""
        return sum(self._page[_slot(method(arm, verb))] for verb in verbs or VERBS)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._page.release()
        self._memory.close()
        self._file.close()


@contextlib.contextmanager
def pods(started: Iterable[Pod]) -> Iterator[list[Pod]]:
    """All of them listening; they end with the block, and so does what was added to the list in it."""
    made: list[Pod] = []
    try:
        made.extend(started)
        for pod in made:
            assert pod.port
        yield made
    finally:
        for pod in made:
            pod.close()


# --- the process ----------------------------------------------------------------------------------------------------------------------


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, name: str, page: memoryview, spread: float, workers: int) -> None:
        self._name = name.encode()
        self._page = page
        self._rng = random.Random(name)
        self._spread = spread
        self._worker = asyncio.Semaphore(workers) if workers else contextlib.nullcontext()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        page, slot, name = self._page, _slot(details.method), self._name

        async def answer(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            page[slot] += 1
            async with self._worker:
                if page[_DELAY_US]:
                    await asyncio.sleep(page[_DELAY_US] / 1e6 * math.exp(abs(self._rng.gauss(0.0, self._spread))))
            if page[_CODE]:
                await context.abort(_CODES[page[_CODE]], f"{name.decode()} was told to")
            return name

        return grpc.unary_unary_rpc_method_handler(answer)


def _page_of(path: str) -> memoryview:
    with open(path, "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), _BYTES)).cast("Q")


async def _serve(name: str, host: str, path: str, spread: str, workers: str) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_Handler(name, _page_of(path), float(spread), int(workers)),))
    port = server.add_insecure_port(f"{host}:0")
    await server.start()
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    print(port, flush=True)
    await terminated.wait()
    await server.stop(_PATIENCE_S)
    os._exit(0)


def _die_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_die_with_parent, daemon=True).start()
    asyncio.run(_serve(*sys.argv[1:6]))
