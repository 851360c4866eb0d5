"""The pure difference between the subchannels a pool has and the endpoints that exist now.

Identity is address and pod uid. An unknown uid (DNS knows none) matches any subchannel at its address, and whichever side knows
the uid teaches it to the other, so that a change of source keeps connections and statistics. Two known, different uids are two
endpoints: an IP that another pod took over starts afresh.

O(n). Nothing is changed here: the pool carries the plan out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from meshlb.core.endpoint import Endpoint
from meshlb.core.subchannel import Subchannel


@dataclass(frozen=True, slots=True)
class Plan:
    """``placed``: for each endpoint, in the order given, its description and the subchannel that survives as it (None: a new one
    is needed). ``removed``: the subchannels that no endpoint claims; they drain."""

    placed: tuple[tuple[Endpoint, Subchannel | None], ...]
    removed: tuple[Subchannel, ...]


def reconcile(current: Sequence[Subchannel], endpoints: Sequence[Endpoint]) -> Plan:
    """Exact matches go first, so that an unknown uid never takes the subchannel of a pod that is listed by its own."""
    left: dict[tuple[str, int, str], Subchannel] = {}
    twins = tuple(sub for sub in current if left.setdefault(sub.endpoint.identity, sub) is not sub)  # of a set with repetitions
    survivors = [left.pop(endpoint.identity, None) for endpoint in endpoints]
    if left:
        at_address: dict[tuple[str, int], list[Subchannel]] = {}
        for (host, port, _), sub in left.items():
            at_address.setdefault((host, port), []).append(sub)
        for position, endpoint in enumerate(endpoints):
            if survivors[position] is None:
                survivor = _adoptable(at_address.get((endpoint.host, endpoint.port), ()), endpoint)
                if survivor is not None:
                    survivors[position] = left.pop(survivor.endpoint.identity)
                    at_address[endpoint.host, endpoint.port].remove(survivor)
    placed = tuple((_described(survivor, endpoint), survivor) for survivor, endpoint in zip(survivors, endpoints, strict=True))
    return Plan(placed, twins + tuple(left.values()))


def _adoptable(candidates: Sequence[Subchannel], endpoint: Endpoint) -> Subchannel | None:
    """Who ``endpoint`` may be, of those left at its address; the youngest, since it holds the address now."""
    if endpoint.uid:
        candidates = [candidate for candidate in candidates if not candidate.endpoint.uid]
    return max(candidates, key=lambda candidate: candidate.created_s, default=None)


def _described(survivor: Subchannel | None, endpoint: Endpoint) -> Endpoint:
    """The new description, with what only the old one knew about who this is."""
    if survivor is None or endpoint.uid or not survivor.endpoint.uid:
        return endpoint
    old = survivor.endpoint
    return replace(endpoint, uid=old.uid, name=endpoint.name or old.name)
