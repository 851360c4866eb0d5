"""What one pick costs, from 1 to 10,000 endpoints, beside what a user would write by hand: ``calls[i % n]``.

    python -m tests.benchmarks.bench_pick

All arms take turns within a round, and medians are over rounds, so that a busy moment of the machine hits all of them alike. ``x hand``
is the ratio to the hand-written peer of the same n, ``x lock`` to a lock's acquire and release (83 ns where the limits were set: a
pick of ``p2c`` 0.4 us at any n, hence 4.8 locks, a scan of 64 endpoints 6 us, hence 72).
"""

from __future__ import annotations

import itertools
import random
import statistics
import threading
import time
from collections.abc import Callable

from meshlb.balance.config import PolicyConfig
from meshlb.balance.least_request import LeastRequest
from meshlb.balance.p2c import P2C
from meshlb.balance.round_robin import RoundRobin
from meshlb.core import endpoint
from meshlb.core.endpoint import Endpoint, EndpointSet, Place
from meshlb.core.outcome import Outcome
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.health.locality import Localities, Locality
from tests.picking import hold, subchannels_of

SIZES = (1, 3, 10, 64, 100, 10_000)
ROUNDS = 21
CALLS = 2_000
INFO = PickInfo("/shop.Orders/Get")


def picker(config: PolicyConfig, count: int, *, weighted: bool = False, streams: bool = False, failing: bool = False) -> Picker:
    rng = random.Random(1)
    policy = config.build(rng)
    subs = subchannels_of(policy, [1.0 + at % 3 if weighted else 1.0 for at in range(count)])
    made = policy.new_picker(subs, rng)
    for sub in subs:
        hold(sub.unary, rng.randrange(3))
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


def pick_ns(made: Picker) -> float:
    pick, info = made.pick, INFO
    start_s = time.perf_counter()
    for _ in range(CALLS):
        pick(info, 1.0)
    return (time.perf_counter() - start_s) / CALLS * 1e9


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


def main() -> None:
    arms: dict[tuple[str, int], Callable[[], float]] = {}
    for count in SIZES:
        arms["by hand", count] = lambda count=count: by_hand_ns(count)  # type: ignore[misc]
        for config in (P2C(), RoundRobin(), LeastRequest(), LeastRequest(choice_count=5, full_scan_limit=0)):
            for label, state in {
                "": {},
                "weighted": {"weighted": True},
                "streams": {"streams": True},
                "failing": {"failing": True},
            }.items():
                made = picker(config, count, **state)
                arms[f"{config} {label}".strip(), count] = lambda made=made: pick_ns(made)  # type: ignore[misc]
        for mode in ("prefer", "envoy"):
            zoned = zone_picker(count, mode)
            arms[f"p2c, locality {mode}", count] = lambda zoned=zoned: pick_ns(zoned)  # type: ignore[misc]
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
