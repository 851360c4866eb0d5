"""A ``KubernetesSource`` on the real discovery loop, connected to a fake cluster over real sockets."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

from meshlb.resolve.kubernetes.api_client import KubernetesApi
from meshlb.resolve.kubernetes.auth import connect, credentials_of
from meshlb.resolve.kubernetes.source import KubernetesSource, ServiceSlices, SourceError
from meshlb.resolve.kubernetes.transport import ApiTransport
from meshlb.resolve.settings import Discovery
from meshlb.runtime.loop import Loop
from meshlb.testing import FakeCluster
from tests.integration.fake_cluster_client import eventually


class Heard:
    """A listener that keeps every statement with its time; reads of it are safe from the test's thread."""

    def __init__(self) -> None:
        self.statements: list[tuple[float, ServiceSlices]] = []
        self.errors: list[SourceError] = []

    def on_slices(self, slices: ServiceSlices, /) -> None:
        self.statements.append((time.monotonic(), slices))

    def on_source_error(self, error: SourceError, /) -> None:
        self.errors.append(error)

    @property
    def hosts(self) -> set[str] | None:
        """Of the latest statement; None before the first."""
        return hosts(self.statements[-1][1]) if self.statements else None

    def becomes(self, expected: set[str], timeout_s: float = 10.0) -> None:
        eventually(lambda: self.hosts == expected, timeout_s=timeout_s)

    @property
    def smallest(self) -> int:
        """The fewest endpoints that any statement had."""
        return min(len(hosts(slices)) for _, slices in self.statements)


def hosts(slices: ServiceSlices) -> set[str]:
    return {endpoint.host for record in slices.slices for endpoint in record.endpoints}


class Client:
    """A process's discovery of one cluster. Close it."""

    def __init__(self, cluster: FakeCluster, *, in_pod: bool = False, read_timeout_s: float = 15.0, **options: Any) -> None:
        place = {"service_account_dir": cluster.service_account_dir} if in_pod else {"kubeconfig": cluster.kubeconfig}
        self.discovery = Discovery(**place)
        self.environ = cluster.environ() if in_pod else {}
        self.read_timeout_s = read_timeout_s
        self.loop = Loop()
        self.source = KubernetesSource(self.connect, self.loop, random.Random(1), **options)

    def connect(self) -> ApiTransport | None:
        if self.read_timeout_s == 15.0:
            return connect(self.discovery, environ=self.environ)
        credentials = credentials_of(self.discovery, self.environ)
        assert credentials is not None
        return KubernetesApi(credentials, read_timeout_s=self.read_timeout_s)

    def watch(self, service: str, namespace: str = "shop") -> Heard:
        heard = Heard()
        self.loop.call_soon(lambda: self.source.watch(namespace, service, heard))
        return heard

    def get_service(self, name: str, namespace: str = "shop") -> tuple[Any, Any]:
        answers: list[tuple[Any, Any]] = []
        self.loop.call_soon(lambda: self.source.get_service(namespace, name, lambda *answer: answers.append(answer)))
        return eventually(lambda: answers)[0]

    def close(self) -> None:
        self.loop.call_soon(self.source.close)
        self.loop.stop()


def reader_threads() -> list[str]:
    """The helper threads of sources that are alive now."""
    prefixes = ("meshlb-watch:", "meshlb-list:", "meshlb-services", "meshlb-connect")
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(prefixes)]


Made = Callable[..., Client]
