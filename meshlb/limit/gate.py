"""A bounded number of places, and the queue of those who wait for one: first come, first served.

Who finds room pays for no lock and no queue (``call.entrance``): it adds a key of its own (its attempt) to the set of those inside and looks
again; who finds more than may be there takes itself out. So there are never more than ``places`` that stay. Only while somebody
waits is there more to do: then nobody passes, and a place that is given back goes to whoever has waited longest. That holds because
each step is an operation that is atomic by itself, and because whoever makes room looks at the queue afterwards, while whoever joins it
looks for room afterwards (``settle``).

A place in the queue is decided about once, by a store that only the first can make (``dict.setdefault``): it is given a turn, or it has
left. So two threads that settle at once, and a third that gives up in that moment, agree; and who is interrupted (a signal's handler may
raise between any two lines) leaves nothing that the next settling would not put right.

Leaving takes no lock and waits for nobody. It is idempotent, and may be called anywhere: by a finalizer too, in the middle of this code.
The lock is for those who join: how long the queue may be is exact.

Whoever gets a turn is told by its own ``wake``; if that says that nobody is there any more (an event loop that was closed), the turn
goes on to the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from meshlb.core.clock import Lock

Wake = Callable[[], bool]


class _Turn:
    """What a place has inside, once it may be there."""

    __slots__ = ("wake",)

    def __init__(self, wake: Wake) -> None:
        self.wake = wake


_LEFT: Final = _Turn(lambda: False)  # never inside


class Place:
    """One caller's; made before it enters, so that whatever interrupts that can be undone by ``leave``. Any thread."""

    __slots__ = ("_decided", "gate", "wake")

    def __init__(self, gate: Gate, wake: Wake) -> None:
        """``wake`` tells its owner that it may be held by now; from any thread. False: there is no owner any more."""
        self.gate = gate
        self._decided: dict[None, _Turn] = {}  # empty, or the one decision
        self.wake = wake

    @property
    def held(self) -> bool:
        """Its turn has come, and is not over."""
        return self._decided.get(None, _LEFT) is not _LEFT

    def leave(self) -> None:
        """Give it back, or stop waiting for it. Idempotent; anywhere."""
        decided, gate = self._decided, self.gate
        turn = decided.setdefault(None, _LEFT)
        gate.queue.pop(self, None)
        gate.leave(turn)
        decided[None] = _LEFT

    def __repr__(self) -> str:
        state = "held" if self.held else "left" if self._decided else "waiting" if self in self.gate.queue else "outside"
        return f"<Place {state}>"


class Gate:
    """See the module head. Any thread. ``inside`` and ``queue`` are looked at by those who are in a hurry; ``rejected`` is a total for
    ``status()``."""

    __slots__ = ("_lock", "inside", "places", "queue", "rejected")

    def __init__(self, places: int, lock: Lock) -> None:
        self.places = places
        self.rejected = 0
        self.inside: set[object] = set()
        self.queue: dict[Place, None] = {}
        self._lock = lock

    def enter(self, place: Place, max_waiting: int) -> bool:
        """A turn at once, or a place in the queue; False if ``max_waiting`` wait already. Once."""
        with self._lock:
            if not self.queue and self._decide(place, self.places):
                return True
            if len(self.queue) >= max_waiting:
                return False
            self.queue[place] = None
        self.settle()
        return True

    def leave(self, key: object) -> None:
        """Whoever is inside under this key goes. Idempotent; anywhere."""
        self.inside.discard(key)
        if self.queue:
            self.settle()

    def keep(self, key: object, place: Place) -> bool:
        """``place`` takes over from ``key``; False if that is not inside. Under the lock, so that nobody who joins counts both."""
        with self._lock:
            if key not in self.inside:
                return False
            self._decide(place, math.inf)
            try:
                self.inside.remove(key)
            except KeyError:  # it left in this moment, and its room was somebody's
                place.leave()
        self.leave(key)
        return place.held

    def settle(self) -> None:
        """Whoever has waited longest gets what room there is."""
        while (first := self._first()) is not None:
            if not first._decided:
                if len(self.inside) >= self.places:
                    return
                if not self._decide(first, self.places):
                    continue  # somebody else tried at the same moment, each in the other's way
            if first.held and not first.wake():
                self.inside.discard(first._decided.get(None, _LEFT))
                first._decided[None] = _LEFT
            self.queue.pop(first, None)

    def knock(self) -> None:
        """Wake those inside once more."""
        for turn in tuple(self.inside):
            if isinstance(turn, _Turn):
                turn.wake()

    @property
    def in_flight(self) -> int:
        return len(self.inside)

    @property
    def waiting(self) -> int:
        return len(self.queue)

    def _decide(self, place: Place, places: float) -> bool:
        """Give it a turn if there is room for it among so many; True: it is decided about, perhaps by somebody else."""
        turn, inside, decided = _Turn(place.wake), self.inside, place._decided
        try:
            inside.add(turn)
            if len(inside) <= places and decided.setdefault(None, turn) is turn:
                return True
            inside.discard(turn)
        except BaseException:
            if decided.get(None) is not turn:
                inside.discard(turn)
            raise
        return bool(decided)

    def _first(self) -> Place | None:
        while True:
            try:
                return next(iter(self.queue), None)
            except RuntimeError:  # somebody left it in between
                pass

    def __repr__(self) -> str:
        return f"<Gate {self.in_flight}/{self.places} waiting={self.waiting} rejected={self.rejected}>"
