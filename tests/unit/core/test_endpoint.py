"""Endpoints and sets of them: what they are called, what tells two apart, and what a set promises."""

from __future__ import annotations

import dataclasses

import pytest

from meshlb.core.endpoint import Endpoint, EndpointSet
from meshlb.errors import ConfigError


@pytest.mark.parametrize(
    ("host", "port", "address"),
    [
        ("10.0.0.1", 80, "10.0.0.1:80"),
        ("fd00::1", 80, "[fd00::1]:80"),
        ("fe80::1%eth0", 80, "[fe80::1%eth0]:80"),
        ("unix:/run/x.sock", 0, "unix:/run/x.sock"),
        ("unix-abstract:orders", 0, "unix-abstract:orders"),
    ],
)
def test_an_address_is_written_as_people_write_it(host: str, port: int, address: str) -> None:
    """IPv6 stands in brackets, a socket's path has no port."""
    assert Endpoint(host=host, port=port).address == address


def test_the_name_is_for_people_and_no_part_of_the_identity() -> None:
    """``str`` shows the pod's name; two names of one uid are one endpoint."""
    named = Endpoint(host="10.0.0.1", port=80, uid="u1", name="orders-0")
    renamed = dataclasses.replace(named, name="orders-1")
    assert str(named) == "orders-0 (10.0.0.1:80)"
    assert str(dataclasses.replace(named, name="")) == "10.0.0.1:80"
    assert named.identity == renamed.identity


def test_an_address_taken_over_by_another_pod_is_another_endpoint() -> None:
    """Identity is address and uid."""
    before, after = Endpoint(host="10.0.0.1", port=80, uid="u1"), Endpoint(host="10.0.0.1", port=80, uid="u2")
    assert before.identity != after.identity
    assert len(EndpointSet.of([before, after], "kubernetes")) == 2


def test_an_endpoint_cannot_be_changed() -> None:
    """It is shared by threads."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Endpoint(host="10.0.0.1", port=80).weight = 2.0  # type: ignore[misc]


def test_a_set_is_sorted_and_unique_whatever_the_order_it_is_given_in() -> None:
    """Equal truths are equal sets."""
    endpoints = [
        Endpoint(host=host, port=port, uid=uid) for host in ("10.0.0.2", "10.0.0.1") for port in (81, 80) for uid in ("b", "a")
    ]
    forward, backward = EndpointSet.of(endpoints * 2, "x"), EndpointSet.of(reversed(endpoints), "x")
    assert forward == backward
    assert list(forward.endpoints) == sorted(endpoints, key=lambda endpoint: endpoint.identity)


def test_of_two_copies_the_one_that_can_serve_wins() -> None:
    """Slices may list a pod twice while they are rebalanced; the better news is the later one."""
    ready = Endpoint(host="10.0.0.1", port=80, uid="u1")
    leaving = dataclasses.replace(ready, ready=False, terminating=True)
    gone = dataclasses.replace(ready, ready=False, serving=False)
    for copies in ([gone, leaving, ready], [ready, leaving, gone], [leaving, ready, gone]):
        assert EndpointSet.of(copies, "x").endpoints == (ready,)
    assert EndpointSet.of([gone, leaving], "x").endpoints == (leaving,)


def test_a_fallback_is_unique_too_and_never_an_endpoint() -> None:
    """One identity has one record, so nothing may be both."""
    spare = [Endpoint(host="10.96.0.1", port=80, uid=f"clusterip/{slot}.0") for slot in (1, 0)]
    pod = Endpoint(host="10.0.0.1", port=80, uid="u1")
    assert EndpointSet.of([pod], "x", fallback=[*spare, *spare, pod]).fallback == (spare[1], spare[0])
    assert EndpointSet.of(spare, "x", fallback=spare).fallback == ()


@pytest.mark.parametrize("weight", [0, 0.0, -1.0, 1e-10, 1e10, 10**400, True, float("nan"), float("inf"), "1", None])
def test_a_weight_that_means_nothing_is_refused(weight: object) -> None:
    """Here, where it is made: a policy would divide by it."""
    with pytest.raises(ConfigError) as caught:
        Endpoint(host="10.0.0.1", port=80, weight=weight)  # type: ignore[arg-type]
    assert str(caught.value) == f"weight={weight!r}: must be a number from 1e-09 to 1e+09"
