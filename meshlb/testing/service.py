"""A Service of the fake cluster: its objects in the API, its name in DNS, its cluster IP, and the pods or addresses behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from meshlb.testing.cluster_ip import Address, ClusterIpPort, choose
from meshlb.testing.deployment import Deployment, next_revision
from meshlb.testing.endpoint_slices import reconcile
from meshlb.testing.errors import FakeClusterError
from meshlb.testing.legacy_endpoints import endpoints_object
from meshlb.testing.loop_thread import LoopThread
from meshlb.testing.objects import SERVICE_NAME_LABEL, FakeEndpoint, FakePort, name_suffix, now_rfc3339
from meshlb.testing.pod import Pod
from meshlb.testing.resources import ENDPOINT_SLICES, ENDPOINTS, SERVICES, Resource
from meshlb.testing.watch_cache import Selection, WatchCache

DEFAULT_TIMEOUT_S = 60.0  # for a change to settle; a pod starts in well under a second


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceContext:
    """What a Service needs of its cluster."""

    thread: LoopThread
    caches: Mapping[Resource, WatchCache]
    max_endpoints_per_slice: int
    forget: Callable[[], object]


class FakeService:
    """Made by `FakeCluster.service`. Methods may be called from any thread; those with ``wait`` block until the change is done."""

    def __init__(
        self, context: ServiceContext, obj: dict[str, Any], ports: Sequence[FakePort], listeners: Mapping[str, ClusterIpPort]
    ) -> None:
        self.name: str = obj["metadata"]["name"]
        self.namespace: str = obj["metadata"]["namespace"]
        self.ports: dict[str, int] = {port.name: port.port for port in ports}
        self.cluster_ip: str | None = None if obj["spec"]["clusterIP"] == "None" else obj["spec"]["clusterIP"]
        self._context = context
        self._thread = context.thread
        self._specs = tuple(ports)
        self._listeners = listeners
        self._object = context.caches[SERVICES].put(obj)
        self._endpoints: tuple[FakeEndpoint, ...] = ()
        self.deployment: Deployment | None = None
        self.ready_since_s: dict[str, float] = {}  # pod name or address -> time.monotonic() when it was first published as ready
        self._deleted = False

    # -- what is there

    @property
    def port(self) -> int:
        """The number of the first service port; the pods listen on another one."""
        return next(iter(self.ports.values()))

    @property
    def headless(self) -> bool:
        return self.cluster_ip is None

    @property
    def endpoints(self) -> tuple[FakeEndpoint, ...]:
        """Every endpoint, with its conditions, as the slices have it now."""
        return self._endpoints

    @property
    def pods(self) -> list[Pod]:
        """Every pod there is, those that start, fail or terminate included; the oldest first."""
        return [] if self.deployment is None else list(self.deployment.pods.values())

    @property
    def ready_pods(self) -> list[Pod]:
        return [pod for pod in self.pods if pod.ready]

    # -- what tests do with it

    def scale(self, replicas: int, *, wait: bool = True, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Have this many pods. Surplus ones end with the last preStop and grace period that were given."""
        self._change(lambda deployment: replace(deployment.wanted, replicas=replicas), wait, timeout_s)

    def rolling_update(
        self,
        *,
        version: str | None = None,
        target_port: int | Mapping[str, int] | None = None,
        prestop_s: float = 0.0,
        grace_s: float = 5.0,
        max_surge: int = 1,
        max_unavailable: int = 0,
        wait: bool = True,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Replace every pod, as ``kubectl rollout restart`` does (None keeps the version and the target ports).

        An old pod is deleted when enough ready ones remain: marked terminating at once, it serves on for ``prestop_s``, gets
        SIGTERM and, ``grace_s`` later, SIGKILL. Raises `TimeoutError` if it takes longer than ``timeout_s``.
        """
        changes: dict[str, object] = {
            "prestop_s": prestop_s,
            "grace_s": grace_s,
            "max_surge": max_surge,
            "max_unavailable": max_unavailable,
        }
        if version is not None:
            changes["version"] = version
        if target_port is not None:
            changes["ports"] = target_numbers(self.ports, target_port)
        self._change(lambda deployment: next_revision(deployment.wanted, **changes), wait, timeout_s)

    def wait_ready(self, pods: int | None = None, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Block until exactly this many pods are ready; None: until everything is as last asked for, nothing on its way."""
        deployment = self._deployment()
        if pods is None:
            self._wait(deployment, lambda: deployment.settled, timeout_s)
        else:
            self._wait(deployment, lambda: len(self.ready_pods) == pods, timeout_s)

    def set_endpoints(self, endpoints: Iterable[str | FakeEndpoint], *, readiness_changed: bool = True) -> None:
        """Replace all endpoints of a Service without pods at once; a string is ``"ip:port"`` or ``"[ip]:port"`` and ready.

        ``readiness_changed`` stamps the changed slices with the time, as the controller does unless pods were merely deleted.
        """
        if self.deployment is not None:
            raise FakeClusterError(f"{self}: its endpoints are its pods; make it with endpoints=[…] to set them")
        parsed = tuple(self._parse(endpoint) for endpoint in endpoints)
        self._thread.call(self._publish, parsed, readiness_changed=readiness_changed)

    def delete(self) -> None:
        """Remove the Service from API, DNS and cluster IP, and end its pods without grace."""
        self._thread.call(self._delete)

    # -- inside the loop

    def publish_pods(self, readiness_changed: bool) -> None:
        """Write the pods as they are now to the API."""
        self._publish(tuple(pod.endpoint() for pod in self.pods), readiness_changed=readiness_changed)

    def _publish(self, endpoints: tuple[FakeEndpoint, ...], *, readiness_changed: bool) -> None:
        if self._deleted:
            return
        self._endpoints = endpoints
        for endpoint in endpoints:
            if endpoint.ready:
                self.ready_since_s.setdefault(endpoint.pod or endpoint.address, time.monotonic())
        trigger_time = now_rfc3339() if readiness_changed else None
        slices = self._context.caches[ENDPOINT_SLICES]
        changes = reconcile(
            self._object,
            self._specs,
            endpoints,
            self._slices(),
            max_endpoints_per_slice=self._context.max_endpoints_per_slice,
            trigger_time=trigger_time,
            new_name=lambda: f"{self.name}-{name_suffix()}",
        )
        for obj in (*changes.create, *changes.update):
            slices.put(obj)
        for obj in changes.delete:
            slices.delete(self.namespace, obj["metadata"]["name"])
        legacy = self._context.caches[ENDPOINTS]
        existing = legacy.get(self.namespace, self.name)
        renewed = endpoints_object(self._object, self._specs, endpoints, existing=existing, trigger_time=trigger_time)
        if renewed is not None:
            legacy.put(renewed)
        for listener in self._listeners.values():
            listener.update()

    def _slices(self) -> list[dict[str, Any]]:
        mine = Selection(
            namespace=self.namespace,
            labels=lambda labels: labels.get(SERVICE_NAME_LABEL) == self.name,
            fields=lambda _: True,
        )
        return self._context.caches[ENDPOINT_SLICES].select(mine)

    def _delete(self) -> None:
        if self._deleted:
            return
        self._deleted = True
        self.close()
        for obj in self._slices():
            self._context.caches[ENDPOINT_SLICES].delete(self.namespace, obj["metadata"]["name"])
        self._context.caches[ENDPOINTS].delete(self.namespace, self.name)
        self._context.caches[SERVICES].delete(self.namespace, self.name)
        self._context.forget()

    def close(self) -> None:
        """End pods and listeners; in the loop."""
        for listener in self._listeners.values():
            listener.close()
        if self.deployment is not None:
            self.deployment.close()

    def addresses(self, port_name: str) -> list[Address]:
        """Where a proxy may send a connection to this port now."""
        return choose(self._endpoints, port_name)

    # -- helpers

    def _deployment(self) -> Deployment:
        if self.deployment is None:
            raise FakeClusterError(f"{self} has no pods; use set_endpoints")
        return self.deployment

    def _change(self, change: Callable[[Deployment], Any], wait: bool, timeout_s: float) -> None:
        deployment = self._deployment()
        wanted = change(deployment)
        self._thread.call(deployment.want, wanted)
        if wait:
            self._wait(deployment, lambda: deployment.settled, timeout_s)

    def _wait(self, deployment: Deployment, condition: Callable[[], bool], timeout_s: float) -> None:
        started_s = time.monotonic()
        try:
            self._thread.run(deployment.until(condition), timeout_s)
        except TimeoutError:
            waited_s = time.monotonic() - started_s
            raise TimeoutError(f"{self} did not settle in {waited_s:.1f} s: {self.pods}") from None

    def _parse(self, endpoint: str | FakeEndpoint) -> FakeEndpoint:
        if isinstance(endpoint, FakeEndpoint):
            return endpoint
        host, _, number = endpoint.rpartition(":")
        if not host or not number.isdecimal():
            raise ValueError(f"endpoint {endpoint!r}: must be 'ip:port' or '[ip]:port'")
        if len(self.ports) != 1:
            raise ValueError(f"endpoint {endpoint!r}: {self} has {len(self.ports)} ports, say which with FakeEndpoint(ports=…)")
        return FakeEndpoint(address=host.strip("[]"), ports={next(iter(self.ports)): int(number)})

    def __repr__(self) -> str:
        return f"<FakeService {self.name}.{self.namespace}>"


def target_numbers(ports: Mapping[str, int], target_port: int | Mapping[str, int] | None) -> dict[str, int]:
    """The pods' numbers for the service ports. None: others than the Service's, so that mixing the two up never works.

    They keep the last four digits (50051 becomes 20051) and stay below the ports that Linux deals out to clients, from 32768 on,
    where a listener of somebody else on all addresses could have taken one.
    """
    if target_port is None:
        base = 10_000 if any(20_000 <= port < 30_000 for port in ports.values()) else 20_000
        target_port = {name: base + port % 10_000 for name, port in ports.items()}
        if len(set(target_port.values())) < len(ports):
            raise ValueError(f"target_port=None: must be given, the last four digits of {sorted(ports.values())} are not unique")
    if isinstance(target_port, int):
        if len(ports) != 1:
            raise ValueError(f"target_port={target_port}: must be a mapping, the Service has {len(ports)} ports")
        return dict.fromkeys(ports, target_port)
    if set(target_port) != set(ports):
        raise ValueError(f"target_port={dict(target_port)}: must have the Service's port names {sorted(ports)}")
    return {name: target_port[name] for name in ports}
