"""What is read from the API server's JSON, what is passed over, and what makes an object unreadable."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from meshlb.core.endpoint import Hints, Locality
from meshlb.resolve.kubernetes.fields import WireError
from meshlb.resolve.kubernetes.refusal import Refusal, parse_refusal
from meshlb.resolve.kubernetes.service_wire import ServiceRecord, parse_service
from meshlb.resolve.kubernetes.wire import (
    Bookmark,
    Passed,
    Removal,
    SliceEvent,
    SlicePort,
    SliceRecord,
    Unreadable,
    parse_event,
    parse_slice,
    parse_slice_list,
)


def slice_object(**overrides: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "orders-a",
            "namespace": "shop",
            "resourceVersion": "7",
            "labels": {"kubernetes.io/service-name": "orders"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"]}],
        "ports": [{"name": "grpc", "port": 9000}],
        **overrides,
    }


def read(**overrides: Any) -> SliceRecord:
    record = parse_slice(slice_object(**overrides))
    assert isinstance(record, SliceRecord)
    return record


def test_a_full_endpoint_is_read_with_everything_a_consumer_may_use() -> None:
    """Address, pod, place, hints, conditions."""
    entry = {
        "addresses": ["10.0.0.1", "10.0.0.2"],
        "conditions": {"ready": False, "serving": True, "terminating": True},
        "hostname": "orders-0",
        "nodeName": "node-1",
        "zone": "zone-a",
        "targetRef": {"kind": "Pod", "name": "orders-0", "namespace": "shop", "uid": "u-1"},
        "hints": {"forZones": [{"name": "zone-a"}, {"name": "zone-b"}], "forNodes": [{"name": "node-1"}]},
        "deprecatedTopology": {"a": "b"},
    }
    (endpoint,) = read(endpoints=[entry]).endpoints
    assert (endpoint.host, endpoint.port, endpoint.uid, endpoint.name) == ("10.0.0.1", 0, "u-1", "orders-0")
    assert (endpoint.locality, endpoint.node, endpoint.hostname) == (Locality(zone="zone-a"), "node-1", "orders-0")
    assert endpoint.hints == Hints(("zone-a", "zone-b"), ("node-1",))
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == (False, True, True)


@pytest.mark.parametrize("conditions", [{}, None, {"ready": None, "serving": None, "terminating": None}])
def test_absent_conditions_mean_ready_serving_and_not_terminating(conditions: object) -> None:
    """Hand-made and mirrored slices leave them out."""
    (endpoint,) = read(endpoints=[{"addresses": ["10.0.0.1"], "conditions": conditions}]).endpoints
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == (True, True, False)


@pytest.mark.parametrize("endpoints", [None, []])
def test_a_slice_without_endpoints_is_an_empty_one(endpoints: object) -> None:
    """The API writes null for none."""
    assert read(endpoints=endpoints, ports=None).endpoints == ()


def test_unknown_fields_are_passed_over() -> None:
    """A newer server may say more."""
    assert read(novelty={"a": 1}, endpoints=[{"addresses": ["10.0.0.1"], "mood": "good"}]).endpoints[0].host == "10.0.0.1"


@pytest.mark.parametrize(("family", "kind"), [("FQDN", "FQDN"), ("QUIC", "unknown"), ("", "unknown"), ("Q" * 10**6, "unknown")])
def test_a_slice_of_another_address_type_is_passed_over_and_says_so(family: str, kind: str) -> None:
    """Only IPv4 and IPv6 have a meaning; the counters name what was left out, by few names."""
    assert parse_slice(slice_object(addressType=family)) == Passed("", "7", f"addressType {kind}")


def test_a_slice_of_no_service_is_passed_over() -> None:
    """Without the label it belongs to nobody."""
    assert parse_slice(slice_object(metadata={"name": "a", "resourceVersion": "7"})) == Passed("", "7", "no service")


def test_only_tcp_ports_with_a_number_are_kept() -> None:
    """A port without a number once meant all ports; kube-proxy skips it, and so do we."""
    ports = [
        {"name": "grpc", "protocol": "TCP", "port": 9000, "appProtocol": "grpc"},
        {"name": "dns", "protocol": "UDP", "port": 53},
        {"name": "sctp", "protocol": "SCTP", "port": 54},
        {"name": "all", "protocol": "TCP"},
        {"name": "zero", "port": 0},
        {"port": 80},
    ]
    assert read(ports=ports).ports == (SlicePort("grpc", 9000, "TCP", "grpc"), SlicePort("", 80, "TCP", ""))


def test_an_ipv6_address_is_read_in_its_canonical_form() -> None:
    """The same address must be the same endpoint to every source."""
    endpoints = [{"addresses": ["FD00:0:0:0:0:0:0:1"]}]
    assert read(addressType="IPv6", endpoints=endpoints).endpoints[0].host == "fd00::1"


@pytest.mark.parametrize(
    "entry",
    [
        {"addresses": []},
        {"addresses": None},
        {},
        None,
        {"addresses": ["orders.example.com"]},
        {"addresses": ["fd00::1"]},
        {"addresses": ["10.0.0.1/24"]},
        {"addresses": ["10.0.0." + "1" * 10**6]},
    ],
)
def test_an_endpoint_without_a_valid_address_is_left_out_and_counted(entry: object) -> None:
    """It cannot be dialled; the others can."""
    record = read(endpoints=[entry, {"addresses": ["10.0.0.2"]}])
    assert [endpoint.host for endpoint in record.endpoints] == ["10.0.0.2"]
    assert record.flaws == ("endpoints without a valid address",)


def test_the_label_for_headless_services_counts_by_its_presence() -> None:
    """Its value is empty."""
    labels = {"kubernetes.io/service-name": "orders", "service.kubernetes.io/headless": ""}
    assert read(metadata={"name": "a", "labels": labels}).headless
    assert not read().headless


@pytest.mark.parametrize(
    "overrides",
    [
        {"endpoints": {"a": 1}},
        {"endpoints": ["10.0.0.1"]},
        {"endpoints": [{"addresses": "10.0.0.1"}]},
        {"endpoints": [{"addresses": [16]}]},
        {"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": "yes"}}]},
        {"endpoints": [{"addresses": ["10.0.0.1"], "conditions": []}]},
        {"endpoints": [{"addresses": ["10.0.0.1"], "zone": 3}]},
        {"endpoints": [{"addresses": ["10.0.0.1"], "hints": {"forZones": ["zone-a"]}}]},
        {"ports": [{"port": "http"}]},
        {"ports": [{"port": True}]},
        {"ports": "80"},
        {"addressType": 4},
        {"metadata": {"labels": {"kubernetes.io/service-name": "orders"}}},
        {"metadata": []},
    ],
)
def test_a_value_of_a_wrong_type_makes_the_whole_object_unreadable(overrides: dict[str, Any]) -> None:
    """Half a slice would look like removed endpoints."""
    with pytest.raises(WireError):
        parse_slice(slice_object(**overrides))


def test_a_bad_item_does_not_spoil_a_list_and_is_named() -> None:
    """The others are read; who replaces a state by the list can keep what was known of this one."""
    bad = slice_object(endpoints=3)
    document = {"kind": "EndpointSliceList", "metadata": {"resourceVersion": "9"}, "items": [bad, slice_object(), 5]}
    listed = parse_slice_list(json.dumps(document).encode())
    assert [record.name for record in listed.slices] == ["orders-a"]
    assert [(found.name, found.resource_version) for found in listed.unreadable] == [("orders-a", "7"), ("", "")]
    assert listed.resource_version == "9"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"<html>",
        b'{"kind":"Status"}',
        b'{"kind":"EndpointSliceList"}',
        b'{"kind":"EndpointSliceList","items":4}',
    ],
)
def test_what_is_no_list_of_slices_never_passes_for_an_empty_one(text: bytes) -> None:
    """A proxy's friendly page would otherwise empty every pool."""
    with pytest.raises(WireError):
        parse_slice_list(text)


