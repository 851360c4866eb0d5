"""The process of one pod: ``python -m meshlb.testing.pod_server``, an Echo server over gRPC. Started by `PodProcess`.

It prints one JSON line when it listens, and ends when its parent is gone (end of file on stdin), so that no test can leak it. On
SIGTERM, ``--on-sigterm graceful`` serves on for ``LAME_DUCK_S`` and then takes no new calls and finishes those that run. ``stop`` does
so at once: gRPC's C-core then cancels the calls that reach it before its GOAWAY reaches their client, in words that a handler may also
use, so no client may send them again (a stock channel loses them too). ``exit`` dies at once, as a process without a handler does.

Why threads and not asyncio: only the threaded server tells the ``:authority`` of a call (through a private field, so it may be
empty); 256 of them bound the calls at a time.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc

from meshlb._proto import echo_pb2, echo_pb2_grpc

_MAX_CONCURRENT_CALLS = 256
LAME_DUCK_S = 0.25  # longer than a terminating mark takes to reach the callers, shorter than the smallest grace period in use
_PATIENCE_S = 3600.0  # how long running calls may take to finish: the kubelet's grace period ends them, not the server


class EchoService(echo_pb2_grpc.EchoServicer):
    """Says who it is, what it saw, and misbehaves on request; see proto/meshlb/testing/v1/echo.proto."""

    def __init__(self, *, pod: str, version: str) -> None:
        self._pod = pod
        self._version = version

    def Get(self, request: echo_pb2.EchoRequest, context: grpc.ServicerContext) -> echo_pb2.EchoReply:
        Call(context).wait(request.delay_s)
        _fail_if_asked(request, context)
        return self._reply(request, context, 0)

    def Watch(self, request: echo_pb2.EchoRequest, context: grpc.ServicerContext) -> Iterator[echo_pb2.EchoReply]:
        call = Call(context)
        call.wait(request.delay_s)
        for sequence in range(request.count):
            if sequence:
                call.wait(request.interval_s)
            yield self._reply(request, context, sequence)
        _fail_if_asked(request, context)

    def Collect(self, requests: Iterator[echo_pb2.EchoRequest], context: grpc.ServicerContext) -> echo_pb2.EchoReply:
        received, last = 0, echo_pb2.EchoRequest()
        for request in requests:
            received, last = received + 1, request
        Call(context).wait(last.delay_s)
        _fail_if_asked(last, context)
        return self._reply(last, context, received)

    def Chat(self, requests: Iterator[echo_pb2.EchoRequest], context: grpc.ServicerContext) -> Iterator[echo_pb2.EchoReply]:
        call = Call(context)
        for sequence, request in zip(itertools.count(), requests, strict=False):
            call.wait(request.delay_s)
            _fail_if_asked(request, context)
            yield self._reply(request, context, sequence)

    def _reply(self, request: echo_pb2.EchoRequest, context: grpc.ServicerContext, sequence: int) -> echo_pb2.EchoReply:
        reply = echo_pb2.EchoReply(
            payload=request.payload, pod=self._pod, version=self._version, sequence=sequence, authority=_authority(context)
        )
        for key, value in context.invocation_metadata():
            reply.metadata.add(key=key, value=base64.b64encode(value).decode() if isinstance(value, bytes) else value)
        return reply


class Call:
    """Waits that end early when the client goes away, so that abandoned calls do not hold threads."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._over: threading.Event | None = None
        self._context = context

    def wait(self, seconds: float) -> None:
        if seconds <= 0:
            return
        if self._over is None:
            self._over = threading.Event()
            if not self._context.add_callback(self._over.set):
                return
        self._over.wait(seconds)


def _fail_if_asked(request: echo_pb2.EchoRequest, context: grpc.ServicerContext) -> None:
    if request.fail_code:
        codes = {code.value[0]: code for code in grpc.StatusCode}
        context.abort(codes.get(request.fail_code, grpc.StatusCode.UNKNOWN), request.fail_details)


def _authority(context: grpc.ServicerContext) -> str:
    event = getattr(context, "_rpc_event", None)
    host = getattr(getattr(event, "call_details", None), "host", b"")
    return host.decode() if isinstance(host, bytes) else str(host)


def serve(arguments: argparse.Namespace) -> None:
    """Listen, say so, and run until SIGTERM."""
    terminated = threading.Event()
    if arguments.on_sigterm != "exit":
        signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    server = grpc.server(
        futures.ThreadPoolExecutor(_MAX_CONCURRENT_CALLS),
        options=[("grpc.so_reuseport", 0)],  # a taken address must be an error, not a second server behind it
    )
    echo = EchoService(pod=arguments.name, version=arguments.version)
    echo_pb2_grpc.add_EchoServicer_to_server(echo, server)
    credentials = _credentials(arguments)
    ports = []
    for address in arguments.listen:
        ports.append(server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address))
    server.start()
    sys.stdout.write(json.dumps({"ports": ports}) + "\n")
    sys.stdout.flush()
    terminated.wait()
    if arguments.on_sigterm == "graceful":
        time.sleep(LAME_DUCK_S)
    server.stop(_PATIENCE_S).wait()


def _credentials(arguments: argparse.Namespace) -> grpc.ServerCredentials | None:
    if arguments.tls_key is None:
        return None
    return grpc.ssl_server_credentials([(Path(arguments.tls_key).read_bytes(), Path(arguments.tls_cert).read_bytes())])


def _die_with_parent() -> None:
    """Run in a thread: the pipe to the parent ends when the parent does, however that happens."""
    while os.read(sys.stdin.fileno(), 1):  # not sys.stdin.read, whose lock an ending interpreter trips over
        pass
    os._exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description="One pod of meshlb.testing.FakeCluster.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--listen", required=True, action="append", metavar="IP:PORT")
    parser.add_argument("--on-sigterm", choices=("graceful", "stop", "exit"), required=True)
    parser.add_argument("--tls-key")
    parser.add_argument("--tls-cert")
    arguments = parser.parse_args()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    serve(arguments)
    os._exit(0)  # no exit handlers to wait for: what had to finish has finished


if __name__ == "__main__":
    main()
