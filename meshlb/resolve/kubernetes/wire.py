"""From the API server's JSON to frozen records: the only place that knows how EndpointSlices and watch lines are spelled.

Why not the models of the ``kubernetes`` package: they cost nine times as much CPU per event and three times the memory, and they
refuse what a newer server may say. Here unknown fields and unknown enum values are passed over; a value of a wrong *type* makes
the whole object unreadable (``WireError``), because half a slice would look like removed endpoints.

What is not for us is passed over as well, and counted: address types other than IPv4 and IPv6 (FQDN, which nobody writes), slices
of no Service. Of an endpoint only the first address has a meaning, and kube-proxy looks at no other. Ports that are not TCP, or
have no number, are left out. Absent conditions mean ready, serving, not terminating.

What cannot be dialled cannot be lost either: an endpoint whose address is none of its slice's family and a port beyond 65535 are left
out, the rest of the slice counts, and the record says so (``flaws``) for a warning and the counters.

Zones, nodes and port tuples repeat thousands of times and are kept once.

Spec: k8s.io/api discovery/v1 types.go; apimachinery meta/v1 WatchEvent.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from meshlb.core.endpoint import NO_HINTS, NO_LOCALITY, Endpoint, Hints, Locality
from meshlb.resolve.kubernetes.fields import WireError, document, read
from meshlb.resolve.kubernetes.refusal import Refusal, of_status
from meshlb.resolve.kubernetes.service_wire import FAMILIES, PORTS

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
_INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"
BAD_ADDRESS: Final = "endpoints without a valid address"
_LOGGED: Final = 80
_BAD_PORT: Final = "ports out of range"


@dataclass(frozen=True, slots=True)
class SlicePort:
    """A TCP port of a slice; ``name`` equals that of the Service's port, ``port`` is the pods' number, never 0."""

    name: str
    port: int
    protocol: str = "TCP"
    app_protocol: str = ""


@dataclass(frozen=True, slots=True)
class SliceRecord:
    """An EndpointSlice. ``endpoints`` have port 0: ``ports`` apply to all of them, and which is meant is for the target to say.

    ``flaws``: what was left out of it, by kind.
    """

    name: str
    namespace: str
    service: str
    resource_version: str
    address_type: str
    headless: bool
    ports: tuple[SlicePort, ...]
    endpoints: tuple[Endpoint, ...]
    flaws: tuple[str, ...] = ()
    truncated: bool = False  # its source left endpoints out: an Endpoints object over capacity


@dataclass(frozen=True, slots=True)
class SliceEvent:
    """``type`` is ADDED or MODIFIED."""

    type: str
    slice: SliceRecord

    @property
    def service(self) -> str:
        return self.slice.service

    @property
    def resource_version(self) -> str:
        return self.slice.resource_version


@dataclass(frozen=True, slots=True)
class EndpointsEvent:
    """``type`` is ADDED or MODIFIED. One object is everything its Service has: ``slices`` replace all that were."""

    type: str
    service: str
    resource_version: str
    slices: tuple[SliceRecord, ...]


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


ObjectEvent = SliceEvent | EndpointsEvent
Event = SliceEvent | EndpointsEvent | Removal | Bookmark | Passed | Unreadable | Refusal


@dataclass(frozen=True, slots=True)
class SliceList:
    """The answer to a list: complete for what was asked, except for what is ``unreadable``."""

    resource_version: str
    slices: tuple[SliceRecord, ...]
    passed: tuple[Passed, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()


def parse_slice_list(text: bytes) -> SliceList:
    """Raises WireError if it is no complete list of slices."""
    return parse_list(text, "EndpointSliceList", parse_slice)


def parse_list(text: bytes, kind: str, parse: Callable[[object], SliceRecord | tuple[SliceRecord, ...] | Passed]) -> SliceList:
    """Raises WireError if it is no list of this kind: an absent item is a removed one, so nothing else may pass for an empty list.

    A single bad item is only ``unreadable``.
    """
    whole = document(text)
    if read(whole, "kind", str, "") != kind or "items" not in whole:
        raise WireError(f"no {kind} but {text[:80]!r}")
    metadata = read(whole, "metadata", dict, {})
    version = read(metadata, "resourceVersion", str, "")
    if not version or read(metadata, "continue", str, ""):
        raise WireError(f"an {kind} without a version" if not version else f"an {kind} that is not complete")
    slices: list[SliceRecord] = []
    passed: list[Passed] = []
    unreadable: list[Unreadable] = []
    for item in read(whole, "items", list, ()):
        try:
            parsed = parse(item)
        except WireError as error:
            unreadable.append(_unreadable(item, error))
            continue
        if isinstance(parsed, Passed):
            passed.append(parsed)
        else:
            slices += parsed if isinstance(parsed, tuple) else (parsed,)
    return SliceList(version, tuple(slices), tuple(passed), tuple(unreadable))


def parse_slice_event(kind: str, thing: dict[str, Any]) -> Event:
    """What an ADDED or MODIFIED slice says. Raises WireError."""
    parsed = parse_slice(thing)
    return Passed(kind, parsed.resource_version, parsed.why) if isinstance(parsed, Passed) else SliceEvent(sys.intern(kind), parsed)


def parse_event(line: bytes, parse: Callable[[str, dict[str, Any]], Event] = parse_slice_event) -> Event:
    """One line of a watch; never raises. ``parse`` reads what was ADDED or MODIFIED."""
    try:
        whole = document(line)
        kind, thing = read(whole, "type", str, ""), read(whole, "object", dict, None)
        if not kind or thing is None:
            raise WireError("no type or no object")
    except WireError as error:
        return Unreadable("", "", f"{error} in {line[:80]!r}")
    try:
        return _parse_object(kind, thing, parse)
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
    if family not in FAMILIES:  # by kind, not by word: counters must not grow with what somebody makes up
        return Passed("", version, f"addressType {family if family == 'FQDN' else 'unknown'}")
    if not service:
        return Passed("", version, "no service")
    flaws: list[str] = []
    return SliceRecord(
        name,
        read(metadata, "namespace", str, ""),
        sys.intern(service),
        version,
        sys.intern(family),
        HEADLESS_LABEL in labels,
        slice_ports(read(item, "ports", list, ()), flaws),
        tuple(_endpoints(read(item, "endpoints", list, ()), family, flaws)),
        flaws=tuple(flaws),
    )


def _parse_object(kind: str, thing: dict[str, Any], parse: Callable[[str, dict[str, Any]], Event]) -> Event:
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
        return Passed(kind[:_LOGGED], version, "event type unknown")
    if kind == "DELETED" and (name := read(metadata, "name", str, "")):
        return Removal(name, version)
    return parse(kind, thing)


def slice_ports(items: list[Any], flaws: list[str]) -> tuple[SlicePort, ...]:
    """The TCP ports; what is none is added to ``flaws``."""
    found = []
    for item in items:
        number = read(item, "port", int, 0)
        if number and number not in PORTS:
            flaws.append(_BAD_PORT)
        elif number and read(item, "protocol", str, "TCP") == "TCP":
            found.append(_slice_port(read(item, "name", str, ""), number, read(item, "appProtocol", str, "")))
    return tuple(found)


def _endpoints(entries: list[Any], family: str, flaws: list[str]) -> Iterator[Endpoint]:
    for entry in entries:
        addresses = read(entry, "addresses", list, ()) if entry is not None else ()
        host = read_address(addresses[0], family) if addresses else ""
        if host:
            yield _endpoint(entry, host)
        else:
            flaws.append(BAD_ADDRESS)


def _endpoint(entry: dict[str, Any], host: str) -> Endpoint:
    conditions = read(entry, "conditions", dict, {})
    target = read(entry, "targetRef", dict, {})
    zone = read(entry, "zone", str, "")
    hints = read(entry, "hints", dict, {})
    return Endpoint(
        host=host,
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


def read_address(text: object, family: str) -> str:
    """IPv6 in its one canonical form: the same address must be the same endpoint to every source. Empty if it is none."""
    if not isinstance(text, str):
        raise WireError(f"addresses[0]: {text!r:.80} is no {family} address")
    try:
        return str(ipaddress.IPv4Address(text) if family == "IPv4" else ipaddress.IPv6Address(text))
    except ValueError:
        return ""


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
