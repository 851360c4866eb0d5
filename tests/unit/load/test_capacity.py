"""Capacities: gRFC A58 to the letter, the careful way, and what absurd reports do to either."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

from meshlb.balance.p2c import P2C
from meshlb.core.report import LoadReport
from meshlb.core.subchannel import Subchannel
from meshlb.load.capacity import STEP_RATIO, Capacities
from meshlb.load.weight import Weight
from tests.picking import seeded, subchannels_of

A58 = Weight.of("a58")
NOW = Weight(source="a58", blackout_s=0.0)
CAREFUL = Weight(source="reported", blackout_s=0.0)
INF, NAN = math.inf, math.nan


def pool(settings: Weight, n: int) -> tuple[Capacities, list[Subchannel]]:
    subs = subchannels_of(P2C().build(seeded()), [1.0] * n)
    capacities = Capacities(settings)
    capacities.know(subs, 0.0)
    return capacities, subs


def report(utilization: float, qps: float = 100.0, **more: Any) -> LoadReport:
    return LoadReport(application_utilization=utilization, qps=qps, **more)


def in_force() -> tuple[Capacities, list[Subchannel]]:
    """A58's, of two, ten seconds after reports that make 1.5 and 0.5."""
    capacities, subs = pool(A58, 2)
    for sub, utilization in zip(subs, (0.2, 0.6), strict=True):
        capacities.on_report(sub, report(utilization), 0.0)
    assert capacities.tick(10.0)
    return capacities, subs


def shown(subs: list[Subchannel]) -> list[float]:
    return [round(sub.capacity, 3) for sub in subs]


# --- gRFC A58 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "weight"),
    [
        (LoadReport(qps=100, application_utilization=0.5), 200.0),
        (LoadReport(qps=100, cpu_utilization=0.25), 400.0),
        (LoadReport(qps=100, application_utilization=0.5, cpu_utilization=0.25), 200.0),
        (LoadReport(qps=100, application_utilization=0.5, eps=50), 100.0),
        (LoadReport(qps=100, application_utilization=1.5), 100 / 1.5),
    ],
)
def test_the_weight_of_a_report_is_a58s(said: LoadReport, weight: float) -> None:
    """Calls a second over utilization and the share of errors; the application's word before the processor's."""
    capacities, subs = pool(NOW, 2)
    capacities.on_report(subs[0], said, 0.0)
    capacities.on_report(subs[1], LoadReport(qps=50, cpu_utilization=1), 0.0)
    assert capacities.describe_one(subs[0], 0.0)["reported"]["weight"] == pytest.approx(weight, rel=1e-3)
    assert capacities.tick(1.0)
    assert subs[0].capacity / subs[1].capacity == pytest.approx(weight / 50)


def test_the_penalty_of_errors_is_the_configurations() -> None:
    """0: errors cost nothing; 2: twice their share."""
    for penalty, weight in ((0.0, 200.0), (2.0, 100 / 1.5)):
        capacities, subs = pool(Weight(source="a58", blackout_s=0.0, error_utilization_penalty=penalty), 2)
        capacities.on_report(subs[0], report(0.5, eps=50.0), 0.0)
        assert capacities.describe_one(subs[0], 0.0)["reported"]["weight"] == pytest.approx(weight, rel=1e-3)


def test_the_servers_own_metrics_come_first_and_the_largest_counts() -> None:
    """A114: of those that are named; without any of them in a report the application's utilization, then the processor's."""
    names = ("named_metrics.queue", "utilization.pool", "mem_utilization")
    settings = Weight(source="a58", blackout_s=0.0, metric_names=names)
    capacities, subs = pool(settings, 1)
    said: list[tuple[dict[str, Any], float]] = [
        ({"named_metrics": {"queue": 0.2}, "utilization": {"pool": 0.4}, "mem_utilization": 0.1}, 0.4),
        ({"named_metrics": {"queue": 0.2}}, 0.2),
        ({"mem_utilization": 0.9, "named_metrics": {"queue": -5.0}}, 0.9),
        ({"named_metrics": {"other": 0.2, "queue": 0.0}}, 0.5),
    ]
    for more, utilization in said:
        capacities.on_report(subs[0], LoadReport(application_utilization=0.5, qps=100.0, **more), 0.0)
        assert capacities.describe_one(subs[0], 0.0)["reported"]["utilization"] == pytest.approx(utilization)


