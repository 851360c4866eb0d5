"""What wakes one thread: its turn has come, or anything it waits for may have changed.

Whoever waits clears it first and then looks, so that nothing is missed between the two; a signal's handler may raise out of the wait.
"""

from __future__ import annotations

import threading


class Bell:
    """Any thread may ring."""

    def __init__(self) -> None:
        self._rung = threading.Event()

    def clear(self) -> None:
        """From here on it has not rung."""
        self._rung.clear()

    def wait(self, timeout_s: float | None) -> None:
        """Until it rings, at most so long; None: without limit."""
        self._rung.wait(None if timeout_s is None else min(max(timeout_s, 0.0), threading.TIMEOUT_MAX))

    def ring(self) -> bool:
        """True: whoever waits is there to hear it."""
        self._rung.set()
        return True

    def changed(self) -> None:
        """The same, for those who only tell of changes."""
        self._rung.set()
