"""Which port of a Service is meant, and which number that is on a pod and on the ClusterIP.

Three numbers can differ: what the caller wrote, the Service's port (dialled on the ClusterIP) and the target port (dialled on a
pod, possibly another one per slice). They are joined by the port's *name*, which is why a choice is first of all a name. The rules:

=========  ==============================================  ====================================================================
written    the Service can be read                         it cannot: slices alone
=========  ==============================================  ====================================================================
a name     the port of that name                           the same
a number   the Service port of that number; on a headless  the only port, else the one whose target number it is, else none:
           one else the port whose target number it is     the ClusterIP is used (``select`` returns None)
n?target   pods at n; ClusterIP where a port targets n     pods at n
nothing    the single port, else the one that fits         the same, by the names and appProtocols of the slices
=========  ==============================================  ====================================================================

A headless Service has no ClusterIP, so whoever dials it by DNS writes the pods' own number; such strings must go on working.
"Fits" for gRPC: the first of these that exactly one port meets: appProtocol ``grpc``, name ``grpc``, name ``grpc-…``, appProtocol
``kubernetes.io/h2c``. For a URL: the scheme's own number (80, 443), then appProtocol, name and name prefix by the scheme.

The records hold TCP ports that have a number, nothing else (``kubernetes.wire``).

Spec: discovery.k8s.io/v1 EndpointSlice ``ports``, core/v1 Service ``ports[].appProtocol`` (KEP-1422).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from meshlb.core.target import PortRef
from meshlb.errors import MeshError

if TYPE_CHECKING:
    from meshlb.resolve.kubernetes.service_wire import ServicePort, ServiceRecord
    from meshlb.resolve.kubernetes.wire import SlicePort

_P = TypeVar("_P", "ServicePort", "SlicePort")
DEFAULT_NUMBERS = {"http": 80, "https": 443}  # RFC 9110: what a URL without a port means


class PortChoiceError(MeshError):
    """No port, or more than one, is what was asked for; ``offered`` lists those that are there, as far as they are known."""

    def __init__(self, asked: str, offered: Iterable[str], hint: str = "") -> None:
        self.asked = asked
        self.offered = tuple(offered)
        listing = f"; the ports are {', '.join(self.offered)}" if self.offered else ""
        super().__init__(f"{asked}{listing}{hint and '; ' + hint}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PortSelector:
    """A choice that was made: ``name`` in the slices, or the pods' own ``number``; ``service_port`` on the ClusterIP (0: unknown).

    ``listed``: only pods whose slice lists ``number`` serve it.
    """

    name: str | None = None
    number: int = 0
    listed: bool = False
    service_port: int = 0

    def number_in(self, ports: Sequence[SlicePort]) -> int:
        """What to dial on the pods of a slice with these ports; 0: they do not serve the port that is meant."""
        if self.name is None and not self.listed:
            return self.number
        for port in ports:
            if port.name == self.name or (self.listed and port.port == self.number):
                return port.port
        return 0


def select(
    ref: PortRef, protocol: str, service: ServiceRecord | None, slices: Iterable[Sequence[SlicePort]], known_service_port: int = 0
) -> PortSelector | None:
    """Apply the table above; ``slices`` are the ports of each slice.

    ``known_service_port``: what is known of the Service's number without the Service (it was written, or the environment has it).
    None: a number that the slices alone cannot map. Raises PortChoiceError.
    """
    listed = [port for ports in slices for port in ports]
    if ref.is_target:
        number = _service_number_for_target(ref.number, service, listed)
        return PortSelector(number=ref.number, listed=any(port.port == ref.number for port in listed), service_port=number)
    if service is not None and (service.ports or not ref.number):
        return _from_service(ref, protocol, service, listed)
    if not listed:
        return _unlisted(ref, known_service_port)
    return _from_slices(ref, protocol, listed, known_service_port)


def external_port(ref: PortRef, protocol: str, service: ServiceRecord | None) -> int:
    """The number to dial on a host outside the cluster that an ExternalName Service stands for: the one that was written.

    Nobody maps ports there; those that such a Service lists only give names to numbers. Raises PortChoiceError for a name without one.
    """
    if ref.number:
        return ref.number
    ports = service.ports if service is not None else ()
    found = [port.port for port in ports if not ref.name or port.name == ref.name]
    if len(found) == 1:
        return found[0]
    number = DEFAULT_NUMBERS.get(ref.name or protocol, 0 if ref.name else DEFAULT_NUMBERS["https"])  # gRPC's own default is 443
    if not number:
        offered = [_show(port.name, port.port, 0) for port in ports]
        raise PortChoiceError(f"no port {ref}", offered, "it stands for a host outside the cluster: write the port's number")
    return number


def _from_service(ref: PortRef, protocol: str, service: ServiceRecord, listed: list[SlicePort]) -> PortSelector:
    ports = service.ports
    offered = [_show(port.name, port.port, port.target_port) for port in ports]
    if ref.name:
        found = [port for port in ports if port.name == ref.name]
    elif ref.number:
        found = [port for port in ports if port.port == ref.number]
        targeted = _targeting(ref.number, service, listed)
        if not found and service.headless and len(targeted) == 1:
            found = targeted
        elif not found and targeted:
            hint = f"{ref.number} is a target port: write the Service's port, or {ref.number}?port=target"
            raise PortChoiceError(f"no port {ref}", offered, hint)
    else:
        default = DEFAULT_NUMBERS.get(protocol, 0)
        found = [port for port in ports if port.port == default] or list(_fitting(ports, protocol))
    if len(found) == 1:
        return PortSelector(name=found[0].name, service_port=found[0].port)
    raise PortChoiceError(f"no port {ref}" if ref else "no port was named and none fits alone", offered)


def _from_slices(ref: PortRef, protocol: str, listed: list[SlicePort], service_port: int) -> PortSelector | None:
    numbers: dict[str, set[int]] = {}
    for port in listed:
        numbers.setdefault(port.name, set()).add(port.port)
    offered = [_show(name, 0, "/".join(str(number) for number in sorted(numbers[name]))) for name in sorted(numbers)]
    if ref.name:
        if ref.name not in numbers:
            raise PortChoiceError(f"no port {ref}", offered)
        return PortSelector(name=ref.name, service_port=service_port)
    if ref.number:
        found = list(numbers) if len(numbers) == 1 else [name for name in numbers if ref.number in numbers[name]]
        return PortSelector(name=found[0], service_port=ref.number) if len(found) == 1 else None
    names = {port.name for port in _fitting(listed, protocol)}
    if len(names) != 1:
        raise PortChoiceError("no port was named and none fits alone", offered)
    return PortSelector(name=names.pop(), service_port=service_port)


def _unlisted(ref: PortRef, service_port: int) -> PortSelector:
    """Nothing lists any port: a number is taken as it stands (a headless Service without ports), a name stays a name."""
    if ref.number:
        return PortSelector(number=ref.number, service_port=ref.number)
    return PortSelector(name=ref.name, service_port=service_port)


def _targeting(number: int, service: ServiceRecord, listed: list[SlicePort]) -> list[ServicePort]:
    """The Service's ports that lead to this number on a pod: by their own word, or (named target ports) by that of the slices."""
    names = {port.name for port in listed if port.port == number}
    return [port for port in service.ports if port.target_port == number or port.name in names]


def _service_number_for_target(number: int, service: ServiceRecord | None, listed: list[SlicePort]) -> int:
    found = _targeting(number, service, listed) if service is not None else []
    return found[0].port if len(found) == 1 else 0


def _fitting(ports: Sequence[_P], protocol: str) -> Sequence[_P]:
    """The ports of the first rule that exactly one port name meets; a rule that several meet decides nothing."""
    if len({port.name for port in ports}) == 1:
        return ports
    rules: list[Callable[[_P], bool]] = [
        lambda port: port.app_protocol.lower() == protocol,
        lambda port: port.name == protocol,
        lambda port: port.name.startswith(f"{protocol}-"),
        lambda port: protocol == "grpc" and port.app_protocol == "kubernetes.io/h2c",
    ]
    for rule in rules:
        found = [port for port in ports if rule(port)]
        if len({port.name for port in found}) == 1:
            return found
    return []


def _show(name: str, port: int, target: int | str) -> str:
    number = f"{port} → {target}" if port and target and target != port else str(port or target or "")
    return f"{name} ({number})" if name else number
