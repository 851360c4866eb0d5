"""A bounded number of places, and the queue of those who wait for one: first come, first served.

A place that is given back goes straight to whoever has waited longest; nobody who comes later can take it in between. So the queue is
only ever there while all places are taken, and "who is next" is decided under one short lock, in O(1), also when somebody leaves from the
middle of the queue. Whoever gets a place is told outside the lock, by its own ``wake``; if that says that nobody is there any more (an
event loop that was closed), the place goes on to the next.

Who leaves must say so, whatever ended it: ``Place.leave`` is idempotent, gives the place back or the turn up, and costs nobody else his.
It must not be called by a finalizer, which may run inside this very lock: those let another thread do it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from meshlb.core.clock import Lock

Wake = Callable[[], bool]

_OUTSIDE: Final = 0
_WAITING: Final = 1
_HELD: Final = 2


class Place:
    """One caller's; made before it enters, so that whatever interrupts that can be undone by ``leave``. Any thread."""

    __slots__ = ("_state", "gate", "wake")

    def __init__(self, gate: Gate, wake: Wake) -> None:
        """``wake`` tells its owner that it may be held by now; from any thread. False: there is no owner any more."""
        self.gate = gate
        self._state = _OUTSIDE
        self.wake = wake

    def enter(self, max_waiting: int) -> bool:
        """Take a place, or one in the queue; False if ``max_waiting`` wait already. Once."""
        return self.gate._enter(self, max_waiting)

    @property
    def held(self) -> bool:
        """Its turn has come."""
        return self._state == _HELD

    def leave(self) -> None:
        """Give it back, or stop waiting for it. Idempotent."""
        self.gate.leave(self)

    def __repr__(self) -> str:
        return f"<Place {('outside', 'waiting', 'held')[self._state]}>"


class Gate:
    """See the module head. Thread-safe. ``rejected`` is a total for ``status()``."""

    def __init__(self, places: int, lock: Lock) -> None:
        self.places = places
        self.rejected = 0
        self._lock = lock
        self._inside: set[Place] = set()
        self._queue: dict[Place, None] = {}

    def knock(self) -> None:
        """Wake those inside once more."""
        for place in tuple(self._inside):
            place.wake()

    @property
    def open(self) -> bool:
        """Nobody is inside, and so nobody waits."""
        return not self._inside

    @property
    def in_flight(self) -> int:
        return len(self._inside)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def enter_now(self, place: Place) -> bool:
        """A place for this one if one is free and nobody waits; False: it is as it was."""
        with self._lock:
            if self._queue or len(self._inside) >= self.places:
                return False
            place._state = _HELD
            self._inside.add(place)
        return True

    # A signal's handler may raise between any two lines: what was begun is undone by ``leave`` whichever they are.

    def _enter(self, place: Place, max_waiting: int) -> bool:
        with self._lock:
            if len(self._inside) < self.places and not self._queue:
                place._state = _HELD
                self._inside.add(place)
            elif len(self._queue) < max_waiting:
                place._state = _WAITING
                self._queue[place] = None
            else:
                return False
        return True

    def leave(self, place: Place) -> None:
        """``Place.leave``, for those who leave by the thousand."""
        if place._state == _OUTSIDE:
            return
        with self._lock:
            self._inside.discard(place)
            if not self._queue:
                place._state = _OUTSIDE
                return
            heirs = self._heirs_locked(place)
        while heirs:
            heir = heirs.pop(0)
            if not heir.wake():
                with self._lock:
                    self._inside.discard(heir)
                    heirs.extend(self._heirs_locked(heir))

    def _heirs_locked(self, place: Place) -> list[Place]:
        """Those who hold a place now that this one does not."""
        heirs: list[Place] = []
        self._queue.pop(place, None)
        while self._queue and len(self._inside) < self.places:
            heir = next(iter(self._queue))
            heir._state = _HELD
            self._inside.add(heir)
            del self._queue[heir]
            heirs.append(heir)
        place._state = _OUTSIDE  # the last: who is interrupted before leaves once more
        return heirs

    def __repr__(self) -> str:
        return f"<Gate {self.in_flight}/{self.places} waiting={self.waiting} rejected={self.rejected}>"
