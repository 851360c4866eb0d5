"""Puts a Service together: cluster IP and listeners, API objects, and the Deployment with its pods and their processes."""

from __future__ import annotations

import errno
import itertools
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from meshlb.testing.addresses import Addresses
from meshlb.testing.certificates import CertificateAuthority, KeyPair
from meshlb.testing.cluster_ip import ClusterIpPort
from meshlb.testing.deployment import Deployment, OnSigterm, Rollout
from meshlb.testing.errors import FakeClusterError
from meshlb.testing.loop_thread import LoopThread
from meshlb.testing.objects import FakeEndpoint, FakePort, external_service_object, name_suffix, new_uid, service_object
from meshlb.testing.pod import Pod
from meshlb.testing.pod_process import PodProcess
from meshlb.testing.resources import Resource
from meshlb.testing.service import FakeService, ServiceContext
from meshlb.testing.target_numbers import target_numbers
from meshlb.testing.watch_cache import WatchCache

_ADDRESS_ATTEMPTS = 20
_DISTRIBUTIONS = ("PreferClose", "PreferSameZone", "PreferSameNode")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceSpec:
    """The arguments of `FakeCluster.service`, where they are described."""

    name: str
    namespace: str
    replicas: int
    ports: Mapping[str, int]
    target_port: int | Mapping[str, int] | None
    app_protocols: Mapping[str, str]
    headless: bool
    labels: Mapping[str, str]
    version: str
    on_sigterm: OnSigterm
    prestop_s: float
    grace_s: float
    restart: bool
    node_notice_s: float
    hostnames: bool
    tls: bool
    endpoints: tuple[str | FakeEndpoint, ...] | None
    internal_traffic_policy: str
    traffic_distribution: str | None
    session_affinity_s: int | None
    publish_not_ready: bool
    external_name: str | None

    def __post_init__(self) -> None:
        if len(self.ports) > 1 and "" in self.ports:
            raise ValueError(f"ports={dict(self.ports)}: must all have names, there is more than one")
        if self.on_sigterm not in get_args(OnSigterm):
            raise ValueError(f"on_sigterm={self.on_sigterm!r}: must be 'graceful', 'stop' or 'exit'")
        if self.internal_traffic_policy not in ("Cluster", "Local"):
            raise ValueError(f"internal_traffic_policy={self.internal_traffic_policy!r}: must be 'Cluster' or 'Local'")
        if self.traffic_distribution not in (None, *_DISTRIBUTIONS):
            raise ValueError(f"traffic_distribution={self.traffic_distribution!r}: must be one of {', '.join(_DISTRIBUTIONS)}")
        if not self.ports and self.endpoints is None:
            raise ValueError("ports={}: a Service with pods must have a port")

    def rollout(self) -> Rollout:
        return Rollout(
            replicas=self.replicas,
            revision=1,
            version=self.version,
            ports=target_numbers(self.ports, self.target_port),
            prestop_s=self.prestop_s,
            grace_s=self.grace_s,
        )


