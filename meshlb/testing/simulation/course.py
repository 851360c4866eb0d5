"""What each place in the fleet will do, foreseen from the changes of a run: for the bounds, which need no events to know when work ends."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from meshlb.testing.simulation.changes import SPEEDS, Change, What


class Course:
    """Of one place. What is *done* by a time is the work that one worker could have done by then: the integral of the speed. ``look``
    goes forward only."""

    def __init__(self) -> None:
        self.speed = 1.0
        self.usable = True
        self._times, self._speeds, self._done = [0.0], [1.0], [0.0]
        self._usable: list[tuple[float, bool]] = []
        self._at = 0  # in ``_times``
        self._next = 0  # in ``_usable``

    def turn(self, at_s: float, speed: float) -> None:
        """It has this speed from then on; in the order of time."""
        self._done.append(self._done[-1] + (at_s - self._times[-1]) * self._speeds[-1])
        self._times.append(at_s)
        self._speeds.append(speed)

    def open(self, at_s: float, usable: bool) -> None:
        """Whether it can be sent anything from then on; in the order of time."""
        self._usable.append((at_s, usable))

    def look(self, now_s: float) -> float:
        """Let ``speed`` and ``usable`` be those of that time; how much is done."""
        times, at = self._times, self._at
        while at + 1 < len(times) and times[at + 1] <= now_s:
            at += 1
            self.speed, self._at = self._speeds[at], at
        while self._next < len(self._usable) and self._usable[self._next][0] <= now_s:
            self.usable = self._usable[self._next][1]
            self._next += 1
        return self._done[at] + (now_s - times[at]) * self.speed

    def when(self, done_s: float) -> float:
        """The moment at which so much will be done."""
        at = bisect_right(self._done, done_s) - 1
        speed = self._speeds[at]
        return self._times[at] + ((done_s - self._done[at]) / speed if speed else 0.0)


def courses_of(servers: int, changes: Sequence[Change]) -> list[Course]:
    """Of all places. Who fails, if only sometimes, can be sent nothing as long as another does not; where all fail, failing is nobody's
    fault, and the bounds know none."""
    courses = [Course() for _ in range(servers)]
    listed, failing, before = [True] * servers, [0.0] * servers, [True] * servers
    for change in changes:
        place, what = change.server, change.what
        if what in SPEEDS:
            courses[place].turn(change.at_s, change.value)
        if what is What.FAILING:
            failing[place] = change.value
        elif what is not What.SPEED:
            listed[place] = what is not What.LEAVE
        usable = [here and not fails for here, fails in zip(listed, failing, strict=True)]
        if not any(usable):
            usable = listed[:]
        for at in range(servers):
            if usable[at] is not before[at]:
                courses[at].open(change.at_s, usable[at])
        before = usable
    return courses
