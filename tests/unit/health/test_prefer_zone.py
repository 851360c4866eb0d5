"""The caller's zone first: what stays in closed form, and each of the four things that let a call go elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshlb.core.endpoint import Place
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.health.locality import Locality
from meshlb.health.prefer_zone import EVERY, Latencies, Sample, stay_ratio
from tests.picking import hold, picks
from tests.unit.health.test_locality import own_service, picker_over

PREFER = Locality(mode="prefer", probe_ratio=0.0)


def _local_ratio(picked: list[Subchannel], zone: str = "a") -> float:
    return sum(sub.endpoint.locality.zone == zone for sub in picked) / len(picked)


@pytest.mark.parametrize(
    ("capacity", "callers", "stays"),
    [
        (1 / 3, 1 / 3, 1.0),  # even
        (0.1, 1 / 3, 0.375 - 0.1 * (1 - 0.375) / 0.9),  # one of ten: 0.375 arrive
        (0.2, 1 / 3, (0.75 - 0.2) / 0.8),  # two of ten
        (0.5, 0.9, (1.25 * 0.5 / 0.9 - 0.5) / 0.5),
        (0.01, 1.0, (0.0125 - 0.01) / 0.99),
    ],
)
def test_what_stays_is_bounded_by_what_the_zone_can_bear(capacity: float, callers: float, stays: float) -> None:
    """Worked numbers for ratio 1.25; what arrives in the zone is exactly 1.25 times the mean, or all."""
    assert stay_ratio(capacity, callers, 1.25) == pytest.approx(stays)
    arriving = stays + (1 - stays) * capacity
    assert arriving == pytest.approx(min(1.0, 1.25 * capacity / callers))


@pytest.mark.parametrize(
    ("zones", "arrive"), [("abc", 1.0), ("aabbcc", 1.0), ("abbbbccccc", 0.375), ("aabbbbcccc", 0.75), ("abbbcccddd", 0.5)]
)
def test_the_zones_share_of_calls(zones: str, arrive: float) -> None:
    """With nothing in flight: all, unless the zone has too few; one of ten in three zones gets 0.375 of its zone's calls."""
    picker, _, localities = picker_over(zones, PREFER)
    assert _local_ratio(picks(picker, 20_000)) == pytest.approx(arrive, abs=0.02)
    assert "reason" not in localities.describe()


def test_the_own_service_says_how_many_call() -> None:
    """Half of the callers are here, and a quarter of the endpoints: 1.25 * 0.25 / 0.5."""
    picker, _, _ = picker_over("abbb", PREFER, own=own_service("aabb"))
    assert _local_ratio(picks(picker, 20_000)) == pytest.approx(0.625, abs=0.02)


@pytest.mark.parametrize(
    ("zones", "own", "arrive"), [("abbb----", None, 1.25 * 2 / 8), ("abbb", "a---", 1.25 * 1 / 4), ("abbb", "aabb--", 0.625)]
)
def test_who_is_in_no_known_zone_is_no_zone_of_callers(zones: str, own: str | None, arrive: float) -> None:
    """Neither a target's endpoints nor the caller's own pods: callers are spread over the zones that are known."""
    picker, _, _ = picker_over(zones, PREFER, own=own_service(own) if own else None)
    assert _local_ratio(picks(picker, 20_000)) == pytest.approx(arrive, abs=0.02)


@pytest.mark.parametrize("weights", [(1e9, 1e-9), (1e-9, 1e9), (1e-9, 1e-9)])
def test_the_most_uneven_weights_break_nothing(weights: tuple[float, float]) -> None:
    """The sum of all may be that of the zone, but for rounding."""
    _, subs, localities = picker_over("abc", PREFER)
    policy_picker = picker_over("abc", PREFER)[0]
    for sub, weight in zip(subs, (*weights, weights[1]), strict=True):
        sub.endpoint, sub.warmth = replace(sub.endpoint, weight=weight), 0.1
    picker = localities.new_picker(subs, Place(zone="a"), lambda chosen: policy_picker)
    assert len(picks(picker, 5 * EVERY)) == 5 * EVERY
    assert localities.describe()["mode"] == "prefer"


def test_some_calls_probe_elsewhere() -> None:
    """A tenth of the calls go to everybody, two thirds of these elsewhere."""
    picker, _, _ = picker_over("abc", Locality(mode="prefer", probe_ratio=0.1))
    assert _local_ratio(picks(picker, 20_000)) == pytest.approx(1 - 0.1 * 2 / 3, abs=0.01)


@pytest.mark.parametrize("zones", ["-bc", "bcbc"])
def test_none_here_is_said(zones: str) -> None:
    """An endpoint without a zone is in nobody's."""
    _, _, localities = picker_over(zones, PREFER)
    assert localities.describe() == {"mode": "prefer", "zone": "a", "reason": "no endpoint is in the caller's zone a"}


