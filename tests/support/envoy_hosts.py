"""A real Envoy as the judge of hashing: which host does it choose for a key?

One listener; each case is a route (``/<its number>``) to a cluster of its own. Nobody listens at the hosts' addresses: the refused request is
answered by Envoy itself, with the host that it chose in a header, and 10,000 of them take a second or two.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meshlb.core.endpoint import Endpoint
from tests.benchmarks import common

TYPES = "type.googleapis.com/envoy"
_CHOSEN = re.compile(rb"x-chosen: (\S+)\r\n")
_AT_ONCE = 250  # requests on their way in a connection: less than what fills both ends' buffers
_CONNECTIONS = 4  # so that all of Envoy's threads have some


@dataclass(frozen=True, kw_only=True)
class Case:
    """``balancing``: a cluster's fields that say how; ``retries``: attempts at other hosts before the answer; ``hash_policy``: of the
    route, what a key is made of."""

    endpoints: Sequence[Endpoint]
    balancing: dict[str, Any] = field(default_factory=dict)
    retries: int = 0
    hash_policy: Sequence[dict[str, Any]] = ({"header": {"header_name": "x-key"}},)


class Judge:
    """An Envoy that runs, at ``address``."""

    def __init__(self, address: str, cases: Mapping[str, Case]) -> None:
        host, _, port = address.rpartition(":")
        self.address = (host, int(port))
        self.cases = cases
        self._path_of = {name: f"/{number}" for number, name in enumerate(cases)}

    def request(self, name: str, key: str) -> bytes:
        """What a client sends for this case and key."""
        return f"HEAD {self._path_of[name]} HTTP/1.1\r\nhost: any\r\nx-key: {key}\r\n\r\n".encode()

    def chosen(self, name: str, keys: Sequence[str]) -> list[str]:
        """The address that this case's cluster chooses for each key."""
        hosts: list[str] = []
        with contextlib.ExitStack() as held:
            connections = [held.enter_context(socket.create_connection(self.address, timeout=30.0)) for _ in range(_CONNECTIONS)]
            for start in range(0, len(keys), _AT_ONCE * _CONNECTIONS):
                parts = [keys[at : at + _AT_ONCE] for at in range(start, start + _AT_ONCE * _CONNECTIONS, _AT_ONCE)]
                for connection, part in zip(connections, parts, strict=True):
                    connection.sendall(b"".join(self.request(name, key) for key in part))
                for connection, part in zip(connections, parts, strict=True):
                    hosts += _answers(connection, len(part))
        return hosts


def _answers(connection: socket.socket, count: int) -> list[str]:
    received = b""
    while received.count(b"\r\n\r\n") < count:
        data = connection.recv(1 << 18)
        assert data, f"Envoy closed the connection after {received[-1000:]!r}"
        received += data
    return [host.decode() for host in _CHOSEN.findall(received)]


@contextlib.contextmanager
def judge(cases: Mapping[str, Case]) -> Iterator[Judge | None]:
    """One for these cases, by name; None if Envoy is not installed."""
    with common.running_envoy(lambda port: json.dumps(_config(port, list(cases.values())))) as address:
        yield Judge(address, cases) if address is not None else None


@contextlib.contextmanager
def silent_ports(count: int, *, family: socket.AddressFamily = socket.AF_INET) -> Iterator[list[int]]:
    """Ports that refuse connections, on every loopback address, and that nobody else gets meanwhile."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket(family)) for _ in range(count)]
        for one in sockets:
            one.bind(("::1" if family == socket.AF_INET6 else "0.0.0.0", 0))
        yield [int(one.getsockname()[1]) for one in sockets]


def _config(port: int, cases: Sequence[Case]) -> dict[str, Any]:
    manager = {
        "@type": f"{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "judge",
        "codec_type": "HTTP1",
        "route_config": {
            "response_headers_to_add": [{"header": {"key": "x-chosen", "value": "%UPSTREAM_HOST%"}}],
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [_route(*case) for case in enumerate(cases)]}],
        },
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{TYPES}.extensions.filters.http.router.v3.Router"}}
        ],
    }
    listener = {
        "address": _address(Endpoint(host="127.0.0.1", port=port)),
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [_cluster(*case) for case in enumerate(cases)]}}


def _route(number: int, case: Case) -> dict[str, Any]:
    action: dict[str, Any] = {"cluster": f"case-{number}", "timeout": "0s", "hash_policy": list(case.hash_policy)}
    if case.retries:
        predicate = "envoy.retry_host_predicates.previous_hosts"
        kind = f"{TYPES}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
        action["retry_policy"] = {
            "retry_on": "connect-failure",
            "num_retries": case.retries,
            "retry_host_predicate": [{"name": predicate, "typed_config": {"@type": kind}}],
            "host_selection_retry_max_attempts": 200,
            "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.001s"},
        }
    return {"match": {"path": f"/{number}"}, "route": action}


def _cluster(number: int, case: Case) -> dict[str, Any]:
    hosts = [
        {
            "endpoint": {"address": _address(endpoint), "hostname": endpoint.hostname},
            "load_balancing_weight": int(endpoint.weight),
        }
        for endpoint in case.endpoints
    ]
    name = f"case-{number}"
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]}
    kind = "STRICT_DNS" if case.endpoints[0].hostname else "STATIC"  # static clusters may not be hashed by hostname
    return {"name": name, "type": kind, "connect_timeout": "5s", "load_assignment": assignment, **case.balancing}


def _address(endpoint: Endpoint) -> dict[str, Any]:
    return {"socket_address": {"address": endpoint.host, "port_value": endpoint.port}}
