"""The picker over nobody or over one, for every policy: there is nothing to choose."""

from __future__ import annotations

from collections.abc import Sequence

from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Subchannel


class FewPicker:
    """At most one subchannel. It is picked even where it is to be avoided: no other is there."""

    __slots__ = ("_only",)

    def __init__(self, subchannels: Sequence[Subchannel]) -> None:
        self._only = subchannels[0] if subchannels else None

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        return self._only