def test_a_list_without_items_is_empty() -> None:
    """Null and [] are the same."""
    for items in (b"null", b"[]"):
        assert parse_slice_list(b'{"kind":"EndpointSliceList","metadata":{"resourceVersion":"9"},"items":%s}' % items).slices == ()


@pytest.mark.parametrize(
    "metadata", [{}, {"resourceVersion": ""}, {"resourceVersion": "9", "continue": "more"}], ids=["bare", "empty", "a page"]
)
def test_a_list_without_a_version_or_with_more_to_come_is_no_list(metadata: dict[str, str]) -> None:
    """A part of the slices would remove the others, and no watch can begin where there is no version."""
    with pytest.raises(WireError):
        parse_slice_list(json.dumps({"kind": "EndpointSliceList", "metadata": metadata, "items": []}).encode())


@pytest.mark.parametrize("overrides", [{}, {"endpoints": "none"}, {"ports": 4}, {"labels": None}, {"addressType": None}])
def test_a_deleted_slice_is_gone_whatever_its_last_state_says(overrides: dict[str, Any]) -> None:
    """Its name is enough."""
    item = slice_object(**overrides)
    if "labels" in overrides:
        item["metadata"].pop("labels", None)
    assert parse_event(json.dumps({"type": "DELETED", "object": item}).encode()) == Removal("orders-a", "7")


