"""Discovery against a real cluster, whichever it is: what is written to its API arrives. Opt-in; the same runs against FakeCluster.

    kind create cluster --name meshlb --kubeconfig /tmp/meshlb-kind
    TEST_CLUSTER_KUBECONFIG=/tmp/meshlb-kind pytest -m cluster tests/cluster
    kind delete cluster --name meshlb

No other kubeconfig is ever looked at, so that nobody's production is written to by accident. What is made: one namespace with a name of
its own (``meshlb-test-…``), in it Services without selectors and EndpointSlices with documentation addresses (192.0.2.0/24), hence no
images, no pods and no traffic; it is deleted at the end. The user of the kubeconfig must be allowed to do that.

Against FakeCluster the same tests run always, so what they assert is known to hold before a cluster is there.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import pytest

import meshlb
from meshlb.mesh import Mesh
from meshlb.testing import FakeCluster, FakeService
from tests.support.channels import eventually

VARIABLE = "TEST_CLUSTER_KUBECONFIG"
KUBECONFIG = os.environ.get(VARIABLE, "")
PATIENCE_S = 20.0
REAL = pytest.param(
    "real",
    marks=[pytest.mark.cluster, pytest.mark.skipif(not KUBECONFIG, reason=f"opt-in: {VARIABLE} names no kubeconfig of a cluster")],
)


class Cluster(Protocol):
    """As much of a cluster as these tests write."""

    kubeconfig: str
    namespace: str

    def create_service(self, name: str, *, headless: bool) -> None:
        """Port 80, named grpc, without a selector."""

    def write_slice(self, service: str, name: str, addresses: Iterable[str], port: int) -> None:
        """Create it, or replace what it says."""

    def delete_slice(self, service: str, name: str) -> None: ...


class Fake:
    def __init__(self, cluster: FakeCluster) -> None:
        self.kubeconfig = cluster.kubeconfig
        self.namespace = cluster.namespace
        self._cluster = cluster
        self._services: dict[str, FakeService] = {}

    def create_service(self, name: str, *, headless: bool) -> None:
        self._services[name] = self._cluster.service(name, endpoints=[], ports={"grpc": 80}, headless=headless)

    def write_slice(self, service: str, name: str, addresses: Iterable[str], port: int) -> None:
        self._services[service].write_slice(name, [f"{address}:{port}" for address in addresses])

    def delete_slice(self, service: str, name: str) -> None:
        self._services[service].delete_slice(name)


class Real:
    """Through the official client, with plain objects."""

    def __init__(self, kubeconfig: str) -> None:
        from kubernetes import client, config

        api = config.new_client_from_config(config_file=kubeconfig)
        self.kubeconfig = kubeconfig
        self.namespace = f"meshlb-test-{secrets.token_hex(4)}"
        self._core = client.CoreV1Api(api)
        self._slices = client.DiscoveryV1Api(api)
        self._core.create_namespace({"metadata": {"name": self.namespace}})

    def create_service(self, name: str, *, headless: bool) -> None:
        spec: dict[str, Any] = {"ports": [{"name": "grpc", "port": 80, "protocol": "TCP"}]}
        if headless:
            spec["clusterIP"] = "None"
        self._core.create_namespaced_service(self.namespace, {"metadata": {"name": name}, "spec": spec})

    def write_slice(self, service: str, name: str, addresses: Iterable[str], port: int) -> None:
        from kubernetes.client.exceptions import ApiException

        labels = {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "meshlb-tests"}
        body = {
            "metadata": {"name": name, "labels": labels},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
            "ports": [{"name": "grpc", "port": port, "protocol": "TCP"}],
        }
        try:
            self._slices.create_namespaced_endpoint_slice(self.namespace, body)
        except ApiException as error:
            if error.status != 409:
                raise
            self._slices.replace_namespaced_endpoint_slice(name, self.namespace, body)

    def delete_slice(self, service: str, name: str) -> None:
        self._slices.delete_namespaced_endpoint_slice(name, self.namespace)

    def close(self) -> None:
        self._core.delete_namespace(self.namespace)


@pytest.fixture(scope="module", params=["fake", REAL])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if request.param == "fake":
        with FakeCluster(namespace="shop") as fake:
            yield Fake(fake)
    else:
        with contextlib.closing(Real(KUBECONFIG)) as real:
            yield real


class Seen:
    """What one target's pool holds."""

    def __init__(self, mesh: Mesh, target: str) -> None:
        self._binding = mesh.bind(target)
        self._view = self._binding.view(self)

    def on_change(self) -> None: ...

    def until(self, *addresses: str) -> None:
        eventually(lambda: self.addresses == set(addresses), f"{addresses}; now {self._binding.pool.describe()}", PATIENCE_S)

    @property
    def addresses(self) -> set[str]:
        return {sub.endpoint.address for sub in self._binding.pool.snapshot.eligible}

    @property
    def fallback(self) -> set[int]:
        return {sub.endpoint.port for sub in self._binding.pool.snapshot.fallback}

    @property
    def source(self) -> str:
        return self._binding.pool.snapshot.source


