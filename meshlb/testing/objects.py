"""Service, EndpointSlice and Endpoints objects, field by field as a real cluster's API server prints them.

Field order is Go's struct order, unset fields are left out or null as Go does, and managedFields are there because real ones
are: a parser under test should meet the real size and shape. Only what varies in tests is a parameter.
"""

from __future__ import annotations

import datetime
import secrets
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# apimachinery's util/rand alphabet: no vowels and no digits that look like letters, so that no word comes out.
_NAME_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
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
        return entry


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
) -> dict[str, Any]:
    """A Service of type ClusterIP; ``cluster_ip`` None makes it headless, ``selector`` False one with hand-made endpoints."""
    specs = [port.spec() for port in ports]
    address = cluster_ip or "None"
    managed: dict[str, Any] = {"f:spec": {"f:internalTrafficPolicy": {}, "f:ports": {}, "f:sessionAffinity": {}, "f:type": {}}}
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
    spec: dict[str, Any] = {"ports": specs} if specs else {}
    if selector:
        spec["selector"] = {"app": name}
    spec |= {
        "clusterIP": address,
        "clusterIPs": [address],
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "ipFamilies": list(families),
        "ipFamilyPolicy": "SingleStack" if len(families) == 1 else "PreferDualStack",
        "internalTrafficPolicy": "Cluster",
    }
    return {"metadata": metadata, "spec": spec, "status": {"loadBalancer": {}}}


def slice_object(service: dict[str, Any], family: str, *, name: str) -> dict[str, Any]:
    """A new EndpointSlice of a Service with no endpoints in it, as the controller makes it."""
    owner = service["metadata"]
    labels = {
        **owner.get("labels", {}),
        "endpointslice.kubernetes.io/managed-by": SLICE_MANAGER,
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
