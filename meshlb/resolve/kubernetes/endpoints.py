"""From an Endpoints object (core/v1, deprecated since Kubernetes 1.33) to the records that slices become.

One object is everything its Service has: per subset, ready and not ready addresses, and the ports they share. So one object becomes
one record per subset and family, named ``orders/0``; one without subsets becomes one empty record, which is how "no endpoints" is
told from "no such object": a Service whose slices are made by hand has none.

What is lost against slices: terminating pods (they are left out, so nothing tells that they still serve), zones, hints, the second
family, and every address beyond the thousandth (``truncated``, from the annotation; releases before 1.22 only warned of it).

Spec: k8s.io/api core/v1 types.go, Endpoints; reference section 1.3.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Final

from meshlb.core.endpoint import Endpoint
from meshlb.resolve.kubernetes.fields import WireError, read
from meshlb.resolve.kubernetes.slice_endpoints import BAD_ADDRESS, read_address
from meshlb.resolve.kubernetes.wire import (
    HEADLESS_LABEL,
    EndpointsEvent,
    Event,
    SliceList,
    SliceRecord,
    parse_event,
    parse_list,
    slice_ports,
)

_OVER_CAPACITY: Final = "endpoints.kubernetes.io/over-capacity"


def parse_endpoints_list(text: bytes) -> SliceList:
    """Raises WireError if it is no complete list of Endpoints."""
    return parse_list(text, "EndpointsList", parse_endpoints)


def parse_endpoints_line(line: bytes) -> Event:
    """One line of a watch of Endpoints; never raises."""
    return parse_event(line, _event)


def _event(kind: str, thing: dict[str, Any]) -> Event:
    slices = parse_endpoints(thing)
    return EndpointsEvent(sys.intern(kind), slices[0].service, slices[0].resource_version, slices)


def parse_endpoints(item: object) -> tuple[SliceRecord, ...]:
    """An Endpoints object: at least one record. Raises WireError."""
    if not isinstance(item, dict):
        raise WireError(f"an Endpoints is an object, not {item!r:.80}")
    metadata = read(item, "metadata", dict, {})
    name = sys.intern(read(metadata, "name", str, ""))
    if not name:
        raise WireError("metadata.name: absent")
    records: list[SliceRecord] = []
    for subset in read(item, "subsets", list, ()) or [{}]:
        flaws: list[str] = []
        ports = slice_ports(read(subset, "ports", list, ()), flaws)
        found = list(_addresses(subset, flaws))
        families = sorted({_family(endpoint.host) for endpoint in found}) or ["IPv4"]
        for family in families:
            records.append(
                SliceRecord(
                    f"{name}/{len(records)}",
                    read(metadata, "namespace", str, ""),
                    name,
                    read(metadata, "resourceVersion", str, ""),
                    family,
                    HEADLESS_LABEL in read(metadata, "labels", dict, {}),
                    ports,
                    tuple(endpoint for endpoint in found if _family(endpoint.host) == family),
                    flaws=tuple(flaws),
                    truncated=bool(read(metadata, "annotations", dict, {}).get(_OVER_CAPACITY)),
                )
            )
    return tuple(records)


def _addresses(subset: object, flaws: list[str]) -> Iterator[Endpoint]:
    for key, ready in (("addresses", True), ("notReadyAddresses", False)):
        for entry in read(subset, key, list, ()):
            text = read(entry, "ip", str, "")
            host = read_address(text, _family(text))
            if host:
                yield _endpoint(entry, host, ready)
            else:
                flaws.append(BAD_ADDRESS)


def _endpoint(entry: dict[str, Any], host: str, ready: bool) -> Endpoint:
    target = read(entry, "targetRef", dict, {})
    return Endpoint(
        host=host,
        port=0,
        uid=read(target, "uid", str, ""),
        name=read(target, "name", str, ""),
        node=sys.intern(read(entry, "nodeName", str, "")),
        hostname=read(entry, "hostname", str, ""),
        ready=ready,
        serving=ready,
    )


def _family(host: str) -> str:
    return "IPv6" if ":" in host else "IPv4"
