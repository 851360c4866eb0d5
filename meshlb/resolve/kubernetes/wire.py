"""From the API server's JSON to frozen records: the only place that knows how EndpointSlices and watch lines are spelled.

Why not the models of the ``kubernetes`` package: they cost nine times as much CPU per event and three times the memory, and they
refuse what a newer server may say. Here unknown fields and unknown enum values are passed over; a value of a wrong *type* makes
the whole object unreadable (``WireError``), because half a slice would look like removed endpoints.

What is not for us is passed over as well, and counted: address types other than IPv4 and IPv6 (FQDN, which nobody writes), slices
of no Service. Of an endpoint only the first address has a meaning, and kube-proxy looks at no other. Ports that are not TCP, or
have no number, are left out. Absent conditions mean ready, serving, not terminating.

What cannot be dialled cannot be lost either: an endpoint whose address is none of its slice's family and a port beyond 65535 are left
out, the rest of the slice counts, and the record says so (``flaws``) for a warning and the counters.

Zones, nodes and port tuples repeat thousands of times and are kept once. Endpoints that did not change are not read again: ``Recall``
knows what its stream read last, ``slice_endpoints`` compares.

Spec: k8s.io/api discovery/v1 types.go; apimachinery meta/v1 WatchEvent.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final
from weakref import WeakValueDictionary

from meshlb.core.endpoint import Endpoint
from meshlb.resolve.kubernetes.fields import WireError, document, read
from meshlb.resolve.kubernetes.refusal import Refusal, of_status
from meshlb.resolve.kubernetes.service_wire import FAMILIES, PORTS
from meshlb.resolve.kubernetes.slice_endpoints import read_endpoints

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
_INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"
_LOGGED: Final = 80
_BAD_PORT: Final = "ports out of range"


@dataclass(frozen=True, slots=True)
class SlicePort:
    """A TCP port of a slice; ``name`` equals that of the Service's port, ``port`` is the pods' number, never 0."""

    name: str
    port: int
    protocol: str = "TCP"
    app_protocol: str = ""


@dataclass(frozen=True, slots=True, weakref_slot=True)
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


class Recall:
    """What one stream read last, so that what did not change need not be read again (``slice_endpoints``).

    It holds nothing itself: a record is remembered for as long as somebody else keeps it. Any thread.
    """

    __slots__ = ("_records",)

    def __init__(self) -> None:
        self._records: WeakValueDictionary[str, SliceRecord] = WeakValueDictionary()

    def endpoints(self, name: str) -> Mapping[str, Endpoint]:
        """Those of the slice of this name, by host."""
        record = self._records.get(name)
        return {endpoint.host: endpoint for endpoint in record.endpoints} if record is not None else {}

    def note(self, record: SliceRecord) -> None:
        self._records[record.name] = record


def parse_slice_list(text: bytes, recall: Recall | None = None) -> SliceList:
    """Raises WireError if it is no complete list of slices."""
    return parse_list(text, "EndpointSliceList", partial(parse_slice, recall=recall))


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


def parse_slice_event(kind: str, thing: dict[str, Any], recall: Recall | None = None) -> Event:
    """What an ADDED or MODIFIED slice says. Raises WireError."""
    parsed = parse_slice(thing, recall)
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


def parse_slice_line(line: bytes, recall: Recall) -> Event:
    """One line of a watch of EndpointSlices; never raises."""
    return parse_event(line, partial(parse_slice_event, recall=recall))


def parse_slice(item: object, recall: Recall | None = None) -> SliceRecord | Passed:
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
    known = recall.endpoints(name) if recall is not None else {}
    record = SliceRecord(
        name,
        read(metadata, "namespace", str, ""),
        sys.intern(service),
        version,
        sys.intern(family),
        HEADLESS_LABEL in labels,
        slice_ports(read(item, "ports", list, ()), flaws),
        tuple(read_endpoints(read(item, "endpoints", list, ()), family, flaws, known)),
        flaws=tuple(flaws),
    )
    if recall is not None:
        recall.note(record)
    return record


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


@lru_cache(maxsize=1024)
def _slice_port(name: str, number: int, app_protocol: str) -> SlicePort:
    return SlicePort(name, number, "TCP", app_protocol)


def _unreadable(item: object, error: WireError) -> Unreadable:
    metadata = item.get("metadata") if isinstance(item, dict) else None
    name, version = (metadata.get("name"), metadata.get("resourceVersion")) if isinstance(metadata, dict) else ("", "")
    return Unreadable(name if isinstance(name, str) else "", version if isinstance(version, str) else "", str(error))
