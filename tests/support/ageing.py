"""Connections that get old: endpoints behind proxies that count them, and servers that end them by themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc

from meshlb._proto import echo_pb2_grpc
from meshlb.core.endpoint import Endpoint
from meshlb.testing.pod_server import EchoService
from tests.support.channels import LooseBinding, echo_servers
from tests.support.proxy import CountingProxy

AGE: dict[str, Any] = {"max_age_s": 1.0, "max_age_jitter_ratio": 0.1}


@contextlib.contextmanager
def proxied(count: int) -> Iterator[list[CountingProxy]]:
    """Proxies, each before a server of its own."""
    with echo_servers(count) as servers:
        made = [CountingProxy(server.port) for server in servers]
        yield made
        for proxy in made:
            proxy.close()


def ageing(*proxies: CountingProxy, **settings: Any) -> LooseBinding:
    """A binding that has connections renewed every second or so, to endpoints at these proxies."""
    binding = LooseBinding(connection={**AGE, **settings})
    binding.update([proxy.endpoint(f"uid-{number}") for number, proxy in enumerate(proxies)])
    return binding


@contextlib.contextmanager
def impatient_servers(count: int) -> Iterator[list[Endpoint]]:
    """They end every connection after a second, and what is on it half a second later."""
    options = [("grpc.max_connection_age_ms", 1000), ("grpc.max_connection_age_grace_ms", 500), ("grpc.so_reuseport", 0)]
    servers, endpoints = [], []
    for number in range(count):
        server = grpc.server(futures.ThreadPoolExecutor(16), options=options)
        echo_pb2_grpc.add_EchoServicer_to_server(EchoService(pod=f"pod-{number}", version="v1"), server)
        endpoints.append(Endpoint(host="127.0.0.1", port=server.add_insecure_port("127.0.0.1:0"), name=f"pod-{number}"))
        server.start()
        servers.append(server)
    try:
        yield endpoints
    finally:
        for server in servers:
            server.stop(None)
