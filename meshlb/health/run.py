"""How many attempts on one endpoint failed in a row, told by its total of successes: no success has to report.

``failed`` compares the total with that at the failure before: if it rose, the row was broken. Successes and failures that end at the
same moment are in the order in which they are counted.
"""

from __future__ import annotations

from meshlb.core.subchannel import Subchannel


class Run:
    """Not thread-safe, but for the total, which any thread raises."""

    __slots__ = ("_seen", "_sub", "length")

    def __init__(self, sub: Subchannel) -> None:
        self._sub = sub
        self._seen = sub.succeeded
        self.length = 0

    def failed(self) -> int:
        """One more; how many in a row it makes."""
        self.length = 1 if self.broken else self.length + 1
        self._seen = self._sub.succeeded
        return self.length

    @property
    def broken(self) -> bool:
        """A success came after the last failure."""
        return self._sub.succeeded != self._seen

    def reset(self) -> None:
        self.length = 0
        self._seen = self._sub.succeeded

    def __repr__(self) -> str:
        return f"<Run {0 if self.broken else self.length}>"