@pytest.mark.parametrize("number", [-1, 0, 65536, 10**300])
def test_a_port_that_is_none_is_left_out(number: int) -> None:
    """It cannot be dialled; the others of the same object can."""
    record = read(ports=[{"port": number}, {"port": 80}])
    assert [port.port for port in record.ports] == [80]
    assert record.flaws == (("ports out of range",) if number else ())
    for spec in ({"port": number}, {"port": 81, "targetPort": number or -1}):
        text = json.dumps({"kind": "Service", "spec": {"ports": [spec, {"port": 80}]}}).encode()
        assert [port.port for port in parse_service(text).ports] == [80]


def test_a_retry_after_of_400_digits_is_a_day() -> None:
    """A number that no float can hold ends no thread."""
    body = b'{"kind":"Status","details":{"retryAfterSeconds":%s}}' % (b"9" * 400)
    assert parse_refusal(body, 429).retry_after_s == parse_refusal(b"", 429, "9" * 400).retry_after_s == 86400.0


@pytest.mark.parametrize("kind", ["ADDED", "MODIFIED"])
def test_events_carry_their_slice(kind: str) -> None:
    """As the server has it now."""
    event = parse_event(json.dumps({"type": kind, "object": slice_object()}).encode())
    assert isinstance(event, SliceEvent)
    assert (event.type, event.slice.name, event.slice.resource_version) == (kind, "orders-a", "7")


def test_bookmarks_tell_a_version_and_the_end_of_a_streaming_list() -> None:
    """Everything else in them is empty."""
    line = b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}'
    assert parse_event(line) == Bookmark("9", initial_events_end=True)


def test_events_of_other_kinds_and_slices_that_are_not_for_us_are_passed_over_with_their_version() -> None:
    """The place in history moves on all the same."""
    assert parse_event(b'{"type":"RENAMED","object":{"metadata":{"resourceVersion":"9"}}}') == Passed(
        "RENAMED", "9", "event type unknown"
    )
    line = json.dumps({"type": "ADDED", "object": slice_object(addressType="FQDN")}).encode()
    assert parse_event(line) == Passed("ADDED", "7", "addressType FQDN")


@pytest.mark.parametrize(
    "line",
    [b"", b"garbage", b"5", b"null", b"{}", b'{"type":"ADDED"}', b'{"type":"ADDED","object":5}', b"\xff\xfe", b"[" * 100_000],
)
def test_a_line_that_is_no_event_is_unreadable_and_never_raises(line: bytes) -> None:
    """One bad line must not end a stream."""
    assert isinstance(parse_event(line), Unreadable)


def test_an_unreadable_slice_in_an_event_is_named() -> None:
    """So that it can be warned of once."""
    event = parse_event(json.dumps({"type": "MODIFIED", "object": slice_object(ports=4)}).encode())
    assert event == Unreadable("orders-a", "7", "ports: 4 is no list")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"code": 410, "reason": "Expired"}, 410),
        ({"reason": "Expired"}, 410),
        ({"reason": "Gone"}, 410),
        ({"reason": "TooManyRequests", "details": {"retryAfterSeconds": 3}}, 429),
        ({"code": None, "reason": "InternalError"}, 500),
        ({}, 500),
        ({"code": "410"}, 500),
    ],
)
def test_an_error_event_ends_the_stream_whatever_it_lacks(status: dict[str, Any], code: int) -> None:
    """A Status without a code is judged by its reason; one that cannot be read is a failure of the server."""
    event = parse_event(json.dumps({"type": "ERROR", "object": status}).encode())
    assert isinstance(event, Refusal)
    assert event.code == code
    assert event.expired is (code == 410)


def test_a_refusal_in_plain_text_is_told_in_its_own_words() -> None:
    """Overloaded servers and proxies do not send a Status; the header says when to come back."""
    assert parse_refusal(b"Too many requests,\nplease try again later.\n", 429, "7") == Refusal(
        429, "", "Too many requests, please try again later.", 7.0
    )
    assert len(parse_refusal(b"<p>" * 5000, 502).message) == 500


@pytest.mark.parametrize("header", ["", "soon", "-1", "Wed, 21 Oct 2015 07:28:00 GMT", "1.5", "٣"])
def test_a_retry_after_that_is_no_number_of_seconds_counts_for_nothing(header: str) -> None:
    """The back-off holds then."""
    assert parse_refusal(b"", 503, header).retry_after_s == 0.0


def test_a_service_is_read_with_its_addresses_and_tcp_ports() -> None:
    """Two families keep their order; a target port may be a name, a number, or the port itself."""
    spec = {
        "type": "LoadBalancer",
        "clusterIP": "10.96.0.1",
        "clusterIPs": ["10.96.0.1", "fd00::1"],
        "ipFamilies": ["IPv4", "IPv6"],
        "ports": [
            {"name": "a", "port": 80, "targetPort": "http"},
            {"name": "b", "port": 81, "targetPort": 8081},
            {"name": "c", "port": 82},
            {"name": "d", "port": 83, "protocol": "UDP"},
        ],
    }
    service = parse_service(json.dumps({"kind": "Service", "metadata": {"name": "s", "namespace": "n"}, "spec": spec}).encode())
    assert (service.cluster_ips, service.ip_families) == (("10.96.0.1", "fd00::1"), ("IPv4", "IPv6"))
    assert [(port.name, port.port, port.target_port) for port in service.ports] == [
        ("a", 80, "http"),
        ("b", 81, 8081),
        ("c", 82, 82),
    ]


def test_a_service_of_an_old_server_has_one_cluster_ip() -> None:
    """clusterIPs came with Kubernetes 1.20."""
    for address, expected, headless in (("10.96.0.1", ("10.96.0.1",), False), ("None", (), True)):
        service = parse_service(json.dumps({"kind": "Service", "spec": {"clusterIP": address}}).encode())
        assert (service.cluster_ips, service.headless) == (expected, headless)


def service(**spec: Any) -> ServiceRecord:
    return parse_service(json.dumps({"kind": "Service", "metadata": {"name": "s", "namespace": "n"}, "spec": spec}).encode())


def test_a_services_policies_are_read_with_the_defaults_of_the_api_server() -> None:
    """Absent and unknown words mean the default; a timeout outside 1 to 86400 s as well."""
    plain = service(clusterIP="10.96.0.1")
    assert (plain.internal_traffic_policy, plain.session_affinity, plain.affinity_timeout_s) == ("Cluster", "None", 10800)
    assert (plain.publish_not_ready_addresses, plain.selector, plain.local_only) == (False, False, False)
    full = service(
        clusterIP="10.96.0.1",
        selector={"app": "a"},
        internalTrafficPolicy="Local",
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}},
        publishNotReadyAddresses=True,
    )
    assert (full.internal_traffic_policy, full.session_affinity, full.affinity_timeout_s) == ("Local", "ClientIP", 60)
    assert (full.publish_not_ready_addresses, full.selector, full.local_only) == (True, True, True)
    odd = service(clusterIP="10.96.0.1", internalTrafficPolicy="Nearby", sessionAffinity="Cookie", ipFamilies=["IPv5", "IPv6"])
    assert (odd.internal_traffic_policy, odd.session_affinity, odd.ip_families) == ("Cluster", "None", ("IPv6",))
    for seconds in (0, -1, 86401, 10**300):
        assert service(sessionAffinityConfig={"clientIP": {"timeoutSeconds": seconds}}).affinity_timeout_s == 10800


def test_the_local_policy_of_a_headless_service_means_nothing() -> None:
    """There is no proxy that would enforce it, and who asks DNS gets every pod."""
    assert not service(clusterIP="None", internalTrafficPolicy="Local").local_only


def test_an_external_name_is_read_of_that_type_alone_and_in_one_form() -> None:
    """Other types may carry a forgotten one; a cluster IP of an ExternalName is no address of anybody."""
    external = service(type="ExternalName", externalName="DB.Example.com.", clusterIP="10.96.0.1")
    assert (external.external_name, external.cluster_ips, external.headless) == ("db.example.com", (), False)
    assert service(type="ClusterIP", externalName="db.example.com", clusterIP="10.96.0.1").external_name == ""


def test_a_cluster_ip_that_does_not_parse_is_none() -> None:
    """Nothing is dialled that is no address."""
    assert service(clusterIP="10.96.0.1", clusterIPs=["ten", "10.96.0.1", ""]).cluster_ips == ("10.96.0.1",)


@pytest.mark.parametrize(
    "text", [b"{}", b'{"kind":"Status"}', b'{"kind":"Service","spec":{"ports":[{"port":80,"targetPort":true}]}}']
)
def test_what_is_no_service_is_refused(text: bytes) -> None:
    """A port that cannot be read is not guessed."""
    with pytest.raises(WireError):
        parse_service(text)


def test_an_endpoint_costs_less_than_two_kibibytes_and_repeated_words_are_kept_once() -> None:
    """Zone, node and port objects are shared by all endpoints of a cluster."""
    entries = [
        {
            "addresses": [f"10.0.{n // 250}.{n % 250 + 1}"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": "node-" + str(n % 3),
            "zone": "zone-" + str(n % 3),
            "targetRef": {"kind": "Pod", "name": f"orders-6dbc6d496c-{n:05}", "uid": f"113663a3-0630-43a5-b77e-c8107{n:07}"},
        }
        for n in range(300)
    ]
    first, second = (read(endpoints=json.loads(json.dumps(entries))).endpoints for _ in range(2))
    assert first[0].locality is second[3].locality
    assert first[0].node is second[3].node
    own = sum(sys.getsizeof(part) for pod in first for part in (pod, pod.host, pod.uid, pod.name))
    assert own / len(first) < 500