@pytest.fixture
def mesh(cluster: Cluster) -> Iterator[Mesh]:
    config = meshlb.Config(discovery={"kubeconfig": cluster.kubeconfig, "sources": ["kubernetes"]})
    with Mesh(config, environ={}) as mesh:
        yield mesh


def test_the_slices_of_a_headless_service_are_seen_and_every_change_arrives(cluster: Cluster, mesh: Mesh) -> None:
    """Two slices are one Service; an address more, one less, a slice that goes."""
    cluster.create_service("headless", headless=True)
    cluster.write_slice("headless", "headless-a", ["192.0.2.1", "192.0.2.2"], 8080)
    cluster.write_slice("headless", "headless-b", ["192.0.2.11"], 9090)
    seen = Seen(mesh, f"headless.{cluster.namespace}.svc:grpc")
    seen.until("192.0.2.1:8080", "192.0.2.2:8080", "192.0.2.11:9090")
    assert seen.source == "kubernetes"
    cluster.write_slice("headless", "headless-a", ["192.0.2.1", "192.0.2.2", "192.0.2.3"], 8080)
    seen.until("192.0.2.1:8080", "192.0.2.2:8080", "192.0.2.3:8080", "192.0.2.11:9090")
    cluster.write_slice("headless", "headless-a", ["192.0.2.2", "192.0.2.3"], 8080)
    seen.until("192.0.2.2:8080", "192.0.2.3:8080", "192.0.2.11:9090")
    cluster.delete_slice("headless", "headless-b")
    seen.until("192.0.2.2:8080", "192.0.2.3:8080")


def test_the_port_of_a_service_is_mapped_and_its_cluster_ip_is_the_fallback(cluster: Cluster, mesh: Mesh) -> None:
    """Written as the Service's number: pods are dialled on theirs, the ClusterIP on its own."""
    cluster.create_service("virtual", headless=False)
    cluster.write_slice("virtual", "virtual-a", ["192.0.2.21", "192.0.2.22"], 8080)
    seen = Seen(mesh, f"virtual.{cluster.namespace}.svc:80")
    seen.until("192.0.2.21:8080", "192.0.2.22:8080")
    eventually(lambda: len(seen.fallback) == 1, "the ClusterIP is known", PATIENCE_S)
    if cluster.kubeconfig == KUBECONFIG:  # FakeCluster may have to choose another number
        assert seen.fallback == {80}


def test_a_service_that_is_made_later_is_found_and_its_neighbours_are_left_alone(cluster: Cluster, mesh: Mesh) -> None:
    """It joins the namespace's watch."""
    cluster.create_service("early", headless=True)
    cluster.write_slice("early", "early-a", ["192.0.2.31"], 8080)
    early = Seen(mesh, f"early.{cluster.namespace}.svc:grpc")
    late = Seen(mesh, f"late.{cluster.namespace}.svc:grpc")
    early.until("192.0.2.31:8080")
    assert late.addresses == set()
    cluster.create_service("late", headless=True)
    cluster.write_slice("late", "late-a", ["192.0.2.41"], 8080)
    late.until("192.0.2.41:8080")
    assert early.addresses == {"192.0.2.31:8080"}
