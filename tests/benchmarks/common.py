"""What the benchmarks share: a server process that answers on every loopback address, an Envoy, and interleaved rounds."""

from __future__ import annotations

import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

METHOD = "/meshlb.bench.Echo/Get"
REFERENCE_PAIR_NS = 83.0  # of the machine that absolute limits are for

_SERVER = """
import sys
from concurrent.futures import ThreadPoolExecutor
import grpc

class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)

server = grpc.server(ThreadPoolExecutor(max_workers=4), handlers=[Handler()])
port = server.add_insecure_port("0.0.0.0:0")
server.start()
print(port, flush=True)
sys.stdin.read()
"""


@contextmanager
def server() -> Iterator[int]:
    """The port of an echo server on every 127.x.y.z: as many endpoints as wanted for one process's worth of noise."""
    process = subprocess.Popen([sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        if process.stdin is not None:
            process.stdin.close()


def addresses(count: int, port: int) -> list[str]:
    """Distinct loopback addresses of that server."""
    return [f"127.8.{number // 250}.{number % 250 + 1}:{port}" for number in range(count)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def envoy(upstreams: Sequence[str]) -> Iterator[str | None]:
    """``ip:port`` of an Envoy that balances over them with LEAST_REQUEST, as a sidecar would; None if it is not installed."""
    with running_envoy(lambda port: _envoy_config(port, upstreams)) as proxy:
        yield proxy


@contextmanager
def running_envoy(config_of: Callable[[int], str], *, patience_s: float = 10.0) -> Iterator[str | None]:
    """``ip:port`` of an Envoy with this configuration, which is told the port to listen on; None if it is not installed."""
    binary = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
    if binary is None:
        yield None
        return
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "envoy.yaml"
        config.write_text(config_of(port))
        process = subprocess.Popen(
            [binary, "-c", str(config), "--concurrency", "2", "-l", "error", "--disable-hot-restart"], stderr=subprocess.DEVNULL
        )
        try:
            _wait_for_port(port, patience_s)
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _wait_for_port(port: int, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)


def _envoy_config(port: int, upstreams: Sequence[str]) -> str:
    hosts = "\n".join(
        f"            - endpoint: {{address: {{socket_address: {{address: {one.rpartition(':')[0]}, port_value: {one.rpartition(':')[2]}}}}}}}"
        for one in upstreams
    )
    return f"""
static_resources:
  listeners:
    - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: egress
                codec_type: HTTP2
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes: [{{match: {{prefix: "/"}}, route: {{cluster: pods, timeout: 0s}}}}]
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
    - name: pods
      type: STATIC
      lb_policy: LEAST_REQUEST
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {{http2_protocol_options: {{}}}}
      load_assignment:
        cluster_name: pods
        endpoints:
        - lb_endpoints:
{hosts}
"""


def lock_pair_ns(count: int = 200_000) -> float:
    """What a lock's acquire and release cost here, in nanoseconds: absolute figures elsewhere scale by it (83 ns there)."""
    import threading

    lock = threading.Lock()
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter_ns()
        for _ in range(count):
            lock.acquire()
            lock.release()
        both = time.perf_counter_ns() - start
        start = time.perf_counter_ns()
        for _ in range(count):
            pass
        best = min(best, (both - (time.perf_counter_ns() - start)) / count)
    return best


def at_most_ms(limit_ms: float) -> str:
    """A limit that was set where a lock pair takes ``REFERENCE_PAIR_NS``, with what that means here and now."""
    return f"<= {limit_ms:g} ms ({limit_ms * lock_pair_ns() / REFERENCE_PAIR_NS:.2f} here)"


def interleave(arms: dict[str, Callable[[], None]], rounds: int, seed: int = 1) -> None:
    """Call each arm once a round, in an order that changes from round to round."""
    rng = random.Random(seed)
    names = list(arms)
    for _ in range(rounds):
        rng.shuffle(names)
        for name in names:
            arms[name]()


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else float("nan")


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns."""
    lines = [list(headings), *(list(line) for line in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        print(
            "  ".join(
                cell.rjust(width) if index else cell.ljust(width)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
        )
    print()
