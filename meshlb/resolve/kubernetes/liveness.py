"""What is known of the stream that is open: did it live, has it fallen silent, can it be read, does its order mean anything?

A stream lived if it carried an event or lasted ``SHORT_WATCH_S``; one in which nothing can be read never lived, however long it lasts.
What ended after it lived is opened again without a back-off, and after ``SHORT_WATCH_S`` (``CUT_WATCH_S`` if it was cut) without
costing anything of the pace: a proxy may cut every few seconds.

Once a bookmark came, a stream without a line for 150 s is dead: the server sends one about every minute.

Spec: client-go reflector.go (VeryShortWatch); apimachinery, bookmarks.
"""

from __future__ import annotations

from typing import Final

from meshlb.resolve.kubernetes.wire import Bookmark, Event, Passed, Removal, Unreadable

SHORT_WATCH_S: Final = 1.0
CUT_WATCH_S: Final = 5.0
SILENCE_S: Final = 150.0
NEVER: Final = float("inf")


class Liveness:
    """Of one stream after the other. Belongs to the discovery thread."""

    __slots__ = ("_bookmarks", "_heard_s", "_silence_s", "_spoke", "opened_s", "ordered", "readable")

    def __init__(self, silence_s: float) -> None:
        self.opened_s: float | None = None  # when the server accepted the stream
        self.readable: bool | None = None  # None: nothing came yet
        self.ordered = True  # its events are history, not the present state in arbitrary order
        self._silence_s = silence_s
        self._heard_s = 0.0
        self._spoke = False
        self._bookmarks = False  # this server sends them

    def opened(self, now_s: float) -> None:
        self.opened_s = self._heard_s = now_s
        self._spoke = False
        self.readable = None

    def closed(self) -> None:
        self.opened_s = None

    def heard(self, event: Event, now_s: float) -> None:
        self._heard_s = now_s
        self._bookmarks = self._bookmarks or isinstance(event, Bookmark)
        if isinstance(event, Unreadable):
            self.readable = self.readable or False
            return
        self.readable = True
        self._spoke = self._spoke or not isinstance(event, (Bookmark, Passed))
        self.ordered = self.ordered or isinstance(event, (Bookmark, Removal)) or getattr(event, "type", "") != "ADDED"

    def lived(self, now_s: float) -> bool:
        if self.opened_s is None or self.readable is False:
            return False
        return self._spoke or now_s - self.opened_s >= SHORT_WATCH_S

    def lasted(self, now_s: float, *, clean: bool) -> bool:
        """Did it live long enough to be opened again, however often?"""
        if not self.lived(now_s) or self.opened_s is None:
            return False
        return now_s - self.opened_s >= (SHORT_WATCH_S if clean else CUT_WATCH_S)

    def silent_for_s(self, now_s: float) -> float:
        """How long nothing was heard of a server that sends bookmarks; 0: that says nothing."""
        return now_s - self._heard_s if self.opened_s is not None and self._bookmarks else 0.0

    @property
    def silent_at_s(self) -> float:
        """When it is dead if nothing comes until then."""
        return self._heard_s + self._silence_s if self.opened_s is not None and self._bookmarks else NEVER
