"""Endpoints objects over real sockets: a client that may not see slices, or whose cluster has none, still sees every pod."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshlb.resolve.kubernetes import backoff
from meshlb.testing import FakeCluster, Rule
from tests.integration.fake_cluster_client import eventually
from tests.integration.kubernetes_client import Client, Made, reader_threads

ENDPOINTS = Rule(namespaces=["shop"], resources=["endpoints"], verbs=["list", "watch"])


def pods(*numbers: int) -> list[str]:
    return [f"127.9.0.{number}:80" for number in numbers]


def addresses(*numbers: int) -> set[str]:
    return {f"127.9.0.{number}" for number in numbers}


@pytest.fixture(params=[True, False], ids=["streaming lists", "lists"])
def cluster(request: pytest.FixtureRequest) -> Iterator[FakeCluster]:
    with FakeCluster(tls=True, namespace="shop", watch_list=request.param) as cluster:
        yield cluster


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """Clients whose half minute between two refused requests is shortened."""
    waits = backoff.Waits(failure=lambda attempt: 0.1, refusal=lambda attempt: 0.3)
    monkeypatch.setattr(backoff.Waits, "load", lambda: waits)
    clients: list[Client] = []

    def make(*args: object, **options: object) -> Client:
        clients.append(Client(*args, **options))  # type: ignore[arg-type]
        return clients[-1]

    yield make
    for client in clients:
        client.close()
    eventually(lambda: not reader_threads(), timeout_s=5.0)


def test_who_may_see_endpoints_only_follows_them_until_slices_are_allowed(cluster: FakeCluster, made: Made) -> None:
    """403 for slices; changes are followed; with the permission, slices take over, and at no time is anything missing."""
    cluster.permit(ENDPOINTS)
    orders = cluster.service("orders", endpoints=pods(1, 2))
    heard = made(cluster, in_pod=True).watch("orders")
    heard.becomes(addresses(1, 2))
    assert heard.statements[-1][1].kind == "endpoints"
    assert [error.kind for error in heard.errors] == ["forbidden"]
    orders.set_endpoints(pods(2, 3, 4))
    heard.becomes(addresses(2, 3, 4))
    cluster.permit(Rule(namespaces=["shop"]))
    eventually(lambda: heard.statements[-1][1].kind == "slices")
    eventually(lambda: cluster.api.open_watches == 1)
    orders.set_endpoints(pods(3, 4))
    heard.becomes(addresses(3, 4))
    assert heard.smallest == 2
    assert len(heard.errors) == 1


def test_a_permission_that_is_taken_away_is_made_up_for_by_the_endpoints_object(cluster: FakeCluster, made: Made) -> None:
    """Slices first, then 403 at the next request: the last known stays until the other source speaks."""
    orders = cluster.service("orders", endpoints=pods(1, 2))
    client = made(cluster, in_pod=True)
    heard = client.watch("orders")
    heard.becomes(addresses(1, 2))
    eventually(lambda: cluster.api.open_watches)
    cluster.permit(ENDPOINTS)
    cluster.api.cut()
    eventually(lambda: heard.statements[-1][1].kind == "endpoints")
    orders.set_endpoints(pods(1, 2, 3))
    heard.becomes(addresses(1, 2, 3))
    assert heard.smallest == 2


def test_who_may_see_neither_keeps_asking_for_both_and_hears_which_role_is_missing(cluster: FakeCluster, made: Made) -> None:
    """The refusal of slices is the one that is told."""
    cluster.permit()
    cluster.service("orders", endpoints=pods(1))
    heard = made(cluster, in_pod=True).watch("orders")
    eventually(lambda: {request.resource for request in cluster.api.requests} == {"endpointslices", "endpoints"})
    assert all("endpointslices" in error.reason for error in heard.errors)
    cluster.permit(ENDPOINTS)
    heard.becomes(addresses(1))
