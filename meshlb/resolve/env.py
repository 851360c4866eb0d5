"""What the kubelet wrote into the environment about a Service: its ClusterIP and its ports, as of when the container started.

The last resort: never updated, only Services of the pod's own namespace that have a ClusterIP, and absent with
``enableServiceLinks: false``. Nothing says whether a variable is the kubelet's or the application's own (``ORDERS_PORT=8080``), so
values are parsed strictly and what does not parse is not there.

Two forms, of which either suffices, whole or in part::

    ORDERS_SERVICE_HOST=10.96.0.7   ORDERS_SERVICE_PORT=50051   ORDERS_SERVICE_PORT_GRPC=50051
    ORDERS_PORT=tcp://10.96.0.7:50051   ORDERS_PORT_50051_TCP=tcp://10.96.0.7:50051   ORDERS_PORT_50051_TCP_ADDR=10.96.0.7   …

Only the second tells TCP from UDP; a number that it gives to UDP alone is no port of ours. A Service ``orders-service`` has variables
that begin like those of ``orders`` (``ORDERS_SERVICE_PORT=tcp://…``, ``ORDERS_SERVICE_PORT_80_TCP_PORT=80``); they are told apart by
their form.

Spec: kubernetes pkg/kubelet/envvars: upper case, ``-`` becomes ``_``, ``clusterIPs[0]`` only, IPv6 in brackets in URLs and nowhere else.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from meshlb.core.target import PortRef
from meshlb.resolve.ports import PortChoiceError

_URL = re.compile(r"tcp://(?:(?P<v4>[0-9.]+)|\[(?P<v6>[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)\]):(?P<port>[0-9]{1,5})")
_DOCKER = re.compile(r"(?P<number>[0-9]{1,5})_(?P<protocol>TCP|UDP|SCTP)(_(?P<part>PROTO|PORT|ADDR))?")


@dataclass(frozen=True, slots=True)
class EnvService:
    """``host`` is an IP literal; ``numbers`` are the Service's TCP ports, as far as they are told, ``names`` those with a name.

    Names are in the environment's spelling (``GRPC_WEB``).
    """

    host: str
    numbers: frozenset[int]
    names: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, service: str, environ: Mapping[str, str]) -> EnvService | None:
        """None if the environment does not know the Service: the kubelet writes a host and at least one port."""
        prefix = _variable(service)
        told = _below(f"{prefix}_PORT_", environ)
        addresses = _docker_addresses(environ.get(f"{prefix}_PORT", ""), told)
        host = _ip(environ.get(f"{prefix}_SERVICE_HOST", "")) or next((address for address, _ in addresses), "")
        names = _named(_below(f"{prefix}_SERVICE_PORT_", environ))
        numbers = {_number(environ.get(f"{prefix}_SERVICE_PORT", "")), *names.values()} - _other_protocols(told) - {0}
        names = {name: number for name, number in names.items() if number in numbers}
        numbers |= {number for address, number in addresses if address == host}
        return cls(host, frozenset(numbers), names) if host and numbers else None

    def port_for(self, ref: PortRef, protocol: str) -> int:
        """The Service's own port for what was written. Raises PortChoiceError."""
        offered = [f"{name.lower()} ({number})" for name, number in sorted(self.names.items())] or map(str, sorted(self.numbers))
        if ref.is_target:
            raise PortChoiceError(f"the Service's port for target port {ref.number} is not known", offered)
        if ref.number:
            return ref.number
        wanted = _variable(ref.name or protocol)
        if wanted in self.names:
            return self.names[wanted]
        if not ref.name and len(self.numbers) == 1:
            return next(iter(self.numbers))
        raise PortChoiceError(f"no port {ref}" if ref else "no port was named and none fits alone", offered)


def _variable(name: str) -> str:
    return name.upper().replace("-", "_")


def _below(prefix: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that begin so, by what follows."""
    return {variable[len(prefix) :]: value for variable, value in environ.items() if variable.startswith(prefix)}


def _docker_addresses(first: str, told: Mapping[str, str]) -> list[tuple[str, int]]:
    """Address and number of every TCP port, of the first port first; ``told`` are the variables below ``{NAME}_PORT_``."""
    found = [_url(first)]
    for name, value in sorted(told.items()):
        match = _DOCKER.fullmatch(name)
        if match is None or match["protocol"] != "TCP":
            continue
        if match["part"] is None:
            found.append(_url(value))
        elif match["part"] == "ADDR":
            found.append((_ip(value), _number(match["number"])))
    return [(address, number) for address, number in found if address and number]


def _other_protocols(told: Mapping[str, str]) -> set[int]:
    """The numbers that are a port of UDP or SCTP and not of TCP."""
    matches = [match for name in told if (match := _DOCKER.fullmatch(name))]
    tcp = {match["number"] for match in matches if match["protocol"] == "TCP"}
    return {_number(match["number"]) for match in matches if match["number"] not in tcp}


def _named(told: Mapping[str, str]) -> dict[str, int]:
    """Named ports; without those of a Service whose name goes on with ``-service``."""
    ports = {name: number for name, value in told.items() if (number := _number(value))}
    return {name: number for name, number in ports.items() if not (name.endswith("_PORT") and _url(told.get(name[:-5], ""))[1])}


def _url(text: str) -> tuple[str, int]:
    match = _URL.fullmatch(text)
    return (_ip(match["v4"] or match["v6"]), _number(match["port"])) if match else ("", 0)


def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535 else 0
