"""The three kinds the API server serves: their names in paths, lists and refusals, and the empty shape a bookmark carries."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Resource:
    """One kind. ``empty`` holds the fields beside metadata that Go writes for an object nobody filled in (bookmarks are such)."""

    group: str
    version: str
    plural: str
    kind: str
    empty: dict[str, Any] = field(default_factory=dict)
    warning: str | None = None

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self) -> str:
        """Path prefix up to the version: ``/api/v1`` or ``/apis/discovery.k8s.io/v1``."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def typed(self, stored: dict[str, Any]) -> dict[str, Any]:
        """The stored object with kind and apiVersion in front: as `get` and watch events have it; list items go without."""
        return {"kind": self.kind, "apiVersion": self.api_version, **stored}

    def bookmark(self, version: int, *, initial_events_end: bool) -> bytes:
        """The line of a BOOKMARK event; with the mark that ends the initial events of a streaming list."""
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if initial_events_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        return event_line("BOOKMARK", self.typed({"metadata": metadata, **self.empty}))


ENDPOINT_SLICES = Resource(
    group="discovery.k8s.io",
    version="v1",
    plural="endpointslices",
    kind="EndpointSlice",
    empty={"addressType": "", "endpoints": None, "ports": None},
)
SERVICES = Resource(group="", version="v1", plural="services", kind="Service", empty={"spec": {}, "status": {"loadBalancer": {}}})
ENDPOINTS = Resource(
    group="",
    version="v1",
    plural="endpoints",
    kind="Endpoints",
    warning='299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"',
)
RESOURCES = (ENDPOINT_SLICES, SERVICES, ENDPOINTS)


def compact_json(value: Any) -> bytes:
    """JSON as Go's encoder writes it: no spaces, UTF-8."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def event_line(kind: str, obj: dict[str, Any]) -> bytes:
    return compact_json({"type": kind, "object": obj}) + b"\n"
