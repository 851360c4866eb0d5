"""From the API server's JSON to frozen records: the only place that knows how EndpointSlices, Services and watch lines are spelled.

Why not the models of the ``kubernetes`` package: they cost nine times as much CPU per event and three times the memory, and they
refuse what a newer server may say. Here unknown fields and unknown enum values are passed over; a value of a wrong *type* makes
the whole object unreadable (``WireError``), because half a slice would look like removed endpoints.

What is not for us is passed over as well, and counted: address types other than IPv4 and IPv6 (FQDN, which nobody writes), slices
of no Service. Of an endpoint only the first address has a meaning, and kube-proxy looks at no other. Ports that are not TCP, or
have no number from 1 to 65535, are left out. Absent conditions mean ready, serving, not terminating.

Zones, nodes and port tuples repeat thousands of times and are kept once.

Spec: k8s.io/api discovery/v1 types.go; core/v1 Service; apimachinery meta/v1 WatchEvent.
"""

from __future__ import annotations

import ipaddress
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from meshlb.core.endpoint import NO_HINTS, NO_LOCALITY, Endpoint, Hints, Locality
from meshlb.resolve.kubernetes.fields import WireError, document, read, strings
from meshlb.resolve.kubernetes.refusal import Refusal, of_status

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
_INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"
_PORTS: Final = range(1, 65536)


@dataclass(frozen=True, slots=True)
class SlicePort:
    """A TCP port of a slice; ``name`` equals that of the Service's port, ``port`` is the pods' number, never 0."""

    name: str
    port: int
    protocol: str = "TCP"
    app_protocol: str = ""


@dataclass(frozen=True, slots=True)
class SliceRecord:
    """An EndpointSlice. ``endpoints`` have port 0: ``ports`` apply to all of them, and which is meant is for the target to say."""

    name: str
    namespace: str
    service: str
    resource_version: str
    address_type: str
    headless: bool
    ports: tuple[SlicePort, ...]
    endpoints: tuple[Endpoint, ...]


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
    """A Service. ``cluster_ips`` is empty for headless and ExternalName ones, else in the order of ``ip_families``."""

    name: str
    namespace: str
    type: str = "ClusterIP"
    cluster_ips: tuple[str, ...] = ()
    ip_families: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    external_name: str = ""
    headless: bool = False


@dataclass(frozen=True, slots=True)
class SliceEvent:
    """``type`` is ADDED or MODIFIED."""

    type: str
    slice: SliceRecord

    @property
    def resource_version(self) -> str:
        return self.slice.resource_version


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Nothing happened up to this version. ``initial_events_end``: a streaming list is complete."""

    resource_version: str
    initial_events_end: bool = False


@dataclass(frozen=True, slots=True)
class Passed:
    """An event that says nothing to us: ``why`` (an address type, an event type), for the counters."""

    type: str
    resource_version: str
    why: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An object that is skipped, with the name it has, if that much could be read."""

    name: str
    resource_version: str
    problem: str


@dataclass(frozen=True, slots=True)
class Removal:
    """A slice is gone, whatever else its last state said. Events of type DELETED need no more than this."""

    name: str
    resource_version: str


Event = SliceEvent | Removal | Bookmark | Passed | Unreadable | Refusal


@dataclass(frozen=True, slots=True)
class SliceList:
    """The answer to a list: complete for what was asked, except for what is ``unreadable``."""

    resource_version: str
    slices: tuple[SliceRecord, ...]
    passed: tuple[Passed, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()


def parse_slice_list(text: bytes) -> SliceList:
    """Raises WireError if it is no list of slices: an absent item is a removed one, so nothing else may pass for an empty list.

    A single bad item is only ``unreadable``.
    """
    whole = document(text)
    if read(whole, "kind", str, "") != "EndpointSliceList" or "items" not in whole:
        raise WireError(f"no EndpointSliceList but {text[:80]!r}")
    metadata = read(whole, "metadata", dict, {})
    version = read(metadata, "resourceVersion", str, "")
    if not version or read(metadata, "continue", str, ""):
        raise WireError("an EndpointSliceList without a version" if not version else "an EndpointSliceList that is not complete")
    slices: list[SliceRecord] = []
    passed: list[Passed] = []
    unreadable: list[Unreadable] = []
    for item in read(whole, "items", list, ()):
        try:
            parsed = parse_slice(item)
        except WireError as error:
            unreadable.append(_unreadable(item, error))
            continue
        if isinstance(parsed, SliceRecord):
            slices.append(parsed)
        else:
            passed.append(parsed)
    return SliceList(version, tuple(slices), tuple(passed), tuple(unreadable))


def parse_event(line: bytes) -> Event:
    """One line of a watch; never raises."""
    try:
        whole = document(line)
        kind, thing = read(whole, "type", str, ""), read(whole, "object", dict, None)
        if not kind or thing is None:
            raise WireError("no type or no object")
    except WireError as error:
        return Unreadable("", "", f"{error} in {line[:80]!r}")
    try:
        return _parse_object(kind, thing)
    except WireError as error:
        return _unreadable(thing, error)


def parse_slice(item: object) -> SliceRecord | Passed:
    """An EndpointSlice object, or why it is not for us. Raises WireError."""
    if not isinstance(item, dict):
        raise WireError(f"an EndpointSlice is an object, not {item!r:.80}")
    metadata = read(item, "metadata", dict, {})
    labels = read(metadata, "labels", dict, {})
    version = read(metadata, "resourceVersion", str, "")
    name = read(metadata, "name", str, "")
    if not name:
        raise WireError("metadata.name: absent")
    family = read(item, "addressType", str, "")
    service = read(labels, SERVICE_NAME_LABEL, str, "")
    if family not in ("IPv4", "IPv6"):
        return Passed("", version, f"addressType {family}")
    if not service:
        return Passed("", version, "no service")
    return SliceRecord(
        name,
        read(metadata, "namespace", str, ""),
        sys.intern(service),
        version,
        sys.intern(family),
        HEADLESS_LABEL in labels,
        _slice_ports(read(item, "ports", list, ())),
        tuple(_endpoint(entry, family) for entry in read(item, "endpoints", list, ()) if read(entry, "addresses", list, ())),
    )


def parse_service(text: bytes) -> ServiceRecord:
    """A Service object. Raises WireError."""
    whole = document(text)
    if read(whole, "kind", str, "") != "Service":
        raise WireError(f"no Service but {text[:80]!r}")
    metadata = read(whole, "metadata", dict, {})
    spec = read(whole, "spec", dict, {})
    first = read(spec, "clusterIP", str, "")
    addresses = strings(spec, "clusterIPs") or ((first,) if first else ())  # no list before Kubernetes 1.20
    return ServiceRecord(
        read(metadata, "name", str, ""),
        read(metadata, "namespace", str, ""),
        read(spec, "type", str, "ClusterIP"),
        tuple(address for address in addresses if address != "None"),
        strings(spec, "ipFamilies"),
        tuple(port for port in map(_service_port, read(spec, "ports", list, ())) if _usable(port)),
        read(spec, "externalName", str, ""),
        "None" in addresses,
    )


def _parse_object(kind: str, thing: dict[str, Any]) -> Event:
    if kind == "ERROR":
        try:
            return of_status(thing)
        except WireError as error:  # whatever it says, the stream is over
            return Refusal(500, "", f"unreadable ERROR event: {error}")
    metadata = read(thing, "metadata", dict, {})
    version = read(metadata, "resourceVersion", str, "")
    if kind == "BOOKMARK":
        return Bookmark(version, read(metadata, "annotations", dict, {}).get(_INITIAL_EVENTS_END) == "true")
    if kind not in ("ADDED", "MODIFIED", "DELETED"):
        return Passed(kind, version, f"event type {kind}")
    if kind == "DELETED" and (name := read(metadata, "name", str, "")):
        return Removal(name, version)
    parsed = parse_slice(thing)
    return Passed(kind, parsed.resource_version, parsed.why) if isinstance(parsed, Passed) else SliceEvent(sys.intern(kind), parsed)


def _slice_ports(items: list[Any]) -> tuple[SlicePort, ...]:
    found = []
    for item in items:
        number = read(item, "port", int, 0)
        protocol = read(item, "protocol", str, "TCP")
        if number in _PORTS and protocol == "TCP":
            found.append(_slice_port(read(item, "name", str, ""), number, read(item, "appProtocol", str, "")))
    return tuple(found)


def _usable(port: ServicePort) -> bool:
    named = isinstance(port.target_port, str)
    return port.protocol == "TCP" and port.port in _PORTS and (named or port.target_port in _PORTS)


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


def _endpoint(entry: dict[str, Any], family: str) -> Endpoint:
    conditions = read(entry, "conditions", dict, {})
    target = read(entry, "targetRef", dict, {})
    zone = read(entry, "zone", str, "")
    hints = read(entry, "hints", dict, {})
    return Endpoint(
        host=_address(entry["addresses"][0], family),
        port=0,
        uid=read(target, "uid", str, ""),
        name=read(target, "name", str, ""),
        locality=_locality(zone) if zone else NO_LOCALITY,
        node=sys.intern(read(entry, "nodeName", str, "")),
        hostname=read(entry, "hostname", str, ""),
        hints=_hints(_names(hints, "forZones"), _names(hints, "forNodes")) if hints else NO_HINTS,
        ready=read(conditions, "ready", bool, True),
        serving=read(conditions, "serving", bool, True),
        terminating=read(conditions, "terminating", bool, False),
    )


def _address(text: object, family: str) -> str:
    try:
        if not isinstance(text, str):
            raise ValueError(text)
        # IPv6 in its one canonical form: the same address must be the same endpoint to every source.
        return str(ipaddress.IPv4Address(text) if family == "IPv4" else ipaddress.IPv6Address(text))
    except ValueError:
        raise WireError(f"addresses[0]: {text!r:.80} is no {family} address") from None


@lru_cache(maxsize=1024)
def _locality(zone: str) -> Locality:
    return Locality(zone=zone)


@lru_cache(maxsize=1024)
def _hints(zones: tuple[str, ...], nodes: tuple[str, ...]) -> Hints:
    return Hints(zones, nodes)


@lru_cache(maxsize=1024)
def _slice_port(name: str, number: int, app_protocol: str) -> SlicePort:
    return SlicePort(name, number, "TCP", app_protocol)


def _names(hints: dict[str, Any], key: str) -> tuple[str, ...]:
    return tuple(read(hint, "name", str, "") for hint in read(hints, key, list, ()))


def _unreadable(item: object, error: WireError) -> Unreadable:
    metadata = item.get("metadata") if isinstance(item, dict) else None
    name, version = (metadata.get("name"), metadata.get("resourceVersion")) if isinstance(metadata, dict) else ("", "")
    return Unreadable(name if isinstance(name, str) else "", version if isinstance(version, str) else "", str(error))
