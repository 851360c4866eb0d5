"""An Endpoints object becomes the records that slices become, and what it lost on the way is said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshlb.core.endpoint import Endpoint
from meshlb.resolve.kubernetes.endpoints import parse_endpoints, parse_endpoints_line, parse_endpoints_list
from meshlb.resolve.kubernetes.fields import WireError
from meshlb.resolve.kubernetes.slices import merge
from meshlb.resolve.kubernetes.wire import EndpointsEvent, Removal, SlicePort, Unreadable
from meshlb.resolve.ports import PortSelector
from tests.unit.resolve.kubernetes.recordings import exchanges

POD = {"kind": "Pod", "name": "orders-1", "uid": "u1"}


def endpoints(*subsets: object, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "orders", "namespace": "shop", "resourceVersion": "7", **metadata}, "subsets": list(subsets)}


def subset(ready: list[dict[str, Any]], not_ready: list[dict[str, Any]] | None = None, port: int = 9000) -> dict[str, Any]:
    return {"addresses": ready, "notReadyAddresses": not_ready, "ports": [{"name": "grpc", "port": port, "protocol": "TCP"}]}


def test_each_subset_is_a_record_with_its_ports_and_both_kinds_of_addresses() -> None:
    """Ready ones serve; the others neither serve nor terminate. Pod, node and hostname are kept."""
    first = subset([{"ip": "10.0.0.1", "nodeName": "n1", "hostname": "h", "targetRef": POD}], [{"ip": "10.0.0.2"}])
    one, two = parse_endpoints(endpoints(first, subset([{"ip": "10.0.0.3"}], port=9001)))
    assert (one.name, one.service, one.namespace, one.resource_version, one.headless) == ("orders/0", "orders", "shop", "7", False)
    assert one.endpoints == (
        Endpoint(host="10.0.0.1", port=0, uid="u1", name="orders-1", node="n1", hostname="h"),
        Endpoint(host="10.0.0.2", port=0, ready=False, serving=False),
    )
    assert two.ports == (SlicePort("grpc", 9001),)
    assert [pod.address for pod in merge((one, two), PortSelector(name="grpc"))] == [
        "10.0.0.1:9000",
        "10.0.0.2:9000",
        "10.0.0.3:9001",
    ]


@pytest.mark.parametrize(
    "empty", [endpoints(), {"metadata": {"name": "orders"}}, {"metadata": {"name": "orders"}, "subsets": None}]
)
def test_an_object_without_subsets_is_one_empty_record(empty: dict[str, Any]) -> None:
    """Which tells it from an object that is not there."""
    (record,) = parse_endpoints(empty)
    assert (record.service, record.endpoints, record.ports) == ("orders", (), ())


@pytest.mark.parametrize("value", ["truncated", "warning"])
def test_an_object_over_capacity_says_that_pods_are_missing(value: str) -> None:
    """The controller keeps a thousand; older ones only warned, and might not be whole either."""
    annotated = endpoints(subset([{"ip": "10.0.0.1"}]), annotations={"endpoints.kubernetes.io/over-capacity": value})
    assert [record.truncated for record in parse_endpoints(annotated)] == [True]
    assert [record.truncated for record in parse_endpoints(endpoints(subset([{"ip": "10.0.0.1"}])))] == [False]


def test_addresses_of_two_families_are_two_records_and_headless_is_told() -> None:
    """Only hand-made objects mix them; IPv6 in its one canonical form."""
    mixed = endpoints(subset([{"ip": "10.0.0.1"}, {"ip": "FD00:0::1"}]), labels={"service.kubernetes.io/headless": ""})
    four, six = parse_endpoints(mixed)
    assert (four.address_type, six.address_type) == ("IPv4", "IPv6")
    assert [pod.host for pod in six.endpoints] == ["fd00::1"]
    assert four.headless
    assert six.headless


def test_what_cannot_be_dialled_is_left_out_and_said() -> None:
    """An address that is none, a port beyond 65535."""
    (record,) = parse_endpoints(
        endpoints({"addresses": [{"ip": "nonsense"}, {"ip": "10.0.0.1"}], "ports": [{"port": 70000}, {"port": 80}]})
    )
    assert [pod.host for pod in record.endpoints] == ["10.0.0.1"]
    assert len(record.flaws) == 2


@pytest.mark.parametrize(
    "item", [5, {}, {"metadata": {"name": 5}}, endpoints("x"), endpoints({"addresses": "x"}), endpoints({"addresses": [{"ip": 5}]})]
)
def test_a_value_of_a_wrong_type_makes_the_object_unreadable(item: object) -> None:
    """Half an object would look like removed endpoints."""
    with pytest.raises(WireError):
        parse_endpoints(item)


def test_events_carry_everything_their_service_has() -> None:
    """DELETED needs no more than the name; a bad object is named."""
    line = json.dumps({"type": "MODIFIED", "object": endpoints(subset([{"ip": "10.0.0.1"}]))}).encode()
    event = parse_endpoints_line(line)
    assert isinstance(event, EndpointsEvent)
    assert (event.type, event.service, event.resource_version, len(event.slices)) == ("MODIFIED", "orders", "7", 1)
    deleted = parse_endpoints_line(json.dumps({"type": "DELETED", "object": endpoints()}).encode())
    assert deleted == Removal("orders", "7")
    bad = parse_endpoints_line(json.dumps({"type": "ADDED", "object": endpoints("x")}).encode())
    assert isinstance(bad, Unreadable)
    assert bad.name == "orders"


def test_only_a_complete_list_of_endpoints_is_one() -> None:
    """A list of slices, or a page, never passes for an empty one."""
    whole = {"kind": "EndpointsList", "metadata": {"resourceVersion": "9"}, "items": [endpoints(subset([{"ip": "10.0.0.1"}])), 5]}
    listed = parse_endpoints_list(json.dumps(whole).encode())
    assert (listed.resource_version, len(listed.slices), len(listed.unreadable)) == ("9", 1, 1)
    for other in ({**whole, "kind": "EndpointSliceList"}, {**whole, "metadata": {"resourceVersion": "9", "continue": "x"}}):
        with pytest.raises(WireError):
            parse_endpoints_list(json.dumps(other).encode())


def test_the_recorded_objects_of_a_real_server_are_read() -> None:
    """Before and after a rollout in which the port changed."""
    found = [parse_endpoints(json.loads(recorded.body)) for recorded in exchanges("rollout") if "/endpoints/" in recorded.path]
    told = [[f"{pod.host.rpartition('.')[2]}:{pod.port}" for pod in merge(records, PortSelector(name="grpc"))] for records in found]
    assert told[:2] == [["1:9000", "2:9000", "3:9000"], ["10:9001", "6:9001", "7:9001", "8:9001", "9:9001"]]
    assert all(pod.uid and pod.node == "fake-1" for records in found for record in records for pod in record.endpoints)
