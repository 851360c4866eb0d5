"""Ejection and slow start inside a pool: who is picked, by what calls, and what people are told. The rules are tests/unit/health's."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from meshlb.core.endpoint import EndpointSet
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.health.ejection import PATIENCE_S
from meshlb.health.outlier import Outlier
from meshlb.health.relative import MOST_PICKS
from meshlb.health.slow_start import SlowStart
from tests.unit.pool.bench import ANY, READY, TRANSIENT_FAILURE, Bench, cluster_ip, pod

RISKABLE = PickInfo("/shop.Orders/Get", replays=True)
RULES = Outlier(consecutive_failures=5, base_ejection_s=2.0, ejection_jitter_ratio=0.0)


def _bench(*pods: int, policy: str = "round_robin", outlier: Outlier = RULES) -> Bench:
    bench = Bench(policy, outlier=outlier)
    bench.publish(*(pod(number) for number in pods), fallback=[cluster_ip(0)])
    bench.connect(READY, *(bench.sub(number) for number in pods))
    return bench


def _call(bench: Bench, bad: Subchannel | None = None, info: PickInfo = ANY) -> Subchannel:
    """One call, which takes 10 ms; those to ``bad`` fail."""
    attempt = bench.view.begin(info)
    assert attempt is not None
    bench.loop.advance(0.01)
    bench.view.end(attempt, Outcome.FAILURE if attempt.subchannel is bad else Outcome.SUCCESS)
    return attempt.subchannel


def _eject(bench: Bench, bad: Subchannel) -> None:
    for _ in range(1000):
        _call(bench, bad)
        if bad in bench.pool.snapshot.ejected:
            bench.sub(2).started += MOST_PICKS  # it is not the only one that is called
            return
    raise AssertionError("not ejected")


def _probe(*, stream: bool = False) -> tuple[Bench, Attempt]:
    """One of three pods was ejected, its time is over, and its probe is under way."""
    bench = _bench(1, 2, 3)
    _eject(bench, bench.sub(1))
    bench.loop.advance(2.0)
    probe = bench.view.begin(RISKABLE, stream)
    assert probe is not None
    assert probe.subchannel is bench.sub(1)
    return bench, probe


def _state_of(bench: Bench, sub: Subchannel) -> str:
    described = bench.pool.describe()["endpoints"]
    return str(next(one["state"] for one in described if one["uid"] == sub.endpoint.uid))


@pytest.mark.parametrize("pods", [2, 3, 10])
def test_an_ejected_endpoint_gets_no_call_until_its_time_is_over(pods: int) -> None:
    """And the others get them all; ``status()`` says why and for how long."""
    bench = _bench(*range(1, pods + 1))
    bad = bench.sub(1)
    _eject(bench, bad)
    ejected_s = bench.loop.now_s()
    while bench.loop.now_s() < ejected_s + 1.9:
        assert _call(bench, bad) is not bad
    assert _state_of(bench, bad) == "ejected"
    why = bench.pool.describe()["endpoints"][0]["ejected"]
    assert why["until_s"] <= 2.0
    assert "fail" in why["reason"]
    assert bad.in_flight == 0


def test_the_log_says_of_which_target_an_endpoint_went_and_why(caplog: pytest.LogCaptureFixture) -> None:
    """A process has many targets; who is on call reads the log first."""
    bench = _bench(1, 2, 3)
    _eject(bench, bench.sub(1))
    (line,) = [record for record in caplog.records if record.name == "meshlb.health"]
    assert (line.levelname, line.getMessage().split(": ")[0]) == ("WARNING", "orders.shop")
    assert "10.0.0.1:80" in line.getMessage()
    assert "is ejected for 2 s" in line.getMessage()


def test_one_call_that_can_be_risked_is_the_probe_and_its_success_brings_the_endpoint_back() -> None:
    """Exactly one, however many come meanwhile."""
    bench, probe = _probe()
    bad = probe.subchannel
    others = [bench.view.begin(RISKABLE) for _ in range(20)]
    assert all(attempt is not None and attempt.subchannel is not bad for attempt in others)
    bench.view.end(probe)
    assert bench.pool.snapshot.ejected == frozenset()
    assert _state_of(bench, bad) == "usable"
    assert bad in bench.picked()


@pytest.mark.parametrize("policy", ["p2c", "least_request", "round_robin"])
def test_an_endpoint_that_came_back_takes_its_share_at_once(policy: str) -> None:
    """What its failures weighed is forgotten: a probe is proof enough, and ejection has one owner."""
    bench = _bench(1, 2, 3, policy=policy)
    bad = bench.sub(1)
    _eject(bench, bad)
    bench.loop.advance(2.0)
    assert _call(bench, bad, RISKABLE) is bad
    bench.sub(2).started += MOST_PICKS
    bench.loop.advance(4.0)
    assert _call(bench, None, RISKABLE) is bad
    assert Counter(_call(bench) for _ in range(60))[bad] >= 10


def test_the_failure_of_a_probe_sends_the_endpoint_out_again_for_longer() -> None:
    """One request is what it costs to find out."""
    bench = _bench(1, 2, 3)
    bad = bench.sub(1)
    _eject(bench, bad)
    bench.loop.advance(2.0)
    assert _call(bench, bad, RISKABLE) is bad
    again_s = bench.loop.now_s()
    while bench.loop.now_s() < again_s + 3.9:
        assert _call(bench, bad, RISKABLE) is not bad
    bench.loop.advance(0.2)
    assert _call(bench, None, RISKABLE) is bad


def test_a_call_that_cannot_be_repeated_is_risked_only_after_a_while_without_others() -> None:
    """Its caller would see the failure of a probe."""
    bench = _bench(1, 2, 3)
    bad = bench.sub(1)
    _eject(bench, bad)
    bench.loop.advance(2.0)
    from_s = bench.loop.now_s()
    while bench.loop.now_s() < from_s + PATIENCE_S - 0.02:
        assert _call(bench) is not bad
    bench.loop.advance(0.1)
    assert _call(bench) is bad


def test_a_probe_that_its_caller_cancels_leaves_the_place_to_the_next() -> None:
    """It says nothing."""
    bench, probe = _probe()
    bench.view.end(probe, Outcome.CANCELLED)
    assert _call(bench, None, RISKABLE) is probe.subchannel
    assert bench.pool.snapshot.ejected == frozenset()


def test_an_attempt_that_does_not_count_neither_ejects_nor_proves_anything_nor_is_a_probe() -> None:
    """``outlier.ignore_methods``: health hears of none of its ends; the load metric does."""
    bench = _bench(1, 2, 3)
    bad, ignored = bench.sub(1), PickInfo("/shop.Orders/Report", replays=True, judged=False)
    for _ in range(300):
        _call(bench, bad, ignored)
    assert bench.pool.snapshot.ejected == frozenset()
    assert [(sub.started, sub.succeeded, sub.failed) for sub in bench.pool.snapshot.listed] == [(100, 0, 0)] * 3
    _eject(bench, bad)
    bench.loop.advance(2.0)
    assert bad not in {_call(bench, None, ignored) for _ in range(20)}
    probe = bench.view.begin(RISKABLE)
    assert probe is not None
    beside = [bench.view.begin_unready(ignored.avoiding(frozenset({bench.sub(2), bench.sub(3)}))) for _ in range(3)]
    for attempt, outcome in zip(beside, (Outcome.SUCCESS, Outcome.FAILURE, Outcome.CANCELLED), strict=True):
        assert attempt is not None
        assert attempt.subchannel is bad
        bench.view.answered(attempt)
        bench.view.end(attempt, outcome)
        assert bad in bench.pool.snapshot.ejected
    bench.view.end(probe)
    assert bench.pool.snapshot.ejected == frozenset()


def test_the_first_message_of_a_stream_that_is_a_probe_brings_the_endpoint_back() -> None:
    """It may last for hours; how it ends then is its own affair."""
    bench, probe = _probe(stream=True)
    bench.view.answered(probe)
    assert bench.pool.snapshot.ejected == frozenset()
    assert probe in probe.subchannel.streams
    bench.loop.advance(100.0)
    bench.view.end(probe, Outcome.FAILURE)
    assert bench.pool.snapshot.ejected == frozenset()


def test_a_call_that_has_tried_the_endpoint_is_not_its_probe() -> None:
    """What is excluded stays excluded."""
    bench = _bench(1, 2, 3)
    bad = bench.sub(1)
    _eject(bench, bad)
    bench.loop.advance(2.0)
    assert _call(bench, None, PickInfo("/shop.Orders/Get", frozenset([bad]), replays=True)) is not bad


def test_ejection_steps_back_when_nobody_else_is_ready() -> None:
    """Before the ClusterIP, which leads to the same pods; and it is back in force when another one is there."""
    bench = _bench(1, 2)
    bad, other = bench.sub(1), bench.sub(2)
    _eject(bench, bad)
    bench.connect(TRANSIENT_FAILURE, other)
    assert (bench.picked(), bench.view.describe()["on_fallback"]) == ({bad}, False)
    assert _state_of(bench, bad) == "usable, though ejected"
    assert bench.pool.describe()["endpoints"][0]["ejected"]["state"] == "used nevertheless: no other is ready"
    bench.connect(READY, other)
    assert bench.picked() == {other}
    assert _state_of(bench, bad) == "ejected"
    assert bench.pool.describe()["endpoints"][0]["ejected"]["state"] == "ejected"


def test_a_failure_that_finds_the_lock_taken_waits_for_nobody_and_is_considered_by_the_next_tick() -> None:
    """An end may be reported wherever the collector runs, also in a thread that holds the lock; each time, not only the first."""
    bench = _bench(*range(1, 11))
    bench.loop.advance(60.0)  # no other timer is left
    for bad in (bench.sub(1), bench.sub(2)):
        with bench.pool._lock:
            for _ in range(200):
                attempt = bench.view.begin(ANY)
                assert attempt is not None
                bench.view.end(attempt, Outcome.FAILURE if attempt.subchannel is bad else Outcome.SUCCESS)
        ticks = bench.ticks
        bench.loop.advance(0.5)
        assert bad in bench.pool.snapshot.ejected
        assert 1 <= bench.ticks - ticks <= 15


def test_a_doubted_endpoint_is_no_probe() -> None:
    """Its address may be another pod's by now: that pod's success would say nothing of it."""
    bench = _bench(1, 2, 3)
    bad = bench.sub(1)
    _eject(bench, bad)
    listed = [pod(1), pod(2), pod(3)]
    bench.pool.update(EndpointSet.of(listed, "kubernetes", unverified=frozenset({bad.endpoint.host})))
    bench.connect(TRANSIENT_FAILURE, bad)
    bench.connect(READY, bad)
    bench.loop.advance(2.0)
    assert bad in bench.pool.snapshot.probing
    assert all(_call(bench, None, RISKABLE) is not bad for _ in range(20))
    bench.publish(*listed)
    assert _call(bench, None, RISKABLE) is bad


def test_an_ejected_endpoint_that_discovery_removes_is_forgotten() -> None:
    """Nothing of it is left in the pool's view of who is out."""
    bench = _bench(1, 2, 3)
    _eject(bench, bench.sub(1))
    bench.publish(pod(2), pod(3))
    assert bench.pool.snapshot.ejected == frozenset()
    assert bench.picked() == {bench.sub(2), bench.sub(3)}


