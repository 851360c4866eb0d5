"""The Envoy that the faults benchmark measures against, with everything on that meshlb has on, and the same figures for it.

A sidecar on loopback: LEAST_REQUEST, outlier detection, retries of reads on another host with a time limit a try, a retry budget of 20 %,
keepalive pings, and zone-aware routing where zones matter. What Envoy would do by default would be no match in small pools: nobody
is ejected below ten hosts, and for 30 s at least. So ``always_eject_one_host`` is on, up to half may be ejected, sweeps are frequent,
and its workers hear of an ejection at once (by default, a second late).

Its endpoints come from a file, written anew at each change: faster than any control plane tells a real sidecar.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks import common
from tests.support.faulty_pods import Pod

TYPES = "type.googleapis.com/envoy"
SWEEP_S = 0.5
RETRIES = 2
_ENDPOINTS = "endpoints.json"


class Sidecar:
    """One that runs, at ``address``."""

    def __init__(self, address: str, admin: str, directory: Path) -> None:
        self.address = address
        self._admin = admin
        self._directory = directory

    def tell(self, ready: Iterable[Pod]) -> None:
        """Where the pods are now; the file is moved into place, as Envoy wants it."""
        zones: dict[str, list[dict[str, Any]]] = {}
        for pod in ready:
            zones.setdefault(pod.zone, []).append({"endpoint": {"address": _address(pod.address)}})
        localities = [{"locality": {"zone": zone}, "lb_endpoints": hosts} for zone, hosts in zones.items()]
        resource = {"@type": f"{TYPES}.config.endpoint.v3.ClusterLoadAssignment", "cluster_name": "pods", "endpoints": localities}
        new = self._directory / "new"
        new.write_text(json.dumps({"resources": [resource]}))
        new.replace(self._directory / _ENDPOINTS)

    def retries(self) -> int:
        """How many it made so far, by its own word."""
        with urllib.request.urlopen(f"http://{self._admin}/stats?filter=^cluster.pods.upstream_rq_retry$", timeout=5) as answer:
            return int(answer.read().decode().rpartition(":")[2])


@contextlib.contextmanager
def sidecar(ready: Iterable[Pod], *, ejection_s: float, try_s: float, zones: Sequence[str] = ()) -> Iterator[Sidecar | None]:
    """One that knows these pods; None if Envoy is not installed."""
    with tempfile.TemporaryDirectory() as name:
        admin, directory = f"127.0.0.1:{common.free_port()}", Path(name)
        settings = Settings(directory=directory, admin=admin, ejection_s=ejection_s, try_s=try_s, zones=tuple(zones))
        Sidecar("", admin, directory).tell(ready)
        with common.running_envoy(settings.config) as address:
            yield Sidecar(address, admin, directory) if address is not None else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """``zones``: those there are, Envoy's own first; none: it need not know. ``try_s``: how long one try of a read may take."""

    directory: Path
    admin: str
    ejection_s: float
    try_s: float
    zones: tuple[str, ...] = ()

    def config(self, port: int) -> str:
        written: dict[str, Any] = {
            "admin": {"address": _address(self.admin)},
            "node": {"id": "bench", "cluster": "self", "locality": {"zone": self.zones[0] if self.zones else ""}},
            "static_resources": {
                "listeners": [{"address": _address(f"127.0.0.1:{port}"), "filter_chains": [{"filters": [_filter(self.try_s)]}]}],
                "clusters": [_pods(self), *([_self(self.zones)] if self.zones else [])],
            },
        }
        if self.zones:
            written["cluster_manager"] = {"local_cluster_name": "self"}
        return json.dumps(written)  # which is YAML too


def _address(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _filter(try_s: float) -> dict[str, Any]:
    manager = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    reads = {
        "retry_on": "unavailable,cancelled,connect-failure,refused-stream,reset",
        "num_retries": RETRIES,
        "per_try_timeout": f"{try_s}s",
        **_elsewhere(),
    }
    writes = {"retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": RETRIES, **_elsewhere()}
    routes = [
        {
            "match": {"safe_regex": {"regex": "/faults\\.[0-9]+/Read"}},
            "route": {"cluster": "pods", "timeout": "0s", "retry_policy": reads},
        },
        {"match": {"prefix": "/"}, "route": {"cluster": "pods", "timeout": "0s", "retry_policy": writes}},
    ]
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{TYPES}.{manager}",
            "stat_prefix": "egress",
            "codec_type": "HTTP2",
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": f"{TYPES}.extensions.filters.http.router.v3.Router"},
                }
            ],
        },
    }


def _elsewhere() -> dict[str, Any]:
    predicate = "envoy.retry_host_predicates.previous_hosts"
    return {
        "retry_host_predicate": [
            {
                "name": predicate,
                "typed_config": {"@type": f"{TYPES}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
            }
        ],
        "host_selection_retry_max_attempts": 5,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
    }


def _pods(settings: Settings) -> dict[str, Any]:
    source = {
        "path_config_source": {"path": str(settings.directory / _ENDPOINTS), "watched_directory": {"path": str(settings.directory)}}
    }
    # No panic, as Istio has it where outlier detection is on; and no merging of updates, by which workers hear of an ejection 1 s late.
    common: dict[str, Any] = {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"}
    if settings.zones:
        common["zone_aware_lb_config"] = {"routing_enabled": {"value": 100}, "min_cluster_size": 1}
    return {
        "name": "pods",
        "type": "EDS",
        "eds_cluster_config": {"eds_config": source},
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": common,
        "circuit_breakers": {"thresholds": [{"retry_budget": {"budget_percent": {"value": 20}, "min_retry_concurrency": 3}}]},
        "outlier_detection": {
            "consecutive_5xx": 5,
            "consecutive_gateway_failure": 5,
            "enforcing_consecutive_gateway_failure": 100,
            "interval": f"{SWEEP_S}s",
            "base_ejection_time": f"{settings.ejection_s}s",
            "max_ejection_time": "30s",
            "max_ejection_percent": 50,
            "always_eject_one_host": True,
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": {"interval": "10s", "timeout": "3s"}}},
            }
        },
    }


def _self(zones: tuple[str, ...]) -> dict[str, Any]:
    """The cluster of the callers: as many in each zone, so that each keeps to its own as far as the pods are spread evenly."""
    localities = [
        {"locality": {"zone": zone}, "lb_endpoints": [{"endpoint": {"address": _address(f"127.1.1.{number + 1}:9")}}]}
        for number, zone in enumerate(zones)
    ]
    return {
        "name": "self",
        "type": "STATIC",
        "connect_timeout": "1s",
        "common_lb_config": {"zone_aware_lb_config": {"routing_enabled": {"value": 100}, "min_cluster_size": 1}},
        "load_assignment": {"cluster_name": "self", "endpoints": localities},
    }
