"""``outlier="grpc"``: gRFC A50's two algorithms, worked examples."""

from __future__ import annotations

import pytest

from meshlb.health.outlier import Outlier
from tests.support.outliers import Drawn, Field


def a50(**said: object) -> Outlier:
    return Outlier.of({"mode": "grpc", **said})


ONLY_RATE = {"enforcing_failure_percentage_ratio": 0.0}
ONLY_PERCENTAGE = {"enforcing_success_rate_ratio": 0.0}


def _interval(field: Field, rates: list[float], volume: int = 100) -> None:
    """One interval's attempts, and its sweep."""
    for i, rate in enumerate(rates):
        field.fail(i, volume - round(rate * volume))
    for i, rate in enumerate(rates):
        field.end(i, times=round(rate * volume))
    field.run(10.0)


@pytest.mark.parametrize(
    ("rates", "volume", "out"),
    [
        ([0.51, 1, 1, 1, 1], 100, {0}),  # mean 90.2, stdev 19.6, threshold 52.96
        ([0.53, 1, 1, 1, 1], 100, {0}),  # mean 90.6, stdev 18.8, threshold 54.9
        ([0.62, 0.8, 0.8, 0.8, 0.58], 100, set()),  # threshold 53.3
        ([0, 1, 1, 1], 100, set()),  # four with the volume
        ([0, 1, 1, 1, 1], 99, set()),
    ],
)
def test_success_rate(rates: list[float], volume: int, out: set[int]) -> None:
    """Below mean - 1.9 * population deviation goes, of at least five with at least 100 requests."""
    field = Field(len(rates), a50(**ONLY_RATE))
    _interval(field, rates, volume)
    assert field.out == out


@pytest.mark.parametrize(
    ("rates", "volume", "out"),
    [
        ([0.14, 1, 1, 1, 1], 100, {0}),
        ([0.15, 1, 1, 1, 1], 100, set()),  # 85 % is not above 85 %
        ([0, 1, 1, 1, 1], 50, {0}),
        ([0, 1, 1, 1, 1], 49, set()),
        ([0, 1, 1, 1], 100, set()),
    ],
)
def test_failure_percentage(rates: list[float], volume: int, out: set[int]) -> None:
    """Above 85 % goes, with at least 50 requests, in a pool of at least five."""
    field = Field(len(rates), a50(**ONLY_PERCENTAGE))
    _interval(field, rates, volume)
    assert field.out == out


def test_its_minimum_of_hosts_counts_all_of_them() -> None:
    """Not only those with the volume, as the text has it: one busy endpoint of five is enough."""
    field = Field(5, a50())
    field.fail(0, 60)
    field.run(10.0)
    assert field.out == {0}


@pytest.mark.parametrize(("n", "ratio", "out"), [(5, 0.1, 1), (10, 0.1, 2), (20, 0.1, 3), (5, 0.0, 1), (5, 0.5, 3)])
def test_the_sweep_stops_when_more_than_the_share_is_out(n: int, ratio: float, out: int) -> None:
    """So one always goes, and the share may be passed by one: 10 % of 10 are not more than 10 %."""
    field = Field(n, a50(max_ejection_ratio=ratio, **ONLY_PERCENTAGE))
    _interval(field, [0.0] * (n - 1) + [1.0])
    assert len(field.out) == out


def test_nobody_is_out_while_everybody_would_be() -> None:
    """Whatever the share."""
    field = Field(5, a50(max_ejection_ratio=1.0, **ONLY_PERCENTAGE))
    _interval(field, [0.0] * 5)
    assert field.out == set()
    assert field.ejector.describe()["panic"] is True


def test_times_out_grow_by_the_base_and_the_multiplier_falls_by_one_a_sweep() -> None:
    """Ejected at a sweep for 30 s, it comes back at the first sweep that is *later* than that: at 40 s."""
    field = Field(5, a50(**ONLY_PERCENTAGE, base_ejection_s=25.0))
    _interval(field, [0, 1, 1, 1, 1])
    assert field.out == {0}
    field.run(29.9)
    assert field.out == {0}
    field.run(0.1)
    assert field.out == set()
    _interval(field, [0, 1, 1, 1, 1])  # multiplier 2: 50 s, not over at the sweep of 50 s
    field.run(59.9)
    assert field.out == {0}
    field.run(0.1)
    assert field.out == set()
    field.run(20.0)  # two sweeps: the multiplier is 0
    _interval(field, [0, 1, 1, 1, 1])
    field.run(30.0)
    assert field.out == set()


def test_the_longest_time_is_the_maximum() -> None:
    """min(base * multiplier, max)."""
    field = Field(5, a50(**ONLY_PERCENTAGE, base_ejection_s=25.0, max_ejection_s=35.0))
    for stay_s in (30.0, 40.0, 40.0):
        _interval(field, [0, 1, 1, 1, 1])
        assert field.out == {0}
        field.run(stay_s - 0.1)
        assert field.out == {0}
        field.run(0.1)
        assert field.out == set()


@pytest.mark.parametrize(("drawn", "out"), [(0.299, {0}), (0.3, set())])
def test_enforcing_is_drawn(drawn: float, out: set[int]) -> None:
    """A whole number from 0 to 99 below the percentage."""
    field = Field(5, a50(enforcing_failure_percentage_ratio=0.3, enforcing_success_rate_ratio=0.0), Drawn(drawn))
    _interval(field, [0, 1, 1, 1, 1])
    assert field.out == out
    assert ("failure_percentage" in field.ejector.describe()["not_enforced"]) is not bool(out)  # type: ignore[operator]


def test_with_nobody_ahead_of_the_mean_nobody_goes() -> None:
    """Equal rates, however bad, have no deviation."""
    field = Field(10, a50(**ONLY_RATE))
    _interval(field, [0.2] * 10)
    assert field.out == set()


def test_repr_and_describe() -> None:
    """What status() shows."""
    field = Field(5, a50())
    _interval(field, [0, 1, 1, 1, 1])
    assert field.ejector.describe()["ejections"] == {"failure_percentage": 1} or field.ejector.describe()["ejections"] == {
        "success_rate": 1
    }
    assert repr(field.ejector) == f"<Ejector grpc out=1 probing=0 due_s={field.now_s + 10.0}>"
    assert "of its calls failed" in str(field.ejector.why(field.subs[0], field.now_s)) or "success rate" in str(
        field.ejector.why(field.subs[0], field.now_s)
    )
