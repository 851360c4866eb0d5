"""The discovery thread in virtual time: a ``Scheduler`` whose callbacks run in the test's thread, when the test says so.

::

    loop = ManualLoop()
    resolver = DnsResolver("orders.shop", 50051, scheduler=loop, ...)
    resolver.start(listener)
    loop.run_until_idle()      # what is due now
    loop.advance(30.0)         # everything due in the next 30 s, in order, each at its own time

Nothing is caught: a callback that raises fails the test. Blocking work runs at once, in the test's thread, unless ``hold_blocking``
is set; then it waits in ``held`` for ``release_blocking()``. Threads are not started: their ``run`` waits in ``threads`` for a test
that wants to run it, inline or in a thread of its own, and ``run_until()`` then waits, in real time, for what it posts.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
Callback = Callable[[], None]


class ManualTimer:
    """A pending callback; ``when_s`` is its virtual time."""

    __slots__ = ("_loop", "callback", "when_s")

    def __init__(self, loop: ManualLoop, when_s: float, callback: Callback) -> None:
        self._loop = loop
        self.when_s = when_s
        self.callback = callback

    def cancel(self) -> None:
        self._loop.forget(self)

    def __repr__(self) -> str:
        return f"<ManualTimer at {self.when_s:g} s {self.callback!r}>"


@dataclass(frozen=True, slots=True)
class ManualThread:
    """What ``start_thread`` was given."""

    name: str
    run: Callback


class ManualLoop:
    """Virtual time and a queue. ``advance`` and the ``run_…`` methods belong to one thread; the Scheduler's own to any."""

    def __init__(self, now_s: float = 0.0, *, hold_blocking: bool = False) -> None:
        self.hold_blocking = hold_blocking
        self.held: deque[Callback] = deque()
        self.threads: list[ManualThread] = []
        self._now_s = float(now_s)
        self._posted: queue.SimpleQueue[Callback] = queue.SimpleQueue()
        self._timers: list[ManualTimer] = []
        self._lock = threading.Lock()

    # -- Scheduler -----------------------------------------------------------------------------------------------------

    def now_s(self) -> float:
        return self._now_s

    def call_soon(self, callback: Callback, /) -> None:
        self._posted.put(callback)

    def call_later(self, delay_s: float, callback: Callback, /) -> ManualTimer:
        timer = ManualTimer(self, self._now_s + max(0.0, delay_s), callback)
        with self._lock:
            self._timers.append(timer)
            self._timers.sort(key=lambda pending: pending.when_s)  # stable: equal times keep their order
        return timer

    def run_blocking(
        self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None], /, *, may_hang: bool = False
    ) -> None:
        def job() -> None:
            try:
                result, error = work(), None
            except BaseException as raised:  # noqa: BLE001 - handed to whoever waits for the answer
                result, error = None, raised
            self.call_soon(lambda: done(result, error))

        if self.hold_blocking:
            self.held.append(job)
        else:
            job()

    def start_thread(self, name: str, run: Callback, /) -> None:
        self.threads.append(ManualThread(name, run))

    # -- the test's side -----------------------------------------------------------------------------------------------

    @property
    def timers(self) -> tuple[ManualTimer, ...]:
        """What is pending and not cancelled, soonest first."""
        with self._lock:
            return tuple(self._timers)

    def forget(self, timer: ManualTimer) -> None:
        with self._lock:
            if timer in self._timers:
                self._timers.remove(timer)

    def run_until_idle(self) -> None:
        """Run what was posted and what is due, and what they post in turn; virtual time stands still."""
        while self._run_posted() or self._run_due():
            pass

    def advance(self, delta_s: float) -> None:
        """Move on by ``delta_s`` >= 0 seconds; whatever falls due on the way runs at its own time."""
        if not 0 <= delta_s < float("inf"):
            raise ValueError(f"delta_s={delta_s!r}: must be a finite number >= 0")
        end_s = self._now_s + delta_s
        self.run_until_idle()
        while (timers := self.timers) and timers[0].when_s <= end_s:
            self._now_s = max(self._now_s, timers[0].when_s)
            self.run_until_idle()
        self._now_s = end_s

    def release_blocking(self, count: int | None = None) -> None:
        """Run the first ``count`` held jobs (all, if None), then everything that follows at this moment."""
        for _ in range(len(self.held) if count is None else count):
            self.held.popleft()()
        self.run_until_idle()

    def run_until(self, condition: Callable[[], Any], timeout_s: float = 5.0) -> None:
        """Run what other threads post until the condition holds; AssertionError after ``timeout_s`` of *real* time."""
        deadline_s = time.monotonic() + timeout_s
        self.run_until_idle()
        while not condition():
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0:
                raise AssertionError(f"not within {timeout_s:g} s: {condition!r}")
            try:
                callback = self._posted.get(timeout=min(remaining_s, 0.05))  # a condition may also change without a post
            except queue.Empty:
                continue
            callback()
            self.run_until_idle()

    def _run_posted(self) -> bool:
        ran = False
        while True:
            try:
                callback = self._posted.get_nowait()
            except queue.Empty:
                return ran
            callback()
            ran = True

    def _run_due(self) -> bool:
        with self._lock:
            if not self._timers or self._timers[0].when_s > self._now_s:
                return False
            timer = self._timers.pop(0)
        timer.callback()
        return True

    def __repr__(self) -> str:
        return f"<ManualLoop now_s={self._now_s:g} timers={len(self._timers)} held={len(self.held)} threads={len(self.threads)}>"