def test_who_has_no_weight_has_the_mean_and_one_weight_is_none() -> None:
    """A58: the mean of the known; fewer than two known: round robin."""
    capacities, subs = pool(NOW, 4)
    capacities.on_report(subs[0], report(0.2), 0.0)
    assert not capacities.tick(1.0)
    assert shown(subs) == [1.0] * 4
    assert capacities.describe_one(subs[0], 1.0)["reported"]["unused"] == "fewer than two endpoints report"
    capacities.on_report(subs[1], report(0.6), 1.0)
    assert capacities.tick(2.0)
    weights = [500.0, 100 / 0.6]
    mean = sum(weights) / 2
    assert shown(subs) == [round(weights[0] / mean, 3), round(weights[1] / mean, 3), 1.0, 1.0]
    assert capacities.describe_one(subs[0], 2.0)["reported"]["unused"] == ""
    assert capacities.describe()["weight"]["using"] == 2


def test_a_report_counts_when_reports_have_come_throughout_the_blackout() -> None:
    """From the first usable one on, to the update at or after its end."""
    capacities, subs = pool(A58, 2)
    for sub, utilization in zip(subs, (0.2, 0.6), strict=True):
        capacities.on_report(sub, report(utilization), 0.5)
    assert not any(capacities.tick(float(now_s)) for now_s in range(1, 11))
    assert capacities.describe_one(subs[0], 5.5)["reported"]["unused"] == "blackout: has reported for 5.0 of 10 s"
    assert capacities.tick(11.0)
    assert shown(subs) == [1.5, 0.5]


def test_a_weight_expires_and_has_its_blackout_again() -> None:
    """Without news for three minutes, everybody has the mean; counted."""
    capacities, subs = in_force()
    capacities.on_report(subs[0], report(0.2), 100.0)
    assert not capacities.tick(179.9)
    assert capacities.tick(180.9)
    assert shown(subs) == [1.0, 1.0]
    assert capacities.expired == 1
    assert capacities.describe_one(subs[1], 181.0)["reported"]["problem"] == "expired: no report for 180 s"
    capacities.on_report(subs[1], report(0.6), 200.0)
    assert not capacities.tick(209.9)
    assert capacities.tick(211.0)
    assert shown(subs) == [1.5, 0.5]


def test_a_new_connection_has_its_blackout_again() -> None:
    """A58: the process behind an address may be another one."""
    capacities, subs = in_force()
    capacities.on_connected(subs[0])
    assert capacities.tick(11.0)
    assert shown(subs) == [1.0, 1.0]
    capacities.on_report(subs[0], report(0.2), 12.0)
    assert not capacities.tick(21.0)
    assert capacities.tick(22.0)
    assert shown(subs) == [1.5, 0.5]


def test_weights_are_made_at_updates_and_only_then() -> None:
    """Whatever was said last by then counts, and an update without news costs and changes nothing."""
    capacities, subs = pool(NOW, 2)
    assert capacities.due_s() == 1.0
    for utilization in (0.9, 0.2):
        capacities.on_report(subs[0], report(utilization), 0.1)
    capacities.on_report(subs[1], report(0.6), 0.2)
    assert not capacities.tick(0.9)
    assert shown(subs) == [1.0, 1.0]
    assert capacities.tick(1.0)
    assert (capacities.due_s(), shown(subs)) == (2.0, [1.5, 0.5])
    assert not capacities.tick(2.0)
    capacities.on_report(subs[0], report(0.201), 2.1)
    assert capacities.tick(3.0)  # A58: however little it is
    capacities.know([], 4.0)
    assert capacities.due_s() is None


@pytest.mark.parametrize(("qps", "bound"), [(9e11, 10.0), (1e-9, 0.01)])
def test_one_absurd_server_has_a58s_bounds_of_the_median_and_moves_nobody_else(qps: float, bound: float) -> None:
    """Whatever the policy; each weight that was cut is counted."""
    capacities, subs = pool(NOW, 5)
    for sub in subs:
        capacities.on_report(sub, report(1e-3, qps=qps if sub is subs[0] else 100.0), 0.0)
    assert capacities.tick(1.0)
    assert [sub.capacity / subs[1].capacity for sub in subs] == pytest.approx([bound, 1.0, 1.0, 1.0, 1.0])
    assert capacities.describe()["weight"]["cut"] == 1


