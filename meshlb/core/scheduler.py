"""The discovery thread as its users see it: a clock, timers, and places where blocking reads may run.

Everything that decides runs on one thread, so it needs no locks; everything that blocks runs elsewhere and reports back by
``call_soon``. ``meshlb.runtime`` has the real one, ``meshlb.testing`` one whose time the test moves by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Timer(Protocol):
    def cancel(self) -> None:
        """The callback will not run any more; may be called twice, and after it ran."""
        ...


class Scheduler(Protocol):
    """Callable from any thread, except that callbacks run on the discovery thread, one at a time."""

    def now_s(self) -> float: ...

    def call_soon(self, callback: Callable[[], None], /) -> None: ...

    def call_later(self, delay_s: float, callback: Callable[[], None], /) -> Timer: ...

    def run_blocking(
        self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None], /, *, may_hang: bool = False
    ) -> None:
        """Run a short blocking read (a look-up, a file) in a shared helper thread; ``done`` hears its result or its error.

        ``may_hang``: it may block for tens of seconds; such reads never take all the helpers.
        """
        ...

    def start_thread(self, name: str, run: Callable[[], None], /) -> None:
        """Run a long blocking reader (a watch stream) in a daemon thread of its own, named ``meshlb-<name>``."""
        ...
