"""A Service by addresses alone (DNS, its ClusterIP, the environment), for ``ranking``: pods or a virtual IP, and which number to dial.

A pod's number, the first of these that is known: what was written as ``?port=target``; the target number that the Service says; the
pod's own SRV record, of the port's name, else its only port, else the one with the number that was written; the one port of all
other pods' records; and with no SRV at all the number as it was written (``Concern.DNS_PORT``). The ClusterIP's: what the Service
says, what was written, the Service's SRV record, the environment.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshlb.core.endpoint import Endpoint
from meshlb.resolve.known import Concern, Known, ServiceName, Source, Verdict, count, family_of, is_headless
from meshlb.resolve.kubernetes.service_wire import ServiceRecord
from meshlb.resolve.ports import DEFAULT_NUMBERS, PortChoiceError, PortSelector, select


def by_dns(known: Known, want: ServiceName, cluster_ip: bool) -> Verdict | None:
    if known.addresses is None:
        return None
    if not known.addresses:
        note = "0 endpoints, DNS knows no such name any more"
        return Verdict(source=Source.DNS, note=note) if virtual_ip_host(known, want) == "" else None
    headless = is_headless(known)
    if not (want.pod or headless or (headless is None and not cluster_ip)):
        return None
    selector = None
    if known.service is not None:
        selector = select(want.port, want.protocol, known.service, ())
    mapped = want.port.number if want.port.is_target else _target_number(known.service, selector)
    told = 0 if mapped else told_port(known, want)
    pods, guessed = _pods(known, want, mapped, told)
    if not pods:
        ports = sorted({str(record.port) for record in known.records or () if record.of_pod}, key=int)
        hint = "write the number, or allow this client to list EndpointSlices"
        raise PortChoiceError(f"DNS gives the pods' addresses without the number of port {want.port or 'any'}", ports, hint)
    return Verdict(
        source=Source.DNS,
        pods=pods,
        service_port=selector.service_port if selector is not None else told or pods[0].port,
        note=count(pods, want),
        unverified=known.unseen,
        concerns=frozenset([Concern.DNS_PORT] if guessed else []),
    )


def _pods(known: Known, want: ServiceName, mapped: int, told: int) -> tuple[tuple[Endpoint, ...], bool]:
    """With the number of each, those without one left out; and whether some number is only what was written."""
    name = "" if want.port.is_target else want.port.name
    by_host: dict[str, dict[int, str]] = {}
    for record in known.records or ():
        if record.of_pod and (not name or record.port_name == name):
            by_host.setdefault(record.host, {})[record.port] = record.hostname
    virtual = {record.host for record in known.records or () if not record.of_pod} - by_host.keys()
    common = _only({port for ports in by_host.values() for port in ports})
    pods, guessed = [], False
    for address in known.addresses or ():
        if address in virtual:
            continue  # the ClusterIP of the Service that had this name until now
        ports = by_host.get(address, {})
        if mapped:
            numbers: Iterable[int] = [mapped]
        elif name and ports:
            numbers = ports  # pods on their node's network share its address
        else:
            numbers = [(_only(ports) if ports else common) or told]
            guessed |= told not in (0, common) and told in numbers and told not in ports
        hostname = next(iter(ports.values()), "")
        pods += [Endpoint(host=address, port=number, hostname=ports.get(number, hostname)) for number in numbers if number]
    return tuple(pods), guessed


def by_virtual_ip(known: Known, want: ServiceName) -> Verdict | None:
    host = virtual_ip_host(known, want)
    if not host:
        return None
    if known.service is not None:
        selector = select(want.port, want.protocol, known.service, ())
        number = selector.service_port if selector is not None else 0
    else:
        number = told_port(known, want) or _only(_own_ports(known))  # where there is one port, it leads to whatever is meant
    if not number and known.env is not None:
        number = known.env.port_for(want.port, want.protocol)
    if not number:
        asked = f"target port {want.port.number}" if want.port.is_target else f"port {want.port}" if want.port else "its port"
        name = f"{want.service}.{want.namespace}"
        hint = (
            f"write the Service's port number ({name}:NUMBER), or allow this client to list EndpointSlices and to get the Service"
        )
        raise PortChoiceError(f"{host} may be the ClusterIP, and the Service's number for {asked} is not known", (), hint)
    told_by_env = known.service is None and not known.addresses
    source = Source.ENVIRONMENT if told_by_env else Source.CLUSTER_IP
    return Verdict(source=source, virtual_ip=(host, number), service_port=number, note="its pods are not known")


def virtual_ip_host(known: Known, want: ServiceName) -> str:
    if want.pod or is_headless(known):
        return ""
    if known.service is not None:
        return _first(known.service.cluster_ips, six=family_of(known) == "IPv6")
    if known.addresses is not None:
        return (known.answer or known.addresses)[0] if known.addresses else ""
    return known.env.host if known.env is not None else ""


def _first(addresses: tuple[str, ...], *, six: bool) -> str:
    """The first of this family; of the other where there is none."""
    return next((address for address in addresses if (":" in address) == six), addresses[0] if addresses else "")


def told_port(known: Known, want: ServiceName) -> int:
    """The Service's own number, where it was written, or SRV or the environment says it; 0 if not."""
    if want.port.number:
        return 0 if want.port.is_target else want.port.number
    default = 0 if want.port.name else DEFAULT_NUMBERS.get(want.protocol, 0)
    own = _own_ports(known, want.port.name)
    if own:
        return default if default in own else _only(own)
    try:
        return known.env.port_for(want.port, want.protocol) if known.env is not None else default
    except PortChoiceError:
        return default


def _own_ports(known: Known, name: str = "") -> set[int]:
    """The Service's numbers, by SRV that lead to its ClusterIP."""
    return {record.port for record in known.records or () if not record.of_pod and (not name or record.port_name == name)}


def _only(numbers: Iterable[int]) -> int:
    """The one that is there, 0 if there are none or several."""
    first, *others = *numbers, 0
    return first if others == [0] else 0


def _target_number(service: ServiceRecord | None, selector: PortSelector | None) -> int:
    """The pods' number, if the Service says it as a number."""
    if service is None or selector is None:
        return 0
    if selector.name is None:
        return selector.number
    target = next((port.target_port for port in service.ports if port.name == selector.name), 0)
    return target if isinstance(target, int) else 0