def test_threads_that_fail_together_lose_no_count_and_eject_the_one() -> None:
    """Every thread may be the one that ejects."""
    bench = _bench(1, 2, 3, 4)
    bad, barrier = bench.sub(1), threading.Barrier(4)

    def call() -> None:
        barrier.wait()
        for _ in range(200):
            attempt = bench.view.begin(ANY)
            assert attempt is not None
            bench.view.end(attempt, Outcome.FAILURE if attempt.subchannel is bad else Outcome.SUCCESS)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bench.loop.advance(1.0)
    assert bench.pool.snapshot.ejected == {bad}
    assert [sub.in_flight for sub in bench.pool.snapshot.listed] == [0, 0, 0, 0]


def test_an_idle_pool_asks_for_no_tick() -> None:
    """Neither before the first failure nor after the last ejection is over."""
    bench = _bench(1, 2, 3)
    bench.loop.advance(100.0)
    ticks = bench.ticks
    bench.loop.advance(3600.0)
    assert bench.ticks == ticks
    _eject(bench, bench.sub(1))
    bench.loop.advance(2.0)
    _call(bench, None, RISKABLE)
    bench.loop.advance(600.0)
    ticks = bench.ticks
    bench.loop.advance(3600.0)
    assert bench.ticks == ticks


def test_a_new_endpoint_takes_its_share_little_by_little() -> None:
    """The pickers follow the weights, with ticks only while somebody warms up."""
    bench = Bench("round_robin", slow_start=SlowStart(window_s=10.0))
    bench.publish(pod(1), pod(2))
    bench.connect(READY, bench.sub(1), bench.sub(2))
    bench.loop.advance(60.0)
    bench.publish(pod(1), pod(2), pod(3))
    new = bench.sub(3)
    bench.connect(READY, new)

    def share() -> float:
        attempts: list[Attempt] = [attempt for _ in range(3000) if (attempt := bench.view.begin(ANY)) is not None]
        counts = Counter(attempt.subchannel for attempt in attempts)
        for attempt in attempts:
            bench.view.end(attempt)
        return counts[new] / len(attempts)

    assert share() == pytest.approx(0.1 / 2.1, abs=0.01)
    assert bench.pool.describe()["endpoints"][2]["warmth"] == 0.1
    bench.loop.advance(5.0)
    assert share() == pytest.approx(0.5 / 2.5, abs=0.02)
    bench.loop.advance(5.1)
    assert share() == pytest.approx(1 / 3, abs=0.01)
    ticks = bench.ticks
    bench.loop.advance(3600.0)
    assert bench.ticks <= ticks + 1
