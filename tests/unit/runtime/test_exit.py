"""What happens to loops at the end of the process, without a process to end; the real thing is in the integration tests."""

from __future__ import annotations

import threading
import time

from meshlb.runtime import exit as process_exit
from meshlb.runtime.loop import Loop


class Slow:
    """Ends in its own good time."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def end(self, *, exiting: bool) -> None:
        self.told.append(f"end exiting={exiting}")

    def join(self, timeout_s: float) -> None:
        self.told.append(f"join <= {process_exit.EXIT_WAIT_S}" if timeout_s <= process_exit.EXIT_WAIT_S else "join too long")
        threading.Event().wait(timeout_s)


def test_all_loops_together_wait_one_second() -> None:
    """Three that do not end cost one second in all, not three."""
    slow = [Slow() for _ in range(3)]
    for one in slow:
        process_exit.end_at_exit(one)
    start_s = time.monotonic()
    process_exit._end_all()
    assert time.monotonic() - start_s < 1.5
    assert all(one.told == ["end exiting=True", "join <= 1.0"] for one in slow)


def test_posts_during_the_exit_are_dropped_without_an_error() -> None:
    """Finalizers that run late have nobody to tell: every method does nothing, and starts no thread."""
    loop = Loop()
    loop.end(exiting=True)
    loop.call_soon(lambda: None)
    loop.call_later(0.0, lambda: None).cancel()
    loop.run_blocking(lambda: None, lambda result, error: None)
    loop.start_thread("late", lambda: None)
    assert not loop.alive
