"""The named scenarios, what is drawn for them, and how they are asked for."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from meshlb.testing.simulation import SCENARIOS, Blips, Change, Disturbance, Episodes, Flapping, Rolling, Scenario, What, pareto
from meshlb.testing.simulation.fuzz import fuzz
from meshlb.testing.simulation.scenarios import GROUPS, named, seeds_of
from tests.picking import seed_of_run, seeded

SMALL = Scenario(name="small", load_ratio=0.5, length_s=40.0)


@pytest.mark.parametrize("name", ["homog90", "hetero70", "bimodal70", "pareto80", "stream60", "skew75"])
def test_the_load_is_what_was_asked_for(name: str) -> None:
    """Work a second, of calls that are no streams, by what the servers can do: within what chance does to heavy tails."""
    scenario, seed = SCENARIOS[name], seed_of_run()
    work_s = sum(arrival.work_s for arrival in scenario.arrivals(seed) if not arrival.stream)
    speeds = 10 - 3 * 0.6 if name == "hetero70" else 10
    assert work_s / scenario.length_s / scenario.workers / speeds == pytest.approx(scenario.load_ratio, rel=0.03)


def test_clients_have_their_shares() -> None:
    """The first of twenty has a bit more than a quarter, the second half of that."""
    counts = Counter(arrival.client for arrival in SCENARIOS["skew75"].arrivals(seed_of_run()))
    total = sum(1 / (k + 1) for k in range(20))
    assert [counts[k] / counts.total() for k in (0, 1, 19)] == [pytest.approx(1 / (k + 1) / total, rel=0.1) for k in (0, 1, 19)]


def test_bounded_pareto_has_its_mean_and_its_bounds() -> None:
    """The longest is a hundred times the shortest at most."""
    rng, work = seeded(), pareto(0.01)
    drawn = [work(rng) for _ in range(200_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(0.01, rel=0.02)
    assert 50.0 < max(drawn) / min(drawn) <= 100.0


def test_episodes_take_their_part_of_the_time() -> None:
    """2 s in 8; at 0.2 to 0.5 of the speed, and at 1 otherwise."""
    changes = replace(SMALL, disturbances=(Episodes(gap_s=6.0, episode_s=2.0, slower=(2.0, 5.0)),), length_s=4000.0).changes(
        seed_of_run()
    )
    first = [change for change in changes if change.server == 0]
    slow_s = sum(end.at_s - begin.at_s for begin, end in zip(first[::2], first[1::2], strict=True))
    assert slow_s / 4000.0 == pytest.approx(0.25, rel=0.15)
    assert all(0.2 <= change.value <= 0.5 for change in first[::2])
    assert {change.value for change in first[1::2]} == {1.0}


def test_a_rolling_restart_replaces_one_after_the_other() -> None:
    """Away for 1.5 s, back at a fifth of the speed, and warm after 8 s in ten steps."""
    rolling = Rolling(from_s=16.0, every_s=6.0, away_s=1.5, speed=0.2, warm_s=8.0)
    changes = replace(SMALL, disturbances=(rolling,)).changes(1)
    assert [(change.at_s, change.server) for change in changes if change.what is What.LEAVE] == [(16, 0), (22, 1), (28, 2), (34, 3)]
    first = [change for change in changes if change.server == 0]
    assert [change.what for change in first] == [What.LEAVE, What.REPLACE, *[What.SPEED] * 10]
    assert [first[1].at_s, first[-1].at_s] == [17.5, 25.5]
    assert [round(change.value, 2) for change in first[1:]] == [0.2, 0.28, 0.36, 0.44, 0.52, 0.6, 0.68, 0.76, 0.84, 0.92, 1.0]


def test_blips_and_flaps_come_back() -> None:
    """As many ends as begins, each so much later."""
    cases: list[tuple[Disturbance, tuple[What, float], tuple[What, float], float]] = [
        (Blips(every_s=0.8, blip_s=0.02), (What.SPEED, 0.0), (What.SPEED, 1.0), 0.02),
        (Flapping(every_s=1.0, away_s=0.05), (What.LEAVE, 0.0), (What.COME_BACK, 0.0), 0.05),
    ]
    for trouble, begins, ends, length_s in cases:
        changes = [change for change in replace(SMALL, disturbances=(trouble,)).changes(1) if change.server == 3]
        assert {change[2:] for change in changes[::2]} == {begins}
        assert {change[2:] for change in changes[1::2]} == {ends}
        assert changes[1].at_s - changes[0].at_s == pytest.approx(length_s)


@dataclass(frozen=True)
class Slowed:
    """One server has this speed for a while."""

    from_s: float
    until_s: float
    speed: float

    def changes(self, rng: random.Random, servers: int, length_s: float) -> Iterator[Change]:
        yield Change(self.from_s, 0, What.SPEED, self.speed)
        yield Change(self.until_s, 0, What.SPEED, 1.0)


def test_two_troubles_at_once_multiply() -> None:
    """Half of a fifth is a tenth, and the end of one is not the end of the other."""
    changes = replace(SMALL, disturbances=(Slowed(1.0, 4.0, 0.5), Slowed(2.0, 3.0, 0.2))).changes(1)
    assert [(change.at_s, round(change.value, 3)) for change in changes] == [(1.0, 0.5), (2.0, 0.1), (3.0, 0.5), (4.0, 1.0)]


def test_fuzz_is_the_same_each_time_and_can_be_borne() -> None:
    """A number is a scenario; the load leaves room, and the number of calls is bounded."""
    assert [fuzz(number) for number in range(20)] == list(GROUPS["fuzz"])
    assert len({replace(scenario, name="x") for scenario in GROUPS["fuzz"]}) == 20
    for scenario in GROUPS["fuzz"]:
        assert scenario.load_ratio <= 0.9
        assert 100.0 <= scenario.rate_per_s <= 1300.0


def test_scenarios_go_to_other_processes() -> None:
    """All of them, whole."""
    assert pickle.loads(pickle.dumps(SCENARIOS)) == SCENARIOS


def test_scenarios_are_asked_for_by_name_and_group() -> None:
    """Each once, in the order in which they were asked for."""
    assert [len(named(text)) for text in ("main", "edge", "few", "fuzz", "all")] == [19, 7, 10, 20, 56]
    assert [scenario.name for scenario in named("gc50,low30,gc50")] == ["gc50", "low30"]
    with pytest.raises(ValueError, match="'homog71': did you mean 'homog70'"):
        named("homog71")


def test_seeds_are_numbers_and_ranges() -> None:
    """Anything else is named."""
    assert seeds_of("101-103,7") == [101, 102, 103, 7]
    for text in ("", "a", "3-1", "1-", "1,,2"):
        with pytest.raises(ValueError, match="is neither a number nor a range"):
            seeds_of(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"load_ratio": 0.0},
        {"concurrency": 1},
        {"shares": (1.0, 2.0)},
        {"servers": 0},
        {"load_ratio": -1.0},
        {"warm_up_s": 75.0},
        {"bounds": ("central",)},
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    """With its name and what is wrong."""
    with pytest.raises(ValueError, match=r"^odd: "):
        Scenario(**{"name": "odd", "load_ratio": 0.5, **wrong})  # type: ignore[arg-type]
