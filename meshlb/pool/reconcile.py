"""The pure difference between the subchannels a pool has and the endpoints that exist now.

Identity is address and pod uid. An unknown uid (DNS knows none) matches any subchannel at its address, and whichever side knows
the uid teaches it to the other, so that a change of source keeps connections and statistics. Two known, different uids are two
endpoints: an IP that another pod took over starts afresh.

O(n), and quick where little has changed: an endpoint that is the very object it was is found by its ``id``, in whole-sequence
operations of the interpreter (under a millisecond for 10,000); only the others are compared by identity. Nothing is changed here: the
pool carries the plan out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from meshlb.core.endpoint import Endpoint
from meshlb.core.subchannel import Subchannel


@dataclass(frozen=True, slots=True)
class Plan:
    """``survivors``: for each endpoint, in the order given, the subchannel that survives as it (None: a new one is needed).
    ``described``: by position, every endpoint that is new or that a survivor is described by from now on. ``removed``: the
    subchannels that no endpoint claims; they drain."""

    survivors: Sequence[Subchannel | None]
    described: dict[int, Endpoint]
    removed: tuple[Subchannel, ...]


def reconcile(current: Sequence[Subchannel], endpoints: Sequence[Endpoint], by_id: Mapping[int, Subchannel] | None = None) -> Plan:
    """Exact matches go first, so that an unknown uid never takes the subchannel of a pod that is listed by its own.

    ``by_id``: the current ones by the ids of their endpoints, from a caller who has that at hand.
    """
    if by_id is None:
        by_id = {id(sub.endpoint): sub for sub in current}
    survivors = list(map(by_id.get, map(id, endpoints)))
    placed = set(survivors)
    missing = survivors.count(None)
    if len(placed) - (None in placed) + missing < len(survivors):  # a set with repetitions
        survivors, placed = [None] * len(endpoints), set()
        missing = len(endpoints)
    if not missing and len(placed) == len(current):
        return Plan(survivors, {}, ())
    rest = [sub for sub in current if sub not in placed]
    changed = [position for position, survivor in enumerate(survivors) if survivor is None]
    return Plan(survivors, *_match(rest, endpoints, survivors, changed))


def _match(
    rest: Sequence[Subchannel], endpoints: Sequence[Endpoint], survivors: list[Subchannel | None], changed: Sequence[int]
) -> tuple[dict[int, Endpoint], tuple[Subchannel, ...]]:
    """Find a survivor for the changed positions among the rest: the descriptions there, and who is left."""
    left: dict[tuple[str, int, str], Subchannel] = {}
    twins = tuple([sub for sub in rest if left.setdefault(sub.endpoint.identity, sub) is not sub])
    for position in changed:
        survivors[position] = left.pop(endpoints[position].identity, None)
    if left:
        at_address: dict[tuple[str, int], list[Subchannel]] = {}
        for (host, port, _), sub in left.items():
            at_address.setdefault((host, port), []).append(sub)
        for position in changed:
            endpoint = endpoints[position]
            if survivors[position] is None:
                survivor = _adoptable(at_address.get((endpoint.host, endpoint.port), ()), endpoint)
                if survivor is not None:
                    survivors[position] = left.pop(survivor.endpoint.identity)
                    at_address[endpoint.host, endpoint.port].remove(survivor)
    described = {position: _described(survivors[position], endpoints[position]) for position in changed}
    return described, twins + tuple(left.values())


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
