"""Load reports out of band: what is asked of a connection, and when it is asked again after that ended; for threads and asyncio.

Spec: gRFC A51: UNIMPLEMENTED is final for its connection; anything else is tried again, at once if a report came, with back-off (gRPC's:
1 s, times 1.6, at most 120 s, +-20 %) if none did.
Deviations: "at once" is not before the interval is over, or a server that ends the stream after each report would be asked without end.
"""

from __future__ import annotations

import logging
from typing import Final

from grpc import StatusCode

from meshlb.core.clock import Rng
from meshlb.retry.backoff import Backoff

METHOD: Final = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics"

_BACKOFF: Final = Backoff(1.0, 120.0, 1.6, full_jitter=False)
_log = logging.getLogger("meshlb.grpc")


class Restarts:
    """Of one connection; whoever asks on it tells."""

    __slots__ = ("_failures", "_interval_s", "_opened_s", "due_s", "over", "since_s")

    def __init__(self, interval_s: float, since_s: float | None) -> None:
        self.since_s = since_s  # when the connection came up
        self.due_s = float("-inf")  # when to ask again
        self.over = False  # its server has no such service
        self._interval_s = interval_s
        self._failures = 0
        self._opened_s = 0.0

    def opened(self, now_s: float) -> None:
        self._opened_s = now_s
        self._failures += 1

    def heard(self) -> None:
        """A report came."""
        self._failures = 0

    def ended(self, code: StatusCode | None, target: str, address: str, now_s: float, rng: Rng) -> None:
        """``due_s`` says when to ask again."""
        if code is StatusCode.UNIMPLEMENTED:
            self.over = True
            self.due_s = float("inf")
            _log.warning("%s: %s has no %s, so nothing is known of its load (see weight.oob)", target, address, METHOD)
        elif self._failures:
            self.due_s = now_s + _BACKOFF.delay_s(self._failures, rng)
        else:
            self.due_s = max(self._opened_s + self._interval_s, now_s)
