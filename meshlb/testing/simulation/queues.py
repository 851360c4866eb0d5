"""What a server does with the requests it has: first come first served by a few workers, or all at once by shared cores.

A queue knows work and speed, not time-outs, networks or faults. ``speed`` may change at any moment; at 0 nothing moves and nothing is
lost. Exact, not in steps: work done is added up whenever the speed or the number of requests changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

from meshlb.testing.simulation.events import Events


class Queue(Protocol):
    """Where requests wait and are worked on; ``done`` is called with each that is finished."""

    done: Callable[[Hashable], None]

    def add(self, request: Hashable, work_s: float) -> None: ...

    def abandon(self, request: Hashable) -> None:
        """Its client has gone: work that has not begun need not begin. What a worker has begun it finishes, as a Python handler does."""
        ...

    def set_speed(self, speed: float) -> None: ...

    def clear(self) -> None:
        """The process is gone, with all that it had."""
        ...

    def __len__(self) -> int:
        """How many are here, waiting or being worked on."""
        ...


def _nobody(request: Hashable) -> None:
    """Until a server takes the queue over."""


class Fifo:
    """``workers`` of them, each with one request at a time; the others wait in their order (M/M/c with exponential work)."""

    def __init__(self, events: Events, workers: int) -> None:
        self.done: Callable[[Hashable], None] = _nobody
        self._events = events
        self._idle = workers
        self._speed = 1.0
        self._line: deque[tuple[Hashable, float]] = deque()
        self._waiting: set[Hashable] = set()  # those of the line that have not gone away
        self._left_s: dict[Hashable, tuple[float, float]] = {}  # being worked on: work left at that time
        self._epoch = 0  # of the speed: an end that was foreseen with another one is none

    def add(self, request: Hashable, work_s: float) -> None:
        self._line.append((request, work_s))
        self._waiting.add(request)
        self._begin()

    def abandon(self, request: Hashable) -> None:
        self._waiting.discard(request)

    def set_speed(self, speed: float) -> None:
        now_s, old = self._events.now_s(), self._speed
        self._speed = speed
        self._epoch += 1
        for request, (left_s, since_s) in list(self._left_s.items()):
            self._work_on(request, left_s - (now_s - since_s) * old)
        self._begin()

    def clear(self) -> None:
        self._idle += len(self._left_s)
        self._line.clear()
        self._waiting.clear()
        self._left_s.clear()
        self._epoch += 1

    def __len__(self) -> int:
        return len(self._waiting) + len(self._left_s)

    def _begin(self) -> None:
        while self._waiting and self._idle:
            request, work_s = self._line.popleft()
            if request in self._waiting:
                self._waiting.remove(request)
                self._idle -= 1
                self._work_on(request, work_s)

    def _work_on(self, request: Hashable, left_s: float) -> None:
        self._left_s[request] = (left_s, self._events.now_s())
        if self._speed > 0.0:
            self._events.after(left_s / self._speed, self._end, request, self._epoch)

    def _end(self, request: Hashable, epoch: int) -> None:
        if epoch != self._epoch or request not in self._left_s:
            return
        del self._left_s[request]
        self._idle += 1
        self._begin()
        self.done(request)


class Sharing:
    """Processor sharing: n requests get min(1, cores / n) of a core each, however many they are (M/G/1-PS with one core).

    All that are here have been given the same amount of work since they came, so each ends when that amount has risen by its own work:
    a heap of these ends, and one event for the first of them.
    """

    def __init__(self, events: Events, cores: int) -> None:
        self.done: Callable[[Hashable], None] = _nobody
        self._events = events
        self._cores = cores
        self._speed = 1.0
        self._given_s = 0.0  # to each of them, up to ``_since_s``
        self._since_s = 0.0
        self._ends: list[tuple[float, int, Hashable]] = []
        self._here: set[Hashable] = set()
        self._order = count()
        self._epoch = 0

    def add(self, request: Hashable, work_s: float) -> None:
        self._pass()
        self._here.add(request)
        heappush(self._ends, (self._given_s + work_s, next(self._order), request))
        self._foresee()

    def abandon(self, request: Hashable) -> None:
        """It has begun already."""

    def set_speed(self, speed: float) -> None:
        self._pass()
        self._speed = speed
        self._foresee()

    def clear(self) -> None:
        self._here.clear()
        self._ends.clear()
        self._epoch += 1

    def __len__(self) -> int:
        return len(self._here)

    @property
    def _rate(self) -> float:
        return self._speed * min(1.0, self._cores / len(self._here)) if self._here else 0.0

    def _pass(self) -> None:
        now_s = self._events.now_s()
        self._given_s += (now_s - self._since_s) * self._rate
        self._since_s = now_s

    def _foresee(self) -> None:
        self._epoch += 1
        rate = self._rate
        if rate > 0.0:
            self._events.after((self._ends[0][0] - self._given_s) / rate, self._end, self._epoch)

    def _end(self, epoch: int) -> None:
        if epoch != self._epoch:
            return
        self._pass()
        self._given_s, _, request = heappop(self._ends)  # exactly: rounding must not leave a remainder of nothing
        self._here.remove(request)
        self._foresee()
        self.done(request)
