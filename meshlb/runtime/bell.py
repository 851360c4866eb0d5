"""What wakes one thread: its turn has come, or anything it waits for may have changed.

Whoever waits clears it first and then looks, so that nothing is missed between the two; a signal's handler may raise out of the wait.

A lock that is free when it has rung, and not an event: those take a lock of their own in Python code, in the middle of which a finalizer
may run, in the same thread, that gives somebody's place to whoever waits here.
"""

from __future__ import annotations

import contextlib
import threading


class Bell:
    """One thread waits; any may ring, and a finalizer anywhere."""

    def __init__(self) -> None:
        self._silent = threading.Lock()  # held until it rings

    def clear(self) -> None:
        """From here on it has not rung."""
        self._silent.acquire(False)

    def wait(self, timeout_s: float | None) -> None:
        """Until it rings, at most so long; None: without limit."""
        self._silent.acquire(True, -1 if timeout_s is None else min(max(timeout_s, 0.0), threading.TIMEOUT_MAX))

    def ring(self) -> bool:
        """True: whoever waits is there to hear it."""
        with contextlib.suppress(RuntimeError):  # it has rung already
            self._silent.release()
        return True

    def changed(self) -> None:
        """The same, for those who only tell of changes."""
        self.ring()
