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

*In a cluster*: ``KUBERNETES_SERVICE_HOST`` is set, resolv.conf has a ``svc.`` entry, or the configuration names a kubeconfig or
nameservers. *Asked*: ``asked``. A Service that the kubelet put into the environment (of this pod's own namespace) needs no question.
Where DNS is not among the sources there is nobody to ask: one or two labels are then an ordinary name (``example.com:443`` must not
list in namespace ``com``), unless the port has a name (``http`` and ``https`` apart) or the environment knows the Service.

*Zone*: what is configured, else resolv.conf's ``svc.`` entry, else ``cluster.local``. *Namespace* of a name without one: what is
configured, else the service account's, else resolv.conf's, else ``default``.

An ordinary name is resolved as the system does it, and polled; ``dns://server/…`` asks that server. It never causes an API
request. A port's name on what turns out to be an ordinary name is an error, except ``http`` and ``https``.

Limits: the key of a name that is asked is that of the Service it may be, so ``redis`` and ``redis.shop`` (in namespace ``shop``)
share a pool also when neither is a Service; they would have to be two different hosts for that to matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from meshlb.core.clock import Rng
from meshlb.core.endpoint import Endpoint
from meshlb.core.resolver import Resolver
from meshlb.core.scheduler import Scheduler
from meshlb.core.target import Target, TargetKey
from meshlb.core.target_syntax import is_service_label
from meshlb.errors import TargetError
from meshlb.resolve.asked import AskedResolver
from meshlb.resolve.chain import ServiceResolver
from meshlb.resolve.dns import DnsResolver, lookup
from meshlb.resolve.dns_client import DnsClient
from meshlb.resolve.env import EnvService
from meshlb.resolve.kubernetes.auth import connect, credentials_of
from meshlb.resolve.kubernetes.source import KubernetesSource
from meshlb.resolve.lookup import Lookup
from meshlb.resolve.ranking import ServiceName
from meshlb.resolve.resolv_conf import ResolvConf
from meshlb.resolve.service_dns import ServiceDns
from meshlb.resolve.settings import Discovery, Fallback
from meshlb.resolve.static import StaticResolver
from meshlb.resolve.system import SystemResolver

DEFAULT_ZONE = "cluster.local"
DEFAULT_NAMESPACE = "default"


class Classifier:
    """Everything that targets of one discovery configuration share. ``key`` is for any thread, the rest for the discovery thread.

    Two small files are read once, at the first target that may be a Service; nothing is connected before a resolver starts.
    """

    def __init__(
        self, discovery: Discovery, fallback: Fallback, *, scheduler: Scheduler, rng: Rng, environ: Mapping[str, str]
    ) -> None:
        self._discovery = discovery
        self._fallback = fallback
        self._scheduler = scheduler
        self._rng = rng
        self._environ = environ
        self._kubernetes: KubernetesSource | None = None

    def key(self, target: Target) -> TargetKey:
        """What the target shares with others. Raises TargetError for a port's name on what can only be an ordinary name."""
        if not self._may_be_service(target):
            self._refuse_port_name(target)
            return target.ordinary_key
        port = str(target.port) or ("" if target.protocol == "grpc" else f"({target.protocol})")
        namespace = target.namespace or self.namespace
        return TargetKey(self._cluster, namespace, target.service, port, target.pod)

    def resolver(self, target: Target) -> Resolver:
        """A new resolver for the target, not started. Raises TargetError as ``key`` does."""
        if not self._may_be_service(target):
            self._refuse_port_name(target)
            return self._ordinary(target)
        want = ServiceName(
            service=target.service,
            namespace=target.namespace or self.namespace,
            port=target.port,
            protocol=target.protocol,
            pod=target.pod,
        )
        env = self._env(target)
        if target.explicit_service or env is not None or _needs_service(target):
            return self._service(want, env)
        return AskedResolver(
            str(target),
            ask=lambda done: self._ask(want, done),
            new_service=lambda: self._service(want, env),
            new_ordinary=lambda: self._ordinary(target),
            scheduler=self._scheduler,
            rng=self._rng,
        )

    def close(self) -> None:
        """End what the resolvers shared; they are closed by their owners."""
        if self._kubernetes is not None:
            self._kubernetes.close()

    # --- what is known about the cluster ----------------------------------------------------------------------------------

    @cached_property
    def in_cluster(self) -> bool:
        discovery = self._discovery
        configured = discovery.kubeconfig is not None or bool(discovery.nameservers)
        return configured or bool(self._environ.get("KUBERNETES_SERVICE_HOST")) or bool(self._resolv_conf.cluster_domain)

    @cached_property
    def zone(self) -> str:
        """The cluster's domain, without dots at its ends."""
        return self._discovery.cluster_domain or self._resolv_conf.cluster_domain or DEFAULT_ZONE

    @cached_property
    def namespace(self) -> str:
        """Of names that are written without one."""
        return self._discovery.namespace or self._own_namespace or DEFAULT_NAMESPACE

    @cached_property
    def _own_namespace(self) -> str:
        """The pod's: what the environment speaks of. Empty outside a pod."""
        try:
            text = Path(self._discovery.service_account_dir, "namespace").read_text(encoding="ascii").strip()
        except (OSError, UnicodeError):
            text = ""
        return text if is_service_label(text) else self._resolv_conf.namespace

    @cached_property
    def _resolv_conf(self) -> ResolvConf:
        return ResolvConf.read(self._discovery.resolv_conf)

    @cached_property
    def _client(self) -> DnsClient:
        return DnsClient(nameservers=self._discovery.nameservers, resolv_conf=self._discovery.resolv_conf)

    @property
    def _cluster(self) -> str:
        discovery = self._discovery
        return self.zone if discovery.kubeconfig is None else f"{discovery.kubeconfig}#{discovery.context or ''}"

    @property
    def _uses_dns(self) -> bool:
        return "dns" in self._discovery.sources

    def _may_be_service(self, target: Target) -> bool:
        if not target.service or (target.zone and target.zone != self.zone):
            return False
        if target.scheme == "k8s":
            return True
        certain = self._uses_dns or target.explicit_service or _needs_service(target)
        return self.in_cluster and (certain or self._env(target) is not None)

    def _env(self, target: Target) -> EnvService | None:
        """What the environment says of it: only of this pod's own namespace, and never of one pod."""
        own = (target.namespace or self.namespace) == self._own_namespace
        return EnvService.of(target.service, self._environ) if own and not target.pod else None

    def _refuse_port_name(self, target: Target) -> None:
        """The parser lets port names pass where it could not know that there is no Service."""
        if _needs_service(target):
            where = (
                f"in zone {target.zone}, this cluster's is {self.zone}" if target.zone and self.in_cluster else "outside a cluster"
            )
            raise TargetError(str(target), target.text.rindex(str(target.port)), f"a port number: {target.host} is {where}")

    # --- resolvers --------------------------------------------------------------------------------------------------------

    def _service(self, want: ServiceName, env: EnvService | None) -> ServiceResolver:
        name = self._dns_name(want)

        def new_dns() -> ServiceDns:
            grace_s = self._discovery.empty_grace_s
            return ServiceDns(name, client=self._client, scheduler=self._scheduler, rng=self._rng, empty_grace_s=grace_s)

        return ServiceResolver(
            want,
            kubernetes=self._api(),
            new_dns=new_dns if self._uses_dns else None,
            env=env,
            fallback=self._fallback,
            scheduler=self._scheduler,
            rng=self._rng,
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
        lookup(self._dns_name(want), done, client=self._client, scheduler=self._scheduler)

    def _dns_name(self, want: ServiceName) -> str:
        """Absolute: with a search list it would cost four queries."""
        return ".".join((*filter(None, (want.pod, want.service, want.namespace)), "svc", self.zone, ""))

    def _api(self) -> KubernetesSource | None:
        """The one source for all Services of this configuration; None if nobody configured a cluster."""
        if self._kubernetes is None and credentials_of(self._discovery, self._environ) is not None:
            self._kubernetes = KubernetesSource(
                lambda: connect(self._discovery, environ=self._environ),
                self._scheduler,
                self._rng,
            )
        return self._kubernetes


def _needs_service(target: Target) -> bool:
    """Is the port one that only a Service can give a number?"""
    return target.port.is_target or target.port.name not in ("", "http", "https")
