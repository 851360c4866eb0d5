"""A Service of the fake cluster: its objects in the API, its name in DNS, its cluster IP, and the pods or addresses behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from meshlb.testing.cluster_ip import Address, ClusterIpPort, choose
from meshlb.testing.deployment import Deployment, next_revision
from meshlb.testing.endpoint_slices import reconcile, slice_port
from meshlb.testing.errors import FakeClusterError
from meshlb.testing.legacy_endpoints import endpoints_object
from meshlb.testing.loop_thread import LoopThread
from meshlb.testing.objects import (
    MANAGED_BY_LABEL,
    SERVICE_NAME_LABEL,
    SLICE_MANAGER,
    FakeEndpoint,
    FakePort,
    manual_slice_object,
    name_suffix,
    now_rfc3339,
)
from meshlb.testing.pod import Pod
from meshlb.testing.resources import ENDPOINT_SLICES, ENDPOINTS, SERVICES, Resource
from meshlb.testing.target_numbers import target_numbers
from meshlb.testing.watch_cache import Selection, WatchCache

DEFAULT_TIMEOUT_S = 60.0  # for a change to settle; a pod starts in well under a second


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceContext:
    """What a Service needs of its cluster."""

    thread: LoopThread
    caches: Mapping[Resource, WatchCache]
    max_endpoints_per_slice: int
    client_node: str
    forget: Callable[[], object]


class FakeService:
    """Made by `FakeCluster.service`. Methods may be called from any thread; those with ``wait`` block until the change is done."""

    def __init__(
        self, context: ServiceContext, obj: dict[str, Any], ports: Sequence[FakePort], listeners: Mapping[str, ClusterIpPort]
    ) -> None:
        self.name: str = obj["metadata"]["name"]
        self.namespace: str = obj["metadata"]["namespace"]
        self.ports: dict[str, int] = {port.name: port.port for port in ports}
        cluster_ip = obj["spec"].get("clusterIP", "None")
        self.cluster_ip: str | None = None if cluster_ip == "None" else cluster_ip
        self.external_name: str = obj["spec"].get("externalName", "")
        self._context = context
        self._thread = context.thread
        self._specs = tuple(ports)
        self._listeners = listeners
        self._object = context.caches[SERVICES].put(obj)
        self._endpoints: tuple[FakeEndpoint, ...] = ()
        self._manual: dict[str, tuple[FakeEndpoint, ...]] = {}  # hand-made slices by name
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
        return self.cluster_ip is None and not self.external_name

    @property
    def endpoints(self) -> tuple[FakeEndpoint, ...]:
        """Every endpoint, with its conditions, as the slices have it now."""
        return self._endpoints + tuple(endpoint for endpoints in self._manual.values() for endpoint in endpoints)

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

    def write_slice(
        self,
        name: str,
        endpoints: Iterable[str | FakeEndpoint],
        *,
        ports: Mapping[str, int] | None = None,
        managed_by: str = "staff",
    ) -> None:
        """Write an EndpointSlice by hand, as people do for Services without a selector; none of the cluster's own is touched.

        All of ``endpoints`` have ``ports`` (default: those of the first endpoint) and one address family. Conditions, nodes and pods
        are in it only where a `FakeEndpoint` says so; a string gives an endpoint with nothing but its address.
        """
        bare = tuple(
            replace(self._parse(endpoint), ready=None, serving=None, terminating=None) if isinstance(endpoint, str) else endpoint
            for endpoint in endpoints
        )
        numbers = dict(ports if ports is not None else bare[0].ports if bare else {})
        self._thread.call(self._write_slice, name, tuple(replace(endpoint, ports=numbers) for endpoint in bare), managed_by)

    def delete_slice(self, name: str) -> None:
        """Delete one that was written by hand."""
        self._thread.call(self._delete_slice, name)

    def delete(self) -> None:
        """Remove the Service from API, DNS and cluster IP, and end its pods without grace."""
        self._thread.call(self._delete)

    # -- inside the loop

    def publish_pods(self, readiness_changed: bool) -> None:
        """Write the pods as they are now to the API."""
        endpoints = tuple(pod.endpoint() for pod in self.pods)
        if self._object["spec"].get("publishNotReadyAddresses"):
            endpoints = tuple(replace(endpoint, ready=True) for endpoint in endpoints)
        self._publish(endpoints, readiness_changed=readiness_changed)

    def _publish(self, endpoints: tuple[FakeEndpoint, ...], *, readiness_changed: bool) -> None:
        if self._deleted or self.external_name:
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
        self._update_listeners()

    def _write_slice(self, name: str, endpoints: tuple[FakeEndpoint, ...], managed_by: str) -> None:
        self._manual[name] = endpoints
        app_protocols = {port.name: port.app_protocol for port in self._specs}
        ports = [
            slice_port(port, number, app_protocols.get(port)) for port, number in (endpoints[0].ports if endpoints else {}).items()
        ]
        family = endpoints[0].family if endpoints else "IPv4"
        obj = manual_slice_object(self._object, name, endpoints, ports, family=family, managed_by=managed_by)
        self._context.caches[ENDPOINT_SLICES].put(obj)
        self._update_listeners()

    def _delete_slice(self, name: str) -> None:
        del self._manual[name]
        self._context.caches[ENDPOINT_SLICES].delete(self.namespace, name)
        self._update_listeners()

    def _update_listeners(self) -> None:
        for listener in self._listeners.values():
            listener.update()

    def _slices(self) -> list[dict[str, Any]]:
        """The controller's own."""
        mine = Selection(
            namespace=self.namespace,
            labels=lambda labels: labels.get(SERVICE_NAME_LABEL) == self.name and labels.get(MANAGED_BY_LABEL) == SLICE_MANAGER,
            fields=lambda _: True,
        )
        return self._context.caches[ENDPOINT_SLICES].select(mine)

    def _delete(self) -> None:
        if self._deleted:
            return
        self._deleted = True
        self.close()
        for name in list(self._manual):
            self._delete_slice(name)
        for obj in self._slices():
            self._context.caches[ENDPOINT_SLICES].delete(self.namespace, obj["metadata"]["name"])
        if not self.external_name:
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
        local = self._object["spec"].get("internalTrafficPolicy") == "Local"
        return choose(self.endpoints, port_name, local_to=self._context.client_node if local else None)

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
