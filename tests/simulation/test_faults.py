"""Pods break in all their ways, and the calls of idempotent methods do not notice: virtual time, the real pool, calls and ejection.

A reduced form of ``tests.simulation.faults``, which prints the whole table: lower rates, one seed.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.picking import seeded
from tests.simulation.faults import FAULT_S, HEALED_S, Figures, played

FLOOR_PER_S, WINDOW_S, SLOT_S = 10.0, 10.0, 1.0  # of the retry budget
PROBES = 5  # of one client in the ten seconds of a fault: after about 1, 3, 6 s, and those that it began with


def figures(name: str, **kind: Any) -> Figures:
    seed = seeded().randrange(2**32)
    print(f"seed={seed}")
    found = played(name, seed=seed, **kind)
    print(found.row())
    return found


def stays_within_the_budget(found: Figures) -> bool:
    """Every client in every 10 s: 20 % of its calls and 10 a second (a window of ten whole slots and the one that has begun)."""
    for client in range(len(found.scene.sim.clients)):
        own = found.record.of(client)
        for since_s in range(1, 21, 2):
            part = own.between(since_s, since_s + WINDOW_S)
            again = sum(sent.number > 1 for sent in part.attempts)
            calls = len(own.between(since_s - SLOT_S, since_s + WINDOW_S).calls)
            if again > 0.2 * calls + FLOOR_PER_S * (WINDOW_S + SLOT_S):
                return False
    return True


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("one of 2 fails fast", 0.3),
        ("one of 3 fails fast", 0.2),
        ("one of 10 fails fast", 0.1),
        ("one of 100 fails fast", 0.01),
        ("two of 5 fail fast", 0.15),
        ("half a zone of 3 fails", 0.1),
        ("one of 5 is frozen, per try 400 ms", 0.15),
        ("one of 5 has vanished, per try 400 ms", 0.15),
    ],
)
def test_no_call_fails_while_a_pod_is_broken_and_it_is_soon_left_alone(name: str, load: float) -> None:
    """No failed call; after a second at most 1 % of the attempts meet it, and it never gets more again; a second after its probe it has
    its share; further attempts stay below 20 %."""
    found = figures(name, load=load)
    assert found.record.failed == 0
    assert found.share <= 0.01
    assert found.relapses == 0 or found.fair <= 0.01  # among a hundred, one probe in a window is more than a fair share
    assert found.recovery_s <= 1.0 or found.fair <= 0.01
    assert found.during.extra_ratio <= 0.2


@pytest.mark.parametrize("pods", [2, 3, 10])
@pytest.mark.parametrize(("ratio", "limit"), [(30, 0.35), (60, 0.2)])
def test_a_pod_that_fails_in_part_gets_less_the_more_it_fails(pods: int, ratio: int, limit: float) -> None:
    """30 % and 60 % of its calls: no call fails, and from the second second on it has less than this part of its fair share."""
    found = figures(f"one of {pods} fails {ratio} %", load=0.6 / pods)
    assert found.record.failed == 0
    assert found.share <= limit * found.fair
    assert found.during.extra_ratio <= 0.2


def test_a_slow_pod_gets_what_it_can_bear() -> None:
    """One of five that takes ten times as long: half of its share at most, nobody fails, and none is ejected for it."""
    found = figures("one of 5 is 10x slow, per try 400 ms", load=0.2)
    assert found.record.failed == 0
    assert found.share <= 0.5 * found.fair
    assert found.during.latency_s(0.5) <= 1.25 * found.record.between(0.0, FAULT_S).latency_s(0.5)


@pytest.mark.parametrize("name", ["one of 5 is frozen", "one of 5 has vanished"])
def test_without_a_time_limit_for_attempts_only_those_that_wait_for_a_silent_pod_fail(name: str) -> None:
    """Nobody can know that it will not answer: what was sent to it before the first deadlines passed is lost, and so are probes."""
    found = figures(name, load=0.15)
    address = found.scene.pods[0].endpoint.address
    clients = len(found.scene.sim.clients)
    assert set(found.record.codes) <= {"OK", "DEADLINE_EXCEEDED"}
    assert found.record.failed <= found.during.count(address) + clients
    assert found.record.between(FAULT_S + 1.5, HEALED_S).count(address) <= clients * PROBES
    assert found.record.between(HEALED_S).failed == 0


def test_a_rolling_restart_without_pre_stop_costs_no_call() -> None:
    """Each of five is replaced, and its calls in flight are lost with it."""
    found = figures("rolling restart of 5 without preStop", load=0.2)
    assert (found.record.failed, found.ejections) == (0, 0)


@pytest.mark.parametrize("name", ["all of 5 fail", "all of 5 are frozen", "all of 5 fail 20 %"])
def test_when_all_fail_nobody_is_ejected_and_all_is_well_a_second_after(name: str) -> None:
    """The budget holds for every client, and the pods share the calls evenly as soon as they work. (Five failures in a row are no proof
    where a fifth of all calls fails, but until that is known they are: once in a thousand seconds, for one second.)"""
    found = figures(name, load=0.1)
    assert stays_within_the_budget(found)
    after = found.record.between(HEALED_S + 1.0)
    assert after.failed == 0
    assert after.busiest_to_mean([pod.endpoint.address for pod in found.scene.pods]) <= 1.1
    assert found.ejections <= (1 if "20" in name else 0)


@pytest.mark.parametrize("name", ["five of 10 fail fast, the rest is full", "one of 3 fails fast, the rest is full"])
def test_what_overload_made_fail_is_over_a_second_after_the_fault(name: str) -> None:
    """Who is ejected is missing where the others are too few; so nobody stays out for long while they fail."""
    found = figures(name)
    assert found.record.failed > 0
    assert found.record.between(HEALED_S + 1.0).failed == 0


@pytest.mark.parametrize(("name", "lost"), [("both clients stall", 0), ("both clients stall, transport too", 200)])
def test_a_process_that_stood_still_ejects_nobody(name: str, lost: int) -> None:
    """What it hears late is no failure of anybody, not even what its own deadlines ended meanwhile."""
    found = figures(name)
    assert found.ejections == 0
    assert found.record.failed <= lost
    assert found.during.busiest_to_mean([pod.endpoint.address for pod in found.scene.pods]) <= 1.1


def test_that_pause_would_eject_pods_that_are_judged_alone() -> None:
    """Five failures in a row, whatever the others do: Envoy's rule, let off its leash."""
    envoys = {"mode": "envoy", "max_ejection_ratio": 1.0}
    assert figures("both clients stall, transport too", outlier=envoys).ejections > 0


@pytest.mark.parametrize(
    ("name", "load"), [("one of 3 fails fast", 0.2), ("two of 5 fail fast", 0.15), ("one of 3 fails 30 %", 0.2)]
)
def test_our_rules_are_no_worse_than_envoys(name: str, load: float) -> None:
    """The same seed with Envoy's arithmetic and defaults: no more failed calls, no more calls to the broken pods."""
    ours, envoys = figures(name, load=load), figures(name, load=load, outlier="envoy")
    assert ours.record.failed <= envoys.record.failed
    assert ours.share <= 1.05 * envoys.share
    assert ours.during.latency_s(0.99) <= 1.05 * envoys.during.latency_s(0.99)
