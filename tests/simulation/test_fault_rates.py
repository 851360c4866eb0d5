"""Quiet callers, busy ones and many at once, and one pod that fails fast: how often it is met, and that they do not return in step."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.picking import seeded
from tests.simulation.fault_rates import crowd, one_broken, quiet_hour
from tests.simulation.faults import FAULT_S

MET = 20  # attempts in eleven seconds: those that eject it, while load keeps most calls away, and four or five probes


def _seed() -> int:
    seed = seeded().randrange(2**32)
    print(f"seed={seed}")
    return seed


@pytest.mark.parametrize("pods", [2, 3, 10])
@pytest.mark.parametrize("rate", [1.0, 10.0, 100.0, 1000.0])
def test_a_caller_meets_a_broken_pod_a_few_times_however_often_it_calls(pods: int, rate: float) -> None:
    """In eleven seconds: until it is ejected, a tenth of a second longer, and by probes. So its share is below 1 % after a second from
    100 calls a second on; at fewer, five failures alone are more."""
    scene = one_broken(pods, rate, seed=_seed())
    record = scene.sim.run(FAULT_S + 11.0)
    met = record.between(FAULT_S).count(scene.hit[0].endpoint.address)
    assert met <= MET + 0.1 * rate / pods
    assert record.failed == 0
    if rate >= 100.0:
        assert record.between(FAULT_S + 1.0).share(scene.hit_addresses) <= 0.01


@pytest.mark.parametrize("pods", [2, 3, 10])
def test_a_quiet_caller_meets_a_pod_that_is_broken_for_an_hour_about_once_in_45_seconds(pods: int) -> None:
    """One call a second: its probes, 30 to 60 s apart, and the few before."""
    record, met = quiet_hour(pods, 1.0, seed=_seed())
    assert 50 <= met <= 3600 / 30
    assert record.failed == 0


@pytest.mark.parametrize("pods", [3, 10])
@pytest.mark.parametrize("rate", [0.1, 0.01])
def test_who_calls_rarely_meets_a_broken_pod_no_more_often_than_without_ejection(pods: int, rate: float) -> None:
    """About once in three turns; the times alone are over at each call."""
    seed = _seed()
    met = [quiet_hour(pods, rate, hours=0.8 / rate, seed=seed, outlier=outlier) for outlier in ("on", "off")]
    (record, with_it), (_, without) = met
    assert with_it <= without + 5
    assert with_it <= len(record.calls) / (2.5 * pods) + 10
    assert record.failed == 0


def test_fifty_callers_probe_one_after_the_other() -> None:
    """From the second second of the outage on: never more than a fifth of them in a tenth of a second, and each about ten times a minute;
    also when it works again nobody sends it more than its share."""
    _, record, address = crowd(50, rate_per_s=500.0, seed=_seed())
    during = record.between(FAULT_S + 2.0, FAULT_S + 60.0)
    assert during.peak(address, 0.1) <= 10
    probes = Counter(sent.client for sent in during.attempts if sent.address == address)
    assert max(probes.values()) <= 12
    assert record.between(FAULT_S + 60.0).share(address) <= 0.1
    assert record.failed == 0
