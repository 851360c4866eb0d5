"""The slices of a Service: how endpoints are spread over them and what is written when they change."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from meshlb.testing.endpoint_slices import Changes, reconcile
from meshlb.testing.objects import FakeEndpoint, FakePort, service_object

PORTS = (FakePort(name="grpc", port=50051, target="grpc", app_protocol="grpc"),)


class Controller:
    """A Service and its slices, kept as an API server would."""

    def __init__(self, limit: int = 3, *, families: tuple[str, ...] = ("IPv4",), cluster_ip: str | None = "10.0.0.1") -> None:
        self.service = service_object(
            name="orders", namespace="shop", uid="u", ports=PORTS, cluster_ip=cluster_ip, labels={"team": "a"}, selector=True,
            families=families,
        )  # fmt: skip
        self.slices: dict[str, dict[str, Any]] = {}
        self._limit = limit
        self._numbers = itertools.count()

    def set(self, endpoints: Iterable[FakeEndpoint], trigger_time: str | None = "now") -> Changes:
        changes = reconcile(
            self.service, PORTS, endpoints, list(self.slices.values()), max_endpoints_per_slice=self._limit,
            trigger_time=trigger_time, new_name=lambda: f"orders-{next(self._numbers)}",
        )  # fmt: skip
        for obj in (*changes.create, *changes.update):
            self.slices[obj["metadata"]["name"]] = obj
        for obj in changes.delete:
            del self.slices[obj["metadata"]["name"]]
        return changes

    @property
    def contents(self) -> dict[str, list[str]]:
        return {name: [e["addresses"][0] for e in obj["endpoints"] or ()] for name, obj in self.slices.items()}


def endpoint(number: int, port: int = 9000, **flags: bool | None) -> FakeEndpoint:
    return FakeEndpoint(
        address=f"10.1.{number // 256}.{number % 256}", ports={"grpc": port}, uid=f"u{number}", pod=f"p{number}", **flags
    )


def counts(changes: Changes) -> tuple[int, int, int]:
    return len(changes.create), len(changes.update), len(changes.delete)


def test_a_service_without_endpoints_keeps_one_empty_slice() -> None:
    """It tells "none" from "no such Service"; saying so again writes nothing."""
    controller = Controller()
    assert counts(controller.set([])) == (1, 0, 0)
    (placeholder,) = controller.slices.values()
    assert (placeholder["endpoints"], placeholder["ports"]) == (None, None)
    assert counts(controller.set([])) == (0, 0, 0)


def test_the_empty_slice_is_filled_and_emptied_under_its_name() -> None:
    """A slice that would be deleted while another is created is reused."""
    controller = Controller()
    controller.set([])
    assert counts(controller.set([endpoint(1)])) == (0, 1, 0)
    assert counts(controller.set([])) == (0, 1, 0)
    (last,) = controller.slices.values()
    assert (last["metadata"]["name"], last["metadata"]["generation"], last["endpoints"]) == ("orders-0", 3, None)


def test_endpoints_beyond_the_limit_go_to_further_slices() -> None:
    """Three a slice: seven make three slices."""
    controller = Controller(limit=3)
    controller.set([endpoint(n) for n in range(7)])
    assert [len(addresses) for addresses in controller.contents.values()] == [3, 3, 1]


def test_a_change_of_one_endpoint_writes_one_slice() -> None:
    """The others keep their generation."""
    controller = Controller(limit=3)
    controller.set([endpoint(n) for n in range(6)])
    changed = [endpoint(n, ready=n != 4) for n in range(6)]
    assert counts(controller.set(changed)) == (0, 1, 0)
    assert sorted(obj["metadata"]["generation"] for obj in controller.slices.values()) == [1, 2]


def test_an_endpoint_keeps_its_place_and_a_gap_is_filled_by_the_next_new_one() -> None:
    """A slice that is written anyway takes new endpoints first."""
    controller = Controller(limit=3)
    controller.set([endpoint(n) for n in range(6)])
    controller.set([endpoint(n) for n in (0, 2, 3, 4, 5, 9)])
    assert [sorted(addresses) for addresses in controller.contents.values()] == [
        ["10.1.0.0", "10.1.0.2", "10.1.0.9"],
        ["10.1.0.3", "10.1.0.4", "10.1.0.5"],
    ]


def test_a_new_endpoint_goes_into_the_fullest_slice_with_room() -> None:
    """Fewer, fuller slices; a new one only when none has room."""
    controller = Controller(limit=3)
    controller.set([endpoint(n) for n in range(6)])
    controller.set([endpoint(n) for n in (0, 3, 4)])
    assert counts(controller.set([endpoint(n) for n in (0, 3, 4, 8)])) == (0, 1, 0)
    assert sorted(map(len, controller.contents.values())) == [1, 3]


def test_other_numbers_for_a_named_port_make_another_slice() -> None:
    """Ports belong to the slice, not to the endpoint: a rolling update that changes a port has two slices for a while."""
    controller = Controller()
    controller.set([endpoint(1), endpoint(2, port=9001)])
    assert sorted((obj["ports"][0]["port"], len(obj["endpoints"])) for obj in controller.slices.values()) == [(9000, 1), (9001, 1)]
    changes = controller.set([endpoint(2, port=9001)])
    assert counts(changes) == (0, 0, 1)


def test_a_reused_address_with_another_uid_is_another_endpoint() -> None:
    """The entry is replaced, not updated."""
    controller = Controller()
    controller.set([endpoint(1)])
    controller.set([FakeEndpoint(address="10.1.0.1", ports={"grpc": 9000}, uid="other", pod="p")])
    (obj,) = controller.slices.values()
    assert [entry["targetRef"]["uid"] for entry in obj["endpoints"]] == ["other"]


def test_each_family_has_slices_of_its_own() -> None:
    """A dual-stack Service without endpoints has two placeholders."""
    controller = Controller(families=("IPv4", "IPv6"))
    controller.set([])
    assert sorted(obj["addressType"] for obj in controller.slices.values()) == ["IPv4", "IPv6"]
    controller.set([FakeEndpoint(address="fd00::1", ports={"grpc": 9000})])
    (v6,) = [obj for obj in controller.slices.values() if obj["addressType"] == "IPv6"]
    assert v6["endpoints"][0]["addresses"] == ["fd00::1"]


def test_a_condition_of_none_is_left_out() -> None:
    """As hand-made slices have it; consumers must read an absent ready as true."""
    controller = Controller()
    controller.set([endpoint(1, ready=None, serving=None, terminating=None)])
    (obj,) = controller.slices.values()
    assert obj["endpoints"][0]["conditions"] == {}


def test_labels_say_service_manager_and_headlessness() -> None:
    """The Service's own labels are copied."""
    controller = Controller(cluster_ip=None)
    controller.set([endpoint(1)])
    (obj,) = controller.slices.values()
    assert obj["metadata"]["labels"] == {
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        "kubernetes.io/service-name": "orders",
        "service.kubernetes.io/headless": "",
        "team": "a",
    }


