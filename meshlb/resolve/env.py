"""What the kubelet wrote into the environment about a Service: its ClusterIP and its ports, as of when the container started.

The last resort: never updated, only Services of the pod's own namespace that have a ClusterIP, and absent with
``enableServiceLinks: false``. Nothing says whether a variable is the kubelet's or the application's own (``ORDERS_PORT=8080``), so
values are parsed strictly and what does not parse is not there.

Two forms, of which either suffices::

    ORDERS_SERVICE_HOST=10.96.0.7   ORDERS_SERVICE_PORT=50051   ORDERS_SERVICE_PORT_GRPC=50051
    ORDERS_PORT=tcp://10.96.0.7:50051   ORDERS_PORT_50051_TCP=tcp://10.96.0.7:50051

Spec: kubernetes pkg/kubelet/envvars: upper case, ``-`` becomes ``_``, ``clusterIPs[0]`` only.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from meshlb.core.target import PortRef
from meshlb.resolve.ports import PortChoiceError

_URL = re.compile(r"tcp://(?P<host>[0-9.]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")


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
        host = _ip(environ.get(f"{prefix}_SERVICE_HOST", ""))
        numbers: set[int] = set()
        names: dict[str, int] = {}
        named = f"{prefix}_SERVICE_PORT_"
        docker = re.compile(rf"{re.escape(prefix)}_PORT(_[0-9]+_TCP)?")
        for variable, value in environ.items():
            if variable == f"{prefix}_SERVICE_PORT" or variable.startswith(named):
                number = _number(value)
                numbers.add(number)
                if number and variable.startswith(named):
                    names[variable[len(named) :]] = number
            elif docker.fullmatch(variable) and (url := _URL.fullmatch(value)):
                address = _ip(url["host"].strip("[]"))
                host = host or address
                if address == host:
                    numbers.add(_number(url["port"]))
        numbers.discard(0)
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


def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535 else 0
