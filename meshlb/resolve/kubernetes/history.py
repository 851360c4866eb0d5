"""Where in the server's history a stream is, and which version a list asks for.

What is listed at: version ``0`` (any, from the server's cache) when nothing is known; then the newest version that any service was told
of, even if the watch resumes from before it: the answer must not be older; ``""`` (the most recent, consistent) after the server called
a version too old or too new. Only such an answer may be older than ours: then the server's history is another one (restored from a
backup), and all services are listed again.

Spec: reference section 3.2; versions are compared only where 1.35's rule allows it (``versions``).
"""

from __future__ import annotations

from meshlb.resolve.kubernetes.versions import comparable, is_older, later


class History:
    """Of one stream. Belongs to the discovery thread.

    ``place``: what the next watch begins after. ``consistent``: the next list asks for the most recent state.
    """

    __slots__ = ("_known_when_listing", "_newest", "consistent", "place")

    def __init__(self) -> None:
        self.place = ""
        self.consistent = False
        self._newest = ""  # that anybody was told of
        self._known_when_listing = ""  # what a consistent answer must not be older than: the watch goes on meanwhile

    def version_to_list(self, *, joining: bool) -> str:
        """``joining``: others are covered, and their watch goes on from ``place``."""
        self._known_when_listing = self._newest
        return "" if self.consistent else (self.place if joining else self._newest) or "0"

    def listed(self, version: str, asked: str, *, joining: bool) -> bool:
        """A list came that is not older than what it ``asked`` for. False: ``place`` says nothing for those who were covered before."""
        self.consistent = False
        restored = not asked and is_older(version, self._known_when_listing)
        self._newest = version if restored else later(self._newest, version)
        if joining and comparable(version) and comparable(self.place) and not restored:
            self.place = version if is_older(version, self.place) else self.place  # so that neither side misses anything
            return True
        self.place = version
        return False

    def told(self, version: str, *, complete: bool) -> None:
        """An event has this version. ``complete``: of all that is covered, so that a watch may begin after it."""
        self._newest = later(self._newest, version)
        if version and complete and not is_older(version, self.place):
            self.place = version
