"""The queue at a limit against a model that is a list: first come, first served, nobody lost, nobody twice, nothing left over."""

from __future__ import annotations

import random
import threading

import hypothesis.strategies as st
from hypothesis import given, settings

from meshlb.limit.gate import Gate, Place

EVENTS = st.lists(
    st.one_of(
        st.just(("enter", 0)),
        st.tuples(st.sampled_from(["leave", "leave_waiting", "vanish", "leave_again"]), st.integers(0, 30)),
    ),
    max_size=120,
)


class Caller:
    """One that waits for its place, and may be gone when it is told."""

    def __init__(self, gate: Gate, told: list[Caller]) -> None:
        self.place = Place(gate, self._wake)
        self.there = True
        self._told = told

    def _wake(self) -> bool:
        self._told.append(self)
        return self.there


class Model:
    """All that the gate should know, as plainly as it can be said."""

    def __init__(self, places: int, max_waiting: int) -> None:
        self.places, self.max_waiting = places, max_waiting
        self.inside: list[Caller] = []
        self.queue: list[Caller] = []
        self.told: list[Caller] = []

    def enter(self, caller: Caller) -> bool:
        if len(self.inside) < self.places:
            self.inside.append(caller)
        elif len(self.queue) < self.max_waiting:
            self.queue.append(caller)
        else:
            return False
        return True

    def leave(self, caller: Caller) -> None:
        for known in (self.inside, self.queue):
            if caller in known:
                known.remove(caller)
        while self.queue and len(self.inside) < self.places:
            heir = self.queue.pop(0)
            self.told.append(heir)
            if heir.there:
                self.inside.append(heir)


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 4), st.integers(0, 6), EVENTS)
def test_it_does_what_a_list_would(places: int, max_waiting: int, events: list[tuple[str, int]]) -> None:
    """After every step: who is inside, who waits, who was told and in which order; at the end nobody is left."""
    gate, model, told = Gate(places, threading.Lock()), Model(places, max_waiting), list[Caller]()
    everybody: list[Caller] = []
    for what, number in events:
        if what == "enter":
            caller = Caller(gate, told)
            everybody.append(caller)
            assert caller.place.enter(max_waiting) == model.enter(caller)
        elif what == "vanish" and model.queue:
            model.queue[number % len(model.queue)].there = False
        elif what in ("leave", "leave_waiting"):
            among = model.inside if what == "leave" else model.queue
            if among:
                caller = among[number % len(among)]
                model.leave(caller)
                caller.place.leave()
        elif what == "leave_again" and everybody:
            gone = [caller for caller in everybody if caller not in model.inside and caller not in model.queue]
            if gone:
                gone[number % len(gone)].place.leave()
        assert told == model.told
        assert [caller for caller in everybody if caller.place.held] == [caller for caller in everybody if caller in model.inside]
        assert (gate.in_flight, gate.waiting) == (len(model.inside), len(model.queue))
        assert gate.in_flight <= places
        assert gate.waiting <= max_waiting
        assert not (gate.waiting and gate.in_flight < places)
        assert gate.open == (not model.inside)
    for caller in everybody:
        caller.place.leave()
    assert (gate.in_flight, gate.waiting) == (0, 0)


def test_threads_that_come_wait_give_up_and_go_lose_nobody() -> None:
    """Never more inside than there are places; everybody is served or gave up; nothing is left at the end."""
    seed = random.randrange(2**32)
    print(f"seed={seed}")
    gate, inside, most = Gate(3, threading.Lock()), list[int](), list[int]()
    served, gave_up = list[int](), list[int]()

    def one(number: int) -> None:
        rng = random.Random(seed + number)
        for turn in range(60):
            rung = threading.Event()

            def ring(rung: threading.Event = rung) -> bool:
                rung.set()
                return True

            place = Place(gate, ring)
            assert place.enter(100)
            patience_s = rng.choice([0.0, 0.001, 30.0])
            if place.held or rung.wait(patience_s):
                assert place.held
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)
                served.append(turn)
            else:
                gave_up.append(turn)
            place.leave()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
        assert not thread.is_alive(), "somebody was never told"
    assert len(served) + len(gave_up) == 8 * 60
    assert max(most) <= 3
    assert (gate.in_flight, gate.waiting) == (0, 0)
