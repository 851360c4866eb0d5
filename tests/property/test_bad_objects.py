"""Objects that no API server should send: every field absent, null, of another type, or out of all proportion."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshlb.resolve.known import Known, ServiceName
from meshlb.resolve.kubernetes.fields import WireError
from meshlb.resolve.kubernetes.service_wire import PORTS, ServiceRecord, parse_service
from meshlb.resolve.kubernetes.wire import Recall, SliceRecord, Unreadable, parse_event, parse_slice, parse_slice_list
from meshlb.resolve.ranking import decide

SLICE: dict[str, Any] = {
    "kind": "EndpointSlice",
    "metadata": {
        "name": "orders-a",
        "namespace": "shop",
        "resourceVersion": "7",
        "labels": {"kubernetes.io/service-name": "orders"},
    },
    "addressType": "IPv4",
    "endpoints": [
        {
            "addresses": ["10.0.0.1"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "hostname": "orders-0",
            "nodeName": "node-1",
            "zone": "zone-a",
            "targetRef": {"kind": "Pod", "name": "orders-0", "uid": "u-1"},
            "hints": {"forZones": [{"name": "zone-a"}], "forNodes": [{"name": "node-1"}]},
        }
    ],
    "ports": [{"name": "grpc", "protocol": "TCP", "port": 9000, "appProtocol": "grpc"}],
}
SERVICE: dict[str, Any] = {
    "kind": "Service",
    "metadata": {"name": "orders", "namespace": "shop"},
    "spec": {
        "type": "ClusterIP",
        "clusterIP": "10.96.0.1",
        "clusterIPs": ["10.96.0.1", "fd00::1"],
        "ipFamilies": ["IPv4", "IPv6"],
        "ports": [{"name": "grpc", "protocol": "TCP", "port": 80, "targetPort": "grpc"}],
        "selector": {"app": "orders"},
        "internalTrafficPolicy": "Local",
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        "publishNotReadyAddresses": False,
        "externalName": "db.example.com",
    },
}
NONSENSE: list[Any] = [
    None, True, 0, -1, 65536, 10**400, 1.5, 1e308, "", "None", "ten", "x" * 10_000, "10.0.0.1/8", "fd00::1", "\ud800", [], [None], [[]], {},
    {"name": None}, "ExternalName", "Local", "FQDN",
]  # fmt: skip
CUT = object()


def places(thing: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    children = thing.items() if isinstance(thing, dict) else enumerate(thing) if isinstance(thing, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def spoilt(thing: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    result = copy.deepcopy(thing)
    owner: Any = result
    for key in path[:-1]:
        owner = owner[key]
    if value is CUT:
        del owner[path[-1]]
    else:
        owner[path[-1]] = value
    return result


def damage(thing: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """One or two places spoilt; the second may be gone with the first."""
    paths, values = st.sampled_from(list(places(thing))), st.sampled_from([*NONSENSE, CUT])

    def spoil_again(once: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
        try:
            return spoilt(once, path, value)
        except (KeyError, IndexError, TypeError):
            return once

    return st.builds(spoil_again, st.builds(spoilt, st.just(thing), paths, values), paths, values)


@given(damage(SLICE), st.sampled_from(["ADDED", "MODIFIED", "DELETED", "RENAMED"]))
def test_a_spoilt_slice_is_read_in_part_or_not_at_all_and_raises_nothing_else(thing: dict[str, Any], kind: str) -> None:
    """What is read can be dialled; an event never raises, and a list keeps its other items."""
    try:
        parsed = parse_slice(thing)
    except WireError:
        parsed = None
    if isinstance(parsed, SliceRecord):
        assert all(port.port in PORTS for port in parsed.ports)
        assert all(endpoint.host.replace(".", "").isdigit() or ":" in endpoint.host for endpoint in parsed.endpoints)
    line = json.dumps({"type": kind, "object": thing}).encode()
    assert parsed is not None or kind not in ("ADDED", "MODIFIED") or isinstance(parse_event(line), Unreadable)
    whole = {"kind": "EndpointSliceList", "metadata": {"resourceVersion": "9"}, "items": [thing, SLICE]}
    assert "orders-a" in [record.name for record in parse_slice_list(json.dumps(whole).encode()).slices]


@given(damage(SLICE), damage(SLICE))
def test_reading_with_a_memory_says_what_reading_without_says(before: dict[str, Any], thing: dict[str, Any]) -> None:
    """Whatever was read before: an endpoint that is taken for unchanged equals the one that would have been read, errors included."""
    recall = Recall()
    held = [outcome(item, recall) for item in (SLICE, before)]  # somebody has to keep what is remembered
    assert outcome(thing, recall) == outcome(thing, None), held


def outcome(thing: dict[str, Any], recall: Recall | None) -> object:
    try:
        return parse_slice(thing, recall)
    except WireError as error:
        return str(error)


@given(damage(SERVICE), damage(SLICE))
def test_a_spoilt_service_is_read_or_refused_and_what_is_read_can_be_judged(thing: dict[str, Any], other: dict[str, Any]) -> None:
    """No combination of what was read makes the ranking raise."""
    service: ServiceRecord | None = None
    try:
        service = parse_service(json.dumps(thing).encode())
        assert all(port.port in PORTS for port in service.ports)
        assert service.affinity_timeout_s in range(1, 86401)
        record = parse_slice(other)
    except WireError:
        return
    slices = (record,) if isinstance(record, SliceRecord) else ()
    decide(Known(slices=slices, seen=True, service=service), ServiceName(service="orders", namespace="shop"))
