"""Which cluster this process is in, as two small files and its environment tell, without asking anybody.

*In a cluster*: ``KUBERNETES_SERVICE_HOST`` is set, resolv.conf has a ``svc.`` entry, or the configuration names a kubeconfig or
nameservers. *Zone*: what is configured, else resolv.conf's ``svc.`` entry, else ``cluster.local``. *Namespace* of a name without one:
what is configured, else the service account's, else resolv.conf's, else ``default``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from meshlb.core.target_syntax import is_service_label
from meshlb.resolve.resolv_conf import ResolvConf
from meshlb.resolve.settings import Discovery

DEFAULT_ZONE = "cluster.local"
DEFAULT_NAMESPACE = "default"
MAX_NAMESPACE = 256  # characters read; a name has 63 at most

_log = logging.getLogger("meshlb.resolve")


class OwnCluster:
    """The files are read once, when first needed. ``assume``: judge as a client in a cluster would, wherever this runs. Any thread."""

    def __init__(self, discovery: Discovery, environ: Mapping[str, str], *, assume: bool = False) -> None:
        self._discovery = discovery
        self._environ = environ
        self._assume = assume

    @cached_property
    def is_there(self) -> bool:
        discovery = self._discovery
        configured = discovery.kubeconfig is not None or bool(discovery.nameservers)
        return configured or self._assume or self._in_pod or bool(self._resolv_conf.cluster_domain)

    @cached_property
    def zone(self) -> str:
        """The cluster's domain, without dots at its ends."""
        return self._discovery.cluster_domain or self._resolv_conf.cluster_domain or DEFAULT_ZONE

    @cached_property
    def namespace(self) -> str:
        """Of names that are written without one."""
        named = self._discovery.namespace or self.own_namespace
        if not named and self._in_pod:
            _log.warning("this pod's namespace is written nowhere; names without one are looked for in %s", DEFAULT_NAMESPACE)
        return named or DEFAULT_NAMESPACE

    @cached_property
    def own_namespace(self) -> str:
        """The pod's: what the environment speaks of. Empty outside a pod."""
        path = Path(self._discovery.service_account_dir, "namespace")
        try:
            with path.open(encoding="ascii", errors="replace") as file:
                text = file.read(MAX_NAMESPACE).strip()
        except OSError:  # no service account is mounted: ordinary
            return self._resolv_conf.namespace
        if is_service_label(text):
            return text
        _log.warning(
            "%s holds no namespace (%.40r); that of resolv.conf is used: %s", path, text, self._resolv_conf.namespace or "none"
        )
        return self._resolv_conf.namespace

    @property
    def _in_pod(self) -> bool:
        return bool(self._environ.get("KUBERNETES_SERVICE_HOST"))

    @cached_property
    def _resolv_conf(self) -> ResolvConf:
        reading = ResolvConf.read(self._discovery.resolv_conf)
        if self._in_pod and not reading.cluster_domain and self._discovery.cluster_domain is None:
            why = reading.problem or f"{self._discovery.resolv_conf} has no search entry that begins with svc."
            _log.warning("the cluster's domain is taken to be %s: %s", DEFAULT_ZONE, why)
        return reading
