"""TLS: names are verified against the Service, a wrong authority is said in grpc's words, and a rotated token keeps the watch alive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import trustme

from meshlb.testing import FakeCluster, FakeService
from tests.support.channels import eventually
from tests.support.programs import PATIENCE_S, program


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop", tls=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def orders(cluster: FakeCluster) -> FakeService:
    return cluster.service("orders", replicas=2, tls=True)


def credentials(cluster: FakeCluster) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(Path(cluster.ca_file).read_bytes())


@pytest.mark.parametrize("target", ["orders.shop:grpc", "orders.shop.svc:grpc", "orders.shop.svc.cluster.local:grpc"])
def test_certificates_are_verified_against_the_service_name(cluster: FakeCluster, orders: FakeService, target: str) -> None:
    """Pods are dialled by address, and their certificates, which hold no address, are good for the name as it was written."""
    with program(cluster, target, credentials=credentials(cluster)) as client, client.traffic() as traffic:
        traffic.go_on(1)
        client.await_source("kubernetes")
        client.await_connected(2)
        traffic.await_pods(pod.name for pod in orders.pods)
    assert traffic.failed == []
    assert {sample.replies[-1].authority for sample in traffic.samples} <= {f"{target.rpartition(':')[0]}:{orders.port}", ""}


def test_a_name_that_the_certificate_does_not_hold_is_refused(cluster: FakeCluster, orders: FakeService) -> None:
    """Nothing is ever sent to a server that cannot prove to be the Service."""
    name = [("grpc.ssl_target_name_override", "billing.shop")]
    with program(cluster, "orders.shop.svc:grpc", credentials=credentials(cluster), options=name) as client:
        for sample in client.call():
            assert sample.code is grpc.StatusCode.UNAVAILABLE
            assert "billing.shop" in sample.details or "andshake" in sample.details or "verif" in sample.details, sample.details


def test_a_wrong_authority_fails_with_the_reason_that_grpc_gives(cluster: FakeCluster, orders: FakeService) -> None:
    """UNAVAILABLE that speaks of the certificate, in moments."""
    stranger = grpc.ssl_channel_credentials(trustme.CA().cert_pem.bytes())
    with program(cluster, "orders.shop.svc:grpc", credentials=stranger, settings={"connect_timeout_s": 1.5}) as client:
        for sample in client.call():
            assert sample.code is grpc.StatusCode.UNAVAILABLE
            assert "CERTIFICATE_VERIFY_FAILED" in sample.details or "certificate" in sample.details, sample.details
            assert sample.took_s < 3.0
        client.assert_idle()


def test_a_rotated_token_keeps_the_watch_alive(cluster: FakeCluster, orders: FakeService) -> None:
    """As in a pod: service account files and HTTPS. Each rotation revokes the old token; changes still arrive, no call fails."""
    pod = orders.pods[0]
    with (
        program(
            cluster,
            "orders.shop:grpc",
            credentials=credentials(cluster),
            kubeconfig=None,
            service_account_dir=cluster.service_account_dir,
            environ=cluster.environ("shop"),
        ) as client,
        client.traffic() as traffic,
    ):
        traffic.go_on(1)
        client.await_source("kubernetes")
        for _ in range(2):
            cluster.rotate_token()
            cluster.api.cut()
            pod.set_ready(False)
            client.await_usable(other.address for other in orders.pods if other is not pod)
            pod.set_ready(True)
            client.await_usable(other.address for other in orders.pods)
        eventually(lambda: cluster.api.open_watches >= 1, "it watches again", PATIENCE_S)
        traffic.go_on(20)
    assert traffic.failed == []
