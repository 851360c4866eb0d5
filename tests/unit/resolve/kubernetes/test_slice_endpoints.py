"""Endpoints that say what they said before: not read again, and the very same objects."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest

from meshlb.core.endpoint import Endpoint
from meshlb.resolve.kubernetes.reading import Parsers
from meshlb.resolve.kubernetes.requests import Resource
from meshlb.resolve.kubernetes.wire import SliceEvent, Unreadable
from tests.unit.resolve.kubernetes.scripted_api import event, slice_list, slice_object

BY_CONTROLLER: dict[str, Any] = {
    "addresses": ["10.0.0.1"],
    "conditions": {"ready": True, "serving": True, "terminating": False},
    "targetRef": {"kind": "Pod", "name": "orders-0", "uid": "u-0"},
    "nodeName": "node-1",
    "zone": "zone-a",
    "hints": {"forZones": [{"name": "zone-a"}]},
}
BY_HAND: dict[str, Any] = {"addresses": ["10.0.0.2"]}


def read(parsers: Parsers, version: int, *entries: dict[str, Any]) -> SliceEvent:
    item = slice_object("orders-a", str(version)) | {"endpoints": list(entries)}
    parsed = parsers.line(json.dumps(event("MODIFIED", item)).encode())
    assert isinstance(parsed, SliceEvent)
    return parsed


def same(before: SliceEvent, after: SliceEvent) -> list[Endpoint]:
    known = {id(endpoint) for endpoint in before.slice.endpoints}
    return [endpoint for endpoint in after.slice.endpoints if id(endpoint) in known]


def test_endpoints_that_did_not_change_are_the_same_objects_in_the_next_event() -> None:
    """Written by the controller or by hand, with the others moved: what follows compares pointers, and strings are held once."""
    parsers = Parsers.of(Resource.SLICES)
    first = read(parsers, 1, BY_CONTROLLER, BY_HAND)
    second = read(parsers, 2, {"addresses": ["10.0.0.3"]}, BY_HAND, BY_CONTROLLER)
    assert same(first, second) == [first.slice.endpoints[1], first.slice.endpoints[0]]


def test_an_endpoint_that_changed_in_anything_is_another() -> None:
    """Each field by itself, also one that is left out: its default may differ from what was said."""
    changed: list[dict[str, Any]] = [
        {"conditions": {"ready": False, "serving": True, "terminating": False}},
        {"conditions": {"ready": True, "serving": False, "terminating": False}},
        {"conditions": {"ready": True, "serving": True, "terminating": True}},
        {"targetRef": {"name": "orders-0", "uid": "u-1"}},
        {"targetRef": {"name": "orders-1", "uid": "u-0"}},
        {"targetRef": None},
        {"nodeName": None},
        {"zone": "zone-b"},
        {"hostname": "orders-0"},
        {"hints": None},
        {"hints": {"forNodes": [{"name": "node-1"}]}},
    ]
    for change in changed:
        parsers = Parsers.of(Resource.SLICES)
        first = read(parsers, 1, BY_CONTROLLER)
        second = read(parsers, 2, BY_CONTROLLER | change)
        assert second.slice.endpoints != first.slice.endpoints, change
        (anew,) = read(Parsers.of(Resource.SLICES), 2, BY_CONTROLLER | change).slice.endpoints
        assert second.slice.endpoints == (anew,), change


@pytest.mark.parametrize("condition", ["ready", "serving", "terminating"])
def test_a_wrong_type_is_no_known_endpoint(condition: str) -> None:
    """1 equals True in Python, and is no condition in Kubernetes: the object cannot be read, whatever was read before."""
    parsers = Parsers.of(Resource.SLICES)
    first = read(parsers, 1, BY_CONTROLLER)
    wrong = BY_CONTROLLER | {"conditions": BY_CONTROLLER["conditions"] | {condition: int(BY_CONTROLLER["conditions"][condition])}}
    item = slice_object("orders-a", "2") | {"endpoints": [wrong]}
    assert isinstance(parsers.line(json.dumps(event("MODIFIED", item)).encode()), Unreadable), first


def test_a_list_is_read_against_what_the_watch_said_and_the_other_way_round() -> None:
    """A relist of thousands of endpoints that did not change makes no new ones."""
    parsers = Parsers.of(Resource.SLICES)
    first = read(parsers, 1, BY_CONTROLLER, BY_HAND)
    listed = parsers.list(slice_list("9", slice_object("orders-a", "9") | {"endpoints": [BY_CONTROLLER, BY_HAND]}))
    assert [one is other for one, other in zip(listed.slices[0].endpoints, first.slice.endpoints, strict=True)] == [True, True]
    del first
    again = read(parsers, 10, BY_CONTROLLER)
    assert again.slice.endpoints[0] is listed.slices[0].endpoints[0]


def test_what_nobody_keeps_is_not_remembered() -> None:
    """Slices come and go for months: the memory of a stream is what its Services know, and nothing more."""
    parsers = Parsers.of(Resource.SLICES)
    first = read(parsers, 1, BY_CONTROLLER)
    endpoint_id, kept = id(first.slice.endpoints[0]), first.slice.endpoints[0]
    del first
    gc.collect()
    assert id(read(parsers, 2, BY_CONTROLLER).slice.endpoints[0]) != endpoint_id
    assert kept.uid == "u-0"
