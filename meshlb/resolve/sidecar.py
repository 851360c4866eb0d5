"""Is a service mesh's sidecar beside us? Decided from what a container can see without connecting anywhere.

A sidecar takes every connection of the pod. What goes to a *Service's* address it recognises: it balances over the pods, encrypts
with its own identity, and applies the mesh's policies. What goes to a *pod's* address it passes on as it is (Istio), or without the
Service's policies (Linkerd). So pods are not dialled past it by default: the transport's own channel gets the Service's name, or,
where its number is still to be found out, only the ClusterIP is used (``discovery.sidecar`` turns that off).

Signs. Injectors put their variables and volumes into the *proxy's* container, so the environment tells something only where both share
one (a virtual machine, an image with the agent inside). All containers of a pod share its network, though, and ``/proc/net/tcp`` lists who
listens there, with no right and no packet needed:

=======  =============================================================================================================
Istio    15001 (outbound) and 15006 (inbound), and one of 15000, 15020, 15021, 15090 (admin, agent, health, metrics)
Linkerd  4140 (outbound), 4143 (inbound), and 4191 (admin)
=======  =============================================================================================================

A variable alone is no sign: anybody may set one, and the kubelet writes some for every Service in the namespace, also for one that
is called ``istio-meta-db``. It counts where it is not empty, is none of those, and one of the first two ports is listened on as well;
the admin ports, which people move, need not be there then.

Istio's ambient mode also listens on 15001 and 15006 within the pod (with 15008), and on none of the other four. It is no sidecar:
its node proxy encrypts by the pod's address as well. Where the Service has a waypoint, though, that is bypassed, and with it the
policies that it applies: only what goes to the Service's address is led through it.

Limits: ports that somebody has moved are not seen; nor is a proxy that starts after the first call to its target (Istio's
``holdApplicationUntilProxyStarts`` and native sidecars start before).

Spec: Istio "Application Requirements", ports used by Istio; Istio "Ztunnel traffic redirection"; Linkerd proxy's default ports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC_NET: Final = "/proc/net"
ISTIO_PORTS: Final = frozenset({15001, 15006})
ISTIO_MORE: Final = frozenset({15000, 15020, 15021, 15090})
LINKERD_PORTS: Final = frozenset({4140, 4143, 4191})
AMBIENT_PORT: Final = 15008
_VARIABLES: Final = {"ISTIO_META_": "Istio", "LINKERD2_PROXY_": "Linkerd"}
_BOTH_WAYS: Final = {"Istio": ISTIO_PORTS, "Linkerd": LINKERD_PORTS - {4191}}
# What a kubelet writes for a Service: the links of Docker, and Kubernetes' own two.
_SERVICE_LINK: Final = re.compile(
    r".+_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)?)"
)
_LISTEN: Final = "0A"


@dataclass(frozen=True, slots=True)
class Sidecar:
    """``mesh``: whose it is; ``sign``: how that is known, for people."""

    mesh: str
    sign: str

    def __str__(self) -> str:
        return f"{self.mesh} ({self.sign})"


def detect(environ: Mapping[str, str], *, proc_net: str = PROC_NET) -> Sidecar | None:
    """Reads two small files of the kernel's; connects nowhere, and never raises. None: there is no sign of one."""
    ports = listening(proc_net)
    if ports >= ISTIO_PORTS and ports & ISTIO_MORE:
        return Sidecar("Istio", _listed(ports & (ISTIO_PORTS | ISTIO_MORE)))
    if ports >= LINKERD_PORTS:
        return Sidecar("Linkerd", _listed(LINKERD_PORTS))
    for prefix, mesh in _VARIABLES.items():
        variable = next((name for name in sorted(environ) if name.startswith(prefix) and _is_set(name, environ)), "")
        beside = ports & _BOTH_WAYS[mesh]
        if variable and beside and not (mesh == "Istio" and AMBIENT_PORT in ports):
            return Sidecar(mesh, f"the variable {variable}, and {_listed(beside)}")
    return None


def _is_set(name: str, environ: Mapping[str, str]) -> bool:
    """By somebody who means it, and not by a kubelet for a Service."""
    return bool(environ[name].strip()) and _SERVICE_LINK.fullmatch(name) is None


def listening(proc_net: str = PROC_NET) -> frozenset[int]:
    """The TCP ports that somebody in this network namespace listens on; none where the kernel does not say."""
    return frozenset(port for name in ("tcp", "tcp6") for port in _listeners(Path(proc_net, name)))


def _listeners(path: Path) -> Iterable[int]:
    """The kernel lists listeners before connections, so what a busy process has of those is never read."""
    ports: list[int] = []
    try:
        with path.open(encoding="ascii") as table:
            next(table, "")  # the head
            for line in table:
                words = line.split(maxsplit=4)
                if len(words) < 4 or words[3] != _LISTEN:
                    break
                ports.append(int(words[1].rpartition(":")[2], 16))
    except (OSError, ValueError):  # not Linux, or not what it looks like: no sign
        pass
    return ports


def _listed(ports: Iterable[int]) -> str:
    return f"somebody listens on {', '.join(map(str, sorted(ports)))}"
