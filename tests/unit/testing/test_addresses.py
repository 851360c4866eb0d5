"""Loopback addresses: never the same twice, neither within a cluster nor between two."""

from __future__ import annotations

import pytest

from meshlb.testing.addresses import Addresses


@pytest.fixture
def many() -> Addresses:
    addresses = Addresses()
    if addresses.single:
        pytest.skip("this system has no loopback address but 127.0.0.1")
    return addresses


def test_addresses_are_unique_within_a_cluster(many: Addresses) -> None:
    """Pods and Services do not meet either."""
    given = [many.server_ip(), *(many.pod_ip() for _ in range(5000)), *(many.cluster_ip() for _ in range(1000))]
    assert len(set(given)) == len(given)
    assert {ip.rsplit(".", 2)[0] for ip in given} == {many.server_ip().rsplit(".", 2)[0]}
    many.close()


def test_two_clusters_have_different_subnets(many: Addresses) -> None:
    """A subnet is free again once its cluster is closed."""
    others = [Addresses() for _ in range(20)]
    subnets = {addresses.server_ip() for addresses in (many, *others)}
    assert len(subnets) == 21
    for addresses in (many, *others):
        addresses.close()


def test_where_there_is_one_address_everything_has_it() -> None:
    """As on a system that has only 127.0.0.1."""
    addresses = Addresses(single=True)
    assert addresses.single
    assert {addresses.pod_ip(), addresses.cluster_ip(), addresses.server_ip()} == {"127.0.0.1"}
