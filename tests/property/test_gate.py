"""The queue at a limit against a model that is a list: first come, first served, nobody lost, nobody twice, nothing left over."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import meshlb.limit.gate
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
            assert gate.enter(caller.place, max_waiting) == model.enter(caller)
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
            assert gate.enter(place, 100)
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


class Quick:
    """One that found room, and is inside under a key of its own."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        gate.inside.add(self)

    @property
    def held(self) -> bool:
        return self in self._gate.inside

    def leave(self) -> None:
        self._gate.leave(self)


def _with_one_inside_and_two_waiting() -> tuple[Gate, list[str], dict[str, Any]]:
    gate, told = Gate(1, threading.Lock()), list[str]()

    def wake_of(name: str) -> Callable[[], bool]:
        def wake() -> bool:
            told.append(name)
            return True

        return wake

    places: dict[str, Any] = {name: Place(gate, wake_of(name)) for name in ("first", "second", "late")}
    places["inside"] = Quick(gate)
    for name in ("first", "second"):
        assert gate.enter(places[name], 10)
    return gate, told, places


ACTS: dict[str, Callable[[Gate, dict[str, Any]], object]] = {
    "enter": lambda gate, places: gate.enter(places["late"], 10),
    "leave": lambda gate, places: places["inside"].leave(),
    "give up": lambda gate, places: places["first"].leave(),
    "take over": lambda gate, places: gate.keep(places["inside"], places["late"]),
}


def _run(act: Callable[[], object], at: int, finalizer: Callable[[], object]) -> bool:
    """``act``, with the collector running a finalizer before the ``at``-th line of the gate; False: it was over before. In a thread of its
    own, which would hang for ever with a lock that it holds."""
    left = at

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != meshlb.limit.gate.__file__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                sys.settrace(None)
                finalizer()
        return trace

    def run() -> None:
        sys.settrace(trace)
        act()
        sys.settrace(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10.0)
    assert not thread.is_alive(), "it waits for itself"
    return left <= 0


@pytest.mark.parametrize("name", ["inside", "first", "second"])
@pytest.mark.parametrize("act", ACTS)
def test_a_place_may_be_left_by_a_finalizer_in_the_middle_of_this_very_code(act: str, name: str) -> None:
    """Before any line of it, inside the lock too: nobody hangs, and each place that comes free is somebody's."""
    at, ran = 1, True
    while ran:
        gate, told, places = _with_one_inside_and_two_waiting()
        ran = _run(lambda: ACTS[act](gate, places), at, lambda: places[name].leave())  # noqa: B023 - called at once
        for _ in range(4):
            held = [other for other, place in places.items() if place.held]
            assert len(held) == gate.in_flight <= 1, at
            assert bool(held) or not gate.waiting, at
            assert set(held) <= {"inside", "late", *told}, at
            for other in held:
                places[other].leave()
        assert (gate.in_flight, gate.waiting) == (0, 0), at
        at += 1
    assert at > 5


def test_no_more_wait_than_may_whoever_comes_in_between() -> None:
    """A second one comes at any line of the first one's way into the last place of the queue: one of them is refused."""
    for at in range(1, 12):
        gate = Gate(1, threading.Lock())
        Quick(gate)
        places = [Place(gate, lambda: True) for _ in range(2)]
        entered = list[bool]()

        def enter(number: int, gate: Gate = gate, places: list[Place] = places, entered: list[bool] = entered) -> None:
            entered.append(gate.enter(places[number], 1))

        second = threading.Thread(target=enter, args=(1,))

        def come(second: threading.Thread = second) -> None:
            second.start()
            second.join(0.02)  # it may have to wait

        if not _run(lambda: enter(0), at, come):
            assert at > 4
            break
        second.join(10.0)
        assert (sorted(entered), gate.waiting) == ([False, True], 1), at
