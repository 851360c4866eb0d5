"""Whom to pick when the picked endpoint has as many live attempts as it may: those of unary calls and streams together.

The policy picks first, and as a rule what it picked has room. Only if not, one comes here: it picks again among the others, as it would
if the full ones had been excluded; and if a policy cannot do that (what is excluded is avoided only while another is there), the least
loaded with room is taken. So a pick costs a look at two sets, and O(n) only when it met a full endpoint.

Whether there is room can change between this look and the attempt: ``pool.limited_view`` looks again when it has counted itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Subchannel


def pick_with_room(
    picker: Picker, subchannels: Sequence[Subchannel], limit: int, info: PickInfo, now_s: float
) -> Subchannel | None:
    """One of the subchannels, which are the picker's; None: all are full. Any thread."""
    full = frozenset([sub for sub in subchannels if sub.in_flight >= limit])
    if len(full) == len(subchannels):
        return None
    excluding = [info.exclude | full, full] if info.exclude else [full]
    for exclude in excluding:
        picked = picker.pick(info.avoiding(exclude), now_s)
        if picked is not None and picked.in_flight < limit:
            return picked
    return min((sub for sub in subchannels if sub not in full), key=_load)


def _load(subchannel: Subchannel) -> float:
    return subchannel.in_flight / max(subchannel.weight, 1e-9)
