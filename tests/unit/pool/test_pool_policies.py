"""What a pool does for a policy that asks for more than to pick: members, time, whole attempts, load reports."""

from __future__ import annotations

import random
from collections.abc import Sequence

from meshlb.balance.round_robin import RoundRobin
from meshlb.core.clock import Rng
from meshlb.core.endpoint import EndpointSet
from meshlb.core.outcome import Outcome
from meshlb.core.policy import Picker
from meshlb.core.report import LoadReport
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.load.in_flight import LiveOnly
from meshlb.load.weight import Weight
from tests.unit.pool.bench import ANY, IDLE, READY, Bench, pod


class Hearing(LiveOnly):
    """A metric that wants whole attempts."""

    def __init__(self, heard: list[tuple[str, bool, Outcome]]) -> None:
        self._heard = heard

    def on_end(self, now_s: float, rtt_s: float, outcome: Outcome, /) -> None:
        raise AssertionError("on_attempt_end is there")

    def on_attempt_end(self, attempt: Attempt, now_s: float, outcome: Outcome) -> None:
        self._heard.append((attempt.info.method, attempt.live is attempt.subchannel.streams, outcome))


class Asking:
    """A policy with all of the optional parts; it notes what it is told."""

    name = "asking"
    hashes = True

    def __init__(self) -> None:
        self.said: list[str] = []
        self.ended: list[tuple[str, bool, Outcome]] = []
        self.due: float | None = None
        self._inner = RoundRobin().build(random.Random(1))

    def on_endpoints(self, latest: EndpointSet) -> None:
        self.said.append(f"endpoints {len(latest.endpoints)}")

    def know(self, members: Sequence[Subchannel], now_s: float) -> None:
        self.said.append(f"members {len(members)}")

    def tick(self, now_s: float) -> bool:
        if self.due is None or now_s < self.due:
            return False
        self.due = None
        self.said.append("tick")
        return True

    def due_s(self) -> float | None:
        return self.due

    def new_metric(self, now_s: float, /) -> Hearing:
        return Hearing(self.ended)

    def new_picker(self, subchannels: Sequence[Subchannel], rng: Rng, /) -> Picker:
        self.said.append(f"picker {len(subchannels)}")
        return self._inner.new_picker(subchannels, rng)


def test_members_are_told_before_pickers_and_whether_they_are_connected_or_not() -> None:
    """A table over all of them is then the same in every view."""
    policy = Asking()
    bench = Bench(policy)
    bench.publish(pod(1), pod(2), pod(3))
    bench.connect(READY, bench.sub(1), bench.sub(2))
    assert policy.said == ["endpoints 3", "members 3", "picker 2"]
    assert bench.pool.balancer.hashes


def test_a_policy_is_ticked_when_it_is_due_and_its_pickers_are_made_anew() -> None:
    """And not before."""
    policy = Asking()
    bench = Bench(policy)
    policy.due = bench.loop.now_s() + 5.0
    bench.publish(pod(1), pod(2))
    bench.connect(READY, bench.sub(1), bench.sub(2))
    policy.said.clear()
    bench.loop.advance(4.9)
    assert policy.said == []
    bench.loop.advance(0.2)
    assert policy.said == ["tick", "picker 2"]


def test_a_metric_that_asks_for_attempts_hears_method_kind_and_outcome() -> None:
    """Instead of the three figures that the others get."""
    policy = Asking()
    bench = Bench(policy)
    bench.publish(pod(1))
    bench.connect(READY, bench.sub(1))
    for stream, outcome in ((False, Outcome.SUCCESS), (True, Outcome.CANCELLED), (False, Outcome.FAILURE)):
        attempt = bench.view.begin(ANY, stream)
        assert attempt is not None
        assert bench.view.end(attempt, outcome)
        assert not bench.view.end(attempt, outcome)
    assert policy.ended == [
        (ANY.method, False, Outcome.SUCCESS),
        (ANY.method, True, Outcome.CANCELLED),
        (ANY.method, False, Outcome.FAILURE),
    ]


def report(utilization: float) -> LoadReport:
    return LoadReport(application_utilization=utilization, qps=100.0)


def test_load_reports_change_the_shares_of_any_policy() -> None:
    """Three equal pods, of which one says that the same work takes twice as much of it: it gets half of what the others do."""
    bench = Bench("random", weight=Weight(source="a58", blackout_s=1.0))
    bench.publish(pod(1), pod(2), pod(3))
    subs = [bench.sub(number) for number in (1, 2, 3)]
    bench.connect(READY, *subs)
    for _ in range(5):
        for sub, utilization in zip(subs, (0.8, 0.4, 0.4), strict=True):
            bench.pool.on_report(sub, report(utilization))
        bench.loop.advance(1.0)
    counts = dict.fromkeys(subs, 0)
    for _ in range(6000):
        attempt = bench.view.begin(ANY)
        assert attempt is not None
        bench.view.end(attempt)
        counts[attempt.subchannel] += 1
    assert abs(counts[subs[0]] - 1200) < 160  # 5 sigma
    said = bench.pool.describe()
    assert said["weight"]["using"] == 3
    assert said["endpoints"][0]["reported"]["utilization"] == 0.8


def test_without_weights_a_report_is_nothing() -> None:
    """``static`` asks nobody."""
    bench = Bench()
    bench.publish(pod(1))
    bench.pool.on_report(bench.sub(1), report(0.5))
    assert bench.sub(1).weight == 1.0


def test_a_connection_made_anew_has_its_blackout_again() -> None:
    """It may lead to another process: gRFC A58."""
    bench = Bench(weight=Weight(source="a58", blackout_s=10.0))
    bench.publish(pod(1), pod(2))
    subs = [bench.sub(1), bench.sub(2)]
    bench.connect(READY, *subs)
    for _ in range(12):
        for sub, utilization in zip(subs, (0.2, 0.8), strict=True):
            bench.pool.on_report(sub, report(utilization))
        bench.loop.advance(1.0)
    assert subs[0].capacity > subs[1].capacity
    bench.connect(READY, *subs)  # no news
    bench.loop.advance(1.0)
    assert subs[0].capacity > subs[1].capacity
    bench.connect(IDLE, subs[0])
    bench.connect(READY, subs[0])
    bench.loop.advance(1.5)
    assert subs[0].capacity == subs[1].capacity == 1.0
