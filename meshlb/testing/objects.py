"""Service, EndpointSlice and Endpoints objects, field by field as a real cluster's API server prints them.

Field order is Go's struct order, unset fields are left out or null as Go does, and managedFields are there because real ones
are: a parser under test should meet the real size and shape. Only what varies in tests is a parameter.
"""

from __future__ import annotations

import datetime
import secrets
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

# apimachinery's util/rand alphabet: no vowels and no digits that look like letters, so that no word comes out.
_NAME_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
HEADLESS_LABEL = "service.kubernetes.io/headless"
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"
SLICE_MANAGER = "endpointslice-controller.k8s.io"


def now_rfc3339() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_uid() -> str:
    return str(uuid.uuid4())


def name_suffix(length: int = 5) -> str:
    return "".join(secrets.choice(_NAME_ALPHABET) for _ in range(length))


@dataclass(frozen=True, kw_only=True, slots=True)
class FakePort:
    """One port of a Service: ``name`` is empty for a single unnamed port, ``target`` a number or the name of a pod's port."""

    name: str
    port: int
    target: int | str
    app_protocol: str | None = None

    def spec(self) -> dict[str, Any]:
        named = {"name": self.name} if self.name else {}
        app = {"appProtocol": self.app_protocol} if self.app_protocol else {}
        return {**named, "protocol": "TCP", **app, "port": self.port, "targetPort": self.target}


@dataclass(frozen=True, kw_only=True, slots=True)
class FakeEndpoint:
    """One endpoint as its slice will show it; what `FakeService.set_endpoints` takes.

    ``ports`` maps service port names to this endpoint's own numbers. A condition of None is left out, as hand-made slices do.
    ``hint_zones``, ``hint_nodes``: the callers that the control plane means it for.
    """

    address: str
    ports: Mapping[str, int] = field(default_factory=dict)
    ready: bool | None = True
    serving: bool | None = True
    terminating: bool | None = False
    hostname: str | None = None
    node: str | None = None
    zone: str | None = None
    pod: str | None = None
    uid: str | None = None
    hint_zones: tuple[str, ...] = ()
    hint_nodes: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        return "IPv6" if ":" in self.address else "IPv4"

    @property
    def routable(self) -> bool:
        """Whether the conditions, read as a consumer must (an absent ready is true), say ready."""
        return self.ready is not False

    @property
    def draining(self) -> bool:
        """Serving and terminating: the last resort of kube-proxy when nothing is ready."""
        return self.serving is not False and self.terminating is True

    def target_ref(self, namespace: str) -> dict[str, Any]:
        return {"kind": "Pod", "namespace": namespace, "name": self.pod, "uid": self.uid}

    def slice_entry(self, namespace: str) -> dict[str, Any]:
        flags = (("ready", self.ready), ("serving", self.serving), ("terminating", self.terminating))
        entry: dict[str, Any] = {
            "addresses": [self.address],
            "conditions": {name: flag for name, flag in flags if flag is not None},
        }
        if self.hostname:
            entry["hostname"] = self.hostname
        if self.pod is not None:
            entry["targetRef"] = self.target_ref(namespace)
        if self.node is not None:
            entry["nodeName"] = self.node
        if self.zone is not None:
            entry["zone"] = self.zone
        named = {"forZones": self.hint_zones, "forNodes": self.hint_nodes}
        hints = {kind: [{"name": name} for name in names] for kind, names in named.items() if names}
        if hints:
            entry["hints"] = hints
        return entry

    def hinted(self, distribution: str | None) -> FakeEndpoint:
        """With the hints that the controller gives it for this ``trafficDistribution``: ready ones, their own zone and node."""
        if not self.routable or distribution is None:
            return self
        zones = (self.zone,) if self.zone else ()
        nodes = (self.node,) if self.node and distribution == "PreferSameNode" else ()
        return replace(self, hint_zones=zones, hint_nodes=nodes)


