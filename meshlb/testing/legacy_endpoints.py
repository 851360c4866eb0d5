"""The Endpoints object (core/v1, deprecated) that the old controller keeps beside the slices of a Service.

Ready and not ready addresses, grouped by equal ports; terminating pods are left out, zones and hints do not exist, and beyond
1000 addresses the object is truncated and says so in an annotation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from meshlb.testing.objects import HEADLESS_LABEL, TRIGGER_TIME, FakeEndpoint, FakePort, new_uid, now_rfc3339

MAX_ADDRESSES = 1000
_OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"


def endpoints_object(
    service: dict[str, Any],
    ports: Sequence[FakePort],
    endpoints: Iterable[FakeEndpoint],
    *,
    existing: dict[str, Any] | None,
    trigger_time: str | None,
) -> dict[str, Any] | None:
    """The object for these endpoints, of the Service's first family; None if ``existing`` already says the same."""
    family = service["spec"]["ipFamilies"][0]
    listed = [endpoint for endpoint in endpoints if endpoint.family == family and not endpoint.terminating]
    listed.sort(key=lambda endpoint: (not endpoint.routable, endpoint.address))
    subsets = _subsets(service["metadata"]["namespace"], ports, listed[:MAX_ADDRESSES])
    if existing is not None and existing.get("subsets", []) == subsets:
        return None
    annotations = {TRIGGER_TIME: trigger_time} if trigger_time else {}
    if len(listed) > MAX_ADDRESSES:
        annotations[_OVER_CAPACITY] = "truncated"
    result: dict[str, Any] = {"metadata": _metadata(service, existing, annotations)}
    if subsets:
        result["subsets"] = subsets
    return result


def _metadata(service: dict[str, Any], existing: dict[str, Any] | None, annotations: dict[str, str]) -> dict[str, Any]:
    owner = service["metadata"]
    labels = {**owner.get("labels", {}), "endpoints.kubernetes.io/managed-by": "endpoint-controller"}
    if service["spec"]["clusterIP"] == "None":
        labels[HEADLESS_LABEL] = ""
    metadata: dict[str, Any] = {
        "name": owner["name"],
        "namespace": owner["namespace"],
        "uid": existing["metadata"]["uid"] if existing else new_uid(),
        "resourceVersion": "",
        "creationTimestamp": existing["metadata"]["creationTimestamp"] if existing else now_rfc3339(),
        "labels": labels,
    }
    if annotations:
        metadata["annotations"] = annotations
    managed_labels: dict[str, Any] = {".": {}, **{f"f:{key}": {} for key in labels}}
    entry = {
        "manager": "kube-controller-manager",
        "operation": "Update",
        "apiVersion": "v1",
        "time": now_rfc3339(),
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": managed_labels}, "f:subsets": {}},
    }
    metadata["managedFields"] = [entry]
    return metadata


def _subsets(namespace: str, ports: Sequence[FakePort], endpoints: list[FakeEndpoint]) -> list[dict[str, Any]]:
    groups: dict[tuple[tuple[str, int], ...], dict[str, list[dict[str, Any]]]] = {}
    for endpoint in endpoints:
        group = groups.setdefault(tuple(endpoint.ports.items()), {})
        group.setdefault("addresses" if endpoint.routable else "notReadyAddresses", []).append(_address(namespace, endpoint))
    app_protocols = {port.name: port.app_protocol for port in ports}
    subsets = []
    for key, group in groups.items():
        subset: dict[str, Any] = {kind: group[kind] for kind in ("addresses", "notReadyAddresses") if kind in group}
        subset["ports"] = [_port(name, number, app_protocols.get(name)) for name, number in key]
        subsets.append(subset)
    return subsets


def _address(namespace: str, endpoint: FakeEndpoint) -> dict[str, Any]:
    address: dict[str, Any] = {"ip": endpoint.address}
    if endpoint.hostname:
        address["hostname"] = endpoint.hostname
    if endpoint.node is not None:
        address["nodeName"] = endpoint.node
    if endpoint.pod is not None:
        address["targetRef"] = endpoint.target_ref(namespace)
    return address


def _port(name: str, number: int, app_protocol: str | None) -> dict[str, Any]:
    named = {"name": name} if name else {}
    app = {"appProtocol": app_protocol} if app_protocol else {}
    return {**named, "port": number, "protocol": "TCP", **app}
