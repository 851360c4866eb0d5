"""What holds for any fleet: any number of endpoints, weights, loads, failures and endpoints to be avoided."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshlb.balance.config import PolicyConfig
from meshlb.balance.ipvs import IpvsLc, IpvsNq, IpvsSed
from meshlb.balance.least_request import LeastRequest
from meshlb.balance.order import place_of
from meshlb.balance.p2c import P2C
from meshlb.balance.peak_ewma import PeakEwma
from meshlb.balance.pick_first import PickFirst
from meshlb.balance.random_pick import Random
from meshlb.balance.registry import POLICIES
from meshlb.balance.round_robin import RoundRobin
from meshlb.balance.weighted_round_robin import WeightedRoundRobin
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Subchannel
from tests.picking import hold, know, picks, subchannels_of

CONFIGS = st.sampled_from(
    [
        LeastRequest(full_scan_limit=0),
        LeastRequest(full_scan_limit=0, choice_count=4),
        *dict.fromkeys(config() for config in POLICIES.values()),
    ]
)
WEIGHTS = st.one_of(
    st.integers(1, 80).map(lambda n: [1.0] * n),
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=80),
    st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=1, max_size=80),
)


@dataclass
class Scene:
    """A fleet in some state, and what is to be avoided."""

    config: PolicyConfig
    subchannels: list[Subchannel]
    avoid: frozenset[Subchannel]
    picker: object
    rng: random.Random


@st.composite
def scenes(draw: st.DrawFn, configs: st.SearchStrategy[PolicyConfig] = CONFIGS, failures: bool = True) -> Scene:
    config, weights = draw(configs), draw(WEIGHTS)
    rng = draw(st.randoms(use_true_random=False))
    policy = config.build(rng)
    subs = subchannels_of(policy, weights)
    know(policy, subs)
    picker = policy.new_picker(subs, rng)
    for sub in subs:
        hold(sub.unary, draw(st.integers(0, 3)))
        hold(sub.streams, draw(st.sampled_from([0, 0, 0, 7])))
        if failures and draw(st.booleans()):
            sub.metric.on_end(0.0, 0.001, Outcome.FAILURE)
    avoid = frozenset(sub for sub in subs if draw(st.sampled_from([False, False, True])))
    return Scene(config, subs, avoid, picker, rng)


@settings(deadline=None)
@given(scenes())
def test_a_pick_is_a_member_and_avoids_whom_it_should(scene: Scene) -> None:
    """Somebody always; nobody to be avoided while anybody else is there."""
    picked = set(picks(scene.picker, 20, exclude=scene.avoid))  # type: ignore[arg-type]
    allowed = set(scene.subchannels) - scene.avoid
    assert picked
    assert picked <= (allowed or set(scene.subchannels))


def _load(sub: Subchannel) -> float:
    return (len(sub.unary) + 0.01 * len(sub.streams)) / sub.weight


def _would_be_better(other: Subchannel, sub: Subchannel, attempt: float = 1.0) -> bool:
    """Less loaded, by more than what one attempt weighs there beyond what it weighs here."""
    return (_load(other) + attempt * max(0.0, 1.0 / other.weight - 1.0 / sub.weight)) * (1 + 1e-9) < _load(sub)


@settings(deadline=None)
@given(scenes(st.just(LeastRequest(full_scan_limit=100)), failures=False))
def test_a_scan_leaves_nobody_who_would_be_less_loaded(scene: Scene) -> None:
    """None of those that may be picked; with equal weights that is the least load."""
    allowed = set(scene.subchannels) - scene.avoid or set(scene.subchannels)
    attempt = 1.0 if any(sub.unary for sub in scene.subchannels) else 0.01
    for picked in picks(scene.picker, 10, exclude=scene.avoid):  # type: ignore[arg-type]
        assert not any(_would_be_better(other, picked, attempt) for other in allowed)


@settings(deadline=None)
@given(scenes(st.sampled_from([P2C(), LeastRequest(full_scan_limit=0)]), failures=False))
def test_two_draws_never_give_the_one_to_whom_all_others_are_better(scene: Scene) -> None:
    """Whoever it is compared with gets the attempt."""
    picked = set(picks(scene.picker, 50))  # type: ignore[arg-type]
    for sub in scene.subchannels:
        others = [other for other in scene.subchannels if other is not sub]
        if others and all(_would_be_better(other, sub) for other in others):
            assert sub not in picked


@settings(deadline=None)
@given(scenes(st.just(PeakEwma()), failures=False), st.lists(st.floats(1e-3, 10.0), min_size=80, max_size=80))
def test_of_two_by_latency_the_worst_of_all_is_never_taken(scene: Scene, latencies: list[float]) -> None:
    """Equal weights: whoever costs more than each of the others loses to whomever it is drawn with."""
    for sub, rtt_s in zip(scene.subchannels, latencies, strict=False):
        sub.metric.on_end(0.0, rtt_s, Outcome.SUCCESS)
    if len({sub.weight for sub in scene.subchannels}) > 1:
        return

    def cost(sub: Subchannel) -> float:
        return sub.metric.load(0.0) * (len(sub.unary) + 0.01 * len(sub.streams) + 1.0)

    picked = set(picks(scene.picker, 50))  # type: ignore[arg-type]
    for sub in scene.subchannels:
        others = [other for other in scene.subchannels if other is not sub]
        if others and all(cost(other) < cost(sub) for other in others):
            assert sub not in picked


@settings(deadline=None)
@given(scenes(st.sampled_from([IpvsLc(), IpvsSed(), IpvsNq()]), failures=False))
def test_ipvs_takes_the_first_of_the_least(scene: Scene) -> None:
    """By the exact comparison of products, as fractions."""
    allowed = [sub for sub in scene.subchannels if sub not in scene.avoid] or scene.subchannels
    (picked,) = set(picks(scene.picker, 3, exclude=scene.avoid))  # type: ignore[arg-type]
    idle = [sub for sub in allowed if not sub.in_flight]
    if scene.config.name == "ipvs:nq" and idle:
        assert picked is min(idle, key=place_of)
        return

    def delay(sub: Subchannel) -> Fraction:
        return Fraction(sub.in_flight + 1) / (1 if scene.config.name == "ipvs:lc" else Fraction(sub.weight))

    least = min(map(delay, allowed))
    assert float(delay(picked)) == pytest.approx(float(least), rel=1e-15)
    assert picked is min((sub for sub in allowed if delay(sub) == delay(picked)), key=place_of)


@settings(deadline=None)
@given(scenes(st.just(PickFirst())))
def test_pick_first_stays_and_goes_on_from_whom_it_leaves(scene: Scene) -> None:
    """One for all picks; without it another one, to which it then keeps."""
    policy = scene.config.build(scene.rng)
    subs = subchannels_of(policy, [1.0] * len(scene.subchannels))
    while subs:
        (first,) = set(picks(policy.new_picker(subs, scene.rng), 3))
        assert set(picks(policy.new_picker(subs, scene.rng), 3)) == {first}
        subs.remove(first)


@settings(deadline=None)
@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=20), st.integers(0, 2**32))
def test_chance_gives_each_its_weight(weights: list[float], seed: int) -> None:
    """In 2,000 picks nobody is more than 6 sigma off."""
    rng, n = random.Random(seed), 2_000
    policy = Random().build(rng)
    subs = subchannels_of(policy, weights)
    counts = Counter(picks(policy.new_picker(subs, rng), n))
    for sub in subs:
        share = sub.weight / sum(weights)
        assert abs(counts[sub] - n * share) <= 6 * (n * share * (1 - share)) ** 0.5 + 3


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.randoms(use_true_random=False))
def test_round_robin_gives_everybody_the_same_number_of_turns(n: int, rounds: int, rng: random.Random) -> None:
    """In any number of whole rounds, wherever they begin."""
    policy = RoundRobin().build(rng)
    subs = subchannels_of(policy, [1.0] * n)
    assert Counter(picks(policy.new_picker(subs, rng), n * rounds)) == dict.fromkeys(subs, rounds)


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=12), st.randoms(use_true_random=False))
def test_strides_are_never_far_from_the_exact_share(weights: list[int], rng: random.Random) -> None:
    """In every prefix of the picks each endpoint is within two of what its weight is worth."""
    policy = rng.choice([RoundRobin(), WeightedRoundRobin()]).build(rng)
    subs = subchannels_of(policy, [float(weight) for weight in weights])
    counts: Counter[Subchannel] = Counter()
    for number, sub in enumerate(picks(policy.new_picker(subs, rng), 200), start=1):
        counts[sub] += 1
        for other, weight in zip(subs, weights, strict=True):
            assert abs(counts[other] - number * weight / sum(weights)) < 2.0


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(list(Outcome)), st.floats(0.0, 10.0)), max_size=60),
    st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=10, max_size=10),
)
def test_a_penalty_ends_whatever_happened_before(events: list[tuple[int, Outcome, float]], weights: list[float]) -> None:
    """Any history, then a minute of time and two turns of the lightest endpoint: nobody bears anything, and picks are quick again."""
    rng = random.Random(1)
    policy = P2C().build(rng)
    subs = subchannels_of(policy, weights)
    picker = policy.new_picker(subs, rng)
    now_s = 0.0
    for at, outcome, passed_s in events:
        now_s += passed_s
        hold(subs[at].unary)
        picker.pick(PickInfo(), now_s)
        subs[at].metric.on_end(now_s, 0.01, outcome)
    picks(picker, 1 + int(2 * sum(weights) / min(weights)) + 200, now_s=now_s + 60.0)
    assert [sub.metric.load(now_s + 60.0) for sub in subs] == [0.0] * 10
