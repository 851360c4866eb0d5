"""`FakeCluster`: a Kubernetes cluster as a client sees it, in one process and its children, on loopback.

Real are the sockets, the HTTP of the API server, the DNS messages, the pods (processes that serve gRPC) and the order of events;
not there are nodes, containers, a network of its own and everything a client never meets. Everything but the pods runs in one
thread (`LoopThread`). A dead parent takes its pods with it, however it died.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from meshlb.testing.addresses import Addresses
from meshlb.testing.api_server import ApiServer
from meshlb.testing.authorization import Authorizer, Rule
from meshlb.testing.certificates import CertificateAuthority
from meshlb.testing.client_files import write_kubeconfig, write_resolv_conf, write_service_account
from meshlb.testing.deployment import OnSigterm
from meshlb.testing.dns_server import DnsServer
from meshlb.testing.dns_zone import Zone
from meshlb.testing.errors import FakeClusterError
from meshlb.testing.loop_thread import LoopThread
from meshlb.testing.objects import FakeEndpoint
from meshlb.testing.resources import RESOURCES
from meshlb.testing.service import DEFAULT_TIMEOUT_S, FakeService
from meshlb.testing.service_env import service_variables
from meshlb.testing.service_factory import Nodes, ServiceFactory, ServiceSpec
from meshlb.testing.watch_cache import Revision, WatchCache

_NODES = {"node-1": "zone-a", "node-2": "zone-b", "node-3": "zone-c"}
_CLOSE_TIMEOUT_S = 10.0


class FakeCluster:
    """Starts with the constructor, ends with `close` or the ``with`` block; methods may be called from any thread.

    - ``namespace``: where "our" pod lives: in the kubeconfig, the service account, resolv.conf and `environ`.
    - ``tls``: serve the API over HTTPS, as in-cluster configuration demands (needs trustme).
    - ``max_endpoints_per_slice``: the controller's default is 100; small ones give several slices with few pods.
    - ``bookmark_interval_s``: a real server's is about 60 s. ``watch_list``: whether it has streaming lists.
    - ``future_version_wait_s``: how long a list at a version from the future waits before 504; a real server's is 3 s.
    - ``dns_ttl_s``: TTL of the cluster's names. ``zone``: the cluster's domain. ``nodes``: node names and their zones; the client
      is said to run on the first (`client_node`), the pods of each Service are dealt out to all in turn.
    - ``single_address``: True behaves as on a system that has only 127.0.0.1; None finds out.
    """

    def __init__(
        self,
        *,
        namespace: str = "default",
        tls: bool = False,
        max_endpoints_per_slice: int = 100,
        bookmark_interval_s: float = 60.0,
        watch_list: bool = True,
        future_version_wait_s: float = 3.0,
        dns_ttl_s: int = 5,
        zone: str = "cluster.local",
        nodes: Mapping[str, str] = _NODES,
        single_address: bool | None = None,
    ) -> None:
        self.namespace = namespace
        self.zone = zone
        self.client_node = next(iter(nodes), "")
        self._services: dict[tuple[str, str], FakeService] = {}
        # Not TemporaryDirectory: its finalizer would remove the files when a forked child exits.
        self._root = Path(tempfile.mkdtemp(prefix="meshlb-fake-cluster-"))
        self._addresses = Addresses(single=single_address)
        self._thread = LoopThread("meshlb-fake-cluster")
        atexit.register(self.close)
        try:
            revision = Revision()
            caches = {resource: WatchCache(resource, revision) for resource in RESOURCES}
            host = self._addresses.server_ip()
            self._authority = CertificateAuthority(self._root) if tls else None
            names = (host, "localhost", "kubernetes.default.svc", f"kubernetes.default.svc.{zone}")
            self._authorizer = Authorizer()
            self.api = ApiServer(
                self._thread,
                host=host,
                caches=caches,
                revision=revision,
                authorizer=self._authorizer,
                tls=self._authority.server_context("apiserver", names) if self._authority else None,
                bookmark_interval_s=bookmark_interval_s,
                future_version_wait_s=future_version_wait_s,
                watch_list=watch_list,
            )
            self.dns = DnsServer(self._thread, host=host, zone=Zone(zone, self._services, ttl_s=dns_ttl_s))
            self.dns.add(f"kubernetes.default.svc.{zone}", [host])
            self._factory = ServiceFactory(
                thread=self._thread,
                caches=caches,
                addresses=self._addresses,
                nodes=Nodes(nodes),
                directory=self._root,
                authority=self._authority,
                zone=zone,
                max_endpoints_per_slice=max_endpoints_per_slice,
                services=self._services,
            )
            self.user = f"system:serviceaccount:{namespace}:default"
            self.token = self._thread.call(self._authorizer.new_token, self.user)
            self.permit(Rule())
            self._write_files()
            self._write_token()
        except BaseException:
            self.close()
            raise

    # -- what is in it

    def service(
        self,
        name: str,
        namespace: str | None = None,
        *,
        replicas: int = 3,
        ports: Mapping[str, int] | None = None,
        target_port: int | Mapping[str, int] | None = None,
        app_protocols: Mapping[str, str] | None = None,
        headless: bool = False,
        labels: Mapping[str, str] | None = None,
        version: str = "v1",
        on_sigterm: OnSigterm = "graceful",
        prestop_s: float = 0.0,
        grace_s: float = 5.0,
        restart: bool = True,
        node_notice_s: float = 0.05,
        hostnames: bool = False,
        tls: bool = False,
        endpoints: Iterable[str | FakeEndpoint] | None = None,
        internal_traffic_policy: str = "Cluster",
        traffic_distribution: str | None = None,
        session_affinity_s: int | None = None,
        publish_not_ready: bool = False,
        external_name: str | None = None,
        wait: bool = True,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> FakeService:
        """Make a Service with ``replicas`` pods and wait until they are ready; or, with ``endpoints``, one with no pods.

        - ``ports``: service port numbers by name, default ``{"grpc": 50051}``; an unnamed single port is ``{"": 50051}``.
          ``target_port``: the pods' numbers, by default others than the Service's (50051: 20051). ``service.ports`` has the numbers
          that hold, which differ where a system has only 127.0.0.1.
        - ``on_sigterm``: "graceful" serves on for a moment, in which callers learn that the pod is ending, then takes no new calls and
          finishes running ones; "stop" takes none at once, so that a call already on its way fails with CANCELLED; "exit" dies at
          once. ``prestop_s``, ``grace_s``: how pods end.
        - ``restart``: whether a pod that died is replaced, ``node_notice_s`` after its death; if not, it stays, not ready.
        - ``hostnames``: pods get hostnames ``name-0``, ``name-1``, … with DNS names of their own, as in a StatefulSet; update such
          a Service with ``max_surge=0, max_unavailable=1`` as a StatefulSet does, or the numbers move on.
        - ``internal_traffic_policy``: "Local" lets the cluster IP lead to pods on `client_node` alone. ``traffic_distribution``:
          "PreferSameZone" (or "PreferClose") and "PreferSameNode" give ready endpoints hints. ``session_affinity_s``: ClientIP
          affinity with this timeout, written down only. ``publish_not_ready``: all pods are published as ready.
        - ``external_name``: an ExternalName Service: no pods, no cluster IP, an alias in DNS; ``ports`` are none by default.
        - ``tls``: pods serve TLS with a certificate for the Service's names (the cluster must be made with ``tls=True``).
        """
        if external_name is not None:
            endpoints, ports = (), ports or {}
        spec = ServiceSpec(
            name=name,
            namespace=self.namespace if namespace is None else namespace,
            replicas=replicas,
            ports={"grpc": 50051} if ports is None else dict(ports),
            target_port=target_port,
            app_protocols=app_protocols or {},
            headless=headless,
            labels=labels or {},
            version=version,
            on_sigterm=on_sigterm,
            prestop_s=prestop_s,
            grace_s=grace_s,
            restart=restart,
            node_notice_s=node_notice_s,
            hostnames=hostnames,
            tls=tls,
            endpoints=None if endpoints is None else tuple(endpoints),
            internal_traffic_policy=internal_traffic_policy,
            traffic_distribution=traffic_distribution,
            session_affinity_s=session_affinity_s,
            publish_not_ready=publish_not_ready,
            external_name=external_name,
        )
        service = self._thread.call(self._factory.make, spec)
        try:
            if spec.endpoints is not None:
                service.set_endpoints(spec.endpoints)
            elif wait:
                service.wait_ready(timeout_s=timeout_s)
        except BaseException:
            service.delete()
            raise
        return service

    @property
    def services(self) -> list[FakeService]:
        return list(self._services.values())

    # -- what a client needs to find it

    @property
    def kubeconfig(self) -> str:
        """Path of a kubeconfig with the server, the token and the namespace."""
        return str(self._path("kubeconfig"))

    @property
    def service_account_dir(self) -> str:
        """Path of a directory with token, ca.crt and namespace. Without ``tls`` ca.crt is empty."""
        return str(self._path("serviceaccount"))

    @property
    def resolv_conf(self) -> str:
        """Path of a pod's resolv.conf. Its format has no ports, so it says only the address of `nameserver`."""
        return str(self._path("resolv.conf"))

    @property
    def nameserver(self) -> str:
        """``"ip:port"`` of the DNS server."""
        return self.dns.address

    @property
    def ca_file(self) -> str:
        """Path of the certificate of the cluster's authority; only with ``tls``."""
        if self._authority is None:
            raise FakeClusterError("ca_file: the cluster was made without tls=True")
        return str(self._authority.ca_file)

    def environ(self, namespace: str | None = None) -> dict[str, str]:
        """The variables a kubelet would give a pod started now in this namespace.

        The API server's are among them only with ``tls``: in-cluster configuration always means HTTPS.
        """
        variables: dict[str, str] = {}
        if self._authority is not None:
            variables |= service_variables("kubernetes", self.api.host, {"https": self.api.port})
        for service in self.services:
            if service.namespace == (namespace or self.namespace) and service.cluster_ip is not None and service.ports:
                variables |= service_variables(service.name, service.cluster_ip, service.ports)
        return variables

    # -- who may ask

    def permit(self, *rules: Rule) -> None:
        """Replace what the default service account may do; no rule at all makes every answer 403."""
        self._thread.call(self._authorizer.rules.__setitem__, self.user, rules)

    def create_token(self, user: str, *rules: Rule) -> str:
        """A token for another user, with these rules in place of those it had."""
        self._thread.call(self._authorizer.rules.__setitem__, user, rules)
        return self._thread.call(self._authorizer.new_token, user)

    def revoke_token(self, token: str) -> None:
        """From now on the token is answered 401; open watches stay, as on a real server."""
        self._thread.call(self._authorizer.users.pop, token, None)

    def rotate_token(self, *, revoke: bool = True) -> str:
        """Write a new token to the service account directory, as the kubelet does, and return it; the kubeconfig keeps the old.

        ``revoke`` makes the old one invalid at once; a real one lives on for a while.
        """
        old, self.token = self.token, self._thread.call(self._authorizer.new_token, self.user)
        self._write_token()
        if revoke:
            self.revoke_token(old)
        return self.token

    # -- the end

    def close(self) -> None:
        """End every process, close every socket, remove the files. Does nothing the second time, and nothing in a forked child."""
        if not self._thread.usable:
            return
        atexit.unregister(self.close)
        try:
            self._thread.run(self._close_services(), _CLOSE_TIMEOUT_S)
        finally:
            self._thread.close()
            self._addresses.close()
            shutil.rmtree(self._root, ignore_errors=True)

    async def _close_services(self) -> None:
        for service in self.services:
            service.close()
        for server in (getattr(self, "api", None), getattr(self, "dns", None)):
            if server is not None:
                server.stop_in_loop()

    def _path(self, name: str) -> Path:
        return self._root / name

    def _write_files(self) -> None:
        ca_file = self._authority.ca_file if self._authority else None
        write_kubeconfig(self._path("kubeconfig"), url=self.api.url, token=self.token, namespace=self.namespace, ca_file=ca_file)
        write_resolv_conf(self._path("resolv.conf"), namespace=self.namespace, domain=self.zone, nameserver_ip=self.dns.host)

    def _write_token(self) -> None:
        ca_pem = self._authority.ca_file.read_text() if self._authority else ""
        write_service_account(self._path("serviceaccount"), token=self.token, namespace=self.namespace, ca_pem=ca_pem)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<FakeCluster api={self.api.url} dns={self.nameserver} services={sorted(map(str, self.services))}>"
