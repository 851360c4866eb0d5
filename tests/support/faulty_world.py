"""Faulty pods, and the cluster that tells of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from meshlb.testing import FakeCluster, FakeService
from meshlb.testing.objects import FakeEndpoint
from tests.support.faulty_pods import ARMS, Pod, pods

TARGET = "orders.shop:grpc"


@dataclass
class World:
    """``pods`` are all there ever were, in order. ``tell`` hears, at each change, who is ready, as the cluster does."""

    pods: list[Pod]
    cluster: FakeCluster
    service: FakeService
    tell: Callable[[list[Pod]], object] = lambda ready: None
    terminating: set[Pod] = field(default_factory=set)
    gone: set[Pod] = field(default_factory=set)

    def publish(self) -> None:
        """The world as it is now."""
        listed = [pod for pod in self.pods if pod not in self.gone]
        self.service.set_endpoints([self._endpoint(pod) for pod in listed])
        self.tell([pod for pod in listed if pod not in self.terminating])

    def add(self, pod: Pod) -> None:
        """It is ready from now on."""
        self.pods.append(pod)
        self.publish()

    def restart(self, pod: Pod, new: Pod) -> None:
        """As a rollout without preStop does it: a new one, then SIGTERM to the old one in the moment in which it is marked."""
        self.add(new)
        self.terminating.add(pod)
        pod.terminate()
        self.publish()
        pod.wait()
        self.remove(pod)

    def remove(self, *gone: Pod) -> None:
        """They are listed no more."""
        self.gone.update(gone)
        self.publish()

    def attempts(self) -> list[dict[str, int]]:
        """What each pod saw of each arm's calls so far."""
        return [{pod.name: pod.attempts(arm) for pod in self.pods} for arm in range(ARMS)]

    def _endpoint(self, pod: Pod) -> FakeEndpoint:
        ending, zone = pod in self.terminating, pod.zone or None
        return FakeEndpoint(
            address=pod.host, ports={"grpc": pod.port}, ready=not ending, terminating=ending, zone=zone, pod=pod.name, uid=pod.uid
        )


@contextlib.contextmanager
def world(started: Iterable[Pod]) -> Iterator[World]:
    """These pods are the Service ``TARGET``."""
    with pods(started) as running, FakeCluster(namespace="shop") as cluster:
        made = World(running, cluster, cluster.service("orders", endpoints=[]))
        made.publish()
        yield made
