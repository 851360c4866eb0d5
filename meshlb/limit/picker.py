"""A picker that leaves out endpoints which have as many live attempts as they may: those of unary calls and streams together.

The policy picks first, and as a rule what it picked has room. If not, it picks again among the others, as it would if the full ones had
been excluded; and if a policy cannot do that (what is excluded is avoided only while another is there), the least loaded with room is
taken. So a pick costs a look at two sets, and O(n) only when it met a full endpoint.

Whether there is room can change between this look and the attempt: ``pool.limited_view`` looks again when it has counted itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Subchannel


class Limited:
    """Immutable; any thread. None: all are full."""

    __slots__ = ("_inner", "_limit", "_subchannels")

    def __init__(self, inner: Picker, subchannels: Sequence[Subchannel], limit: int) -> None:
        self._inner = inner
        self._subchannels = subchannels
        self._limit = limit

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        picked = self._inner.pick(info, now_s)
        if picked is None or len(picked.unary) + len(picked.streams) < self._limit:
            return picked
        return self._with_room(info, now_s)

    def _with_room(self, info: PickInfo, now_s: float) -> Subchannel | None:
        limit = self._limit
        full = frozenset([sub for sub in self._subchannels if sub.in_flight >= limit])
        if len(full) == len(self._subchannels):
            return None
        excluding = [info.exclude | full, full] if info.exclude else [full]
        for exclude in excluding:
            picked = self._inner.pick(info.avoiding(exclude), now_s)
            if picked is not None and picked not in full:
                return picked
        return min((sub for sub in self._subchannels if sub not in full), key=_load)


def _load(subchannel: Subchannel) -> float:
    return subchannel.in_flight / max(subchannel.weight, 1e-9)
