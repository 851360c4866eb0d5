"""Is it a Service? One answer for every transport, and the resolver that follows from it.

=================================  ====================================  =======================================================
target                             in a cluster                          elsewhere
=================================  ====================================  =======================================================
``k8s:``                           a Service                             a Service (the error says that no cluster is configured)
``.svc``, ``.svc.<this zone>``     a Service                             an ordinary name
``.svc.<another zone>``            an ordinary name                      an ordinary name
one or two labels, a port's name   a Service                             an error: an ordinary name has no such port
one or two labels                  asked of the cluster's DNS            an ordinary name
anything else                      an ordinary name or an address        the same
=================================  ====================================  =======================================================

*Asked*: ``asked``. A Service that the kubelet put into the environment (of this pod's own namespace) needs no question.
Where DNS is not among the sources there is nobody to ask: one or two labels are then an ordinary name (``example.com:443`` must not
list in namespace ``com``), unless the port has a name (``http`` and ``https`` apart) or the environment knows the Service.

What is a cluster, its zone and the namespace of a name without one: ``own_cluster``.

An ordinary name is resolved as the system does it, and polled; ``dns://server/…`` asks that server. It never causes an API
request. A port's name on what turns out to be an ordinary name is an error, except ``http`` and ``https``.

Limits: the key of a name that is asked is that of the Service it may be, so ``redis`` and ``redis.shop`` (in namespace ``shop``)
share a pool also when neither is a Service; they would have to be two different hosts for that to matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property

from meshlb.core.clock import Rng
from meshlb.core.endpoint import Endpoint
from meshlb.core.resolver import Resolver
from meshlb.core.scheduler import Scheduler
from meshlb.core.target import Target, TargetKey
from meshlb.errors import ResolveError, TargetError
from meshlb.resolve.asked import AskedResolver
from meshlb.resolve.chain import ServiceResolver
from meshlb.resolve.dns import DnsResolver, lookup
from meshlb.resolve.dns_client import DnsClient
from meshlb.resolve.env import EnvService
from meshlb.resolve.external import circle
from meshlb.resolve.known import ServiceName
from meshlb.resolve.kubernetes.auth import connect, credentials_of
from meshlb.resolve.kubernetes.service_wire import ServiceRecord
from meshlb.resolve.kubernetes.source import KubernetesSource
from meshlb.resolve.lookup import Lookup
from meshlb.resolve.own_cluster import OwnCluster
from meshlb.resolve.place import OwnPlace, Told
from meshlb.resolve.ports import external_port
from meshlb.resolve.routes import Routes
from meshlb.resolve.service_dns import ServiceDns
from meshlb.resolve.settings import Discovery, Fallback
from meshlb.resolve.sidecar import PROC_NET, Sidecar, detect
from meshlb.resolve.static import StaticResolver
from meshlb.resolve.system import SystemResolver

DNS_HEAD_START_S = 0.05  # to import and ask, on a quiet machine; beside the import of kubernetes a first answer took twice as long
START_WITHIN_S = 0.8  # of which the import of kubernetes takes about 0.3; a list and 0.1 s more make the promised second


class Classifier:
    """Everything that targets of one discovery configuration share. ``key`` is for any thread, the rest for the discovery thread.

    Two small files are read once, at the first target that may be a Service; nothing is connected before a resolver starts.
    ``assume_cluster``: judge as a client in a cluster would, wherever this runs.
    """

    def __init__(
        self,
        discovery: Discovery,
        fallback: Fallback,
        *,
        scheduler: Scheduler,
        rng: Rng,
        environ: Mapping[str, str],
        proc_net: str = PROC_NET,
        assume_cluster: bool = False,
    ) -> None:
        self._discovery = discovery
        self._fallback = fallback
        self._scheduler = scheduler
        self._rng = rng
        self._environ = environ
        self._proc_net = proc_net
        self.own = OwnCluster(discovery, environ, assume=assume_cluster)
        self._sidecar: Sidecar | None = None
        self._kubernetes: KubernetesSource | None = None

    def key(self, target: Target) -> TargetKey:
        """What the target shares with others. Raises TargetError for a port's name on what can only be an ordinary name."""
        if not self.may_be_service(target):
            self._refuse_port_name(target)
            return target.ordinary_key
        port = str(target.port) or ("" if target.protocol == "grpc" else f"({target.protocol})")
        namespace = target.namespace or self.own.namespace
        return TargetKey(self._cluster, namespace, target.service, port, target.pod)

    def resolver(self, target: Target) -> Resolver:
        """A new resolver for the target, not started. Raises TargetError as ``key`` does."""
        if not self.may_be_service(target):
            self._refuse_port_name(target)
            return self._ordinary(target)
        want = self.wanted(target)
        env = self.env(target)
        if self.is_certain(target):
            return self._service(want, env)
        return AskedResolver(
            str(target),
            ask=lambda done: self._ask(want, done),
            new_service=lambda: self._service(want, env),
            new_ordinary=lambda: self._ordinary(target),
            scheduler=self._scheduler,
            rng=self._rng,
        )

    def wanted(self, target: Target) -> ServiceName:
        """The Service that the target is, if it is one."""
        return ServiceName(
            service=target.service,
            namespace=target.namespace or self.own.namespace,
            port=target.port,
            protocol=target.protocol,
            pod=target.pod,
            pods=self.sidecar_of(target) is None,
        )

    def sidecar_of(self, target: Target) -> Sidecar | None:
        """Who stands between us and this target, and should be given the Service's own address; None: nobody, or never mind.

        A sidecar that was seen stays; one that starts late is seen by the targets after it.
        """
        if self._discovery.sidecar == "ignore" or not self.may_be_service(target):
            return None
        if self._sidecar is None:
            self._sidecar = detect(self._environ, proc_net=self._proc_net)
        return self._sidecar

    def may_be_service(self, target: Target) -> bool:
        """By its form, the sources and the environment, without asking anybody: False is certain, True is not (see ``is_certain``)."""
        if not target.service or (target.zone and target.zone != self.own.zone):
            return False
        if target.scheme == "k8s":
            return True
        certain = self._uses_dns or target.explicit_service or _needs_service(target)
        return self.own.is_there and (certain or self.env(target) is not None)

    def is_certain(self, target: Target) -> bool:
        """Is a target that may be a Service one in any case? Else the cluster's DNS is asked."""
        return target.explicit_service or _needs_service(target) or self.env(target) is not None

    def close(self) -> None:
        """End what the resolvers shared; they are closed by their owners."""
        if self._kubernetes is not None:
            self._kubernetes.close()

    # --- what they share ----------------------------------------------------------------------------------------------

    @cached_property
    def _client(self) -> DnsClient:
        return DnsClient(nameservers=self._discovery.nameservers, resolv_conf=self._discovery.resolv_conf)

    @cached_property
    def _own_place(self) -> OwnPlace:
        discovery = self._discovery
        return OwnPlace(Told.of(self._environ, node=discovery.node, zone=discovery.zone, namespace=self.own.own_namespace))

    @cached_property
    def _routes(self) -> Routes:
        return Routes(self._scheduler.now_s)

    @property
    def _cluster(self) -> str:
        discovery = self._discovery
        return self.own.zone if discovery.kubeconfig is None else f"{discovery.kubeconfig}#{discovery.context or ''}"

    @property
    def _uses_dns(self) -> bool:
        return "dns" in self._discovery.sources

    def env(self, target: Target) -> EnvService | None:
        """What the environment says of it: only of this pod's own namespace, and never of one pod."""
        own = (target.namespace or self.own.namespace) == self.own.own_namespace
        return EnvService.of(target.service, self._environ) if own and not target.pod else None

    def _refuse_port_name(self, target: Target) -> None:
        """The parser lets port names pass where it could not know that there is no Service."""
        if _needs_service(target):
            where = (
                f"in zone {target.zone}, this cluster's is {self.own.zone}"
                if target.zone and self.own.is_there
                else "outside a cluster"
            )
            raise TargetError(str(target), target.text.rindex(str(target.port)), f"a port number: {target.host} is {where}")

    # --- resolvers --------------------------------------------------------------------------------------------------------

    def _service(self, want: ServiceName, env: EnvService | None, behind: tuple[str, ...] = ()) -> ServiceResolver:
        """``behind``: the ExternalName Services that led here."""

        def new_dns() -> ServiceDns:
            grace_s = self._discovery.empty_grace_s
            return ServiceDns(
                self.dns_name(replace(want, pod="")),
                client=self._client,
                scheduler=self._scheduler,
                rng=self._rng,
                empty_grace_s=grace_s,
                pod=want.pod,
                port=want.port,
                protocol=want.protocol,
            )

        return ServiceResolver(
            want,
            kubernetes=self._api(),
            new_dns=new_dns if self._uses_dns else None,
            env=env,
            fallback=self._fallback,
            own=self._own_place,
            routes=self._routes,
            new_external=lambda name, service: self._external(want, behind, name, service),
            scheduler=self._scheduler,
            rng=self._rng,
        )

    def _external(self, want: ServiceName, behind: tuple[str, ...], name: str, service: ServiceRecord | None) -> Resolver:
        """``name`` is what the Service ``want`` stands for. Raises ResolveError and PortChoiceError."""
        path = (*behind, f"{want.service}.{want.namespace}.svc.{self.own.zone}")
        wrong = circle(path, name)
        if wrong is not None:
            raise wrong
        try:
            target = Target.parse(name)
        except TargetError as error:
            raise ResolveError(name, [str(error)]) from error
        if target.explicit_service and target.zone == self.own.zone:
            inner = replace(self.wanted(target), port=want.port, protocol=want.protocol)
            return self._service(inner, self.env(target), path)
        port = external_port(want.port, want.protocol, service)
        if not self._uses_dns:
            return SystemResolver(name, port, scheduler=self._scheduler, rng=self._rng)
        return DnsResolver(
            name,
            port,
            scheduler=self._scheduler,
            rng=self._rng,
            nameservers=self._discovery.nameservers,
            resolv_conf=self._discovery.resolv_conf,
        )

    def _ordinary(self, target: Target) -> Resolver:
        if target.endpoints:
            return StaticResolver(target.endpoints)
        host, port = target.host, target.default_port
        if ":" in host:
            return StaticResolver([Endpoint(host=host.replace("%25", "%", 1), port=port)])
        if target.dns_server:
            servers = (target.dns_server,)
            return DnsResolver(host, port, scheduler=self._scheduler, rng=self._rng, nameservers=servers)
        return SystemResolver(host, port, scheduler=self._scheduler, rng=self._rng)

    def _ask(self, want: ServiceName, done: Callable[[Lookup], None]) -> None:
        lookup(self.dns_name(want), done, client=self._client, scheduler=self._scheduler)

    def dns_name(self, want: ServiceName) -> str:
        """Absolute: with a search list it would cost four queries."""
        return ".".join((*filter(None, (want.pod, want.service, want.namespace)), "svc", self.own.zone, ""))

    def _api(self) -> KubernetesSource | None:
        """The one source for all Services of this configuration; None if nobody configured a cluster."""
        if self._kubernetes is None and credentials_of(self._discovery, self._environ) is not None:
            self._kubernetes = KubernetesSource(
                lambda: connect(self._discovery, environ=self._environ),
                self._scheduler,
                self._rng,
                head_start_s=DNS_HEAD_START_S if self._uses_dns else 0.0,
                start_within_s=START_WITHIN_S,
            )
        return self._kubernetes


def _needs_service(target: Target) -> bool:
    """Is the port one that only a Service can give a number?"""
    return target.port.is_target or target.port.name not in ("", "http", "https")