@pytest.mark.parametrize("source", ["a58", "reported"])
def test_nothing_of_the_process_before_counts_after_a_new_connection(source: str) -> None:
    """Neither its last report nor its share of the sums."""
    capacities, subs = pool(Weight(source=source, smoothing_s=60.0), 2)
    for step in range(60):
        capacities.on_report(subs[0], report(0.1), float(step))
    capacities.on_connected(subs[0])
    assert capacities.describe_one(subs[0], 60.0) == {}
    for step in range(60, 72):
        capacities.on_report(subs[0], report(1.0), float(step))
    assert capacities.describe_one(subs[0], 72.0)["reported"]["weight"] == 100.0


# --- the careful way -----------------------------------------------------------------------------------------------------------


def fill(capacities: Capacities, subs: list[Subchannel], utilizations: list[float], from_s: float, to_s: float) -> None:
    """Reports of all, ten a second, with an update each second."""
    for step in range(int(from_s * 10), int(to_s * 10)):
        for sub, utilization in zip(subs, utilizations, strict=True):
            capacities.on_report(sub, report(utilization), step / 10)
        capacities.tick(step / 10)


def test_smoothed_weights_are_quotients_of_sums_that_fade() -> None:
    """In closed form: after a step at 20 s the old reports weigh exp(-t / 10)."""
    capacities, subs = pool(CAREFUL, 2)
    fill(capacities, subs, [0.5, 0.5], 0.0, 100.0)
    fill(capacities, subs, [0.25, 0.5], 100.0, 105.0)
    kept = math.exp(-0.5)
    weight = 100.0 / (0.5 * kept + 0.25 * (1.0 - kept))
    assert capacities.describe_one(subs[0], 105.0)["reported"]["weight"] == pytest.approx(weight, rel=0.01)


def test_moments_of_idleness_do_not_rule_a_smoothed_weight() -> None:
    """One report in ten of a hundredth of the utilization: the mean of quotients would be ten times as large."""
    capacities, subs = pool(CAREFUL, 2)
    for step in range(1000):
        capacities.on_report(subs[0], report(0.005 if step % 10 == 0 else 0.5), step / 100)
        capacities.on_report(subs[1], report(0.5), step / 100)
    assert capacities.tick(10.0)
    assert subs[0].capacity / subs[1].capacity == pytest.approx(1 / 0.901, rel=0.02)


def test_few_reports_are_drawn_to_the_mean() -> None:
    """As if one more had come that says the mean: half way after the first, nine tenths after nine."""
    for count, ratio in ((1, 0.5), (9, 0.9)):
        capacities, subs = pool(CAREFUL, 2)
        for _ in range(count):
            capacities.on_report(subs[0], report(0.25, qps=75.0), 0.0)
            capacities.on_report(subs[1], report(0.25, qps=125.0), 0.0)
        assert capacities.tick(1.0)
        assert shown(subs) == [round(1 - 0.25 * ratio, 3), round(1 + 0.25 * ratio, 3)]


def test_no_smoothed_weight_leaves_its_bounds_and_one_absurd_server_moves_nobody_else() -> None:
    """However large or small it is, and for as long as it says so."""
    for qps, bound in ((1e9, 4.0), (1e-9, 0.25)):
        capacities, subs = pool(CAREFUL, 5)
        for step in range(100):
            for sub in subs[1:]:
                capacities.on_report(sub, report(0.5), step / 10)
            capacities.on_report(subs[0], report(0.5, qps=qps), step / 10)
        assert capacities.tick(11.0)
        others = {round(sub.capacity, 6) for sub in subs[1:]}
        assert len(others) == 1
        assert subs[0].capacity == pytest.approx(bound, rel=0.15)
        assert others.pop() == pytest.approx(1.0, rel=0.4)


def test_pickers_are_left_alone_while_no_weight_moves_much() -> None:
    """Below five per cent nothing changes; at a step of more all are what they should be."""
    capacities, subs = pool(CAREFUL, 3)
    fill(capacities, subs, [0.5, 0.5, 0.25], 0.0, 60.0)
    before = shown(subs)
    capacities.on_report(subs[0], report(0.5, qps=104.0), 60.5)
    assert not capacities.tick(61.0)
    assert shown(subs) == before
    fill(capacities, subs, [0.4, 0.5, 0.25], 61.0, 120.0)
    assert abs(subs[0].capacity / before[0] - 1.0) > STEP_RATIO


