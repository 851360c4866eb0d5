"""What pickers that draw by weight have in common: the draw over their subchannels, and where those stand that are to be avoided."""

from __future__ import annotations

from collections.abc import Sequence

from meshlb.balance.draw import Draw
from meshlb.core.clock import Rng
from meshlb.core.subchannel import Subchannel


class DrawingPicker:
    """n >= 1 subchannels; ``weights`` are relative, None means that all are 1."""

    __slots__ = ("_draw", "_position_of", "_subchannels")

    def __init__(self, subchannels: Sequence[Subchannel], weights: Sequence[float] | None, rng: Rng) -> None:
        self._subchannels = tuple(subchannels)
        self._draw = Draw(len(subchannels), weights, rng.random)
        self._position_of: dict[Subchannel, int] = {}  # made when first somebody is to be avoided

    def _positions(self, subchannels: frozenset[Subchannel]) -> list[int]:
        """Where these stand, ascending; those that are not ours are nowhere."""
        if not self._position_of:
            self._position_of = {sub: at for at, sub in enumerate(self._subchannels)}
        return sorted([at for sub in subchannels if (at := self._position_of.get(sub)) is not None])