def test_endpoints_without_zones_are_said() -> None:
    """The other reason for the same."""
    _, _, localities = picker_over("---", PREFER)
    assert localities.describe()["reason"] == "the endpoints' zones are not known"


def test_all_here_is_said() -> None:
    """Nothing to prefer."""
    _, _, localities = picker_over("aaa", PREFER)
    assert localities.describe()["reason"] == "all endpoints are in the caller's zone a"


def test_an_endpoint_that_hangs_keeps_what_it_has() -> None:
    """Two attempts in flight each are usual; then one's calls do not end any more: it gets up to 1.25 * 2 + 2, and no more."""
    picker, subs, _ = picker_over("ab", PREFER)
    near = subs[0]
    hold(near.unary, 2)
    near.started += 2
    for _ in range(50 * EVERY):
        picker.pick(PickInfo(), 0.0)
        near.started += 1
    for _ in range(50):
        sub = picker.pick(PickInfo(), 0.0)
        hold(near.unary, int(sub is near))
    assert len(near.unary) in (5, 6)  # the mean moves a little with it


def test_a_failing_zone_is_left() -> None:
    """While the policy's penalty lies on the only endpoint here, calls go where there is none."""
    picker, subs, _ = picker_over("abc", PREFER)
    for _ in range(10):
        subs[0].metric.on_end(0.0, 0.001, Outcome.FAILURE)
    assert _local_ratio(picks(picker, 100)) <= 0.05
    assert _local_ratio(picks(picker, 200, now_s=100.0)) >= 0.9


def _looks(near_seen: int, near_begun: int, far_seen: int, far_begun: int, times: int = 200) -> Latencies:
    """The same to be seen at every look: attempts in flight, attempts begun since."""
    _, (near, far), _ = picker_over("ab", PREFER)
    samples, latencies = (Sample([near]), Sample([far])), Latencies()
    hold(near.unary, near_seen)
    hold(far.unary, far_seen)
    for _ in range(times):
        near.started += near_begun
        far.started += far_begun
        latencies.look(*samples)
    return latencies


@pytest.mark.parametrize(
    ("seen", "low", "high"),
    [
        ((60, 64, 60, 64), 0.9, 1.0),
        ((30, 60, 1, 2), 0.7, 1.0),
        ((90, 60, 1, 2), 2.0, 3.0),
        ((20, 60, 1, 2), 0.5, 1.0),
    ],
)
def test_latency_is_attempts_in_flight_by_attempts_begun(seen: tuple[int, int, int, int], low: float, high: float) -> None:
    """Equal, the same with few calls elsewhere, three times as slow here, faster here: never more than is certain."""
    assert low <= _looks(*seen).ratio <= high


def test_without_events_no_latency_is_believed() -> None:
    """Nothing seen, nothing begun elsewhere, or a single look."""
    assert Latencies().ratio == 1.0
    assert _looks(0, 60, 0, 2).ratio <= 1.0
    assert _looks(50, 60, 0, 0).ratio <= 1.0
    assert _looks(90, 60, 1, 2, times=1).ratio < 1.25


def test_a_zone_that_is_slow_for_everybody_keeps_fewer_calls() -> None:
    """Calls take three times as long here as elsewhere: far fewer stay than at first, at four in flight too."""
    picker, subs, localities = picker_over("aabb", Locality(mode="prefer", slack=10.0))
    live: list[tuple[float, Attempt]] = []
    local = []
    for number in range(20_000):
        live.sort(key=lambda one: one[0])
        while live and live[0][0] <= number:
            _, attempt = live.pop(0)
            attempt.live.remove(attempt)
        sub = picker.pick(PickInfo(), 0.0)
        assert sub is not None
        sub.started += 1
        attempt = Attempt()
        attempt.subchannel, attempt.live = sub, sub.unary
        sub.unary.add(attempt)
        local.append(sub in subs[:2])
        live.append((number + (6 if sub in subs[:2] else 2), attempt))
    assert sum(local[:500]) >= 400
    assert sum(local[-5_000:]) <= 3_500
    assert float(localities.describe()["latency_ratio"]) > 1.25  # type: ignore[arg-type]


def test_a_cold_endpoint_here_counts_for_its_warmth() -> None:
    """Half of a zone of two at a tenth: 1.1 of 5.1 can bear 0.81 of the zone's calls (three zones)."""
    _, subs, localities = picker_over("aabbcc", PREFER)
    subs[0].warmth = 0.1
    policy_picker = picker_over("ab", PREFER)[0]
    localities.new_picker(subs, Place(zone="a"), lambda chosen: policy_picker)
    assert localities.describe()["stay_ratio"] == pytest.approx(stay_ratio(1.1 / 5.1, 1 / 3, 1.25), abs=1e-3)
