"""The two requests that a namespace's stream is made of, as values: path, query and how long an answer may take.

Spec: Kubernetes API concepts, "Efficient detection of changes"; reference section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from meshlb.resolve.kubernetes.wire import SERVICE_NAME_LABEL

Query = tuple[tuple[str, str], ...]

# The server ends a watch after a random time in here, so that clients spread over its replicas again.
WATCH_TIMEOUT_S: Final = (300, 600)
READ_MARGIN_S: Final = 15.0  # what a healthy server may be late with that end


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRequest:
    """List these services' slices. ``renew``: read the credentials again first."""

    namespace: str
    services: frozenset[str]
    resource_version: str
    renew: bool = False

    @property
    def path(self) -> str:
        return slices_path(self.namespace)

    @property
    def query(self) -> Query:
        version = (("resourceVersion", self.resource_version),) if self.resource_version else ()
        return (("labelSelector", selector(self.services)), *version)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchRequest:
    """Watch these services' slices from ``resource_version`` on, for ``timeout_s`` at most."""

    namespace: str
    services: frozenset[str]
    resource_version: str
    timeout_s: int
    renew: bool = False

    @property
    def path(self) -> str:
        return slices_path(self.namespace)

    @property
    def query(self) -> Query:
        return (
            ("labelSelector", selector(self.services)),
            ("resourceVersion", self.resource_version),
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", str(self.timeout_s)),
        )

    @property
    def read_timeout_s(self) -> float:
        return self.timeout_s + READ_MARGIN_S


def slices_path(namespace: str) -> str:
    return f"/apis/discovery.k8s.io/v1/namespaces/{quote(namespace, safe='')}/endpointslices"


def service_path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/services/{quote(name, safe='')}"


def selector(services: Iterable[str]) -> str:
    """The label selector for slices of these services."""
    names = sorted(services)
    return f"{SERVICE_NAME_LABEL}={names[0]}" if len(names) == 1 else f"{SERVICE_NAME_LABEL} in ({','.join(names)})"
