"""The attempts of one call as one may ask for them afterwards: where each went, how it ended, and why it was made.

Made when something failed; a call that succeeds at once has none. Why an attempt was made, in words:

- ``first``: it is the call's first;
- ``probe``: the same, and it was sent to an ejected endpoint to see whether that serves again;
- ``never sent``: the one before certainly never left the client, so another endpoint gets it, whatever the method;
- ``wait_for_ready``: the same, after the call had gone back to waiting;
- ``idempotent``: the one before may have been processed, and the call was declared idempotent;
- ``code``: the one before ended with a code that the configuration names;
- ``pushback``: the server said when to try again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from meshlb.core.endpoint import Endpoint

if TYPE_CHECKING:
    from meshlb.core.subchannel import Attempt
    from meshlb.pool.pool import Pool

MAX_TOLD: Final = 8  # a call that waits for ever tells of its last attempts

FIRST: Final = "first"
PROBE: Final = "probe"
NEVER_SENT: Final = "never sent"
WAIT_FOR_READY: Final = "wait_for_ready"


class Tried(NamedTuple):
    """One attempt. ``ended``: the status' name (``UNAVAILABLE``), or ``never sent``; empty while it runs."""

    endpoint: Endpoint
    ended: str
    why: str

    def __str__(self) -> str:
        name = self.endpoint.name or self.endpoint.address
        return f"{name} {self.ended}" if self.why == FIRST else f"{name} ({self.why}) {self.ended}"


def why_first(pool: Pool, attempt: Attempt) -> str:
    """Why this attempt was made, which was its call's first."""
    return PROBE if pool.was_probe(attempt) else FIRST


class Story:
    """Of one call; used by one thread or task at a time. ``why``: what the next attempt, or at first this one, is made for."""

    __slots__ = ("_no_more", "_tried", "why")

    def __init__(self, why: str = FIRST) -> None:
        self._tried: list[Tried] = []
        self._no_more = ""
        self.why = why

    def tell(self, endpoint: Endpoint, ended: str, no_more: str = "") -> None:
        """An attempt ended; ``no_more``: why none follows, where that is not plain."""
        del self._tried[: -MAX_TOLD + 1]
        self._tried.append(Tried(endpoint, ended, self.why))
        self._no_more = no_more

    def attempts(self, endpoint: Endpoint | None = None, ended: str = "") -> tuple[Tried, ...]:
        """Those that were told of; and one more, if it is not among them."""
        told = tuple(self._tried)
        return told if endpoint is None else (*told, Tried(endpoint, ended, self.why))

    def __str__(self) -> str:
        """For the error that ends the call; empty where one attempt says all."""
        if len(self._tried) < 2 and not self._no_more:
            return ""
        return f"meshlb: {'; '.join(map(str, self._tried))}{f' (no more: {self._no_more})' if self._no_more else ''}"
