"""What every policy promises, whatever it chooses by; a new policy joins by its line in ``CONFIGS``."""

from __future__ import annotations

import threading
from collections import Counter
from itertools import pairwise

import pytest

from meshlb.balance.config import PolicyConfig
from meshlb.balance.least_request import LeastRequest
from meshlb.balance.p2c import P2C
from meshlb.balance.registry import POLICIES, policy_of
from meshlb.balance.round_robin import RoundRobin
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from tests.picking import hold, picks, seeded, shares, subchannels_of

CONFIGS = [
    P2C(),
    RoundRobin(),
    LeastRequest(),
    LeastRequest(full_scan_limit=0),
    LeastRequest(full_scan_limit=0, choice_count=3),
]
WEIGHTS = {"equal": [1.0] * 7, "unequal": [1.0, 2.0, 3.0, 1.0, 0.5, 2.0, 0.5], "two": [1.0, 1.0], "two unequal": [3.0, 1.0]}
NO_INFO = PickInfo()


@pytest.fixture(params=CONFIGS, ids=str)
def config(request: pytest.FixtureRequest) -> PolicyConfig:
    return request.param


@pytest.fixture(params=WEIGHTS.values(), ids=WEIGHTS.keys())
def weights(request: pytest.FixtureRequest) -> list[float]:
    return request.param


def test_every_registered_policy_takes_this_suite() -> None:
    """No policy escapes its contract."""
    assert set(POLICIES.values()) == {type(config) for config in CONFIGS}


def test_nobody_to_pick_gives_none(config: PolicyConfig) -> None:
    """None means that the picker was made with nobody, and nothing else."""
    rng = seeded()
    assert config.build(rng).new_picker([], rng).pick(NO_INFO, 0.0) is None


def test_the_only_one_is_picked_even_where_it_is_to_be_avoided(config: PolicyConfig) -> None:
    """Avoiding is for when others are there."""
    rng = seeded()
    policy = config.build(rng)
    (only,) = subchannels_of(policy, [1.0])
    picker = policy.new_picker([only], rng)
    assert picks(picker, 3) == picks(picker, 3, exclude=[only]) == [only] * 3


def test_an_idle_pool_is_shared_in_proportion_to_weight(config: PolicyConfig, weights: list[float]) -> None:
    """Equal endpoints get equal shares, unequal ones theirs: 5 sigma of a binomial draw."""
    rng, n = seeded(), 40_000
    policy = config.build(rng)
    subs = subchannels_of(policy, weights)
    got = shares(picks(policy.new_picker(subs, rng), n), subs)
    for share, weight in zip(got, weights, strict=True):
        expected = weight / sum(weights)
        assert share == pytest.approx(expected, abs=5 * (expected * (1 - expected) / n) ** 0.5)


def test_who_is_to_be_avoided_is_not_picked_while_another_is_there(config: PolicyConfig, weights: list[float]) -> None:
    """A retry goes elsewhere, even if whoever is left is the busiest."""
    rng = seeded()
    policy = config.build(rng)
    subs = subchannels_of(policy, weights)
    picker = policy.new_picker(subs, rng)
    hold(subs[-1].unary, 50)
    assert set(picks(picker, 200, exclude=subs[:-1])) == {subs[-1]}
    assert subs[0] not in picks(picker, 500, exclude=subs[:1])
    assert len(set(picks(picker, 2_000, exclude=[subs[-1]]))) == len(subs) - 1


def test_if_all_are_to_be_avoided_somebody_is_picked_nonetheless(config: PolicyConfig, weights: list[float]) -> None:
    """A pick never fails for want of somebody else."""
    rng = seeded()
    policy = config.build(rng)
    subs = subchannels_of(policy, weights)
    assert len(picks(policy.new_picker(subs, rng), 100, exclude=subs)) == 100


def test_avoiding_a_stranger_changes_nothing(config: PolicyConfig) -> None:
    """A subchannel that left the pool between two tries may still be in the list."""
    rng = seeded()
    policy = config.build(rng)
    subs = subchannels_of(policy, [1.0, 2.0, 3.0, 4.0])
    picker = policy.new_picker(subs[1:], rng)
    assert set(picks(picker, 500, exclude=subs[:1])) == set(subs[1:])