class Nodes:
    """The cluster's nodes, dealt out in turn."""

    def __init__(self, zones: Mapping[str, str]) -> None:
        if not zones:
            raise ValueError("nodes={}: must have at least one")
        self.first = next(iter(zones))
        self._turns: Iterator[tuple[str, str]] = itertools.cycle(zones.items())

    def next(self) -> tuple[str, str]:
        """The next node and its zone."""
        return next(self._turns)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceFactory:
    """Belongs to the cluster's loop."""

    thread: LoopThread
    caches: Mapping[Resource, WatchCache]
    addresses: Addresses
    nodes: Nodes
    directory: Path
    authority: CertificateAuthority | None
    zone: str
    max_endpoints_per_slice: int
    services: dict[tuple[str, str], FakeService]

    def make(self, spec: ServiceSpec) -> FakeService:
        key = (spec.namespace, spec.name)
        if key in self.services:
            raise FakeClusterError(f"Service {spec.name}.{spec.namespace} exists")
        wanted = spec.rollout() if spec.endpoints is None else None
        keys = self._key_pair(spec)
        cluster_ip = None if spec.headless or spec.external_name else self.addresses.cluster_ip()
        listeners = {} if cluster_ip is None else self._listeners(spec, cluster_ip)
        ports = self._ports(spec, listeners)
        context = ServiceContext(
            thread=self.thread,
            caches=self.caches,
            max_endpoints_per_slice=self.max_endpoints_per_slice,
            client_node=self.nodes.first,
            forget=lambda: self.services.pop(key),
        )
        service = FakeService(context, self._object(spec, ports, cluster_ip), ports, listeners)
        self.services[key] = service
        service.publish_pods(readiness_changed=True)  # the placeholder slice of a Service without endpoints
        if wanted is not None:
            service.deployment = self._deployment(spec, wanted, service, keys)
            service.deployment.want(wanted)
        return service

    def _key_pair(self, spec: ServiceSpec) -> KeyPair | None:
        if not spec.tls:
            return None
        if self.authority is None:
            raise FakeClusterError(f"Service {spec.name}: tls=True needs FakeCluster(tls=True), which has the authority")
        full = f"{spec.name}.{spec.namespace}.svc.{self.zone}"
        names = (spec.name, f"{spec.name}.{spec.namespace}", f"{spec.name}.{spec.namespace}.svc", full, f"*.{full}")
        return self.authority.issue(f"{spec.namespace}.{spec.name}", names)

    def _listeners(self, spec: ServiceSpec, cluster_ip: str) -> dict[str, ClusterIpPort]:
        def targets_of(port_name: str) -> Any:
            return lambda: self.services[(spec.namespace, spec.name)].addresses(port_name)

        listeners = {}
        for name, port in spec.ports.items():
            listener = ClusterIpPort(cluster_ip, 0 if self.addresses.single else port, targets_of(name))
            listener.reserve()
            listeners[name] = listener
        return listeners

    def _ports(self, spec: ServiceSpec, listeners: Mapping[str, ClusterIpPort]) -> list[FakePort]:
        numbers = {name: listeners[name].port if name in listeners else port for name, port in spec.ports.items()}
        targets = target_numbers(spec.ports, spec.target_port)
        return [
            FakePort(name=name, port=number, target=name or targets[name], app_protocol=spec.app_protocols.get(name))
            for name, number in numbers.items()
        ]

    def _object(self, spec: ServiceSpec, ports: list[FakePort], cluster_ip: str | None) -> dict[str, Any]:
        if spec.external_name:
            return external_service_object(
                name=spec.name,
                namespace=spec.namespace,
                uid=new_uid(),
                external_name=spec.external_name,
                ports=ports,
                labels=spec.labels,
            )
        given = [endpoint for endpoint in spec.endpoints or () if isinstance(endpoint, FakeEndpoint)]
        texts = [endpoint for endpoint in spec.endpoints or () if isinstance(endpoint, str)]
        v6 = any(endpoint.family == "IPv6" for endpoint in given) or any(text.startswith("[") for text in texts)
        v4 = any(endpoint.family == "IPv4" for endpoint in given) or any(not text.startswith("[") for text in texts)
        families = ("IPv4", "IPv6") if v4 and v6 else ("IPv6",) if v6 else ("IPv4",)
        return service_object(
            name=spec.name,
            namespace=spec.namespace,
            uid=new_uid(),
            ports=ports,
            cluster_ip=cluster_ip,
            labels=spec.labels,
            selector=spec.endpoints is None,
            families=families,
            internal_traffic_policy=spec.internal_traffic_policy,
            traffic_distribution=spec.traffic_distribution,
            session_affinity_s=spec.session_affinity_s,
            publish_not_ready=spec.publish_not_ready,
        )

    def _pod_ip(self, ports: Mapping[str, int]) -> str:
        """An address on which the ports are free; only somebody who listens on all addresses can have taken one."""
        for _ in range(_ADDRESS_ATTEMPTS):
            ip = self.addresses.pod_ip()
            if self.addresses.single or all(_is_free(ip, port) for port in ports.values()):
                return ip
        raise FakeClusterError(f"ports {sorted(ports.values())} are taken on every address: choose others with target_port=…")

    def _deployment(self, spec: ServiceSpec, wanted: Rollout, service: FakeService, keys: KeyPair | None) -> Deployment:
        template_hashes: dict[int, str] = {}

        def new_pod(rollout: Rollout) -> Pod:
            node, zone = self.nodes.next()
            ip = self._pod_ip(rollout.ports)
            ordinal = _free_ordinal(service.pods, spec.name) if spec.hostnames else None
            template = template_hashes.setdefault(rollout.revision, name_suffix(10))
            return Pod(
                self.thread,
                lambda: deployment.pods_changed(True),
                name=f"{spec.name}-{template}-{name_suffix()}",
                uid=new_uid(),
                ip=ip,
                ports={name: _free_port(ip) for name in rollout.ports} if self.addresses.single else rollout.ports,
                node=node,
                zone=zone,
                hostname=ordinal,
                version=rollout.version,
                revision=rollout.revision,
            )

        def start_process(pod: Pod) -> None:
            arguments = ["--name", pod.name, "--version", pod.version, "--on-sigterm", spec.on_sigterm]
            for port in pod.ports.values():
                arguments += ["--listen", f"{pod.ip}:{port}"]
            if keys is not None:
                arguments += ["--tls-key", str(keys.key), "--tls-cert", str(keys.certificate)]
            pod.process = PodProcess(arguments, self.directory / f"{pod.name}.log", self.thread.owned_fds)

        deployment = Deployment(
            wanted,
            new_pod=new_pod,
            start_process=start_process,
            publish=service.publish_pods,
            restart=spec.restart,
            node_notice_s=spec.node_notice_s,
        )
        return deployment


def _free_ordinal(pods: list[Pod], name: str) -> str:
    taken = {pod.hostname for pod in pods if not (pod.terminating or pod.failed)}
    return next(hostname for n in itertools.count() if (hostname := f"{name}-{n}") not in taken)


def _is_free(ip: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise FakeClusterError(f"pods cannot listen on {ip}:{port}: {error}") from error
            return False
    return True


def _free_port(ip: str) -> int:
    """A port that is free now; where pods share an address they must be told apart by port."""
    with socket.socket() as probe:
        probe.bind((ip, 0))
        return int(probe.getsockname()[1])
