"""A pod that joins a busy pool, in virtual time: what it gets in each second is what the formula says, and never a herd."""

from __future__ import annotations

import heapq
from itertools import count

import pytest

from meshlb.balance.config import PolicyConfig
from meshlb.balance.least_request import LeastRequest
from meshlb.balance.p2c import P2C
from meshlb.balance.round_robin import RoundRobin
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt
from meshlb.health.slow_start import SlowStart, Warming
from tests.picking import seeded, subchannels_of

CONFIGS = [P2C(), RoundRobin(), LeastRequest(), LeastRequest(full_scan_limit=0, choice_count=3)]
INFO = PickInfo()


def _shares_by_second(config: PolicyConfig, settings: SlowStart, mean_load: float, n: int, seconds: int) -> list[float]:
    """The newcomer's share of the calls in each second, of n endpoints; calls take 50 ms on the mean."""
    rng, service_s = seeded(), 0.05
    policy = config.build(rng)
    subs = subchannels_of(policy, [1.0] * n)
    warming = Warming(settings)
    warming.know(subs[1:], 0.0)
    warming.know(subs, 0.0)
    picker = policy.new_picker(subs, rng)
    ending: list[tuple[float, int, Attempt]] = []
    order, now_s = count(), 0.0
    got, calls = [0] * seconds, [0] * seconds
    while True:
        now_s += rng.expovariate(mean_load * n / service_s)
        if now_s >= seconds:
            return [part / whole for part, whole in zip(got, calls, strict=True)]
        while ending and ending[0][0] <= now_s:
            end_s, _, attempt = heapq.heappop(ending)
            attempt.live.remove(attempt)
            attempt.subchannel.metric.on_end(end_s, service_s, Outcome.SUCCESS)
        if (due_s := warming.due_s()) is not None and now_s >= due_s and warming.tick(now_s):
            picker = policy.new_picker(subs, rng)
        sub = picker.pick(INFO, now_s)
        assert sub is not None
        attempt = Attempt()
        attempt.subchannel, attempt.live = sub, sub.unary
        sub.unary.add(attempt)
        heapq.heappush(ending, (now_s + rng.expovariate(1 / service_s), next(order), attempt))
        got[int(now_s)] += sub is subs[0]
        calls[int(now_s)] += 1


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("mean_load", [0.2, 1.0, 5.0], ids=["idle", "one call each", "busy"])
def test_a_newcomer_gets_what_the_formula_says_at_any_load(config: PolicyConfig, mean_load: float) -> None:
    """Five endpoints, a window of 10 s: in each quarter of it about weight * formula; never more than 1.35 of it (and noise), at no load.
    Without the handicap of light endpoints (balance/sample.py) a scan gives it up to six times as much."""
    settings = SlowStart(window_s=10.0)
    shares = _shares_by_second(config, settings, mean_load, 5, 12)
    for begin, end in [(0, 2), (2, 5), (5, 8), (8, 10), (10, 12)]:
        factor = sum(settings.warmth(at / 10) for at in range(begin * 10, end * 10)) / (10 * (end - begin))
        expected = factor / (4 + factor)
        got = sum(shares[begin:end]) / (end - begin)
        noise = 5 * (expected / (mean_load * 5 / 0.05 * (end - begin))) ** 0.5
        assert 0.55 * expected - noise <= got <= 1.35 * expected + noise
