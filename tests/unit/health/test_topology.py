"""kube-proxy's own table for CategorizeEndpoints, case by case, for traffic of pods to a ClusterIP.

Spec: pkg/proxy/topology_test.go. Names of cases follow the original; cases about externalTrafficPolicy have no caller here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from meshlb.core.endpoint import NO_PLACE, Endpoint, EndpointSet, Hints, Place
from meshlb.health.selection import eligible, eligible_of

HERE = Place(node="test-node", zone="zone-a")


def ready(
    number: int, *, zones: tuple[str, ...] = (), nodes: tuple[str, ...] = (), node: str = "", terminating: bool = False
) -> Endpoint:
    return Endpoint(host=f"10.1.2.{number}", port=80, hints=Hints(zones, nodes), node=node, terminating=terminating)


def unready(number: int, **fields: object) -> Endpoint:
    return Endpoint(host=f"10.1.2.{number}", port=80, ready=False, serving=False, **fields)  # type: ignore[arg-type]


def draining(number: int, **fields: object) -> Endpoint:
    return Endpoint(host=f"10.1.2.{number}", port=80, ready=False, serving=True, terminating=True, **fields)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Case:
    name: str
    listed: tuple[Endpoint, ...]
    expected: tuple[int, ...]
    place: Place = HERE
    local_only: bool = False


BOTH: dict[str, Any] = {"zones": ("zone-a",), "nodes": ("test-node",)}
HINTED = (ready(3, zones=("zone-a",)), ready(4, zones=("zone-b",)), ready(5, zones=("zone-c",)), ready(6, zones=("zone-a",)))
NODES = (
    ready(3, zones=("zone-a",), nodes=("test-node",)),
    ready(4, zones=("zone-b",), nodes=("node-2",)),
    ready(5, zones=("zone-a",), nodes=("node-3",)),
)
CASES = [
    Case("hints, no node or zone: all", HINTED, (3, 4, 5, 6), NO_PLACE),
    Case("hints, zone unknown, node known: all", HINTED, (3, 4, 5, 6), Place(node="test-node")),
    Case("normal endpoint filtering, zone hints", HINTED, (3, 6)),
    Case("zone hints, another zone", HINTED, (4,), Place("test-node", "zone-b")),
    Case("zone hints, no endpoint for the zone: all", HINTED, (3, 4, 5, 6), Place("test-node", "zone-d")),
    Case("no hints: all", (ready(3), ready(4)), (3, 4)),
    Case("one ready endpoint without a zone hint: all", (*HINTED, ready(7)), (3, 4, 5, 6, 7)),
    Case("an unready endpoint without a hint does not count", (*HINTED, unready(7)), (3, 6)),
    Case("a draining endpoint without a hint does not count", (*HINTED, draining(7)), (3, 6)),
    Case(
        "an unready endpoint of our zone does not make the mode",
        (ready(3, zones=("zone-b",)), unready(4, hints=Hints(("zone-a",)))),
        (3,),
    ),
    Case(
        "several zones in one hint",
        (ready(3, zones=("zone-a", "zone-b")), ready(4, zones=("zone-b",))),
        (3, 4),
        Place("", "zone-b"),
    ),
    Case(
        "one ready endpoint takes all of the zone",
        (ready(3, zones=("zone-a",)), *(ready(n, zones=("zone-b",)) for n in range(4, 9))),
        (3,),
    ),
    Case("node hints", NODES, (3,)),
    Case("node hints, none for the node: by zone", NODES, (3, 5), Place("node-9", "zone-a")),
    Case("node hints, none for node or zone: all", NODES, (3, 4, 5), Place("node-9", "zone-d")),
    Case("node hints, node unknown: by zone", NODES, (3, 5), Place("", "zone-a")),
    Case("a node hint is missing on one: by zone", (*NODES, ready(6, zones=("zone-a",))), (3, 5, 6)),
    Case("a zone hint is missing on one, node hints on all: by node", (*NODES[:2], ready(6, nodes=("test-node",))), (3, 6)),
    Case("node hints alone, none for the node: all", (ready(3, nodes=("n2",)), ready(4, nodes=("n3",))), (3, 4)),
    Case("node mode comes before zone mode", (ready(3, **BOTH), ready(4, zones=("zone-a",), nodes=("node-2",))), (3,)),
    Case("Cluster, endpoints have zero ready, all terminating", (draining(3), draining(4)), (3, 4)),
    Case("Cluster, some ready, some terminating", (ready(3), draining(4), unready(5)), (3,)),
    Case("Cluster, terminating ones of another zone are used", (draining(3, hints=Hints(("zone-b",))), unready(4)), (3,)),
    Case("Cluster, nothing usable", (unready(3), unready(4, terminating=True)), ()),
    Case("publishNotReadyAddresses: ready while terminating", (ready(3, terminating=True), draining(4)), (3,)),
    Case("no endpoints", (), ()),
    Case("Local, ready here and elsewhere", (ready(3, node="test-node"), ready(4, node="n2")), (3,), local_only=True),
    Case("Local, nothing here: nothing", (ready(3, node="n2"), draining(4, node="n2")), (), local_only=True),
    Case("Local, ready elsewhere, draining here", (ready(3, node="n2"), draining(4, node="test-node")), (4,), local_only=True),
    Case("Local, ready and draining here", (ready(3, node="test-node"), draining(4, node="test-node")), (3,), local_only=True),
    Case("Local, only unready here", (unready(3, node="test-node"), ready(4, node="n2")), (), local_only=True),
    Case(
        "Local, hints are passed over",
        (ready(3, node="test-node", zones=("zone-b",), nodes=("n2",)), ready(4, node="n2", **BOTH)),
        (3,),
        local_only=True,
    ),
    Case(
        "Local, hints are passed over among our own",
        (ready(3, node="test-node", zones=("zone-a",)), ready(4, node="test-node", zones=("zone-b",))),
        (3, 4),
        local_only=True,
    ),
    Case("Local, our node is not known", (ready(3, node="n2"), ready(4)), (), NO_PLACE, local_only=True),
    Case("Local, an endpoint without a node", (ready(3), ready(4, node="test-node")), (4,), local_only=True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_caller_gets_the_endpoints_that_kube_proxy_would_give_it(case: Case) -> None:
    """In the order they were listed."""
    expected = tuple(f"10.1.2.{number}" for number in case.expected)
    assert tuple(endpoint.host for endpoint in eligible(case.listed, case.place, case.local_only)) == expected


def test_a_set_is_judged_by_its_own_place_and_policy() -> None:
    """What the chain puts into it."""
    local = EndpointSet.of([ready(3, node="n1"), ready(4, node="n2")], "kubernetes", place=Place("n2"), local_only=True)
    assert [endpoint.host for endpoint in eligible_of(local)] == ["10.1.2.4"]