def test_a_new_picker_with_other_weights_gives_other_shares(config: PolicyConfig) -> None:
    """Weights are read when the picker is made."""
    rng = seeded()
    policy = config.build(rng)
    before = subchannels_of(policy, [1.0, 1.0])
    policy.new_picker(before, rng)
    after = subchannels_of(policy, [4.0, 1.0])
    got = shares(picks(policy.new_picker(after, rng), 10_000), after)
    assert got == pytest.approx([0.8, 0.2], abs=0.02)


def test_many_subchannels_are_all_reached(config: PolicyConfig) -> None:
    """Nobody is left out above the limit up to which a policy may look at all."""
    rng = seeded()
    policy = config.build(rng)
    subs = subchannels_of(policy, [1.0] * 300)
    assert set(picks(policy.new_picker(subs, rng), 300 * 30)) == set(subs)


def test_processes_do_not_begin_at_the_same_endpoint(config: PolicyConfig, weights: list[float]) -> None:
    """Of 1000 processes each endpoint is the first for at least a third of those that its weight is worth. (Not for all of them:
    a round robin that starts anywhere moves on to the next whose turn it is, and that is more often a heavy one.)"""
    rng = seeded()
    firsts: Counter[int] = Counter()
    for _ in range(1000):
        policy = config.build(rng)
        subs = subchannels_of(policy, weights)
        firsts[subs.index(picks(policy.new_picker(subs, rng), 1)[0])] += 1
    for at, weight in enumerate(weights):
        assert firsts[at] >= 1000 * weight / sum(weights) / 3


def test_threads_may_pick_and_report_at_once(config: PolicyConfig) -> None:
    """Picks, failures and new pickers in eight threads: nobody fails, and everybody is picked."""
    rng = seeded()
    policy = config.build(rng)
    subs = subchannels_of(policy, [1.0, 2.0, 3.0, 1.0])
    pickers = [policy.new_picker(subs, rng)]
    failures: list[BaseException] = []
    seen: set[object] = set()

    def run(number: int) -> None:
        try:
            for step in range(400):
                sub = pickers[-1].pick(NO_INFO, float(step))
                assert sub is not None
                seen.add(sub)
                sub.metric.on_start(float(step))
                sub.metric.on_end(float(step), 0.001, Outcome.FAILURE if step % 7 == number % 7 else Outcome.SUCCESS)
                if number == 0 and step % 50 == 0:
                    pickers.append(policy.new_picker(subs, rng))
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert seen == set(subs)


def test_load_is_a_pure_read(config: PolicyConfig) -> None:
    """Asking twice, or about another time in between, gives the same answer; and load is never below zero."""
    rng = seeded()
    policy = config.build(rng)
    subs = subchannels_of(policy, [1.0] * 3)
    policy.new_picker(subs, rng)
    metric = subs[0].metric
    for outcome in Outcome:
        metric.on_start(1.0)
        metric.on_end(1.0, 0.001, outcome)
        readings = [metric.load(now_s) for now_s in (1.0, 2.0, 1e6, 2.0, 1.0)]
        assert readings == readings[::-1]
        assert min(readings) >= 0.0


def test_loads_fall_as_time_passes(config: PolicyConfig) -> None:
    """What a metric adds to the live attempts decays."""
    rng = seeded()
    policy = config.build(rng)
    subs = subchannels_of(policy, [1.0] * 3)
    policy.new_picker(subs, rng)
    for _ in range(10):
        subs[0].metric.on_end(0.0, 0.001, Outcome.FAILURE)
    readings = [subs[0].metric.load(float(now_s)) for now_s in range(20)]
    assert all(later <= earlier for earlier, later in pairwise(readings))


def test_the_policy_has_the_name_it_is_known_by(config: PolicyConfig) -> None:
    """``status()`` shows a name that a configuration could say."""
    assert type(policy_of(config.build(seeded()).name)) is type(config)