def test_the_trigger_time_is_there_only_if_readiness_changed() -> None:
    """A deleted pod's readiness did not change: the annotation of the slice goes."""
    controller = Controller()
    controller.set([endpoint(1), endpoint(2)])
    controller.set([endpoint(1)], trigger_time=None)
    (obj,) = controller.slices.values()
    assert "annotations" not in obj["metadata"]


@pytest.mark.parametrize("seed", range(20))
def test_slices_always_hold_exactly_the_endpoints(seed: int) -> None:
    """Whatever changes: each endpoint once, none too many, no slice over its limit, none empty beside another."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    controller = Controller(limit=3)
    for _ in range(30):
        wanted = [endpoint(n, port=9000 + n % 2, ready=rng.random() < 0.8) for n in rng.sample(range(12), rng.randrange(12))]
        controller.set(wanted)
        listed = [entry["addresses"][0] for obj in controller.slices.values() for entry in obj["endpoints"] or ()]
        assert sorted(listed) == sorted(e.address for e in wanted)
        sizes = [len(obj["endpoints"] or ()) for obj in controller.slices.values()]
        assert max(sizes) <= 3
        assert len(sizes) == 1 or 0 not in sizes


@pytest.mark.parametrize(
    ("distribution", "hints"),
    [
        (None, None),
        ("PreferClose", {"forZones": [{"name": "zone-a"}]}),
        ("PreferSameZone", {"forZones": [{"name": "zone-a"}]}),
        ("PreferSameNode", {"forZones": [{"name": "zone-a"}], "forNodes": [{"name": "node-1"}]}),
    ],
)
def test_a_traffic_distribution_hints_ready_endpoints_for_their_own_place(
    distribution: str | None, hints: dict[str, object] | None
) -> None:
    """Those that are not ready are left alone, as are those whose zone is not known."""
    controller = Controller()
    if distribution is not None:
        controller.service["spec"]["trafficDistribution"] = distribution
    placed = [replace(endpoint(number), node="node-1", zone="zone-a") for number in (1, 2)]
    controller.set([placed[0], replace(placed[1], ready=False), endpoint(3)])
    (written,) = controller.slices.values()
    assert [entry.get("hints") for entry in written["endpoints"]] == [hints, None, None]


def test_hints_of_a_test_are_written_as_they_are() -> None:
    """Whatever the Service says."""
    controller = Controller()
    controller.set([replace(endpoint(1), hint_zones=("a", "b"), hint_nodes=("n",))])
    (written,) = controller.slices.values()
    assert written["endpoints"][0]["hints"] == {"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "n"}]}
