"""From a Service's JSON to a frozen record: what a balancer must know of it, nothing else.

The API server fills in defaults, older ones and hand-made objects do not; so absent and unknown words mean the default here too
(``internalTrafficPolicy: Cluster``, ``sessionAffinity: None``, a timeout of 10800 s). A value of a wrong *type* makes the Service
unreadable (``WireError``): a port or a policy that cannot be read is not guessed. Ports that are not TCP, or have no number from 1
to 65535, are left out.

``publishNotReadyAddresses`` is for people: the controller has already folded it into each endpoint's ``ready``.

Spec: k8s.io/api core/v1 types.go, Service.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any, Final

from meshlb.resolve.kubernetes.fields import WireError, document, read, strings

PORTS: Final = range(1, 65536)
FAMILIES: Final = ("IPv4", "IPv6")
AFFINITY_TIMEOUT_S: Final = 10800
_AFFINITY_TIMEOUTS_S: Final = range(1, 86401)


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A TCP port of a Service; ``target_port`` is a number, or the name of a container's port."""

    name: str
    port: int
    target_port: int | str = 0
    protocol: str = "TCP"
    app_protocol: str = ""


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """A Service. ``cluster_ips`` is empty for headless and ExternalName ones, else in the order of ``ip_families``.

    ``external_name`` is the name to resolve instead, of an ExternalName Service only, without a dot at its end. ``selector``: pods are
    chosen by labels; without one the endpoints are written by hand. ``affinity_timeout_s`` counts while ``session_affinity`` is
    ``ClientIP``: how long (seconds) a client that is silent still belongs to its endpoint.
    """

    name: str
    namespace: str
    type: str = "ClusterIP"
    cluster_ips: tuple[str, ...] = ()
    ip_families: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    external_name: str = ""
    headless: bool = False
    internal_traffic_policy: str = "Cluster"
    session_affinity: str = "None"
    affinity_timeout_s: int = AFFINITY_TIMEOUT_S
    publish_not_ready_addresses: bool = False
    selector: bool = True

    @property
    def local_only(self) -> bool:
        """Only endpoints on the caller's own node may be used. Of a headless Service nobody enforces it: there is no proxy."""
        return self.internal_traffic_policy == "Local" and bool(self.cluster_ips)

    @property
    def affinity_s(self) -> float:
        """How long a silent client still belongs to its endpoint; 0: it does not. Of a headless Service nobody keeps it."""
        return float(self.affinity_timeout_s) if self.session_affinity == "ClientIP" and self.cluster_ips else 0.0


def parse_service(text: bytes) -> ServiceRecord:
    """A Service object. Raises WireError."""
    whole = document(text)
    if read(whole, "kind", str, "") != "Service":
        raise WireError(f"no Service but {text[:80]!r}")
    metadata = read(whole, "metadata", dict, {})
    spec = read(whole, "spec", dict, {})
    kind = read(spec, "type", str, "ClusterIP")
    first = read(spec, "clusterIP", str, "")
    addresses = strings(spec, "clusterIPs") or ((first,) if first else ())  # no list before Kubernetes 1.20
    external_name = read(spec, "externalName", str, "") if kind == "ExternalName" else ""
    affinity = read(read(spec, "sessionAffinityConfig", dict, {}), "clientIP", dict, {})
    timeout_s = read(affinity, "timeoutSeconds", int, AFFINITY_TIMEOUT_S)
    return ServiceRecord(
        read(metadata, "name", str, ""),
        read(metadata, "namespace", str, ""),
        kind,
        tuple(address for address in addresses if kind != "ExternalName" and _is_ip(address)),
        tuple(family for family in strings(spec, "ipFamilies") if family in FAMILIES),
        tuple(port for port in map(_service_port, read(spec, "ports", list, ())) if _usable(port)),
        external_name.rstrip(".").lower(),
        "None" in addresses,
        _word(spec, "internalTrafficPolicy", ("Cluster", "Local")),
        _word(spec, "sessionAffinity", ("None", "ClientIP")),
        timeout_s if timeout_s in _AFFINITY_TIMEOUTS_S else AFFINITY_TIMEOUT_S,
        read(spec, "publishNotReadyAddresses", bool, False),
        bool(read(spec, "selector", dict, {})),
    )


def _word(spec: dict[str, Any], key: str, known: tuple[str, ...]) -> str:
    """One of the known words; the first, the default, for one of a newer server."""
    word: str = read(spec, key, str, known[0])
    return word if word in known else known[0]


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _usable(port: ServicePort) -> bool:
    named = isinstance(port.target_port, str)
    return port.protocol == "TCP" and port.port in PORTS and (named or port.target_port in PORTS)


def _service_port(item: object) -> ServicePort:
    number = read(item, "port", int, 0)
    target = item.get("targetPort") if isinstance(item, dict) else None
    if target is not None and (isinstance(target, bool) or not isinstance(target, (int, str))):
        raise WireError(f"targetPort: {target!r:.80} is neither a number nor a name")
    return ServicePort(
        read(item, "name", str, ""),
        number,
        target or number,
        read(item, "protocol", str, "TCP"),
        read(item, "appProtocol", str, ""),
    )
