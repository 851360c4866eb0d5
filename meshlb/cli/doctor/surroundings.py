"""What is around this process and decides without any request: its variables, a sidecar, its node and zone; and the port that is meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from meshlb.cli.doctor.check import FAIL, OK, SKIPPED, WARN, Finding
from meshlb.core.endpoint import Place
from meshlb.resolve.env import EnvService
from meshlb.resolve.known import ServiceName
from meshlb.resolve.kubernetes.service_wire import ServiceRecord
from meshlb.resolve.kubernetes.wire import SliceRecord
from meshlb.resolve.place import NODE_YAML, ZONE_YAML
from meshlb.resolve.ports import PortChoiceError, PortSelector, select
from meshlb.resolve.sidecar import Sidecar


def environment(found: EnvService | None, want: ServiceName, own_namespace: str) -> Finding:
    """What the kubelet wrote about the Service when this container started."""
    variable = f"{want.service.upper().replace('-', '_')}_SERVICE_HOST"
    if found is not None:
        numbers = ", ".join(str(number) for number in sorted(found.numbers))
        return Finding(OK, f"{variable}={found.host}, ports {numbers}; the last resort, of when this container started")
    if want.namespace != own_namespace:
        return Finding(SKIPPED, f"variables speak of the pod's own namespace only ({own_namespace or 'none here'})")
    why = "the Service is headless or younger than this pod, or enableServiceLinks is false"
    return Finding(SKIPPED, f"no {variable} with a port: {why}")


def sidecar(found: Sidecar | None, setting: str) -> Finding:
    """A service mesh's own proxy beside this process, and what is done about it."""
    if found is None:
        return Finding(OK, "no sign of one")
    if setting == "ignore":
        advice = "its encryption and policies are bypassed, as discovery.sidecar=ignore wants; leave that out to pass through to it"
        return Finding(WARN, f"{found}, and ignored: pods are dialled past it", advice)
    return Finding(
        OK, f"{found}: calls go to the Service's own address, where it balances (discovery.sidecar=ignore to balance here)"
    )


def place(found: Place, spread_by_zone: bool) -> Finding:
    """Node and zone; they matter where slices carry hints, or the Service keeps its traffic on the node."""
    said = f"node {found.node or 'unknown'}, zone {found.zone or 'unknown'}"
    if (found.node and found.zone) or not spread_by_zone:
        return Finding(OK, said)
    lacking = ZONE_YAML if found.node else NODE_YAML
    return Finding(WARN, said, f"topology hints and internalTrafficPolicy: Local need it: give the container {lacking}")


def port(
    want: ServiceName,
    service: ServiceRecord | None,
    slices: Sequence[SliceRecord] | None,
    env: EnvService | None,
    pods: Sequence[dict[str, Any]],
) -> Finding:
    """Which number is dialled on pods, which on the ClusterIP, and by whose word."""
    if service is None and not slices:
        return _port_without_api(want, env, pods)
    if service is not None and service.type == "ExternalName":
        return Finding(OK, f"{_written(want)}: dialled on {service.external_name} as it is written")
    listed = [record.ports for record in slices or ()]
    try:
        chosen = select(want.port, want.protocol, service, listed)
    except PortChoiceError as error:
        return Finding(FAIL, str(error), "write one of these ports")
    if chosen is None:
        advice = "write the port's name, or allow this client to get the Service"
        return Finding(
            WARN, f"{want.port} is no pod's port, and the Service that maps it cannot be read: the ClusterIP is used", advice
        )
    on_virtual_ip = "" if service is not None and service.headless else f", {chosen.service_port or 'not known'} on the ClusterIP"
    by = "the Service" if service is not None else "its slices"
    return Finding(OK, f"{_written(want)}: {_dialled(chosen, listed)}{on_virtual_ip}, by {by}")


def _port_without_api(want: ServiceName, env: EnvService | None, pods: Sequence[dict[str, Any]]) -> Finding:
    numbers = sorted({one["address"].rpartition(":")[2] for one in pods})
    if numbers:
        return Finding(
            OK, f"{_written(want)}: {'/'.join(numbers)} is dialled, by {'DNS, the environment' if env else 'DNS'} or as written"
        )
    if want.port.number:
        return Finding(OK, f"{_written(want)}: dialled as it is written")
    return Finding(
        WARN, f"{_written(want)}: nobody has said its number", "write the number, or allow this client to list EndpointSlices"
    )


def _written(want: ServiceName) -> str:
    if want.port.is_target:
        return f"target port {want.port.number}"
    if want.port:
        return f"port {want.port}"
    return f"no port was written, so the only one or the one that fits {want.protocol}"


def _dialled(chosen: PortSelector, listed: Iterable[Sequence[Any]]) -> str:
    numbers = sorted({number for ports in listed if (number := chosen.number_in(ports))})
    pods = f"{'/'.join(map(str, numbers))} on pods" if numbers else "no pod's number yet"
    name = f"{chosen.name!r}, " if chosen.name else ""
    return f"{name}{pods}"
