"""anchor: an order that each process keeps, homes that move, turns while nothing is in flight, and an aperture in large pools."""

from __future__ import annotations

import random
import threading
from collections import Counter
from itertools import pairwise

import pytest

from meshlb.balance.anchor import Anchor, AnchorPolicy
from meshlb.balance.anchor_picker import TURN, AnchorPicker
from meshlb.core.endpoint import Endpoint
from meshlb.core.outcome import Outcome
from meshlb.core.policy import Picker
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.errors import ConfigError
from meshlb.load.anchored import Anchored
from tests.attempts import INFO, begin_on, end
from tests.picking import know, picks, seeded, shares, subchannels_of


def _fleet(rng: random.Random, weights: list[float], **config: int) -> tuple[AnchorPolicy, list[Subchannel], Picker]:
    policy = Anchor(**config).build(rng)
    subs = subchannels_of(policy, weights)
    know(policy, subs)
    return policy, subs, policy.new_picker(subs, rng)


def _begin(picker: Picker, now_s: float = 0.0, *, stream: bool = False) -> Attempt:
    sub = picker.pick(INFO, now_s)
    assert sub is not None
    return begin_on(sub, now_s, stream=stream)


def _metric(sub: Subchannel) -> Anchored:
    assert isinstance(sub.metric, Anchored)
    return sub.metric


def _call(picker: Picker, now_s: float, took_s: float = 0.01) -> Subchannel:
    attempt = _begin(picker, now_s)
    end(attempt, now_s + took_s)
    return attempt.subchannel


def _preferred(policy: AnchorPolicy, picker: Picker, n: int, now_s: float = 0.0) -> list[Subchannel]:
    """In which order n calls at once are sent out by a process that usually has many."""
    policy._hands.company_ratio = 1.0
    held = [_begin(picker, now_s) for _ in range(n)]
    for attempt in held:
        end(attempt, now_s, Outcome.CANCELLED)
    return [attempt.subchannel for attempt in held]


@pytest.mark.parametrize("n", [2, 3, 10, 64])
def test_calls_at_once_go_to_different_endpoints(n: int) -> None:
    """All are looked at: n calls on n endpoints, one each, and the next n again."""
    _, subs, picker = _fleet(seeded(), [1.0] * n)
    for round_ in range(1, 4):
        for _ in range(n):
            _begin(picker)
        assert [len(sub.unary) for sub in subs] == [round_] * n


def test_one_call_at_a_time_goes_round() -> None:
    """Ten endpoints get 100 of 1,000 calls each, a turn of 20 at a time."""
    _, _, picker = _fleet(seeded(), [1.0] * 10)
    seen = [_call(picker, at * 0.01) for at in range(1_000)]
    assert set(Counter(seen).values()) == {100}
    changes = sum(one is not other for one, other in pairwise(seen))
    assert changes == pytest.approx(1_000 / TURN, abs=1)


def test_one_call_at_a_time_of_chance_lengths_is_not_pinned() -> None:
    """Log-normal latencies, another one each call: nobody gets 1.5 times the mean of any thousand."""
    rng = seeded()
    _, subs, picker = _fleet(rng, [1.0] * 10)
    now_s, seen = 0.0, []
    for _ in range(10_000):
        took_s = 0.01 * rng.lognormvariate(0.0, 1.0)
        seen.append(_call(picker, now_s, took_s))
        now_s += took_s
    for start in range(0, 10_000, 1_000):
        assert max(Counter(seen[start : start + 1_000]).values()) <= 150
    assert set(seen) == set(subs)


def test_turns_pass_over_who_is_slow() -> None:
    """One of five takes five times as long: it gets a small part of its share, but is asked again."""
    rng = seeded()
    _, subs, picker = _fleet(rng, [1.0] * 5)
    now_s, seen = 0.0, Counter[Subchannel]()
    for _ in range(20_000):
        attempt = _begin(picker, now_s)
        took_s = 0.01 * rng.lognormvariate(0.0, 0.5) * (5.0 if attempt.subchannel is subs[2] else 1.0)
        now_s += took_s
        end(attempt, now_s)
        seen[attempt.subchannel] += 1
    assert 20 < seen[subs[2]] < 20_000 / 5 / 5


def test_who_stands_out_gets_no_turn() -> None:
    """Neither who is clearly slower nor who fails clearly more, while that is remembered; if all do, somebody is picked nonetheless."""
    _, subs, picker = _fleet(seeded(), [1.0] * 5)
    for _ in range(20):
        _metric(subs[1]).learn(2.0, 0.0)
        _metric(subs[3]).on_end(0.0, 0.001, Outcome.FAILURE)
    assert set(picks(picker, 500)) == {subs[0], subs[2], subs[4]}
    for sub in subs:
        for _ in range(20):
            _metric(sub).learn(2.0, 0.0)
    assert len(picks(picker, 10)) == 10


