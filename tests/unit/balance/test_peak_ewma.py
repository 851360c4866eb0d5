"""Peak EWMA: cost is latency times the calls it would have, of two distinct draws."""

from __future__ import annotations

import pytest

from meshlb.balance.peak_ewma import PeakEwma, PeakEwmaPolicy
from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Subchannel
from meshlb.errors import ConfigError
from tests.picking import hold, picks, seeded, shares, subchannels_of


def _fleet(weights: list[float], config: PeakEwma = PeakEwma()) -> tuple[PeakEwmaPolicy, list[Subchannel]]:  # noqa: B008 - immutable
    policy = config.build(seeded())
    return policy, subchannels_of(policy, weights)


def test_the_slowest_is_never_picked_and_the_fastest_whenever_it_is_drawn() -> None:
    """Of 5 idle ones in the order of their latencies: the k-th is drawn with a worse one in 2 (5 - k) / 20 of all pairs."""
    policy, subs = _fleet([1.0] * 5)
    for at, sub in enumerate(subs):
        sub.metric.on_end(0.0, 0.1 * (at + 1), Outcome.SUCCESS)
    got = shares(picks(policy.new_picker(subs, seeded()), 40_000), subs)
    assert got == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0], abs=0.012)


@pytest.mark.parametrize(("slow_s", "calls", "taken"), [(0.2, 0, "slow"), (0.2, 1, "tie"), (0.2, 2, "fast"), (0.31, 2, "slow")])
def test_latency_and_calls_in_flight_multiply(slow_s: float, calls: int, taken: str) -> None:
    """A fast one of 100 ms with k calls against an idle slow one: taken is who is better at 0.1 * (k + 1) against its latency."""
    policy, (fast, slow) = _fleet([1.0, 1.0])
    fast.metric.on_end(0.0, 0.1, Outcome.SUCCESS)
    slow.metric.on_end(0.0, slow_s, Outcome.SUCCESS)
    hold(fast.unary, calls)
    got = set(picks(policy.new_picker([fast, slow], seeded()), 200))
    assert got == {"slow": {fast}, "fast": {slow}, "tie": {fast, slow}}[taken]


def test_what_fails_fast_gets_nothing_for_about_a_minute_and_then_its_share() -> None:
    """Without the penalty the one that answers in 1 ms would get 2/n of the picks, the most that two draws give."""
    policy, subs = _fleet([1.0] * 4)
    for sub in subs[1:]:
        sub.metric.on_end(0.0, 0.1, Outcome.SUCCESS)
    subs[0].metric.on_end(0.0, 0.001, Outcome.FAILURE)
    picker = policy.new_picker(subs, seeded())
    for sub in subs[1:]:
        sub.metric.on_end(30.0, 0.1, Outcome.SUCCESS)
    assert subs[0] not in picks(picker, 500, now_s=30.0)
    for sub in subs[1:]:
        sub.metric.on_end(60.0, 0.1, Outcome.SUCCESS)
    assert subs[0] in picks(picker, 500, now_s=60.0)

    unpunished, subs = _fleet([1.0] * 4, PeakEwma(failure_penalty_s=0.0))
    for sub in subs[1:]:
        sub.metric.on_end(0.0, 0.1, Outcome.SUCCESS)
    subs[0].metric.on_end(0.0, 0.001, Outcome.FAILURE)
    assert shares(picks(unpunished.new_picker(subs, seeded()), 20_000), subs)[0] == pytest.approx(0.5, abs=0.02)


def test_a_light_endpoint_bears_what_an_attempt_weighs_there() -> None:
    """Weights 10 : 1, one call on the heavy one, equal latencies: drawn second, the light one would have 1 call a weight and the heavy one
    2/10, so it is picked only where it is drawn first: 1/11."""
    policy, (heavy, light) = _fleet([10.0, 1.0])
    hold(heavy.unary)
    got = shares(picks(policy.new_picker([heavy, light], seeded()), 40_000), [heavy, light])
    assert got[1] < 1.5 / 11


def test_streams_count_a_little_and_tell_ties_apart() -> None:
    """100 of them as one call."""
    policy, (busy, idle) = _fleet([1.0, 1.0])
    hold(busy.streams, 3)
    assert set(picks(policy.new_picker([busy, idle], seeded()), 200)) == {idle}
    busy.metric.on_end(0.0, 0.1, Outcome.SUCCESS)
    idle.metric.on_end(0.0, 0.11, Outcome.SUCCESS)
    assert set(picks(policy.new_picker([busy, idle], seeded()), 200)) == {busy}


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("default_rtt_s", 0.0, "must be > 0 seconds"),
        ("default_rtt_s", "30ms", "must be a finite number of seconds"),
        ("tau_s", -1.0, "must be > 0 seconds"),
        ("tau_s", float("inf"), "must be a finite number of seconds"),
        ("failure_penalty_s", -0.1, "must be >= 0 seconds"),
        ("failure_penalty_s", float("nan"), "must be a finite number of seconds"),
        ("stream_weight", -1, "must be a finite number >= 0"),
        ("stream_weight", True, "must be a finite number >= 0"),
    ],
)
def test_bad_fields_are_refused_with_field_value_and_rule(field: str, value: object, rule: str) -> None:
    """When the configuration is made."""
    with pytest.raises(ConfigError) as caught:
        PeakEwma(**{field: value})  # type: ignore[arg-type]
    assert str(caught.value) == f"policy.{field}={value!r}: {rule}"
