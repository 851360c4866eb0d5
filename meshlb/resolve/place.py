"""Where this process runs: its node and zone, which topology hints and ``internalTrafficPolicy: Local`` are measured by.

From the most to the least certain; the first that knows one wins, for node and zone apart:

1. the configuration (``discovery.node``, ``discovery.zone``), else ``MESHLB_NODE_NAME`` and ``MESHLB_ZONE``;
2. the slices: an endpoint that is our own pod (its uid; or in our namespace its IP or its name) gives the node and zone, and any
   endpoint on our node gives our zone. No right to read pods or nodes is needed;
3. the Downward API variables that people use, ``NODE_VARIABLES`` and ``ZONE_VARIABLES``.

Variables of other programs may hold something else under such a name (a build server's ``NODE_NAME``, a DNS ``ZONE``). So the slices
are believed before them, and one of them is our node only once some slice calls a node so: with a wrong node ``Local`` would
leave no endpoint at all. A wrong zone matches no hint, which is harmless.

What was once learnt holds for good, for all targets: a process does not move. Elsewhere than in a cluster nothing is found, and
nothing matches.

Spec: Downward API ``spec.nodeName``, ``metadata.name``, ``metadata.uid``, ``status.podIP(s)``; KEP-4742 (node topology labels);
OpenTelemetry's ``OTEL_RESOURCE_ATTRIBUTES_*`` of its operator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from meshlb.core.endpoint import NO_PLACE, Endpoint, Place
from meshlb.resolve.kubernetes.wire import SliceRecord

OWN_VARIABLES: Final = ("MESHLB_NODE_NAME", "MESHLB_ZONE")
NODE_VARIABLES: Final = (
    "K8S_NODE_NAME", "KUBE_NODE_NAME", "KUBERNETES_NODE_NAME", "NODE_NAME", "MY_NODE_NAME", "NODENAME",
    "OTEL_RESOURCE_ATTRIBUTES_NODE_NAME",
)  # fmt: skip
ZONE_VARIABLES: Final = ("TOPOLOGY_ZONE", "K8S_ZONE", "KUBERNETES_ZONE", "NODE_ZONE", "AVAILABILITY_ZONE", "ZONE")
POD_VARIABLES: Final = ("POD_NAME", "K8S_POD_NAME", "MY_POD_NAME", "OTEL_RESOURCE_ATTRIBUTES_POD_NAME", "HOSTNAME")
UID_VARIABLES: Final = ("POD_UID", "K8S_POD_UID", "MY_POD_UID", "OTEL_RESOURCE_ATTRIBUTES_POD_UID")
IP_VARIABLES: Final = ("POD_IP", "POD_IPS", "K8S_POD_IP", "MY_POD_IP")

# What a container's manifest needs, for who reads a warning. From the node the zone follows, wherever a pod of the Service runs there.
NODE_YAML: Final = "env: [{name: MESHLB_NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]"
ZONE_YAML: Final = (
    "env: [{name: MESHLB_ZONE, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['topology.kubernetes.io/zone']\"}}}]"
    " (Kubernetes sets that label on pods from 1.35 on)"
)

_WORD = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,251}[A-Za-z0-9])?")  # not "$(NODE_NAME)", which a kubelet could not expand


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is known without slices. ``place`` is certain; ``nodes`` and ``zone`` are other programs' variables; the rest is our pod."""

    place: Place = NO_PLACE
    nodes: tuple[str, ...] = ()
    zone: str = ""
    uids: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    ips: frozenset[str] = frozenset()
    namespace: str = ""

    @classmethod
    def of(cls, environ: Mapping[str, str], *, node: str | None = None, zone: str | None = None, namespace: str = "") -> Told:
        """``node`` and ``zone`` are the configured ones, ``namespace`` the pod's own."""
        own_node, own_zone = (_first(environ, (variable,)) for variable in OWN_VARIABLES)
        return cls(
            place=Place(node or own_node, zone or own_zone),
            nodes=_words(environ, NODE_VARIABLES),
            zone=_first(environ, ZONE_VARIABLES),
            uids=frozenset(_words(environ, UID_VARIABLES)),
            names=frozenset(_words(environ, POD_VARIABLES)),
            ips=frozenset(ip.strip() for variable in IP_VARIABLES for ip in environ.get(variable, "").split(",")) - {""},
            namespace=namespace,
        )


@dataclass(frozen=True, slots=True)
class Learnt:
    """What slices have said so far. ``sure``: the node is told for certain or our own pod's, not merely a name that a node has."""

    place: Place = NO_PLACE
    sure: bool = False


def infer(told: Told, learnt: Learnt, slices: Iterable[SliceRecord]) -> Learnt:
    """``learnt`` with what these slices add to it. Pure; one look at each endpoint."""
    node, zone, sure = told.place.node or learnt.place.node, learnt.place.zone, learnt.sure or bool(told.place.node)
    zones: dict[str, str] = {}
    for record in slices:
        ours = record.namespace == told.namespace
        for endpoint in record.endpoints:
            if not endpoint.node:
                continue
            zones[endpoint.node] = zones.get(endpoint.node) or endpoint.locality.zone
            if not sure and _is_own(endpoint, told, ours):
                zone = zone if endpoint.node == node else ""
                node, sure = endpoint.node, True
    node = node or next((name for name in told.nodes if name in zones), "")
    return Learnt(Place(node, zone or zones.get(node, "")), sure)


class OwnPlace:
    """What all targets of one configuration know together; lives on the discovery thread."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._learnt = infer(told, Learnt(), ())
        self._listeners: list[Callable[[], None]] = []

    @property
    def place(self) -> Place:
        told, learnt = self._told, self._learnt.place
        return Place(learnt.node, told.place.zone or learnt.zone or told.zone)

    def subscribe(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Have ``on_change`` called after ``place`` changed; returns what ends that."""
        self._listeners.append(on_change)

        def unsubscribe() -> None:
            if on_change in self._listeners:
                self._listeners.remove(on_change)

        return unsubscribe

    def learn(self, slices: Iterable[SliceRecord]) -> None:
        """Slices that are new or changed. Whoever listens hears of it before this returns."""
        told, learnt, place = self._told, self._learnt, self.place
        open_ = not (learnt.sure and (told.place.zone or learnt.place.zone))
        if open_ and (learnt.place.node or told.nodes or told.uids or told.names or told.ips):
            self._learnt = infer(told, learnt, slices)
            if self.place != place:
                for on_change in list(self._listeners):
                    on_change()

    def __repr__(self) -> str:
        return f"<OwnPlace node={self.place.node or '?'} zone={self.place.zone or '?'}>"


def _is_own(endpoint: Endpoint, told: Told, in_namespace: bool) -> bool:
    if endpoint.uid and endpoint.uid in told.uids:
        return True
    return in_namespace and (endpoint.host in told.ips or (bool(endpoint.name) and endpoint.name in told.names))


def _words(environ: Mapping[str, str], variables: Iterable[str]) -> tuple[str, ...]:
    """Their values that can be a name, each once, in this order."""
    values = (environ.get(variable, "").strip() for variable in variables)
    return tuple(dict.fromkeys(value for value in values if _WORD.fullmatch(value)))


def _first(environ: Mapping[str, str], variables: Iterable[str]) -> str:
    return next(iter(_words(environ, variables)), "")