def test_a_turn_ends_with_the_second_failure() -> None:
    """Nobody gets the rest of its turn."""
    _, _, picker = _fleet(seeded(), [1.0] * 5)
    whose = _call(picker, 0.0)
    while (now := _call(picker, 0.0)) is whose:
        pass
    for _ in range(2):
        assert _begin(picker).subchannel is now
        end(now.unary.copy().pop(), 0.0, Outcome.FAILURE)
    assert now not in picks(picker, 50)


def test_a_light_endpoint_is_loaded_as_it_would_be_with_the_call() -> None:
    """Weights 4 and 1, the heavy one at home: four calls at once go there, the fifth to the light one."""
    policy, subs, picker = _fleet(seeded(), [4.0, 1.0])
    policy._hands.company_ratio = 1.0
    policy._hands.home = _metric(subs[0]).draw / 4.0
    picker = policy.new_picker(subs, seeded())
    assert [_begin(picker).subchannel for _ in range(5)] == [subs[0]] * 4 + [subs[1]]


def test_who_is_taken_for_busy_by_mistake_is_looked_at_again() -> None:
    """Threads may leave somebody in there who has no call: the next refresh finds it."""
    policy, subs, picker = _fleet(seeded(), [1.0] * 3)
    policy._costs.busy.add(_metric(subs[0]))
    picks(picker, 1)
    assert not policy._costs.busy


def test_streams_opened_one_after_the_other_go_round() -> None:
    """Each ends the turn of where it began, so ten endpoints carry five each, not one twenty."""
    _, subs, picker = _fleet(seeded(), [1.0] * 10)
    for _ in range(50):
        _begin(picker, stream=True)
    assert [len(sub.streams) for sub in subs] == [5] * 10


def test_streams_avoid_who_has_more() -> None:
    """Where some have gone, the next ones fill up."""
    _, subs, picker = _fleet(seeded(), [1.0] * 4)
    held = [_begin(picker, stream=True) for _ in range(40)]
    for attempt in held:
        if attempt.subchannel is not subs[0]:
            end(attempt, 0.0)
    for _ in range(24):
        _begin(picker, stream=True)
    assert len(subs[0].streams) <= 12


def test_processes_have_orders_of_their_own() -> None:
    """Where a hundred processes prefer to go is spread over all."""
    rng = seeded()
    seen: Counter[str] = Counter()
    for _ in range(100):
        policy, _, picker = _fleet(rng, [1.0] * 5)
        seen[_preferred(policy, picker, 1)[0].endpoint.host] += 1
    assert len(seen) == 5
    assert max(seen.values()) < 45


def test_the_order_survives_who_comes_and_goes() -> None:
    """New pickers, an endpoint more, one less, and again: the others follow one another as before. (The home is the next one's when it
    has gone.)"""
    rng = seeded()
    policy, subs, picker = _fleet(rng, [1.0] * 8)

    def ring(of: list[Subchannel], picker: Picker) -> list[Subchannel]:
        """From the second of them on, who was there before, without the first."""
        order = _preferred(policy, picker, len(of))
        start = order.index(subs[1])
        return [sub for sub in order[start:] + order[:start] if sub in subs[1:]]

    before = ring(subs, picker)
    more = [*subs, Subchannel(Endpoint(host="10.9.9.9", port=80), policy.new_metric(0.0))]
    for of in (more[::-1], subs[1:], subs):
        assert ring(of, policy.new_picker(of, rng)) == before


def test_measured_weights_leave_the_order_as_it_is() -> None:
    """Slow start and load reports change weights all the time."""
    rng = seeded()
    policy, subs, picker = _fleet(rng, [1.0] * 10)
    before = _preferred(policy, picker, 10)
    for _ in range(20):
        for sub in subs:
            sub.capacity = rng.uniform(0.5, 2.0)
        policy.new_picker(subs, rng)
    for sub in subs:
        sub.capacity = 1.0
    assert _preferred(policy, policy.new_picker(subs, rng), 10) == before
    for sub in subs:
        sub.capacity = rng.uniform(0.5, 2.0)
    uneven = policy.new_picker(subs, rng)
    assert isinstance(uneven, AnchorPicker)
    assert list(dict.fromkeys(uneven._order[(uneven._home + at) % 10] for at in range(10))) == before


def test_avoiding_minds_weights() -> None:
    """One of five is avoided by every call, another is at a tenth of its weight: 0.1 of 3.1."""
    rng = seeded()
    policy, subs, _ = _fleet(rng, [1.0] * 5)
    subs[2].warmth = 0.1
    picked = picks(policy.new_picker(subs, rng), 4_000, exclude=subs[:1])
    assert shares(picked, subs) == pytest.approx([0.0, 1 / 3.1, 0.1 / 3.1, 1 / 3.1, 1 / 3.1], abs=0.02)


def test_the_home_moves_on() -> None:
    """Each endpoint is preferred for 10 s: after n times that all were."""
    policy, subs, picker = _fleet(seeded(), [1.0] * 5)
    assert {_preferred(policy, picker, 1, step * 5.0)[0] for step in range(12)} == set(subs)