def service_object(
    *,
    name: str,
    namespace: str,
    uid: str,
    ports: Iterable[FakePort],
    cluster_ip: str | None,
    labels: Mapping[str, str],
    selector: bool,
    families: tuple[str, ...],
    internal_traffic_policy: str = "Cluster",
    traffic_distribution: str | None = None,
    session_affinity_s: int | None = None,
    publish_not_ready: bool = False,
) -> dict[str, Any]:
    """A Service of type ClusterIP; ``cluster_ip`` None makes it headless, ``selector`` False one with hand-made endpoints."""
    specs = [port.spec() for port in ports]
    address = cluster_ip or "None"
    managed: dict[str, Any] = {"f:spec": {"f:internalTrafficPolicy": {}, "f:ports": {}, "f:sessionAffinity": {}, "f:type": {}}}
    metadata = _service_metadata(name, namespace, uid, labels, managed)
    spec: dict[str, Any] = {"ports": specs} if specs else {}
    if selector:
        spec["selector"] = {"app": name}
    spec |= {
        "clusterIP": address,
        "clusterIPs": [address],
        "type": "ClusterIP",
        "sessionAffinity": "None" if session_affinity_s is None else "ClientIP",
        **({} if session_affinity_s is None else {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": session_affinity_s}}}),
        **({"publishNotReadyAddresses": True} if publish_not_ready else {}),
        "ipFamilies": list(families),
        "ipFamilyPolicy": "SingleStack" if len(families) == 1 else "PreferDualStack",
        "internalTrafficPolicy": internal_traffic_policy,
        **({"trafficDistribution": traffic_distribution} if traffic_distribution else {}),
    }
    return {"metadata": metadata, "spec": spec, "status": {"loadBalancer": {}}}


def external_service_object(
    *, name: str, namespace: str, uid: str, external_name: str, ports: Iterable[FakePort], labels: Mapping[str, str]
) -> dict[str, Any]:
    """A Service of type ExternalName: without addresses, families and selector."""
    specs = [port.spec() for port in ports]
    managed: dict[str, Any] = {"f:spec": {"f:externalName": {}, "f:sessionAffinity": {}, "f:type": {}}}
    spec = {"ports": specs} if specs else {}
    return {
        "metadata": _service_metadata(name, namespace, uid, labels, managed),
        "spec": {**spec, "type": "ExternalName", "sessionAffinity": "None", "externalName": external_name},
        "status": {"loadBalancer": {}},
    }


def _service_metadata(name: str, namespace: str, uid: str, labels: Mapping[str, str], managed: dict[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "uid": uid,
        "resourceVersion": "",
        "creationTimestamp": now_rfc3339(),
    }
    if labels:
        metadata["labels"] = dict(labels)
    metadata["managedFields"] = [_managed("fake-cluster", "v1", managed)]
    return metadata


def manual_slice_object(
    service: dict[str, Any],
    name: str,
    endpoints: Iterable[FakeEndpoint],
    ports: list[dict[str, Any]],
    *,
    family: str,
    managed_by: str,
) -> dict[str, Any]:
    """An EndpointSlice as people and their own controllers write it: no owner, none of the Service's labels."""
    owner = service["metadata"]
    labels = {MANAGED_BY_LABEL: managed_by, SERVICE_NAME_LABEL: owner["name"]}
    metadata = {
        "name": name,
        "namespace": owner["namespace"],
        "uid": new_uid(),
        "resourceVersion": "",
        "generation": 1,
        "creationTimestamp": now_rfc3339(),
        "labels": labels,
    }
    entries = [endpoint.slice_entry(owner["namespace"]) for endpoint in endpoints]
    return {"metadata": metadata, "addressType": family, "endpoints": entries or None, "ports": ports or None}


def slice_object(service: dict[str, Any], family: str, *, name: str) -> dict[str, Any]:
    """A new EndpointSlice of a Service with no endpoints in it, as the controller makes it."""
    owner = service["metadata"]
    labels = {
        **owner.get("labels", {}),
        MANAGED_BY_LABEL: SLICE_MANAGER,
        SERVICE_NAME_LABEL: owner["name"],
    }
    if service["spec"]["clusterIP"] == "None":
        labels[HEADLESS_LABEL] = ""
    reference = {
        "apiVersion": "v1",
        "kind": "Service",
        "name": owner["name"],
        "uid": owner["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    metadata = {
        "name": name,
        "generateName": f"{owner['name']}-",
        "namespace": owner["namespace"],
        "uid": new_uid(),
        "resourceVersion": "",
        "generation": 0,
        "creationTimestamp": now_rfc3339(),
        "labels": dict(sorted(labels.items())),
        "ownerReferences": [reference],
    }
    return {"metadata": metadata, "addressType": family, "endpoints": None, "ports": None}


def revised_slice(
    current: dict[str, Any], endpoints: list[dict[str, Any]], ports: list[dict[str, Any]], trigger_time: str | None
) -> dict[str, Any]:
    """The next generation of a slice. The trigger time goes when the change had none: a deleted pod's readiness did not change."""
    old = current["metadata"]
    fields: dict[str, Any] = {"f:addressType": {}, **({"f:endpoints": {}} if endpoints else {}), "f:metadata": {}}
    managed_metadata = fields["f:metadata"]
    metadata = {key: value for key, value in old.items() if key not in ("annotations", "ownerReferences", "managedFields")}
    metadata["generation"] = old["generation"] + 1
    if trigger_time is not None:
        metadata["annotations"] = {TRIGGER_TIME: trigger_time}
        managed_metadata["f:annotations"] = {".": {}, f"f:{TRIGGER_TIME}": {}}
    metadata["ownerReferences"] = old["ownerReferences"]
    managed_metadata["f:generateName"] = {}
    managed_metadata["f:labels"] = {".": {}, **{f"f:{key}": {} for key in old["labels"]}}
    owner_uid = old["ownerReferences"][0]["uid"]
    managed_metadata["f:ownerReferences"] = {".": {}, f'k:{{"uid":"{owner_uid}"}}': {}}
    if ports:
        fields["f:ports"] = {}
    metadata["managedFields"] = [_managed("kube-controller-manager", "discovery.k8s.io/v1", fields)]
    return {"metadata": metadata, "addressType": current["addressType"], "endpoints": endpoints or None, "ports": ports or None}


def _managed(manager: str, api_version: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "manager": manager,
        "operation": "Update",
        "apiVersion": api_version,
        "time": now_rfc3339(),
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }
