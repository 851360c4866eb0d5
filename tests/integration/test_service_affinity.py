"""A Service that says ``sessionAffinity: ClientIP``: the process keeps to one pod, as behind the ClusterIP, unless a policy is named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshlb.mesh import Mesh
from meshlb.testing import FakeCluster
from tests.support.channels import PATIENCE_S, eventually
from tests.support.programs import client_config

CALLS = 60


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop") as cluster:
        cluster.service("sticky", replicas=3, session_affinity_s=60)
        cluster.service("plain", replicas=3)
        yield cluster


@pytest.mark.parametrize(
    ("service", "policy", "pods"),
    [
        ("sticky", None, 1),
        ("sticky", "p2c", 3),
        ("sticky", "session", 1),
        ("plain", None, 3),
        ("plain", "session", 1),
    ],
)
def test_a_services_affinity_is_kept_where_nobody_named_a_policy(
    cluster: FakeCluster, service: str, policy: str | None, pods: int
) -> None:
    """Never worse than the ClusterIP, which keeps it; and a word of the user's own counts more."""
    config = client_config(cluster, settings={} if policy is None else {"policy": policy})
    with Mesh(config, environ={}) as mesh:
        pool = mesh.pool(f"{service}.shop:grpc")

        def known() -> bool:
            with pool.pick(timeout_s=PATIENCE_S):
                (described,) = mesh.status()["pools"].values()
            wanted = described["discovery"]["policies"]["session_affinity"]
            return (described["source"], wanted) == ("kubernetes", "ClientIP" if service == "sticky" else "None")

        eventually(known, "pods and Service were read")
        seen = set()
        for _ in range(CALLS):
            with pool.pick(timeout_s=PATIENCE_S) as endpoint:
                seen.add(endpoint.address)
        assert len(seen) == pods