def test_a_new_endpoint_is_not_drawn_upon() -> None:
    """Calls at once of a busy client: in its first half second, who joins gets less than the others, and more than nothing in five."""
    rng = seeded()
    policy, subs, picker = _fleet(rng, [1.0] * 5)
    now_s, live, seen = 0.0, [_begin(picker) for _ in range(15)], Counter[Subchannel]()

    def calls(seconds: float) -> None:
        nonlocal now_s
        until_s = now_s + seconds
        while now_s < until_s:
            now_s += rng.expovariate(1_000.0)
            end(live.pop(int(rng.random() * len(live))), now_s)
            live.append(_begin(picker, now_s))
            seen[live[-1].subchannel] += 1

    calls(2.0)
    new = Subchannel(Endpoint(host="10.9.9.9", port=80), policy.new_metric(now_s))
    know(policy, [*subs, new], now_s)
    picker = policy.new_picker([*subs, new], rng)
    seen.clear()
    calls(0.5)
    assert 0 < seen[new] < min(seen[sub] for sub in subs)
    calls(6.0)
    seen.clear()
    calls(5.0)
    assert seen[new] > 0.5 * sum(seen.values()) / 6


def test_a_pool_that_is_new_as_a_whole_is_warm() -> None:
    """At the start, and where all endpoints are replaced at once: a ramp of everybody does nothing."""
    rng = seeded()
    policy, subs, _ = _fleet(rng, [1.0] * 3)
    others, joined = subchannels_of(policy, [1.0] * 3), subchannels_of(policy, [1.0])
    know(policy, others, 50.0)
    assert [_metric(sub).warmth(50.0) for sub in (*subs, *others)] == [1.0] * 6
    know(policy, [*others, *subs, *joined], 60.0)
    assert [_metric(sub).warmth(60.0) for sub in (*subs, *others, *joined)] == [1.0] * 6 + [0.1]


def test_calls_in_flight_survive_a_flap() -> None:
    """An endpoint leaves and returns while calls are in flight: its count is what is live, neither less nor more."""
    rng = seeded()
    policy, subs, picker = _fleet(rng, [1.0, 1.0])
    held = [_begin(picker) for _ in range(6)]
    policy.new_picker(subs[:1], rng)
    picker = policy.new_picker(subs, rng)
    for attempt in held:
        end(attempt, 1.0)
    assert not policy._costs.busy
    for _ in range(4):
        _begin(picker, 2.0)
    assert [len(sub.unary) for sub in subs] == [2, 2]


def test_threads_leave_nothing_behind() -> None:
    """Eight of them begin and end calls at once: when all have ended nobody is busy, and everybody costs what an idle endpoint does."""
    policy, _, picker = _fleet(seeded(), [1.0] * 4)

    def run() -> None:
        for step in range(300):
            held = [_begin(picker, step * 0.001) for _ in range(3)]
            for attempt in held:
                end(attempt, step * 0.001, Outcome.CANCELLED)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    picks(picker, 1, now_s=100.0)
    assert not policy._costs.busy
    assert sorted(policy._costs.of) == pytest.approx([1.0, 1.075, 1.15, 1.225])


def test_an_aperture_is_looked_at_in_a_large_pool() -> None:
    """With few calls at once, 32 of 200; with ten on each of these, all."""
    _, subs, picker = _fleet(seeded(), [1.0] * 200)
    for _ in range(40):
        _begin(picker)
    assert sum(bool(sub.unary) for sub in subs) <= 33
    for step in range(2_000):
        _begin(picker, step * 0.01)
    assert all(sub.unary for sub in subs)
    assert max(len(sub.unary) for sub in subs) <= 20


def test_the_aperture_narrows_again() -> None:
    """When the load is gone: as before, soon."""
    policy, _, picker = _fleet(seeded(), [1.0] * 200)
    held = [_begin(picker, step * 0.01) for step in range(2_000)]
    assert policy._hands.width == 200
    for attempt in held:
        end(attempt, 20.0)
    for step in range(200):
        _call(picker, 20.0 + step * 0.05)
    assert policy._hands.width == 32


def test_a_retry_leaves_the_aperture_if_it_must() -> None:
    """Whoever is not to be avoided is found, wherever it stands."""
    _, subs, picker = _fleet(seeded(), [1.0] * 100, full_scan_limit=4, aperture=2)
    held = [_begin(picker) for _ in range(30)]
    assert set(picks(picker, 5, exclude=subs[:-1])) == {subs[-1]}
    assert len(held) == 30


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("full_scan_limit", 1),
        ("full_scan_limit", 2.5),
        ("aperture", 0),
        ("aperture", 65),
        ("aperture", True),
        ("stream_weight", -1.0),
        ("stream_weight", float("nan")),
        ("stream_weight", "much"),
    ],
)
def test_nonsense_is_refused(field: str, value: object) -> None:
    """By its path and value."""
    with pytest.raises(ConfigError, match=rf"policy\.{field}={value!r}"):
        Anchor(**{field: value})  # type: ignore[arg-type]
