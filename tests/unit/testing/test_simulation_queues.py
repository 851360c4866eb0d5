"""The simulated servers against closed forms, and exactly against what can be reckoned by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable

import pytest

from meshlb.testing.simulation import constant, exponential, lognormal, mixed
from meshlb.testing.simulation.events import Events
from meshlb.testing.simulation.queues import Fifo, Queue, Sharing
from meshlb.testing.simulation.work import Work
from tests.picking import seeded

MEAN_S = 0.01


class Run:
    """Poisson arrivals: the mean sojourn, and the mean work and utilisation that chance made of those asked for (else that would be most
    of the error)."""

    def __init__(self, new_queue: Callable[[Events], Queue], work: Work, rho: float, servers: int, calls: int = 200_000) -> None:
        rng, events, took_s, began_s, drawn_s = seeded(), Events(), [], {}, []
        queue = new_queue(events)
        queue.done = lambda request: took_s.append(events.now_s() - began_s.pop(request))

        def arrive(number: int) -> None:
            began_s[number] = events.now_s()
            drawn_s.append(work(rng))
            queue.add(number, drawn_s[-1])
            self.length_s = events.now_s()
            if number < calls:
                events.after(rng.expovariate(rho * servers / MEAN_S), arrive, number + 1)

        arrive(1)
        events.run_until(1e9)
        assert len(queue) == 0
        self.sojourn_s = sum(took_s) / calls
        self.work_s = sum(drawn_s) / calls
        self.servers = servers
        self.rho = sum(drawn_s) / (self.length_s * servers)


def erlang_s(run: Run) -> float:
    """Mean sojourn in M/M/c."""
    c, load = run.servers, run.servers * run.rho
    last = load**c / math.factorial(c) / (1.0 - run.rho)
    waits = last / (sum(load**k / math.factorial(k) for k in range(c)) + last)
    return run.work_s * (1.0 + waits / (c * (1.0 - run.rho)))


@pytest.mark.parametrize(("servers", "rho"), [(1, 0.5), (1, 0.7), (4, 0.8), (20, 0.9)])
def test_a_fifo_queue_is_m_m_c(servers: int, rho: float) -> None:
    """Mean sojourn within 2 % of Erlang's."""
    run = Run(lambda events: Fifo(events, servers), exponential(MEAN_S), rho, servers)
    assert run.sojourn_s == pytest.approx(erlang_s(run), rel=0.02)


@pytest.mark.parametrize(
    "work", [constant(MEAN_S), exponential(MEAN_S), lognormal(MEAN_S)], ids=["constant", "exponential", "lognormal"]
)
def test_processor_sharing_does_not_care_how_work_is_distributed(work: Work) -> None:
    """M/G/1-PS: mean sojourn is S / (1 - rho) for any of them, within 2 %."""
    run = Run(lambda events: Sharing(events, 1), work, 0.6, 1)
    assert run.sojourn_s == pytest.approx(run.work_s / (1.0 - run.rho), rel=0.02)


def test_sharing_several_cores_with_exponential_work_is_m_m_c() -> None:
    """Who shares does not matter to the number that are there, if work has no memory."""
    run = Run(lambda events: Sharing(events, 4), exponential(MEAN_S), 0.8, 4)
    assert run.sojourn_s == pytest.approx(erlang_s(run), rel=0.02)


@pytest.mark.parametrize(
    ("work", "mean_s"),
    [(lognormal(0.02), 0.02), (mixed((0.95, constant(0.01)), (0.05, constant(0.2))), 0.0195)],
    ids=["lognormal", "mixed"],
)
def test_work_has_the_mean_that_it_says(work: Work, mean_s: float) -> None:
    """Within 2 %."""
    rng = seeded()
    assert sum(work(rng) for _ in range(100_000)) / 100_000 == pytest.approx(mean_s, rel=0.02)


class Ends:
    """When each request of a queue was finished."""

    def __init__(self, new_queue: Callable[[Events], Queue]) -> None:
        self.events = Events()
        self.queue = new_queue(self.events)
        self.at_s: dict[Hashable, float] = {}
        self.queue.done = lambda request: self.at_s.update({request: self.events.now_s()})


@pytest.mark.parametrize("new_queue", [lambda events: Fifo(events, 1), lambda events: Sharing(events, 1)], ids=["fifo", "sharing"])
def test_work_goes_on_where_it_was_after_a_change_of_speed_and_a_pause(new_queue: Callable[[Events], Queue]) -> None:
    """1 s of work: 0.5 s at full speed, 1 s at a quarter of it, a pause of 10 s, the rest at full speed."""
    ends = Ends(new_queue)
    ends.queue.add("a", 1.0)
    for at_s, speed in [(0.5, 0.25), (1.5, 0.0), (11.5, 1.0)]:
        ends.events.at(at_s, ends.queue.set_speed, speed)
    ends.events.run_until(100.0)
    assert ends.at_s == {"a": pytest.approx(11.75)}


def test_those_who_share_a_core_end_as_by_hand() -> None:
    """Two of 1 s and 2 s from 0, one of 0.5 s from 1: until 1 each has 0.5, then a third each."""
    ends = Ends(lambda events: Sharing(events, 1))
    ends.queue.add("short", 1.0)
    ends.queue.add("long", 2.0)
    ends.events.at(1.0, ends.queue.add, "late", 0.5)
    ends.events.run_until(100.0)
    assert ends.at_s == {"short": pytest.approx(2.5), "late": pytest.approx(2.5), "long": pytest.approx(3.5)}


def test_who_goes_away_while_waiting_costs_no_work_and_who_is_served_does() -> None:
    """One worker: b is abandoned in the line, a while it is worked on."""
    ends = Ends(lambda events: Fifo(events, 1))
    for name in "abc":
        ends.queue.add(name, 1.0)
    ends.events.at(0.5, ends.queue.abandon, "a")
    ends.events.at(0.5, ends.queue.abandon, "b")
    ends.events.run_until(100.0)
    assert ends.at_s == {"a": 1.0, "c": 2.0}


@pytest.mark.parametrize("new_queue", [lambda events: Fifo(events, 2), lambda events: Sharing(events, 2)], ids=["fifo", "sharing"])
def test_a_process_that_ends_finishes_nothing_and_starts_empty(new_queue: Callable[[Events], Queue]) -> None:
    """Cleared with three inside; what comes later is served as ever, though the rest of the old would have ended meanwhile."""
    ends = Ends(new_queue)
    for name in "abc":
        ends.queue.add(name, 1.0)
    ends.events.at(0.5, ends.queue.clear)
    ends.events.at(0.6, ends.queue.add, "d", 1.0)
    ends.events.run_until(100.0)
    assert (ends.at_s, len(ends.queue)) == ({"d": pytest.approx(1.6)}, 0)


def test_changes_of_speed_lose_no_work() -> None:
    """A hundred changes at random moments: the work done is the integral of the speed."""
    rng, ends = seeded(), Ends(lambda events: Fifo(events, 1))
    ends.queue.add("a", 10.0)
    now_s = done_s = 0.0
    speed = 1.0
    while True:
        length_s, following = rng.uniform(0.0, 1.0), random.Random(rng.random()).choice([0.0, 0.1, 0.5, 1.0, 3.0])
        if done_s + length_s * speed >= 10.0:
            break
        now_s, done_s, speed = now_s + length_s, done_s + length_s * speed, following
        ends.events.at(now_s, ends.queue.set_speed, following)
    ends.events.run_until(1000.0)
    assert ends.at_s == {"a": pytest.approx(now_s + (10.0 - done_s) / speed)}
