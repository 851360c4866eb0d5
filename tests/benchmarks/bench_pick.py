"""What one pick costs, from 1 to 10,000 endpoints, beside what a user would write by hand: ``calls[i % n]``.

    python -m tests.benchmarks.bench_pick [policy ...]        all policies, or the named ones

All arms take turns within a round, and medians are over rounds, so that a busy moment of the machine hits all of them alike. ``x hand``
is the ratio to the hand-written peer of the same n, ``x lock`` to a lock's acquire and release (83 ns where the limits were set: a
pick of ``p2c`` 0.4 us at any n, hence 4.8 locks, a scan of 64 endpoints 6 us, hence 72).
"""

from __future__ import annotations

import itertools
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from meshlb.balance.config import PolicyConfig
from meshlb.balance.guarded import GuardedPolicy
from meshlb.balance.least_request import LeastRequest
from meshlb.balance.maglev import Maglev
from meshlb.balance.p2c import P2C
from meshlb.balance.random_pick import Random
from meshlb.balance.registry import POLICIES
from meshlb.core import endpoint
from meshlb.core.endpoint import Endpoint, EndpointSet, Place
from meshlb.core.outcome import Outcome
from meshlb.core.policy import Picker, PickInfo, Policy
from meshlb.core.subchannel import Subchannel
from meshlb.health.locality import Localities, Locality
from tests.picking import hold, know, subchannels_of

SIZES = (1, 3, 10, 64, 100, 10_000)
ROUNDS = 21
CALLS = 2_000
INFO = PickInfo("/shop.Orders/Get", hash=0x9E3779B97F4A7C15)
CONFIGS = (
    *dict.fromkeys(config() for config in POLICIES.values()),
    LeastRequest(choice_count=5, full_scan_limit=0),
    Maglev(hash_balance_factor=150),
)
STATES: dict[str, dict[str, bool]] = {
    "": {},
    "weighted": {"weighted": True},
    "streams": {"streams": True},
    "failing": {"failing": True},
    "busy": {"busy": True},
}


def picker(
    config: PolicyConfig,
    count: int,
    *,
    weighted: bool = False,
    streams: bool = False,
    failing: bool = False,
    busy: bool = False,
    guarded: bool = False,
) -> Picker:
    """``busy``: nobody is idle, which is the worst case of scans that end at one who is."""
    rng = random.Random(1)
    policy: Policy = config.build(rng)
    if guarded:
        policy = GuardedPolicy(policy, print)
    subs = subchannels_of(policy, [1.0 + at % 3 if weighted else 1.0 for at in range(count)])
    know(policy, subs)
    made = policy.new_picker(subs, rng)
    for sub in subs:
        hold(sub.unary, rng.randrange(3) + busy)
        hold(sub.streams, 1 if streams else 0)
    for _ in range(10 if failing else 0):
        subs[0].metric.on_end(0.0, 0.001, Outcome.FAILURE)  # stands out: penalised for 5 s of a clock that does not move here
    return made


def zone_picker(count: int, mode: str) -> Picker:
    """p2c over three zones, with the caller's first; the attempts in flight do not move."""
    rng = random.Random(1)
    policy, localities = P2C().build(rng), Localities(Locality(mode=mode, own_service="frontend.shop"), rng)
    endpoints = [
        Endpoint(host=f"10.0.{at >> 8}.{at & 255}", port=80, locality=endpoint.Locality(zone="abc"[at % 3])) for at in range(count)
    ]
    localities.on_own_endpoints(EndpointSet.of(endpoints[:9], "static"))
    subs = [Subchannel(one, policy.new_metric(0.0)) for one in endpoints]
    for sub in subs:
        hold(sub.unary, rng.randrange(3))
    return localities.new_picker(subs, Place(zone="a"), lambda chosen: policy.new_picker(chosen, rng))


def pick_ns(made: Picker, count: int) -> float:
    pick, info = made.pick, INFO
    calls = CALLS if count <= 1_000 else CALLS // 10  # a scan of thousands takes a millisecond
    start_s = time.perf_counter()
    for _ in range(calls):
        pick(info, 1.0)
    return (time.perf_counter() - start_s) / calls * 1e9


def by_hand_ns(count: int) -> float:
    calls, turns = list(range(count)), itertools.count()
    start_s = time.perf_counter()
    for _ in range(CALLS):
        calls[next(turns) % count]
    return (time.perf_counter() - start_s) / CALLS * 1e9


def lock_pair_ns() -> float:
    lock = threading.Lock()
    acquire, release = lock.acquire, lock.release
    start_s = time.perf_counter()
    for _ in range(CALLS):
        acquire()
        release()
    return (time.perf_counter() - start_s) / CALLS * 1e9


def arms_of(names: Sequence[str], count: int) -> Iterator[tuple[str, Callable[[], float]]]:
    yield "by hand", lambda: by_hand_ns(count)
    for config in CONFIGS:
        for state, set_up in STATES.items() if not names or config.name in names else ():
            made = picker(config, count, **set_up)
            yield f"{config} {state}".strip(), lambda made=made: pick_ns(made, count)  # type: ignore[misc]
    guarded = picker(Random(), count, guarded=True)
    yield "random, as a policy of the user's own", lambda: pick_ns(guarded, count)
    for mode in ("prefer", "envoy"):
        zoned = zone_picker(count, mode)
        yield f"p2c, locality {mode}", lambda zoned=zoned: pick_ns(zoned, count)  # type: ignore[misc]


def main() -> None:
    names = sys.argv[1:]
    arms = {(name, count): measure for count in SIZES for name, measure in arms_of(names, count)}
    samples: dict[tuple[str, int], list[float]] = {arm: [] for arm in arms}
    locks = []
    for _ in range(ROUNDS):
        locks.append(lock_pair_ns())
        for arm, measure in arms.items():
            samples[arm].append(measure())
    lock_ns = statistics.median(locks)
    print(f"a lock pair takes {lock_ns:.0f} ns here\n{'policy':<75} {'n':>6} {'ns':>7} {'x hand':>7} {'x lock':>7}")
    for name in dict.fromkeys(name for name, _ in arms):
        for count in SIZES:
            ns = statistics.median(samples[name, count])
            print(
                f"{name:<75} {count:>6} {ns:>7.0f} {ns / statistics.median(samples['by hand', count]):>7.1f} {ns / lock_ns:>7.1f}"
            )


if __name__ == "__main__":
    main()
