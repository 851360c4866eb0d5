"""A small echo server, as a pod of the examples runs it; SIGTERM ends it gracefully.

It reports its load, so that clients with ``Config(weight="reported")`` send each pod what it bears.

Run it: ``python examples/grpc_server.py --port 9000``
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

from meshlb._proto import echo_pb2, echo_pb2_grpc
from meshlb.server import LoadReporter


class Echo(echo_pb2_grpc.EchoServicer):
    """Says which pod answered: its host name."""

    def Get(self, request: echo_pb2.EchoRequest, context: grpc.ServicerContext) -> echo_pb2.EchoReply:
        return echo_pb2.EchoReply(payload=request.payload, pod=socket.gethostname())

    def Watch(self, request: echo_pb2.EchoRequest, context: grpc.ServicerContext) -> Iterator[echo_pb2.EchoReply]:
        for number in range(request.count):
            yield echo_pb2.EchoReply(payload=request.payload, pod=socket.gethostname(), sequence=number)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9000)
    port = parser.parse_args().port

    reporter = LoadReporter(max_workers=8)
    server = grpc.server(ThreadPoolExecutor(max_workers=8), interceptors=[reporter.interceptor])
    reporter.add_to(server)
    echo_pb2_grpc.add_EchoServicer_to_server(Echo(), server)
    bound = server.add_insecure_port(f"[::]:{port}")
    server.start()
    print(f"listening on port {bound}", flush=True)

    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    signal.signal(signal.SIGINT, lambda *_: ended.set())
    ended.wait()
    server.stop(grace=20).wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
