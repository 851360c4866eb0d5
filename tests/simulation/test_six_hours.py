"""Six hours without the API server and without DNS, while every pod is replaced: no call fails, and none reaches a stranger."""

from __future__ import annotations

import random

import pytest

from meshlb.core.endpoint import EndpointSet
from meshlb.resolve.confirmation import UNVERIFIED_S
from meshlb.resolve.env import EnvService
from tests.simulation.outage import CLUSTER_IP, Client, Network
from tests.unit.resolve.chain_fixtures import Scene, service_of, slice_of

HOURS_S = 6 * 3600.0
CALL_EVERY_S = 2.0
PODS = [f"10.0.0.{number}" for number in range(1, 7)]
ENV = EnvService(CLUSTER_IP, frozenset({50051}), {"GRPC": 50051})


class Outage:
    """A scene whose chain speaks to a client's pool; what the chain publishes is kept."""

    def __init__(self, seed: int, *, headless: bool = False, policy: str = "p2c") -> None:
        print(f"seed {seed}")
        self.rng = random.Random(seed)
        self.scene = Scene("grpc", env=None if headless else ENV, seed=seed)
        self.loop = self.scene.loop
        self.network = Network(self.rng)
        self.client = Client(self.loop, self.network, self.rng, policy)
        self.heard: list[EndpointSet] = []
        self.client.on_hint = self.scene.chain.resolve_now
        self.headless = headless
        for address in PODS:
            self.network.start(address)

    def on_endpoints(self, endpoints: EndpointSet, /) -> None:
        """The scene's listener, from the beginning of the outage on."""
        self.heard.append(endpoints)
        self.client.on_endpoints(endpoints)

    def begin(self) -> None:
        self.scene.on_endpoints = self.on_endpoints  # type: ignore[method-assign]
        self.scene.api.answer = (service_of("" if self.headless else CLUSTER_IP), None)
        self.scene.api.says(slice_of(*PODS, headless=self.headless))
        self.run(60.0)
        self.lose_sources()

    def lose_sources(self) -> None:
        """Both fail again and again, as they do while they are away."""
        self.scene.api.fails()
        self.scene.dns.fails()
        self.loop.call_later(20.0, self.lose_sources)

    def run(self, length_s: float) -> None:
        """Calls at random moments, some of them right after what happens."""
        end_s = self.loop.now_s() + length_s
        while self.loop.now_s() < end_s:
            self.client.call()
            self.loop.advance(min(self.rng.expovariate(1 / CALL_EVERY_S), max(0.0, end_s - self.loop.now_s())))

    def replace_pod(self, address: str, number: int, stranger: bool) -> None:
        """Make-before-break, as a rolling update does it; then, perhaps, somebody else gets the old address."""
        self.network.start(f"10.0.1.{number}")
        self.client.end_pod(self.network.occupants[address])
        if stranger:
            self.loop.call_later(self.rng.uniform(30.0, 900.0), lambda: self._move_in(address))

    def _move_in(self, address: str) -> None:
        if address not in self.network.occupants:
            self.network.start(address, ours=False)


@pytest.mark.parametrize("policy", ["p2c", "round_robin", "least_request"])
@pytest.mark.parametrize("strangers", [0.0, 0.5, 1.0], ids=["nobody moves in", "some addresses are reused", "all are"])
def test_every_pod_is_replaced_and_the_cluster_ip_carries_on(policy: str, strangers: float) -> None:
    """Old pods are used as long as they live, the ClusterIP when the last one is gone, and pods again when the API is back."""
    outage = Outage(random.randrange(2**32), policy=policy)
    outage.begin()
    due_s = sorted(outage.rng.uniform(UNVERIFIED_S, HOURS_S - 1800.0) for _ in PODS)
    for number, (address, at_s) in enumerate(zip(PODS, due_s, strict=True)):
        stranger = outage.rng.random() < strangers
        outage.loop.call_later(at_s, lambda a=address, n=number, s=stranger: outage.replace_pod(a, n, s))  # type: ignore[misc]
    outage.run(HOURS_S)
    client, described = outage.client, outage.client.view.describe()
    assert client.failed == []
    assert described["on_fallback"] is True
    assert not any(endpoint.host.startswith("10.0.1.") for endpoint in outage.heard[-1].endpoints)
    assert all(len(endpoints) == len(PODS) for endpoints in outage.heard)  # nothing was given up for an error
    carried = [pod.calls for pod in outage.network.ours]
    assert sum(carried) > 0
    assert sum(calls > 0 for calls in carried) >= 3  # the ClusterIP's connections are renewed while they serve
    assert all(pod.calls == 0 for pod in outage.network.occupants.values() if not pod.ours)

    before = sum(carried)
    outage.scene.api.says(slice_of(*(pod.address for pod in outage.network.ours)))
    outage.run(300.0)
    assert client.failed == []
    assert client.view.describe()["on_fallback"] is False
    assert (client.view.describe()["doubted"], sum(pod.calls for pod in outage.network.ours) > before) == (0, True)


def test_all_at_once_is_survived_too() -> None:
    """The whole Service is deployed anew within a second, and every old address goes to somebody else."""
    outage = Outage(random.randrange(2**32))
    outage.begin()
    outage.run(3600.0)
    for number, address in enumerate(PODS):
        outage.loop.call_later(0.1 * number, lambda a=address, n=number: outage.replace_pod(a, n, True))  # type: ignore[misc]
    outage.run(HOURS_S - 3600.0)
    assert outage.client.failed == []
    assert outage.client.view.describe()["on_fallback"] is True


def test_pods_that_merely_restart_are_used_again_where_nobody_else_can_be() -> None:
    """A headless Service has no ClusterIP: one that comes back at its address is doubted, and taken when no other is left."""
    outage = Outage(random.randrange(2**32), headless=True)
    outage.begin()
    outage.run(3600.0)
    for address in PODS:
        outage.client.end_pod(outage.network.occupants[address])
        outage.network.start(address)
        outage.run(120.0)
    assert outage.client.failed == []
    assert outage.client.view.describe()["doubted"] == len(PODS)
    assert outage.client.view.describe()["picking_from"] == len(PODS)
