"""``xds.service.orca.v3.OpenRcaService``: reports for those who ask out of band, every so often, whether or not they call anything.

A stream of ``grpc.server`` would hold one of its worker threads for as long as a client is there; a few dozen clients, and no thread
is left for calls. So these streams have no worker: grpc calls the handler without waiting for its end (``experimental_non_blocking``, in
every grpcio from 1.60 to 1.85), and up to ``MAX_THREADS`` threads of the reporter's own send what is due on all of them.

Sending waits until gRPC has taken the message, which is at once unless a client has stopped reading: so each stream ends, with OK, after
``MAX_SENT`` bytes, half of what HTTP/2 lets through unread, and its client asks anew. What other calls on a frozen client's connection may
have used up of that can still hold a thread until the connection is given up; there are several.

A stream that is over lets go of gRPC's call at once; what is left of it, a number and a flag, waits until it is due, or until more than half of all
that wait are over.

Spec: gRFC A51 (first report at once, then every interval; an interval that is too short or not given is the minimum).
Deviations: streams end after ``MAX_SENT``, which A51's clients answer with a new one at once; an interval of more than ``MAX_INTERVAL_S`` is that.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
import grpc.aio

from meshlb.load.orca_wire import decode_request, encode
from meshlb.server.reporter import LoadReporter

SERVICE: Final = "xds.service.orca.v3.OpenRcaService"
METHOD: Final = "StreamCoreMetrics"
MAX_THREADS: Final = 4
MAX_SENT: Final = 32768
MAX_INTERVAL_S: Final = 3600.0
_IDLE_S: Final = 10.0


def add_service(reporter: LoadReporter, server: Any) -> None:
    """To a server that has not started."""
    if isinstance(server, grpc.aio.Server):
        handler = grpc.unary_stream_rpc_method_handler(_aio_behavior(reporter))
    else:
        streams = _Streams(reporter)

        def behavior(request: bytes, context: Any, send: Callable[[bytes | None], None]) -> None:
            streams.add(_Stream(context, send, interval_s_of(reporter, request), streams.sweep))

        behavior.experimental_non_blocking = True  # type: ignore[attr-defined]
        handler = grpc.unary_stream_rpc_method_handler(behavior)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))


def interval_s_of(reporter: LoadReporter, request: bytes) -> float:
    """What the client asked for, an hour at most, and no less than the minimum."""
    return max(min(decode_request(request), MAX_INTERVAL_S), reporter.min_oob_interval_s)


def _aio_behavior(reporter: LoadReporter) -> Callable[[bytes, Any], AsyncIterator[bytes]]:
    async def behavior(request: bytes, context: Any) -> AsyncIterator[bytes]:
        interval_s = interval_s_of(reporter, request)
        while True:
            yield encode(reporter.report())
            await asyncio.sleep(interval_s)

    return behavior


class _Stream:
    __slots__ = ("_sweep", "interval_s", "send", "sent")

    def __init__(self, context: Any, send: Callable[[bytes | None], None], interval_s: float, sweep: Callable[[], None]) -> None:
        self.send: Callable[[bytes | None], None] | None = send  # None: over
        self.interval_s = interval_s
        self.sent = 0
        self._sweep = sweep
        if not context.add_callback(self._over):
            self.send = None

    def _over(self) -> None:
        self.send = None
        self._sweep()


class _Streams:
    """Those of one reporter and server; any thread. Threads are daemons, and gone when nothing was due for ``_IDLE_S`` and no stream is
    left."""

    def __init__(self, reporter: LoadReporter) -> None:
        self._reporter = reporter
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, _Stream]] = []
        self._changed = threading.Condition()
        self._threads = self._free = self._over = 0

    def sweep(self) -> None:
        """A stream is over. When that many are, they are taken out: O(1) for each on average."""
        with self._changed:
            self._over += 1
            if 2 * self._over > len(self._due):
                self._over = 0
                self._due = [entry for entry in self._due if entry[2].send is not None]
                heapq.heapify(self._due)

    def add(self, stream: _Stream) -> None:
        """Send it a report now, and again and again."""
        self._put(stream, time.monotonic())

    def _put(self, stream: _Stream, due_s: float) -> None:
        with self._changed:
            heapq.heappush(self._due, (due_s, next(self._numbers), stream))
            if self._free:
                self._changed.notify()
            elif self._threads < MAX_THREADS:
                self._threads += 1
                threading.Thread(target=self._run, name="meshlb-server-oob", daemon=True).start()

    def _run(self) -> None:
        try:
            while (stream := self._next()) is not None:
                self._serve(stream)
        finally:
            with self._changed:
                self._threads -= 1

    def _next(self) -> _Stream | None:
        """What is due next, when it is due; None: there is nothing to do."""
        with self._changed:
            while True:
                while self._due and self._due[0][2].send is None:
                    heapq.heappop(self._due)
                wait_s = self._due[0][0] - time.monotonic() if self._due else _IDLE_S
                if self._due and wait_s <= 0.0:
                    return heapq.heappop(self._due)[2]
                self._free += 1
                try:
                    told = self._changed.wait(min(wait_s, _IDLE_S))
                finally:
                    self._free -= 1
                if not told and not self._due:
                    return None

    def _serve(self, stream: _Stream) -> None:
        send = stream.send
        if send is None:
            return
        try:
            message = encode(self._reporter.report())
            send(message)
            stream.sent += len(message)
            if stream.send is not None and stream.sent >= MAX_SENT:
                send(None)
                return
        except Exception as error:  # noqa: BLE001 - grpc's, of a connection that is gone
            self._reporter.complain("an out-of-band stream", error)
            return
        if stream.send is not None:
            self._put(stream, time.monotonic() + stream.interval_s)
