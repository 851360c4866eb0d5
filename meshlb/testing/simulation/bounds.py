"""What no client can beat: the same calls, on the same servers, with somebody who sees everything.

``central_queue``: every worker of every server takes the next call from one line when it is free (late binding, M/G/n for equal servers);
of free workers the fastest begins. A pause holds up what is being worked on. For FIFO servers only: nobody waits in processor sharing.

``clairvoyant``: each call goes at once to where it will end first, by somebody who knows all sizes, what each server has to do, its speed,
and whether it is listed or fails, at that moment; not what will become of it (a pause that nobody foresees stays one). With processor
sharing it goes where it gets the largest part of a core at that moment.

Both send and hear over the same wires as clients do. For equal servers they are the same (join the least work is a central queue). With
unequal ones each has its weakness: a line sends long calls to slow servers, and who lets each call end as early as possible makes the
median wait for them.
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count

from meshlb.testing.simulation.course import Course, courses_of
from meshlb.testing.simulation.events import Events
from meshlb.testing.simulation.queues import Sharing
from meshlb.testing.simulation.scenario import Arrival, Scenario


def central_queue(scenario: Scenario, seed: int) -> list[float]:
    """Latencies of the calls that count, ascending."""
    return _Line(scenario, seed).run()


def clairvoyant(scenario: Scenario, seed: int) -> list[float]:
    """Latencies of the calls that count, ascending."""
    return _Shared(scenario, seed).run() if scenario.sharing else _foreseen(scenario, seed)


def _calls(scenario: Scenario, seed: int) -> list[Arrival]:
    return [arrival for arrival in scenario.arrivals(seed) if not arrival.stream]


def _foreseen(scenario: Scenario, seed: int) -> list[float]:
    courses = courses_of(scenario.servers, scenario.changes(seed))
    free = [[0.0] * scenario.workers for _ in courses]  # of each worker: how much its server has done by then
    took_s = []
    for arrival in _calls(scenario, seed):
        at_s, work_s = arrival.at_s + arrival.out_s, arrival.work_s
        best_s, chosen, ends = float("inf"), -1, 0.0
        for place, course in enumerate(courses):
            done_s = course.look(at_s)
            if course.usable and course.speed:
                end = max(free[place][0], done_s) + work_s
                if end - done_s < best_s * course.speed:
                    best_s, chosen, ends = (end - done_s) / course.speed, place, end
        if chosen < 0:  # nobody moves: where least is left to do
            chosen = min(range(len(courses)), key=lambda place: free[place][0] - courses[place].look(at_s))
            ends = max(free[chosen][0], courses[chosen].look(at_s)) + work_s
        heapreplace(free[chosen], ends)
        if arrival.at_s >= scenario.warm_up_s:
            took_s.append(courses[chosen].when(ends) + arrival.back_s - arrival.at_s)
    return sorted(took_s)


class _Line:
    """One line for all; what happens is an arrival, an end, or a change after which somebody may be able to begin."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        changes, order = scenario.changes(seed), count()
        self.warm_up_s = scenario.warm_up_s
        self.courses = courses_of(scenario.servers, changes)
        self.idle = dict.fromkeys(range(scenario.servers), scenario.workers)  # workers of those places that have idle ones
        self.line: deque[Arrival] = deque()
        self.took_s: list[float] = []
        self.order = order
        self.happens: list[tuple[float, int, Arrival | None, int]] = [
            (arrival.at_s + arrival.out_s, next(order), arrival, -1) for arrival in _calls(scenario, seed)
        ]
        self.happens += [(change.at_s, next(order), None, -1) for change in changes]
        heapify(self.happens)

    def run(self) -> list[float]:
        while self.happens:
            now_s, _, arrival, place = heappop(self.happens)
            if arrival is not None:
                self.line.append(arrival)
            elif place >= 0:
                self.idle[place] = self.idle.get(place, 0) + 1
            while self.line and self.idle and self._begin(now_s):
                pass
        return sorted(self.took_s)

    def _begin(self, now_s: float) -> bool:
        best, chosen, done_s = 0.0, -1, 0.0
        for place in self.idle:
            course: Course = self.courses[place]
            so_far_s = course.look(now_s)
            if course.usable and course.speed > best:
                best, chosen, done_s = course.speed, place, so_far_s
        if chosen < 0:
            return False
        arrival = self.line.popleft()
        self.idle[chosen] -= 1
        if not self.idle[chosen]:
            del self.idle[chosen]
        ends_s = self.courses[chosen].when(done_s + arrival.work_s)
        heappush(self.happens, (ends_s, next(self.order), None, chosen))
        if arrival.at_s >= self.warm_up_s:
            self.took_s.append(ends_s + arrival.back_s - arrival.at_s)
        return True


class _Shared:
    """Processor sharing: how long a call takes depends on those that come after it, so its servers are those of the simulation."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.events = Events()
        self.took_s: list[float] = []
        changes = scenario.changes(seed)
        self.courses = courses_of(scenario.servers, changes)
        self.queues = [Sharing(self.events, scenario.workers) for _ in self.courses]
        for queue in self.queues:
            queue.done = self._ended  # type: ignore[assignment]
        for change in changes:
            self.events.at(change.at_s, self._turn, change.server)
        for arrival in _calls(scenario, seed):
            self.events.at(arrival.at_s + arrival.out_s, self._arrive, arrival)

    def run(self) -> list[float]:
        self.events.run_until(float("inf"))
        return sorted(self.took_s)

    def _turn(self, place: int) -> None:
        self.courses[place].look(self.events.now_s())
        self.queues[place].set_speed(self.courses[place].speed)

    def _arrive(self, arrival: Arrival) -> None:
        now_s, cores, best, chosen = self.events.now_s(), self.scenario.workers, -1.0, 0
        for place, course in enumerate(self.courses):
            course.look(now_s)
            part = course.speed * min(1.0, cores / (len(self.queues[place]) + 1)) if course.usable else -1.0
            if part > best:
                best, chosen = part, place
        self.queues[chosen].add(arrival, arrival.work_s)

    def _ended(self, arrival: Arrival) -> None:
        if arrival.at_s >= self.scenario.warm_up_s:
            self.took_s.append(self.events.now_s() + arrival.back_s - arrival.at_s)
