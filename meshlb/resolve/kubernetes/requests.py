"""The requests that a stream is made of, as values: path, query and how long an answer may take.

``Resource`` is what a stream is about. EndpointSlices of many Services share one stream: their label can be selected with
``in (…)``, up to a selector of 4 kB (proxies in front of API servers refuse longer requests). Endpoints cannot be selected that
way, as they carry no label with their Service's name, and the field selector takes one name. So each Service has a stream of its own:
it is authorised as that name (RBAC's ``resourceNames`` work) and costs only that object, where watching a whole namespace would
cost every other Service's thousand addresses, and a Role for all of them. They are a fallback of last resort.

A streaming list is a watch that begins with the present state and says where that ends.

Spec: Kubernetes API concepts, "Efficient detection of changes", "Streaming lists" (KEP-3157); reference section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import quote

from meshlb.resolve.kubernetes.wire import SERVICE_NAME_LABEL

Query = tuple[tuple[str, str], ...]

# The server ends a watch after a random time in here, so that clients spread over its replicas again.
WATCH_TIMEOUT_S: Final = (300, 600)
READ_MARGIN_S: Final = 15.0  # what a healthy server may be late with that end
MAX_SELECTOR: Final = 4096  # characters, as they stand in the URL


class Resource(Enum):
    """What is listed and watched."""

    SLICES = "EndpointSlices"
    ENDPOINTS = "Endpoints"

    def path(self, namespace: str) -> str:
        root, plural = ("/apis/discovery.k8s.io/v1", "endpointslices") if self is Resource.SLICES else ("/api/v1", "endpoints")
        return f"{root}/namespaces/{quote(namespace, safe='')}/{plural}"

    def selection(self, services: Iterable[str]) -> tuple[str, str]:
        """The query parameter that selects these services' objects."""
        names = sorted(services)
        if self is Resource.ENDPOINTS:
            (name,) = names
            return ("fieldSelector", f"metadata.name={name}")
        return ("labelSelector", selector(names))

    def fits(self, services: Iterable[str]) -> bool:
        """May one stream carry all of these?"""
        names = sorted(services)
        return len(names) <= 1 or (self is Resource.SLICES and len(quote(selector(names), safe="")) <= MAX_SELECTOR)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRequest:
    """List what belongs to these services. ``renew``: read the credentials again first."""

    namespace: str
    services: frozenset[str]
    resource_version: str
    renew: bool = False
    resource: Resource = Resource.SLICES

    @property
    def path(self) -> str:
        return self.resource.path(self.namespace)

    @property
    def query(self) -> Query:
        version = (("resourceVersion", self.resource_version),) if self.resource_version else ()
        return (self.resource.selection(self.services), *version)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchRequest:
    """Watch what belongs to these services from ``resource_version`` on, for ``timeout_s`` at most.

    ``initial``: a streaming list. The state at ``resource_version`` or later comes first, then a bookmark that says so.
    """

    namespace: str
    services: frozenset[str]
    resource_version: str
    timeout_s: int
    renew: bool = False
    resource: Resource = Resource.SLICES
    initial: bool = False

    @property
    def path(self) -> str:
        return self.resource.path(self.namespace)

    @property
    def query(self) -> Query:
        initial = (("sendInitialEvents", "true"), ("resourceVersionMatch", "NotOlderThan")) if self.initial else ()
        version = (("resourceVersion", self.resource_version),) if self.resource_version or not self.initial else ()
        return (
            self.resource.selection(self.services),
            *version,
            *initial,
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", str(self.timeout_s)),
        )

    @property
    def read_timeout_s(self) -> float:
        return self.timeout_s + READ_MARGIN_S


def service_path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/services/{quote(name, safe='')}"


def selector(services: Iterable[str]) -> str:
    """The label selector for slices of these services."""
    names = sorted(services)
    return f"{SERVICE_NAME_LABEL}={names[0]}" if len(names) == 1 else f"{SERVICE_NAME_LABEL} in ({','.join(names)})"
