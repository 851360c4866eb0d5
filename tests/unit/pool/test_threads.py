"""Counts are exact and nothing breaks while calls, updates and connections run in eight threads at once."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from meshlb.balance.registry import policy_of
from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import EndpointSet
from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Subchannel
from meshlb.pool.pool import Pool
from meshlb.pool.view import View
from meshlb.runtime.clock import SystemClock
from tests.unit.pool.bench import ANY, READY, Listener, cluster_ip, pod, terminating, unready

POLICIES = ["p2c", "round_robin", "least_request"]
OUTCOMES = list(Outcome)
CALLS = 1_500
UPDATES = 300


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    """Threads take turns after a few operations, so that unlucky orders do occur."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before_s)


def run_all(works: list[Callable[[], None]]) -> None:
    """Each in a thread of its own, begun together; the first error is raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(works))

    def guarded(work: Callable[[], None]) -> None:
        try:
            start.wait(30)
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


def made(policy: str) -> tuple[Pool, View]:
    rng = random.Random(1)
    pool = Pool(
        "orders.shop",
        policy_of(policy).build(rng),
        clock=SystemClock(),
        rng=rng,
        new_lock=threading.Lock,
        fallback_after_s=0.001,
    )
    return pool, pool.view(Listener())


@pytest.mark.parametrize("policy", POLICIES)
def test_eight_threads_of_calls_are_counted_exactly(policy: str) -> None:
    """Every begin is in flight until its end, every end counts once although two threads report it."""
    pool, view = made(policy)
    pool.update(EndpointSet.of([pod(number) for number in range(5)], "static"))
    view.set_states([(sub, READY) for sub in view.wanted()])
    ended, held = [0] * 8, [0] * 8

    def calls(which: int) -> None:
        rng = random.Random(which)
        live = []
        for number in range(CALLS):
            attempt = view.begin(ANY, number % 3 == 0)
            assert attempt is not None
            live.append(attempt)
            if rng.random() < 0.7:
                one = live.pop(rng.randrange(len(live)))
                ended[which] += view.end(one)
                ended[which] += view.end(one)
        for attempt in live[len(live) // 2 :]:
            ended[which] += view.end(attempt)
        held[which] = len(live) // 2

    run_all([lambda which=which: calls(which) for which in range(8)])  # type: ignore[misc]
    assert sum(ended) + sum(held) == 8 * CALLS
    assert sum(sub.in_flight for sub in view.wanted()) == sum(held)


@pytest.mark.parametrize("policy", POLICIES)
def test_one_attempt_that_all_threads_end_is_ended_by_one_of_them(policy: str) -> None:
    """A deadline, a cancel and the answer may come at the same moment."""
    pool, view = made(policy)
    pool.update(EndpointSet.of([pod(1), pod(2)], "static"))
    view.set_states([(sub, READY) for sub in view.wanted()])
    attempts = [attempt for _ in range(CALLS) if (attempt := view.begin(ANY))]
    wins = [0] * 8

    def end_all(which: int) -> None:
        wins[which] = sum(view.end(attempt) for attempt in attempts)

    run_all([lambda which=which: end_all(which) for which in range(8)])  # type: ignore[misc]
    assert sum(wins) == len(attempts) == CALLS
    assert [sub.in_flight for sub in view.wanted()] == [0, 0]


@pytest.mark.parametrize("policy", POLICIES)
def test_calls_go_on_exactly_while_everything_changes(policy: str) -> None:
    """Five threads of calls, one of updates, one of connections, one of ticks and views: no error, no count lost, and no call begun
    on an endpoint after its removal was complete: another pod has its address, so it is neither a spare nor ever back."""
    pool, view = made(policy)
    everybody: set[Subchannel] = set()
    over: list[str] = []  # uids
    done = threading.Event()
    begun, ended = [0] * 5, [0] * 5

    def calls(which: int) -> None:
        rng = random.Random(which)
        while not done.is_set():
            uids = set(over)
            gone = [sub for sub in tuple(everybody) if sub.endpoint.uid in uids]
            attempt = view.begin(ANY, rng.random() < 0.2) or view.begin_unready(ANY)
            if attempt is not None:
                assert attempt.subchannel not in gone
                begun[which] += 1
                ended[which] += view.end(attempt, rng.choice(OUTCOMES))

    def updates() -> None:
        rng = random.Random(100)
        uids = {number: f"u{number}" for number in range(8)}
        try:
            for update in range(UPDATES):
                kinds = [rng.choice((pod, pod, terminating, unready, None)) for _ in range(8)]
                new = [number for number, kind in enumerate(kinds) if kind is not None and rng.random() < 0.2]
                replaced = [uids[number] for number in new]
                uids.update({number: f"u{number}.{update}" for number in new})
                listed = [kind(number) for number, kind in enumerate(kinds) if kind is not None]
                endpoints = [replace(one, uid=uids[int(one.host.rpartition(".")[2])]) for one in listed]
                spare = [cluster_ip(slot) for slot in range(rng.randrange(3))]
                everybody.update(pool.update(EndpointSet.of(endpoints, "kubernetes", fallback=spare)).added)
                over.extend(replaced)
        finally:
            done.set()

    def connections() -> None:
        rng = random.Random(200)
        states = [*[READY] * 4, *Connectivity]
        while not done.is_set():
            view.set_states([(sub, rng.choice(states)) for sub in view.wanted()])

    def ticks_and_views() -> None:
        while not done.is_set():
            pool.tick()
            other = pool.view(Listener())
            other.set_states([(sub, READY) for sub in other.wanted()])
            attempt = other.begin(ANY)
            assert attempt is None or other.end(attempt)
            pool.describe()
            other.close()

    run_all([*[lambda which=which: calls(which) for which in range(5)], updates, connections, ticks_and_views])
    assert begun == ended
    assert sum(begun) > 0
    assert {sub.in_flight for sub in everybody} == {0}
    snapshot = pool.snapshot
    kept = {*snapshot.listed, *snapshot.fallback, *snapshot.lingering, *snapshot.spare}
    assert {sub for sub in everybody if not sub.removed} == kept
