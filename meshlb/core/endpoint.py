"""Where a pod can be reached, and the whole truth about a Service at one moment.

An ``EndpointSet`` is always complete: sources reduce what they hear (slices, answers, deltas) before they speak, so that a pool
never has to guess whether an absent endpoint is gone or merely not mentioned.

Spec: discovery.k8s.io/v1 EndpointSlice for the conditions; gRFC A61 for "endpoint".
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from meshlb.errors import ConfigError

MIN_WEIGHT: Final = 1e-9  # so that sums, quotients and squares of any number of them are sound floats
MAX_WEIGHT: Final = 1e9


@dataclass(frozen=True, slots=True)
class Locality:
    """Region, zone and sub-zone in Envoy's and gRPC's sense; empty means unknown and never matches."""

    region: str = ""
    zone: str = ""
    sub_zone: str = ""


@dataclass(frozen=True, slots=True)
class Hints:
    """The zones and nodes that the control plane wants this endpoint to serve (KEP-2433)."""

    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where the caller runs: its node and zone; empty means unknown and never matches."""

    node: str = ""
    zone: str = ""


_PIECE = 256

NO_LOCALITY = Locality()
NO_HINTS = Hints()
NO_PLACE = Place()


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One address that serves a target.

    Identity is the address and the pod's uid: an IP that another pod took over is another endpoint. An unknown uid (``""``: DNS
    has none) matches any uid at its address. ``host`` is an IP literal without brackets, or ``unix:PATH``
    (``unix-abstract:NAME``) with port 0.

    ``weight`` is relative, from 1e-9 to 1e9; ConfigError for any other. ``ready``, ``serving`` and ``terminating`` are the slice's conditions, their nil defaults
    already applied. ``name`` is for people (the pod's name), never for decisions.
    """

    host: str
    port: int
    uid: str = ""
    name: str = ""
    locality: Locality = NO_LOCALITY
    node: str = ""
    weight: float = 1.0
    hostname: str = ""
    hints: Hints = NO_HINTS
    ready: bool = True
    serving: bool = True
    terminating: bool = False

    def __post_init__(self) -> None:
        weight = self.weight
        if type(weight) is bool or not isinstance(weight, (int, float)) or not MIN_WEIGHT <= weight <= MAX_WEIGHT:
            raise ConfigError(f"weight={weight!r}: must be a number from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}")

    @property
    def address(self) -> str:
        """``10.0.0.1:80``, ``[fd00::1]:80`` or ``unix:/run/x.sock``."""
        if self.host.startswith(("unix:", "unix-abstract:")):
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def identity(self) -> tuple[str, int, str]:
        """Host, port and uid: what tells two endpoints apart, and the order of an ``EndpointSet``."""
        return (self.host, self.port, self.uid)

    def __str__(self) -> str:
        return f"{self.name} ({self.address})" if self.name else self.address


class OrderedEndpoints(tuple[Endpoint, ...]):
    """Endpoints that are known to be sorted by identity and unique by it: ten thousand need not be sorted again for one change."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class EndpointSet:
    """Everything one source knows about a target, at one moment.

    ``endpoints`` is sorted by identity, unique by it, and complete. ``fallback`` are addresses to use only while some of
    ``endpoints`` may be used and none of them can be connected: the ClusterIP, as k connections that differ by uid. (While no
    endpoint may be used the ClusterIP refuses too; while none is *known*, its connections are published as ``endpoints``.)
    ``service_port`` is the Service's own port number, for the authority; 0 when it is not known. ``authoritative`` says that an
    absence may be believed. ``place`` is the caller's, ``local_only`` says that only endpoints on its node may be used (the Service's
    ``internalTrafficPolicy: Local``). ``source``, ``version`` and ``note`` (why the set is as it is: "3 endpoints, none ready") are for
    logs, errors and ``status()``. ``unverified`` are the hosts of endpoints that no source has confirmed for long: one of them that is
    not connected any more may be another pod by the time that it is again. ``authority_host`` is the name that these endpoints know
    themselves by, where it is not the target's own: the external name of an ExternalName Service. ``affinity_s``: the Service's
    ClientIP affinity, the seconds without a call after which a client may be sent elsewhere; 0: it has none, or nobody could read it.
    """

    endpoints: tuple[Endpoint, ...]
    source: str
    version: str = ""
    authoritative: bool = True
    fallback: tuple[Endpoint, ...] = ()
    service_port: int = 0
    note: str = ""
    place: Place = NO_PLACE
    local_only: bool = False
    unverified: frozenset[str] = frozenset()
    authority_host: str = ""
    affinity_s: float = 0.0

    @classmethod
    def of(
        cls,
        endpoints: Iterable[Endpoint],
        source: str,
        *,
        version: str = "",
        authoritative: bool = True,
        fallback: Iterable[Endpoint] = (),
        service_port: int = 0,
        note: str = "",
        place: Place = NO_PLACE,
        local_only: bool = False,
        unverified: frozenset[str] = frozenset(),
        affinity_s: float = 0.0,
    ) -> EndpointSet:
        """Sort and make unique; of two copies of one endpoint the one that can serve wins. What is an endpoint is no fallback."""
        ordered = endpoints if isinstance(endpoints, OrderedEndpoints) else _unique(endpoints)
        spare = tuple(endpoint for endpoint in _unique(fallback) if not _lists(ordered, endpoint))
        return cls(
            ordered, source, version, authoritative, spare, service_port, note, place, local_only, unverified, affinity_s=affinity_s
        )

    def lists(self, endpoint: Endpoint) -> bool:
        """Is its address among the endpoints or the fallback, whichever pod is there?"""
        return any(_at(endpoints, endpoint.host, endpoint.port) for endpoints in (self.endpoints, self.fallback))

    def __len__(self) -> int:
        return len(self.endpoints)


def unshared(endpoints: tuple[Endpoint, ...], others: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """``endpoints`` without the beginning and the end that both have: all that may differ, of thousands usually a few."""
    start = _common(endpoints, others)
    end = _common(endpoints[start:][::-1], others[start:][::-1])
    return endpoints[start : len(endpoints) - end]


def _common(one: tuple[Endpoint, ...], other: tuple[Endpoint, ...]) -> int:
    """How many are equal from the first on; compared in pieces, as equal ones are the same objects."""
    longest, at = min(len(one), len(other)), 0
    while at < longest and one[at : at + _PIECE] == other[at : at + _PIECE]:
        at += _PIECE
    while at < longest and (one[at] is other[at] or one[at] == other[at]):
        at += 1
    return min(at, longest)


def _at(ordered: tuple[Endpoint, ...], host: str, port: int) -> bool:
    at = bisect_left(ordered, (host, port, ""), key=lambda listed: listed.identity)
    return at < len(ordered) and ordered[at].identity[:2] == (host, port)


def _lists(ordered: tuple[Endpoint, ...], endpoint: Endpoint) -> bool:
    at = bisect_left(ordered, endpoint.identity, key=lambda listed: listed.identity)
    return at < len(ordered) and ordered[at].identity == endpoint.identity


def _unique(endpoints: Iterable[Endpoint]) -> OrderedEndpoints:
    best: dict[tuple[str, int, str], Endpoint] = {}
    for endpoint in endpoints:
        key = endpoint.identity
        seen = best.get(key)
        if seen is None or _usefulness(endpoint) > _usefulness(seen):
            best[key] = endpoint
    return OrderedEndpoints(best[key] for key in sorted(best))


def _usefulness(endpoint: Endpoint) -> int:
    return 2 if endpoint.ready else 1 if endpoint.serving and endpoint.terminating else 0
