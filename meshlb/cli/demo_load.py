"""The demo's callers: threads on a blocking channel and tasks on an asyncio one, at a steady pace, each call written down.

The pace is that of a small service (some hundred calls a second together), so that a laptop that also runs the pods can keep up and
the figures speak of balancing, not of a full machine.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from meshlb._proto import echo_pb2, echo_pb2_grpc

TIMEOUT_S = 5.0
THREADS, THREAD_PERIOD_S = 3, 0.010
TASKS, TASK_PERIOD_S = 6, 0.020


@dataclass(frozen=True, slots=True)
class Sample:
    """One call: ``pod`` that answered ("" if it failed), times on ``time.monotonic``, ``error`` as people read it."""

    mode: str
    pod: str
    start_s: float
    end_s: float
    error: str = ""


class Load:
    """Callers in the background, from ``start`` to ``stop``; ``samples`` only grows and may be read at any time."""

    def __init__(self, sync_channel: grpc.Channel | None, aio_channel: Callable[[], grpc.aio.Channel] | None) -> None:
        self.samples: list[Sample] = []
        self._sync_channel = sync_channel
        self._aio_channel = aio_channel
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        if self._sync_channel is not None:
            self._threads += [threading.Thread(target=self._call_in_thread, name=f"demo-sync-{n}") for n in range(THREADS)]
        if self._aio_channel is not None:
            self._threads.append(threading.Thread(target=lambda: asyncio.run(self._call_in_loop()), name="demo-asyncio"))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the callers after their present call."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _call_in_thread(self) -> None:
        assert self._sync_channel is not None
        stub = echo_pb2_grpc.EchoStub(self._sync_channel)
        request = echo_pb2.EchoRequest(payload="hello")
        while not self._ended.is_set():
            start_s = time.monotonic()
            try:
                reply = stub.Get(request, timeout=TIMEOUT_S)
            except grpc.RpcError as error:
                self._note("sync", "", start_s, _words(error))
            else:
                self._note("sync", reply.pod, start_s)
            self._ended.wait(max(0.0, start_s + THREAD_PERIOD_S - time.monotonic()))

    async def _call_in_loop(self) -> None:
        assert self._aio_channel is not None
        async with self._aio_channel() as channel:
            await asyncio.gather(*(self._call_in_task(echo_pb2_grpc.EchoStub(channel)) for _ in range(TASKS)))

    async def _call_in_task(self, stub: Any) -> None:
        request = echo_pb2.EchoRequest(payload="hello")
        while not self._ended.is_set():
            start_s = time.monotonic()
            try:
                reply = await stub.Get(request, timeout=TIMEOUT_S)
            except grpc.RpcError as error:
                self._note("asyncio", "", start_s, _words(error))
            else:
                self._note("asyncio", reply.pod, start_s)
            await asyncio.sleep(max(0.0, start_s + TASK_PERIOD_S - time.monotonic()))

    def _note(self, mode: str, pod: str, start_s: float, error: str = "") -> None:
        self.samples.append(Sample(mode, pod, start_s, time.monotonic(), error))


def _words(error: grpc.RpcError) -> str:
    code = error.code() if hasattr(error, "code") else None
    details = error.details() if hasattr(error, "details") else str(error)
    return f"{code.name if code is not None else type(error).__name__}: {details}"
