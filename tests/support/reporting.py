"""A server that reports whatever load it is told to, in the trailers of every kind of call and out of band."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc

from meshlb.core.endpoint import Endpoint
from meshlb.grpc.oob import METHOD
from meshlb.load.orca import TRAILER
from tests.support.channels import PATIENCE_S

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class ReportingServer:
    """``said`` is the trailer of each call (None: none), ``oob`` what the next stream out of band does: each of its messages is sent as it is,
    a code ends it; after the last it stays open. A call whose request is ``fail`` is aborted."""

    def __init__(self, name: str, said: str | None = None, oob: list[Any] | None = None) -> None:
        self.name = name
        self.said = said
        self.oob = oob
        self.calls = 0
        self.asked = 0  # streams out of band, ever
        self.requests: list[bytes] = []
        self.listening = 0
        self._lock = threading.Lock()
        self._workers = futures.ThreadPoolExecutor(16)
        self._start(0)

    def _start(self, port: int) -> None:
        self._server = grpc.server(self._workers, options=[("grpc.so_reuseport", 0)])
        made = {kind: getattr(grpc, f"{kind}_rpc_method_handler")(getattr(self, f"_{kind}")) for kind in KINDS}
        handlers = [grpc.method_handlers_generic_handler("test.Kinds", made)]
        if self.oob is not None:
            stream = grpc.unary_stream_rpc_method_handler(self._listen)
            service, _, method = METHOD.strip("/").partition("/")
            handlers.append(grpc.method_handlers_generic_handler(service, {method: stream}))
        self._server.add_generic_rpc_handlers(handlers)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def stop(self, grace_s: float | None = None) -> None:
        self._server.stop(grace_s).wait()
        self._workers.shutdown(wait=False, cancel_futures=True)

    def restart(self) -> None:
        """Cut every connection, and listen again."""
        self._server.stop(None).wait()
        self._start(self.port)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(host="127.0.0.1", port=self.port, name=self.name, uid=f"uid-{self.name}")

    def _unary_unary(self, request: bytes, context: Any) -> bytes:
        with self._lock:
            self.calls += 1
        if self.said is not None:
            context.set_trailing_metadata((("other", "1"), (TRAILER, self.said)))
        if request == b"fail":
            context.abort(grpc.StatusCode.UNAVAILABLE, "asked to")
        return request

    def _unary_stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        if request != b"fail":
            yield request
        yield self._unary_unary(request, context)

    def _stream_unary(self, requests: Iterator[bytes], context: Any) -> bytes:
        return self._unary_unary(next(requests), context)

    def _stream_stream(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield from self._unary_stream(next(requests), context)

    def _listen(self, request: bytes, context: Any) -> Iterator[bytes]:
        over = threading.Event()
        with self._lock:
            self.asked += 1
            self.listening += 1
            self.requests.append(request)
        try:
            if not context.add_callback(over.set):
                return
            for message in self.oob or ():
                if isinstance(message, grpc.StatusCode):
                    context.abort(message, "asked to")
                yield message
            over.wait(3 * PATIENCE_S)
        finally:
            with self._lock:
                self.listening -= 1


@contextlib.contextmanager
def reporting_servers(*said: str | None, oob: list[Any] | None = None) -> Iterator[list[ReportingServer]]:
    """One for each trailer."""
    servers = [ReportingServer(f"pod-{number}", text, oob) for number, text in enumerate(said)]
    try:
        yield servers
    finally:
        for server in servers:
            server.stop()