def test_out_of_band_smoothing_spans_several_intervals() -> None:
    """One report every ten seconds, smoothed over ten, would be none."""
    capacities, subs = pool(Weight(source="reported", oob=True), 2)
    for step in range(20):
        for sub in subs:
            capacities.on_report(sub, report(0.5), step * 10.0)
    capacities.on_report(subs[0], report(0.25), 200.0)
    kept = 1.0 - math.exp(-1 / 3)  # what the last of a long row weighs
    weight = 100.0 / (0.5 - 0.25 * kept)
    assert capacities.describe_one(subs[0], 200.0)["reported"]["weight"] == pytest.approx(weight, rel=0.01)


# --- what is absurd -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [NOW, CAREFUL], ids=["a58", "reported"])
@pytest.mark.parametrize(
    ("absurd", "counter"),
    [
        (LoadReport(problem="not JSON"), "rejected"),
        (report(1e-12, qps=1e12), "rejected"),
        (report(1e12, qps=1e-12), "rejected"),
        (report(0.5, qps=1e-300, eps=1e12), "rejected"),
        (report(NAN), "unusable"),
        (report(0.0), "unusable"),
        (report(0.5, qps=0.0), "unusable"),
        (report(0.5, qps=NAN), "unusable"),
        (LoadReport(), "unusable"),
    ],
)
def test_an_absurd_report_is_counted_and_changes_nothing(settings: Weight, absurd: LoadReport, counter: str) -> None:
    """The last one that made sense holds, and ``status`` says what was wrong."""
    capacities, subs = pool(settings, 2)
    for _ in range(100):
        capacities.on_report(subs[0], report(0.2), 0.0)
        capacities.on_report(subs[1], report(0.6), 0.0)
    capacities.tick(1.0)
    before = shown(subs)
    for _ in range(5):
        capacities.on_report(subs[0], absurd, 1.0)
    assert capacities.describe()["weight"][counter] == 5
    assert capacities.describe_one(subs[0], 1.0)["reported"]["problem"]
    assert not capacities.tick(2.0)
    assert shown(subs) == before


@pytest.mark.parametrize("settings", [NOW, CAREFUL], ids=["a58", "reported"])
def test_capacities_are_positive_and_finite_whatever_is_reported(settings: Weight) -> None:
    """Random reports of every size, and members that come and go."""
    rng = seeded()
    capacities, subs = pool(settings, 6)
    for step in range(2000):
        utilization, qps, eps = (rng.choice([0.0, INF, NAN, 10 ** rng.uniform(-14, 12)]) for _ in range(3))
        capacities.on_report(rng.choice(subs), report(utilization, qps=qps, eps=eps), float(step))
        if not step % 50:
            capacities.know(rng.sample(subs, rng.randint(0, 6)), float(step))
        capacities.tick(float(step))
        assert all(0.0 < sub.capacity < INF for sub in subs)


def test_who_left_is_not_heard_and_comes_back_with_the_mean() -> None:
    """A report may arrive after discovery took its endpoint away."""
    capacities, subs = pool(NOW, 3)
    for sub, utilization in zip(subs, (0.2, 0.6, 0.4), strict=True):
        capacities.on_report(sub, report(utilization), 0.0)
    assert capacities.tick(1.0)
    capacities.know(subs[1:], 1.5)
    capacities.on_report(subs[0], report(0.1), 1.6)
    assert capacities.describe_one(subs[0], 1.6) == {}
    assert capacities.tick(2.0)
    capacities.know(subs, 3.0)
    assert subs[0].capacity == 1.0


def test_reports_of_many_threads_harm_nothing() -> None:
    """No lock: some may be lost, none is torn."""
    capacities, subs = pool(CAREFUL, 2)
    stop, clock = threading.Event(), [0.0]

    def talk(utilization: float) -> None:
        while not stop.is_set():
            capacities.on_report(subs[0], report(utilization), clock[0])
            capacities.on_report(subs[1], report(2 * utilization), clock[0])

    threads = [threading.Thread(target=talk, args=(0.3,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for now_s in range(1, 2000):
        clock[0] = float(now_s)
        capacities.tick(clock[0])
        if not now_s % 10:
            capacities.on_connected(subs[0])
            capacities.know(subs[:1] if now_s % 20 else subs, clock[0])
    stop.set()
    for thread in threads:
        thread.join()
    capacities.know(subs, 2000.0)
    for sub, utilization in zip(subs * 50, (0.3, 0.6) * 50, strict=True):
        capacities.on_report(sub, report(utilization), 2000.0)
    capacities.tick(2001.0)
    assert subs[0].capacity / subs[1].capacity == pytest.approx(2.0, rel=0.1)
