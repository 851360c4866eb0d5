"""Does this API server have streaming lists? Assumed until it says no, and again after a while.

A server that does not know them refuses the request, or accepts it and never marks the end of the list; so does one that sends nonsense,
and one of several replicas that is older than the others. Asking again costs a list ``stream.MARK_S`` at most, and lists are rare: the
first, and those after a lost place in history. So one bad answer costs ``AGAIN_S`` without them, not the life of the process.

Spec: KEP-3157.
"""

from __future__ import annotations

from typing import Final

from meshlb.resolve.kubernetes.transport import ApiError

AGAIN_S: Final = 3600.0
# How a server says that it knows none: validation, or a proxy that lets only known parameters through.
_REFUSALS: Final = frozenset({400, 405, 406, 415, 422, 501})


class StreamingLists:
    """Of one server; shared by all streams to it. Belongs to the discovery thread, ``available`` to any."""

    __slots__ = ("_again_s",)

    def __init__(self, wanted: bool = True) -> None:
        self._again_s = float("-inf") if wanted else float("inf")

    def available(self, now_s: float) -> bool:
        return now_s >= self._again_s

    def refused(self, error: ApiError, now_s: float) -> bool:
        """Does this answer mean that it has none?"""
        if error.refusal is None or error.refusal.code not in _REFUSALS:
            return False
        self.missing(now_s)
        return True

    def missing(self, now_s: float) -> None:
        """It has none: the end of a list was not marked in time."""
        self._again_s = max(self._again_s, now_s + AGAIN_S)
