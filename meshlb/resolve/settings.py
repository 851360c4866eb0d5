"""What the user may say about discovery and about the fallback to the ClusterIP; plain frozen values, nothing is read here.

Every config has a short form (a word or a dict) next to the full one, so that JSON and environment variables can hold it.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TypeVar

from meshlb.core import validate
from meshlb.core.target_syntax import is_service_label
from meshlb.errors import ConfigError

SOURCES = ("kubernetes", "dns")
SIDECAR = ("passthrough", "ignore")
_NODE = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")  # an RFC 1123 subdomain, as the API server has it
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Discovery:
    """Where endpoints are looked for.

    ``sources``: ``kubernetes`` (the API server) and ``dns``; the environment's ``{NAME}_SERVICE_HOST`` is always the last resort.
    ``kubeconfig``, ``context``: a file and a context in it, only ever read when named here; None is the pod's own service account.
    ``namespace``: of names written without one; None is the service account's, else that of resolv.conf, else ``default``. What is
    configured wins over both files. ``cluster_domain``: None is the ``svc.`` entry of resolv.conf, else ``cluster.local``.
    ``nameservers``: ``ip`` or ``ip:port`` (``[v6]:port``) instead of those in ``resolv_conf``.
    ``empty_grace_s``: how long DNS alone must answer "no such name" before a pod set that it published is given up (seconds).
    ``node``, ``zone``: where this process runs, for topology hints and ``internalTrafficPolicy: Local``; None is the Downward API's
    environment variables, else inferred from the slices (``resolve.place`` has the list).
    ``sidecar``: what to do beside a service mesh's sidecar (``resolve.sidecar``): ``passthrough`` gives it the Service's own address,
    ``ignore`` balances over pods all the same, past the mesh's encryption and policies.
    """

    sources: tuple[str, ...] = SOURCES
    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None
    cluster_domain: str | None = None
    nameservers: tuple[str, ...] = ()
    resolv_conf: str = "/etc/resolv.conf"
    service_account_dir: str = "/var/run/secrets/kubernetes.io/serviceaccount"
    empty_grace_s: float = 60.0
    node: str | None = None
    zone: str | None = None
    sidecar: str = "passthrough"

    def __post_init__(self) -> None:
        _set(self, "sources", _words("discovery.sources", self.sources))
        if not self.sources:
            raise ConfigError(f"discovery.sources=(): must name at least one of {', '.join(SOURCES)}")
        for word in self.sources:
            validate.one_of("discovery.sources", word, SOURCES)
        validate.one_of("discovery.sidecar", self.sidecar, SIDECAR)
        for name in ("kubeconfig", "context", "resolv_conf", "service_account_dir"):
            _text(f"discovery.{name}", getattr(self, name), optional=name in ("kubeconfig", "context"))
        if self.context is not None and self.kubeconfig is None:
            raise ConfigError(f"discovery.context={self.context!r}: needs discovery.kubeconfig, the file that holds it")
        if self.namespace is not None and not (isinstance(self.namespace, str) and is_service_label(self.namespace)):
            raise ConfigError(f"discovery.namespace={self.namespace!r}: must be a namespace: letters, digits and '-'")
        if self.cluster_domain is not None:
            _set(self, "cluster_domain", _domain("discovery.cluster_domain", self.cluster_domain))
        servers = _words("discovery.nameservers", self.nameservers)
        _set(self, "nameservers", tuple(_nameserver("discovery.nameservers", server) for server in servers))
        _set(self, "empty_grace_s", validate.seconds("discovery.empty_grace_s", self.empty_grace_s, exclusive=False))
        if self.node is not None and not (isinstance(self.node, str) and len(self.node) <= 253 and _NODE.fullmatch(self.node)):
            raise ConfigError(f"discovery.node={self.node!r}: must be a node's name: lower-case letters, digits, '-' and '.'")
        if self.zone is not None and not (
            isinstance(self.zone, str) and len(self.zone) <= 63 and _LABEL_VALUE.fullmatch(self.zone)
        ):
            raise ConfigError(
                f"discovery.zone={self.zone!r}: must be a label's value: letters, digits, '-', '_' and '.', at most 63"
            )

    @classmethod
    def of(cls, value: str | Mapping[str, object] | Discovery) -> Discovery:
        """``auto`` (both sources), ``kubernetes``, ``dns``, a dict of the fields, or a Discovery."""
        if isinstance(value, str):
            word = validate.one_of("discovery", value, ("auto", *SOURCES))
            return cls() if word == "auto" else cls(sources=(word,))
        return _from(cls, "discovery", value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fallback:
    """What is used while no pod is known or none can be connected: the ClusterIP.

    ``connections``: how many separate connections to it (kube-proxy chooses a pod for each). ``max_age_s``: after about this long
    (seconds, jittered by a fifth to either side) a connection is replaced by a new one, so that new pods get their share.
    """

    enabled: bool = True
    connections: int = 4
    max_age_s: float = 60.0

    def __post_init__(self) -> None:
        if not isinstance(self.enabled, bool):
            raise ConfigError(f"fallback.enabled={self.enabled!r}: must be true or false")
        validate.integer("fallback.connections", self.connections, minimum=1, maximum=64)
        # Below 5 s the hand-over of one connection would overlap with that of the next.
        _set(self, "max_age_s", validate.seconds("fallback.max_age_s", self.max_age_s, minimum=5.0, exclusive=False))

    @classmethod
    def of(cls, value: str | Mapping[str, object] | Fallback) -> Fallback:
        """``clusterip``, ``none``, a dict of the fields, or a Fallback."""
        if isinstance(value, str):
            return cls(enabled=validate.one_of("fallback", value, ("clusterip", "none")) == "clusterip")
        return _from(cls, "fallback", value)


def _set(config: object, name: str, value: object) -> None:
    object.__setattr__(config, name, value)


def _from(cls: type[_T], where: str, value: object) -> _T:
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}={value!r}: must be a word, a dict or a {cls.__name__}")
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1) or known
            raise ConfigError(f"{where}.{key}: unknown key; the nearest valid: {', '.join(near)}")
    return cls(**value)


def _words(name: str, value: object) -> tuple[str, ...]:
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise ConfigError(f"{name}={value!r}: must be a list of words, or one string with commas")
    return tuple(word.strip() for word in words)


def _text(name: str, value: object, *, optional: bool) -> None:
    if (value is None and optional) or (isinstance(value, str) and value):
        return
    raise ConfigError(f"{name}={value!r}: must be a non-empty string")


def _domain(name: str, value: object) -> str:
    labels = value.strip(".").split(".") if isinstance(value, str) else []
    if not labels or not all(is_service_label(label) for label in labels):
        raise ConfigError(f"{name}={value!r}: must be a domain such as cluster.local")
    return ".".join(labels).lower()


def _nameserver(name: str, value: str) -> str:
    host, port = value, "53"
    if value.startswith("["):
        host, _, rest = value[1:].partition("]")
        port = rest.removeprefix(":") or "53"
    elif value.count(":") == 1:
        host, _, port = value.partition(":")
    try:
        address = ipaddress.ip_address(host)
        if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise ValueError(port)
    except ValueError:
        raise ConfigError(f"{name}={value!r}: must be ip, ip:port or [v6]:port") from None
    return f"[{address}]:{int(port)}" if address.version == 6 else f"{address}:{int(port)}"
