"""The references: closed forms, what no policy beats, and that what is stored is what would be reckoned."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from statistics import median

import pytest

from meshlb.config import Config
from meshlb.testing.simulation import SCENARIOS, Failing, Scenario, Speeds, exponential, play, reference_s
from meshlb.testing.simulation.bounds import central_queue, clairvoyant
from meshlb.testing.simulation.changes import Change, What
from meshlb.testing.simulation.course import courses_of
from meshlb.testing.simulation.record import percentile
from meshlb.testing.simulation.references import bounds_s, reckoned_s, stored
from tests.picking import seed_of_run

SMALL = Scenario(name="small", load_ratio=0.7, clients=2, servers=4, length_s=25.0, warm_up_s=5.0)

# p50, p99, p99.9 in ms as another simulator had them (medians of five seeds of its own), to the digits given.
ELSEWHERE = {
    "homog70": ("6.8", "63"),
    "homog90": ("10.0", "68"),
    "homog95": ("14.7", "82"),
    "hetero70": ("7.2", "65"),
    "antag65": ("7.5", "91"),
    "gc50": ("6.7", "69"),
    "roll65": ("6.8", "63"),
    "low30": ("6.6", "63"),
    "gateway85": ("8.1", "65"),
    "ps80": ("7.3", "72"),
    "black60": ("6.7", "63"),
    "brown60": ("6.8", "63"),
    "many70": ("6.8", "63"),
    "wide80": ("15.9", "159"),
    "pareto80": ("6.5", "75"),
    "bimodal70": ("5.7", "103"),
    "skew75": ("7.0", "63"),
    "stream60": ("6.6", "63"),
    "burst": ("11", "120"),
}
# A hundredth more work makes the line of a burst an eighth longer; episodes of slowness seldom meet, and their meetings are the tail.
ROUGH = {"burst": (0.06, 0.15), "antag65": (0.03, 0.13)}


@pytest.mark.parametrize(("name", "figures"), ELSEWHERE.items(), ids=list(ELSEWHERE))
def test_the_reference_is_what_another_simulator_found(name: str, figures: tuple[str, str]) -> None:
    """Within 2 % at p50 and 5 % at p99, the rounding of their figures apart; two scenarios are too much chance's for that."""
    found = [reference_s(SCENARIOS[name], int(seed)) for seed in stored()[name]]
    tolerances = ROUGH.get(name, (0.02, 0.05))
    for at, (figure, tolerance) in enumerate(zip(figures, tolerances, strict=True)):
        rounding = 0.5 * 10.0 ** -len(figure.partition(".")[2])
        assert 1000.0 * median(one[at] for one in found) == pytest.approx(float(figure), abs=float(figure) * tolerance + rounding)


def test_a_central_queue_is_m_m_n() -> None:
    """Mean latency within 2 % of Erlang's, for all workers of all servers together."""
    seed, servers = seed_of_run(), 8
    one = replace(SMALL, work=exponential(0.01), length_s=250.0, warm_up_s=0.0)
    works = [arrival.work_s for arrival in one.arrivals(seed)]
    rho = sum(works) / one.length_s / servers
    load = servers * rho
    last = load**servers / math.factorial(servers) / (1.0 - rho)
    waits = last / (sum(load**k / math.factorial(k) for k in range(servers)) + last)
    took_s = central_queue(one, seed)
    expected_s = sum(works) / len(works) * (1.0 + waits / (servers * (1.0 - rho)))
    assert sum(took_s) / len(took_s) - 0.0006 == pytest.approx(expected_s, rel=0.02)


def test_equal_servers_need_no_clairvoyant() -> None:
    """To join the least work is to wait in one line, but for the jitter of the wires that changes the order of a few."""
    seed = seed_of_run()
    line, foreseen = central_queue(SMALL, seed), clairvoyant(SMALL, seed)
    for ratio in (0.5, 0.99):
        assert percentile(foreseen, ratio) == pytest.approx(percentile(line, ratio), rel=0.01)


@pytest.mark.parametrize(
    "scenario",
    [
        SMALL,
        replace(SMALL, sharing=True),
        replace(SMALL, disturbances=(Speeds(of=(0,), speed=0.4),)),
        replace(SMALL, disturbances=(Failing(of=(0,), ratio=1.0, from_s=10.0, until_s=20.0),), load_ratio=0.5),
    ],
    ids=["alike", "sharing", "slow", "failing"],
)
def test_no_policy_beats_the_reference(scenario: Scenario) -> None:
    """p50 and p99 of power of two choices are above it; the same calls count in both."""
    seed = seed_of_run()
    played, reference = play(scenario, Config(), seed), reference_s(scenario, seed)
    assert played.latency_s(0.5) > reference[0]
    assert played.latency_s(0.99) > reference[1]
    assert len(played.calls) == len(clairvoyant(scenario, seed))


def test_who_fails_is_sent_nothing_unless_all_fail() -> None:
    """Also one that fails seldom; and nobody sends to who is not listed."""
    first, second = (Change(float(at), at, What.FAILING, 0.1) for at in (0, 1))
    courses = courses_of(2, [first, Change(0.5, 1, What.LEAVE), Change(0.7, 1, What.COME_BACK), second])
    usable = []
    for at_s in (0.1, 0.6, 0.8, 1.5):
        for course in courses:
            course.look(at_s)
        usable.append([course.usable for course in courses])
    assert usable == [[False, True], [True, False], [False, True], [True, True]]


def test_a_course_foresees_when_work_is_done() -> None:
    """Speed 1 until 2 s, a pause until 5 s, then half of it: 4 s of work are done after 9 s."""
    (course,) = courses_of(1, [Change(2.0, 0, What.SPEED, 0.0), Change(5.0, 0, What.SPEED, 0.5)])
    assert [course.look(at_s) for at_s in (1.0, 3.0, 5.0, 9.0)] == [1.0, 2.0, 2.0, 4.0]
    assert [course.when(done_s) for done_s in (1.0, 3.0, 4.0)] == [1.0, 7.0, 9.0]


@pytest.mark.parametrize("name", ["low30", "edge-2-servers-1-black", "fuzz00"])
def test_what_is_stored_is_what_would_be_reckoned(name: str) -> None:
    """Or a scenario, a draw or a bound changed, and the file did not: reckon.py says what to do."""
    assert stored()[name]["101"] == reckoned_s(SCENARIOS[name], 101)


def test_a_scenario_that_was_changed_has_a_reference_of_its_own() -> None:
    """Its name alone does not make it the stored one; a closed loop has none."""
    shorter = replace(SCENARIOS["homog70"], length_s=20.0)
    assert bounds_s(shorter, 101) != bounds_s(SCENARIOS["homog70"], 101)
    assert all(math.isnan(figure) for figure in reference_s(SCENARIOS["few-1x1"], 101))


def test_everything_that_the_gates_need_is_stored() -> None:
    """All scenarios but closed loops, for their seeds; and each figure is below the next."""
    for name, scenario in SCENARIOS.items():
        if not scenario.concurrency:
            assert {"101", "102", "103", "104", "105"} <= set(stored()[name]), name
            for bounds in stored()[name].values():
                assert all(first <= second for figures in bounds.values() for first, second in pairwise(figures))
