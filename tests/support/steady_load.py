"""Steady calls to faulty pods through several arms at once, so that one fault hits all of them: meshlb from threads, from asyncio, and
a proxy.

Open loop: calls begin when they are due whatever became of those before, and time counts from when they were due. Half of them are
reads, half are writes; what may be repeated is the arm's own configuration.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
import grpc.aio

import meshlb
import meshlb.grpc
import meshlb.grpc.aio
from meshlb.mesh import Mesh
from tests.support.faulty_pods import VERBS, method

SYNC, ASYNCIO, PROXY = ARMS = ("meshlb", "meshlb asyncio", "Envoy")
_THREADS = 256  # more than ever wait at once: the rate times the deadline, for the writes alone


class Ended(NamedTuple):
    """One call: when it was due, how much later it began, as on a busy machine it does, how long it took from when it was due, the pod
    that answered, or else what it failed with."""

    due_s: float
    late_s: float
    took_s: float
    read: bool
    pod: str
    error: str


def endpoints_of(mesh: Mesh) -> list[dict[str, Any]]:
    """What ``status()`` says of each endpoint of a mesh, those beyond discovery's own included."""
    pools = mesh.status()["pools"].values()
    return [endpoint for pool in pools for part in ("endpoints", "fallback", "spare") for endpoint in pool[part]]


async def called(way: Any, due_s: float, deadline_s: float, *, read: bool = False) -> Ended:
    """One call now, to its end. ``way``: an asyncio channel's multicallable for such calls."""
    late_s = time.monotonic() - due_s
    try:
        reply, error = await way(b"", timeout=deadline_s), None
    except (grpc.RpcError, meshlb.MeshError) as raised:
        reply, error = b"", raised
    return _noted(due_s, late_s, read, reply, error)


def _noted(due_s: float, late_s: float, read: bool, reply: bytes, error: Exception | None) -> Ended:
    said = f"{error.code().name}: {error.details()}" if isinstance(error, grpc.RpcError) else repr(error) if error else ""
    return Ended(due_s, late_s, time.monotonic() - due_s, read, reply.decode(), said)


class Load:
    """Used in a ``with`` block, in which calls are made between ``start`` and ``stop``, and one at a time by ``call``.

    ``ended``: the calls of each arm. ``meshes``: each of meshlb's arms has its own, made with ``config_of(number)``, so that they do not
    learn from each other. ``proxy``: ``ip:port`` of what stands for the third arm; None: there is none.
    """

    def __init__(
        self, target: str, config_of: Callable[[int], meshlb.Config], *, rate: float, deadline_s: float, proxy: str | None = None
    ) -> None:
        self.ended: dict[str, list[Ended]] = {name: [] for name in ARMS if name != PROXY or proxy is not None}
        self.meshes = {name: Mesh(config_of(number), environ={}) for number, name in enumerate(ARMS) if name != PROXY}
        self._target = target
        self._proxy = proxy
        self._rate = rate
        self._deadline_s = deadline_s
        self._over = threading.Event()
        self._traffic: list[threading.Thread | Future[None]] = []

    def __enter__(self) -> Load:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="steady-load", daemon=True)
        self._thread.start()
        self._threads = ThreadPoolExecutor(_THREADS)
        self._channel = meshlb.grpc.insecure_channel(self._target, mesh=self.meshes[SYNC])
        self._channels: dict[str, Any] = self._run(self._open())
        self._ways = {
            name: [channel.unary_unary(method(ARMS.index(name), verb)) for verb in VERBS]
            for name, channel in [(SYNC, self._channel), *self._channels.items()]
        }
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()
        self._channel.close()
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._threads.shutdown()
        for mesh in self.meshes.values():
            mesh.close()

    def start(self) -> None:
        """Calls are due from now on, on every arm."""
        self._over.clear()
        thread = threading.Thread(target=self._drive_sync, name="steady-load-sync")
        thread.start()
        self._traffic = [thread, *(asyncio.run_coroutine_threadsafe(self._drive(arm), self._loop) for arm in self._channels)]

    def stop(self) -> None:
        """Begin no more, and wait for those that run."""
        self._over.set()
        for one in self._traffic:
            one.join() if isinstance(one, threading.Thread) else one.result()
        self._traffic = []

    def call(self, arm: str, *, read: bool = True) -> Ended:
        """One call now, to its end."""
        due_s = time.monotonic()
        return self._one(due_s, read) if arm == SYNC else self._run(self._one_of(arm, due_s, read))

    def endpoints(self, arm: str) -> list[dict[str, Any]]:
        """What ``status()`` says of each endpoint, on one of meshlb's arms."""
        return endpoints_of(self.meshes[arm])

    # --- threads

    def _drive_sync(self) -> None:
        waiting: set[Future[Ended]] = set()
        for due_s, read in self._schedule():
            self._over.wait(max(0.0, due_s - time.monotonic()))
            waiting = {call for call in waiting if not call.done()} | {self._threads.submit(self._one, due_s, read)}
        concurrent.futures.wait(waiting)

    def _one(self, due_s: float, read: bool) -> Ended:
        late_s = time.monotonic() - due_s
        try:
            reply, error = self._ways[SYNC][not read](b"", timeout=self._deadline_s), None
        except (grpc.RpcError, meshlb.MeshError) as raised:
            reply, error = b"", raised
        return self._note(SYNC, _noted(due_s, late_s, read, reply, error))

    # --- asyncio

    async def _open(self) -> dict[str, Any]:
        made: dict[str, Any] = {ASYNCIO: meshlb.grpc.aio.insecure_channel(self._target, mesh=self.meshes[ASYNCIO])}
        return made if self._proxy is None else made | {PROXY: grpc.aio.insecure_channel(self._proxy)}

    async def _close(self) -> None:
        for channel in self._channels.values():
            await channel.close()

    async def _drive(self, arm: str) -> None:
        async with asyncio.TaskGroup() as group:
            for due_s, read in self._schedule():
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                group.create_task(self._one_of(arm, due_s, read))

    async def _one_of(self, arm: str, due_s: float, read: bool) -> Ended:
        return self._note(arm, await called(self._ways[arm][not read], due_s, self._deadline_s, read=read))

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    # --- both

    def _schedule(self) -> Iterator[tuple[float, bool]]:
        due_s, read = time.monotonic(), True
        while not self._over.is_set():
            yield due_s, read
            due_s, read = due_s + 1 / self._rate, not read

    def _note(self, arm: str, call: Ended) -> Ended:
        self.ended[arm].append(call)
        return call
