"""What a pool knows at one moment, immutable, so that views and ``describe()`` read it without a lock."""

from __future__ import annotations

from dataclasses import dataclass

from meshlb.core.endpoint import EndpointSet
from meshlb.core.subchannel import Subchannel
from meshlb.errors import ResolveError


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """``listed`` are all subchannels discovery knows, ``eligible`` those that may take new work, ``fallback`` the ClusterIP's.

    Two more keep the connections that they have, and get no new ones. ``lingering``: those that still serve while they terminate,
    and those that were eligible until a moment ago. ``spare``: those lost with most of the pool, which may take what nobody else
    can (leavers.py has both); not all of them are listed.

    ``ejected`` are those of the eligible that ``health`` takes out for now; of them, each of ``probing`` may have one request.

    ``latest`` is None until the first answer. ``error`` is the resolver's last failure; it matters only while nothing is known.
    """

    listed: tuple[Subchannel, ...] = ()
    eligible: tuple[Subchannel, ...] = ()
    lingering: tuple[Subchannel, ...] = ()
    fallback: tuple[Subchannel, ...] = ()
    spare: tuple[Subchannel, ...] = ()
    ejected: frozenset[Subchannel] = frozenset()
    probing: tuple[Subchannel, ...] = ()
    latest: EndpointSet | None = None
    updated_s: float = 0.0
    error: ResolveError | None = None

    @property
    def source(self) -> str:
        return self.latest.source if self.latest is not None else "none"


@dataclass(frozen=True, slots=True)
class Change:
    """What an update did: whom discovery lists now and did not before, and the other way round; those drain, or become a spare."""

    added: tuple[Subchannel, ...] = ()
    removed: tuple[Subchannel, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)
