"""What every policy promises, one function a rule; ``check_policy`` runs them. A rule's first line is what a broken one is called by."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import isfinite

from meshlb.balance.registry import POLICIES, policy_of
from meshlb.core.outcome import Outcome
from meshlb.core.policy import LoadMetric, Picker, PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.testing.policy_trial import Counted, Trial, calls_of, hold, know, picks, shares

WEIGHTS = ([1.0] * 7, [1.0, 2.0, 3.0, 1.0, 0.5, 2.0, 0.5], [1.0, 1.0], [3.0, 1.0])
SPREAD = [1e-3, 1e3, 1.0, 1.0, 7.5, 1e-3]
HUGE = 10_000
PICKS = 20_000
SIGMAS = 5.0
PROCESSES = 1_000
THREADS = 8
NO_INFO = PickInfo()
KEYS = (1, 2**64 - 1, *range(0, 2**64, 2**59 + 12_345))


def it_has_the_name_it_is_known_by(trial: Trial) -> None:
    """``status()`` shows a name that a configuration could say, and what is printed is read back"""
    config = trial.config
    _same(config.build(trial.rng).name, config.name, "the policy's name")
    if POLICIES.get(config.name) is type(config):
        _same(policy_of(str(config)), config, f"what {str(config)!r} is read as")
        _same(policy_of(config.to_dict()), config, f"what {config.to_dict()} is read as")


def nobody_gives_none(trial: Trial) -> None:
    """a picker that was made with nobody gives None"""
    policy, _ = trial.fleet([])
    _same(policy.new_picker([], trial.rng).pick(NO_INFO, 0.0), None, "the pick")


def the_only_one_is_picked(trial: Trial) -> None:
    """the only subchannel is picked, even where it is to be avoided"""
    picker, subs = trial.picker([1.0])
    _same([picker.pick(NO_INFO, 0.0), picker.pick(PickInfo(exclude=frozenset(subs)), 0.0)], subs * 2, "the picks")


def picks_are_members(trial: Trial) -> None:
    """a pick is one of the subchannels that its picker was made with, whatever their weights, loads and failures, and whoever other
    pickers were made with"""
    for weights in (*WEIGHTS, SPREAD):
        policy, subs = trial.fleet(weights)
        pickers = [(policy.new_picker(subs, trial.rng), subs), (policy.new_picker(tuple(subs[1:]), trial.rng), subs[1:])]
        for at, sub in enumerate(subs):
            hold(sub.unary, at % 4)
            hold(sub.streams, at % 3)
            sub.metric.on_end(1.0, 0.01 * at, (Outcome.FAILURE, Outcome.SUCCESS)[at % 2])
        for picker, members in pickers:
            for avoided in ([], members[:1], members[:-1], members):
                _members(_picked(picker, 50, avoided, now_s=1.0), members)


def an_idle_pool_is_shared(trial: Trial) -> None:
    """an idle pool is shared in proportion to weight (shares="weight"), or evenly (shares="even")"""
    if trial.shares == "own":
        return
    for weights in WEIGHTS:
        picker, subs = trial.picker(weights)
        _shared(trial, _picked(picker, PICKS), subs)


def weights_are_read_when_a_picker_is_made(trial: Trial) -> None:
    """a new picker with other weights gives other shares"""
    if trial.shares == "own":
        return
    policy, subs = trial.fleet([1.0, 1.0])
    _picked(policy.new_picker(subs, trial.rng), 10)
    subs[0].warmth = 0.25
    know(policy, subs)
    _shared(trial, _picked(policy.new_picker(subs, trial.rng), PICKS), subs)


def the_avoided_are_not_picked(trial: Trial) -> None:
    """who is to be avoided is not picked while another is there, even if that is the busiest: a retry goes elsewhere, with a key too"""
    for weights in WEIGHTS:
        picker, subs = trial.picker(weights)
        hold(subs[-1].unary, 50)
        _same(set(_picked(picker, 200, subs[:-1])), {subs[-1]}, "the picks that were to avoid all but the last")
        left = set(_picked(picker, 1_000, subs[:1]))
        _true(subs[0] not in left, "the first was picked, which was to be avoided")
        if trial.shares != "own":
            _true(len(set(_picked(picker, 2_000, subs[-1:]))) == len(subs) - 1, "not all others were picked where one was avoided")
        for key in KEYS if trial.hashes() else ():
            own = _picked(picker, 1, key=key)
            _true(_picked(picker, 1, own, key=key) != own, f"hash {key} went to its own endpoint, which was to be avoided")
            _same(_picked(picker, 1, subs[:-1], key=key), subs[-1:], f"the pick of hash {key} that was to avoid all but the last")


def if_all_are_avoided_somebody_is_picked(trial: Trial) -> None:
    """a pick never fails because all are to be avoided"""
    for weights in WEIGHTS:
        picker, subs = trial.picker(weights)
        _members(_picked(picker, 100, subs), subs)
        for key in KEYS if trial.hashes() else ():
            _members(_picked(picker, 1, subs, key=key), subs)


def avoiding_a_stranger_changes_nothing(trial: Trial) -> None:
    """a subchannel that left the pool may still be in the list of those to be avoided"""
    policy, subs = trial.fleet([1.0, 2.0, 3.0, 4.0])
    picked = set(_picked(policy.new_picker(subs[1:], trial.rng), 500, subs[:1]))
    _true(picked <= set(subs[1:]), f"picked were {picked}")
    _true(trial.shares == "own" or len(picked) == 3, f"only {len(picked)} of 3 were picked")


def all_of_many_are_reached(trial: Trial) -> None:
    """nobody is left out in a large pool"""
    if trial.shares == "own":
        return
    picker, subs = trial.picker([1.0] * 300)
    missing = set(subs) - set(_picked(picker, 300 * 30))
    _true(not missing, f"{len(missing)} of 300 got none of 9,000 picks")


def processes_begin_at_different_endpoints(trial: Trial) -> None:
    """of 1,000 processes each endpoint is the first for at least a third of those that it is worth (not where a call's key decides)"""
    if trial.hashes():
        return
    for weights in WEIGHTS if trial.shares == "weight" else ([1.0] * 7, [1.0] * 2):
        firsts: Counter[int] = Counter()
        for _ in range(PROCESSES):
            picker, subs = trial.picker(weights)
            firsts[subs.index(_picked(picker, 1)[0])] += 1
        for at, weight in enumerate(weights):
            least = PROCESSES * weight / sum(weights) / 3
            _true(
                firsts[at] >= least, f"weights {weights}: number {at} was the first in {firsts[at]} of {PROCESSES}, not {least:.0f}"
            )


def equal_keys_go_to_one_endpoint(trial: Trial) -> None:
    """a policy that hashes sends a key to one endpoint while nothing changes, and any hash or none is answered"""
    policy, subs = trial.fleet([1.0, 2.0, 3.0, 1.0])
    picker = policy.new_picker(subs, trial.rng)
    for key in (None, 0, 1, 2**63, 2**64 - 1):
        picked = _picked(picker, 20, key=key)
        _members(picked, subs)
        _true(key is None or not trial.hashes() or len(set(picked)) == 1, f"hash {key} went to {len(set(picked))} endpoints")


def known_is_not_ready(trial: Trial) -> None:
    """``know`` tells of members that are not ready: only those that the picker was made with are picked"""
    policy, subs = trial.fleet([1.0, 2.0, 1.0, 1.0, 3.0, 1.0])
    for ready in (subs[2:], subs[:1], subs[1:3], subs):
        know(policy, subs)
        picker = policy.new_picker(ready, trial.rng)
        for key in (None, *range(0, 2**64, 2**59)):
            _members(_picked(picker, 2, key=key), ready)
    know(policy, [])
    _same(policy.new_picker([], trial.rng).pick(NO_INFO, 0.0), None, "the pick from nobody")


def threads_may_pick_and_report_at_once(trial: Trial) -> None:
    """eight threads may pick and report while pickers are made"""
    policy, subs = trial.fleet([1.0, 2.0, 3.0, 1.0])
    pickers = [policy.new_picker(subs, trial.rng)]
    failures: list[Exception] = []

    def run(number: int) -> None:
        try:
            for step in range(400):
                sub = _picked(pickers[-1], 1, key=step, now_s=float(step))[0]
                _members([sub], subs)
                sub.metric.on_start(float(step))
                sub.metric.on_end(float(step), 0.001, Outcome.FAILURE if step % 7 == number % 7 else Outcome.SUCCESS)
                if number == 0 and step % 50 == 0:
                    know(policy, subs, float(step))
                    pickers.append(policy.new_picker(subs, trial.rng))
        except Exception as error:  # noqa: BLE001 - raised below, in the thread that asked
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    _true(not any(thread.is_alive() for thread in threads), "a thread hangs")
    if failures:
        raise failures[0]


def load_is_a_pure_read(trial: Trial) -> None:
    """``load`` is a finite number >= 0, and asking twice, or about another time in between, gives the same answer"""
    policy, subs = trial.fleet([1.0] * 3)
    policy.new_picker(subs, trial.rng)
    metric = subs[0].metric
    for outcome in Outcome:
        metric.on_start(1.0)
        metric.on_end(1.0, 0.001, outcome)
        readings = [_load(metric, now_s) for now_s in (1.0, 2.0, 1e6, 2.0, 1.0)]
        _same(readings, readings[::-1], f"loads asked for in another order after {outcome.name}")


def loads_fall_as_time_passes(trial: Trial) -> None:
    """what failures add to a load does not grow while nothing happens"""
    policy, subs = trial.fleet([1.0] * 3)
    policy.new_picker(subs, trial.rng)
    for _ in range(10):
        subs[0].metric.on_end(0.0, 0.001, Outcome.FAILURE)
    readings = [_load(subs[0].metric, float(now_s)) for now_s in range(20)]
    _true(all(later <= earlier for earlier, later in pairwise(readings)), f"loads over 20 seconds: {readings}")


def a_metric_takes_any_order_and_any_time(trial: Trial) -> None:
    """a metric bears an end without a start, ends of long ago, ``forgive`` at any time, both kinds of attempts, and a clock read late"""
    policy, subs = trial.fleet([1.0, 2.0])
    picker = policy.new_picker(subs, trial.rng)
    whole = getattr(subs[0].metric, "on_attempt_end", None)
    for now_s in (5.0, 1.0, 1e6, 0.0, 7.0):
        for outcome in Outcome:
            subs[0].metric.on_end(now_s, 0.0 if outcome is Outcome.SUCCESS else 1e5, outcome)
            for live in (subs[0].unary, subs[0].streams):
                if whole is not None:
                    whole(_attempt(subs[0], live, now_s), now_s, outcome)
            _load(subs[0].metric, now_s - 3.0)
            _members(_picked(picker, 3, now_s=now_s), subs)
        subs[0].metric.forgive()
        subs[1].metric.on_start(now_s)
        _load(subs[1].metric, now_s)


def time_is_taken_note_of(trial: Trial) -> None:
    """``tick`` says True or False, ``due_s`` a time or None, if a policy has them"""
    policy, subs = trial.fleet([1.0, 2.0])
    tick, due_s = getattr(policy, "tick", None), getattr(policy, "due_s", None)
    _true((tick is None) == (due_s is None), "one of tick and due_s is nothing without the other")
    if tick is None or due_s is None:
        return
    for now_s in (0.0, 1.0, 1e6):
        know(policy, subs, now_s)
        _true(tick(now_s) in (True, False), "tick must return a bool")
        due = due_s()
        _true(due is None or (isinstance(due, (int, float)) and due > now_s), f"due_s() is {due!r} after a tick at {now_s}")


def a_pick_changes_no_counts(trial: Trial) -> None:
    """a pick begins nothing: whoever picks counts the attempt"""
    picker, subs = trial.picker([1.0, 2.0, 3.0])
    _picked(picker, 100)
    _same([(len(sub.unary), len(sub.streams), sub.started) for sub in subs], [(0, 0, 0)] * 3, "the attempts on all")


def a_pick_does_not_grow_with_the_pool(trial: Trial) -> None:
    """a pick from 10,000 looks at no more than a tenth of them (counted, not timed; a hundred of them have a live attempt)"""
    policy, subs = trial.fleet([1.0] * HUGE, Counted)
    for sub in trial.rng.sample(subs, 100):
        hold(sub.unary)
    picker = policy.new_picker(subs, trial.rng)
    picker.pick(NO_INFO, 0.0)  # what is made once, at the first
    calls = calls_of(lambda: [picker.pick(NO_INFO, 0.0) for _ in range(5)]) / 5
    _true(calls <= HUGE / 10, f"a pick from {HUGE} made {calls:.0f} calls, attribute reads among them")


RULES: tuple[Callable[[Trial], None], ...] = (
    it_has_the_name_it_is_known_by,
    nobody_gives_none,
    the_only_one_is_picked,
    picks_are_members,
    an_idle_pool_is_shared,
    weights_are_read_when_a_picker_is_made,
    the_avoided_are_not_picked,
    if_all_are_avoided_somebody_is_picked,
    avoiding_a_stranger_changes_nothing,
    all_of_many_are_reached,
    processes_begin_at_different_endpoints,
    equal_keys_go_to_one_endpoint,
    known_is_not_ready,
    threads_may_pick_and_report_at_once,
    load_is_a_pure_read,
    loads_fall_as_time_passes,
    a_metric_takes_any_order_and_any_time,
    time_is_taken_note_of,
    a_pick_changes_no_counts,
    a_pick_does_not_grow_with_the_pool,
)


def _picked(
    picker: Picker, count: int, exclude: Iterable[Subchannel] = (), now_s: float = 0.0, *, key: int | None = None
) -> list[Subchannel]:
    picked = picks(picker, count, exclude, now_s, key=key)
    _true(len(picked) == count, f"{count - len(picked)} of {count} picks gave None, though somebody is there")
    return picked


def _members(picked: Sequence[Subchannel], members: Sequence[Subchannel]) -> None:
    strangers = [one for one in picked if not any(one is member for member in members)]
    _true(not strangers, f"picked was {strangers[:1]}, which the picker was not made with")


def _shared(trial: Trial, picked: Sequence[Subchannel], subs: Sequence[Subchannel]) -> None:
    weights = [sub.weight if trial.shares == "weight" else 1.0 for sub in subs]
    for at, (share, weight) in enumerate(zip(shares(picked, subs), weights, strict=True)):
        expected = weight / sum(weights)
        allowed = SIGMAS * (expected * (1 - expected) / len(picked)) ** 0.5
        _true(abs(share - expected) <= allowed, f"weights {weights}: number {at} got {share:.3f} of the picks, not {expected:.3f}")


def _load(metric: LoadMetric, now_s: float) -> float:
    load = metric.load(now_s)
    _true(isfinite(load) and load >= 0.0, f"load({now_s}) is {load!r}")
    return load


def _attempt(subchannel: Subchannel, live: set[Attempt], started_s: float) -> Attempt:
    attempt = Attempt()
    attempt.subchannel, attempt.live, attempt.started_s, attempt.info = subchannel, live, started_s, NO_INFO
    return attempt


def _same(seen: object, expected: object, what: str) -> None:
    _true(seen == expected, f"{what}: {seen!r}, not {expected!r}")


def _true(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
