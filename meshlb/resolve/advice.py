"""What a cluster's owner could change so that discovery sees more; each thing is said once, by the ``meshlb.resolve`` logger.

A warning that cannot be acted on is noise, so each holds the exact Role, or the line to write differently.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshlb.resolve.known import Concern, ServiceName, Source, Verdict
from meshlb.resolve.kubernetes.rbac import role_yaml, user_in
from meshlb.resolve.kubernetes.transport import SourceError
from meshlb.resolve.place import NODE_YAML
from meshlb.resolve.settings import Fallback


def advice(verdict: Verdict, want: ServiceName, *, refusal: SourceError | None, fallback: Fallback) -> Iterator[tuple[str, str]]:
    """A key and a text for everything that could be better; ``refusal``: what the API server says instead of EndpointSlices."""

    def role() -> str:
        return role_yaml(want.namespace, [want.service], user_in(refusal.reason) if refusal is not None else "")

    by_address = want.pods and verdict.source in (Source.CLUSTER_IP, Source.ENVIRONMENT)
    if refusal is not None and refusal.kind == "forbidden" and by_address:
        yield (
            "role",
            f"{want}: only its ClusterIP is known, because this client may not list EndpointSlices in namespace "
            f"{want.namespace}; calls are balanced over {fallback.connections} connections to it, whose pods kube-proxy "
            f"chooses. To balance over pods, apply this Role, or make the Service headless (clusterIP: None):\n{role()}",
        )
    if refusal is not None and refusal.kind == "forbidden" and verdict.source is Source.NOTHING and verdict.port_wrong:
        yield (
            "role",
            f"{want}: the number of its port cannot be known, because this client may not list EndpointSlices in namespace "
            f"{want.namespace}. Write the number instead of {want.port or 'nothing'}, or apply this Role:\n{role()}",
        )
    if Concern.NUMBER_UNMAPPED in verdict.concerns:
        yield (
            "number",
            f"{want}: {want.port} is not a port of its pods, and the Service that maps it cannot be read, so its ClusterIP is "
            f"used. Write the port's name, or allow this client to get the Service:\n{role()}",
        )
    if Concern.NODE_UNKNOWN in verdict.concerns:
        yield (
            "node",
            f"{want}: its internalTrafficPolicy is Local, and this client does not know its own node, so its ClusterIP is used, whose "
            f"kernel does. To balance over the pods of this node, give the container its node's name:\n{NODE_YAML}",
        )
    if Concern.TRUNCATED in verdict.concerns:
        yield (
            "truncated",
            f"{want}: its Endpoints object is full (1,000 addresses) and lists only some of its pods; the others get no calls. To "
            f"see all, allow this client to list EndpointSlices:\n{role()}",
        )
    if Concern.DNS_PORT in verdict.concerns:
        yield (
            "dns port",
            f"{want}: DNS gives the addresses of its pods but no ports, so {verdict.pods[0].port} is dialled on them as it was "
            f"written; it has to be the target port. To be sure, allow this client to list EndpointSlices:\n{role()}",
        )
