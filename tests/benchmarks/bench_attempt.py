"""What meshlb adds to a call between the user and the transport: begin and end of an attempt, from 3 to 10,000 endpoints.

    python -m tests.benchmarks.bench_attempt [policy]

The limit is 1.5 µs where a lock's acquire and release take 83 ns; it is scaled by that pair, measured in the same run. All arms take
turns within a round, and medians are over rounds, so that a busy moment of the machine hits all of them alike. Times are CPU time.
The second table is what a successful call pays for ejection, slow start, zones and limits where these are on: at most 1 µs for all of
it together, scaled alike, over the same pool without any. The third is what discovery pays, once an update: whole truths of 10,000
endpoints; the last line what they weigh.
"""

from __future__ import annotations

import functools
import gc
import random
import statistics
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from meshlb.balance.registry import policy_of
from meshlb.call.entrance import Entrance
from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import Endpoint, EndpointSet, Locality, Place
from meshlb.core.policy import PickInfo
from meshlb.health.locality import Locality as LocalitySettings
from meshlb.health.outlier import Outlier
from meshlb.health.slow_start import SlowStart
from meshlb.limit.gates import Gates
from meshlb.limit.settings import Limits
from meshlb.pool.connecting import ConnectQueue
from meshlb.pool.pool import Pool
from meshlb.pool.view import View
from meshlb.runtime.clock import SystemClock

SIZES = (3, 10, 100, 1_000, 10_000)
ROUNDS = 151
CALLS = 1_000  # a sample lasts less than a millisecond, so that most are not interrupted
LIMIT_NS = 1_500.0
FEATURES_LIMIT_NS = 1_000.0
METHOD = "/shop.Orders/Get"
LOCK_PAIR_NS = 83.0  # on the machine for which the limit was set


class Nobody:
    def on_change(self) -> None:
        pass


def endpoints(count: int, *, uids: bool = True) -> EndpointSet:
    hosts = (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(count))
    return EndpointSet.of([Endpoint(host=host, port=80, uid=host if uids else "") for host in hosts], "bench")


def connected(policy: str, count: int) -> View:
    rng = random.Random(1)
    pool = Pool("bench", policy_of(policy).build(rng), clock=SystemClock(), rng=rng, new_lock=threading.Lock)
    view = pool.view(Nobody())
    pool.update(endpoints(count))
    view.set_states([(sub, Connectivity.READY) for sub in view.wanted()])
    return view


def attempts_ns(view: View | Entrance) -> float:
    begin, end, info = view.begin, view.end, PickInfo(METHOD)
    start_s = time.thread_time()
    for _ in range(CALLS):
        end(begin(info))  # type: ignore[arg-type]
    return (time.thread_time() - start_s) / CALLS * 1e9


def lock_pairs_ns() -> float:
    lock = threading.Lock()
    acquire, release = lock.acquire, lock.release
    start_s = time.thread_time()
    for _ in range(CALLS):
        acquire()
        release()
    return (time.thread_time() - start_s) / CALLS * 1e9


def update_ms(act: Callable[[], object]) -> float:
    gc.collect()
    start_s = time.thread_time()
    act()
    return (time.thread_time() - start_s) * 1e3


def bench_attempts(policy: str) -> None:
    views = {count: connected(policy, count) for count in SIZES}
    measured: dict[int, list[float]] = {count: [] for count in SIZES}
    locks: list[float] = []
    for _ in range(ROUNDS):
        locks.append(lock_pairs_ns())
        for count, view in views.items():
            measured[count].append(attempts_ns(view))
    lock_ns = statistics.median(locks)
    limit_ns = LIMIT_NS * lock_ns / LOCK_PAIR_NS
    print(f"{policy}: begin + end of an attempt; a lock pair takes {lock_ns:.0f} ns here, so the limit is {limit_ns:.0f} ns")
    print(f"{'endpoints':>10} {'ns':>8} {'lock pairs':>11} {'of limit':>9}")
    for count, samples in measured.items():
        median_ns = statistics.median(samples)
        print(f"{count:>10} {median_ns:>8.0f} {median_ns / lock_ns:>11.1f} {median_ns / limit_ns:>9.2f}")


def zoned(count: int) -> EndpointSet:
    """A third in each of three zones, the caller in the first."""
    listed = [replace(one, locality=Locality(zone=f"zone-{number % 3}")) for number, one in enumerate(endpoints(count).endpoints)]
    return replace(EndpointSet.of(listed, "bench"), place=Place(zone="zone-0"))


def with_features(policy: str, count: int, *, cold: bool = False, **features: Any) -> View:
    """Warm is everybody, as most of the time; cold is half of the pool."""
    rng = random.Random(1)
    pool = Pool("bench", policy_of(policy).build(rng), clock=SystemClock(), rng=rng, new_lock=threading.Lock, **features)
    view = pool.view(Nobody())
    whole = zoned(count)
    if cold:  # who is there from the beginning is warm
        pool.update(replace(whole, endpoints=whole.endpoints[::2]))
    pool.update(whole)
    view.set_states([(sub, Connectivity.READY) for sub in view.wanted()])
    assert view.describe()["picking_from"] == count
    return view


def feature_ways(policy: str, count: int) -> dict[str, Callable[[], float]]:
    """What can be on, each by itself, and together."""
    make = functools.partial(with_features, policy, count)
    outlier, warm, near = Outlier(), SlowStart.of("on"), LocalitySettings(mode="prefer")
    limited, nothing = make(max_in_flight=100), make()
    everything = make(outlier=outlier, slow_start=warm, locality=near)
    everything_limited = make(outlier=outlier, slow_start=warm, locality=near, max_in_flight=100)
    target_limit = Gates(Limits(max_in_flight=1_000), threading.Lock)
    both_limits = Gates(Limits(max_in_flight=1_000, max_in_flight_per_endpoint=100), threading.Lock)
    return {
        "nothing": functools.partial(attempts_ns, nothing),
        "outlier on": functools.partial(attempts_ns, make(outlier=outlier)),
        "slow start on, warm": functools.partial(attempts_ns, make(slow_start=warm)),
        "slow start on, cold": functools.partial(attempts_ns, make(slow_start=warm, cold=True)),
        "locality prefer": functools.partial(attempts_ns, make(locality=near)),
        "these three": functools.partial(attempts_ns, everything),
        "limit of the target": functools.partial(attempts_ns, Entrance(nothing, target_limit)),
        "limits of target and endpoint": functools.partial(attempts_ns, Entrance(limited, both_limits)),
        "all of it": functools.partial(attempts_ns, Entrance(everything_limited, both_limits)),
    }


def bench_features(policy: str, count: int = 10) -> None:
    ways = feature_ways(policy, count)
    measured: dict[str, list[float]] = {name: [] for name in ways}
    locks: list[float] = []
    for _ in range(ROUNDS):
        locks.append(lock_pairs_ns())
        for name, way in ways.items():
            measured[name].append(way())
    lock_ns = statistics.median(locks)
    limit_ns = FEATURES_LIMIT_NS * lock_ns / LOCK_PAIR_NS
    print(
        f"\n{policy}, {count} endpoints: what is on; together it may add {limit_ns:.0f} ns here (a lock pair takes {lock_ns:.0f} ns)"
    )
    print(f"{'':>30} {'ns':>8} {'added':>8} {'of limit':>9}")
    for name, samples in measured.items():
        added_ns = statistics.median([one - nothing for one, nothing in zip(samples, measured["nothing"], strict=True)])
        print(f"{name:>30} {statistics.median(samples):>8.0f} {added_ns:>8.0f} {added_ns / limit_ns:>9.2f}")


def changed(whole: EndpointSet, anew: int, *, gone: bool = False) -> EndpointSet:
    """One in the middle is gone, or not ready unless others are parsed anew: ``anew`` of them, spread as the pods of a slice are."""
    listed = list(whole.endpoints)
    for position in range(0, len(listed), len(listed) // anew) if anew else ():
        listed[position] = replace(listed[position])
    middle = len(listed) // 2
    listed[middle : middle + 1] = [] if gone else [replace(listed[middle], ready=bool(anew))]
    return replace(whole, endpoints=tuple(listed))


def bench_memory(policy: str) -> None:
    """Endpoint, record, metric, picker and the driver's queue; nothing is connected."""
    count, rng = SIZES[-1], random.Random(1)
    gc.collect()
    tracemalloc.start()
    known = endpoints(count)
    pool = Pool("bench", policy_of(policy).build(rng), clock=SystemClock(), rng=rng, new_lock=threading.Lock)
    view, queue = pool.view(Nobody()), ConnectQueue(rng)
    pool.update(known)
    queue.reconcile(view.wanted())
    gc.collect()
    print(f"\n{policy}: {tracemalloc.get_traced_memory()[0] / count:.0f} bytes an unconnected endpoint of {count}")
    tracemalloc.stop()


def bench_updates(policy: str) -> None:
    count = SIZES[-1]
    whole, half, unknown = endpoints(count), EndpointSet.of(endpoints(count).endpoints[::2], "bench"), endpoints(count, uids=False)
    view = connected(policy, count)
    pool, states = view.pool, Connectivity

    def report(state: Connectivity, number: int) -> Callable[[], None]:
        return lambda: view.set_states([(sub, state) for sub in view.wanted()[:number]])

    one_unready, one_gone, slice_anew = changed(whole, 0), changed(whole, 0, gone=True), changed(whole, 100)
    cases: dict[str, Callable[[], object]] = {
        "the same, all objects new": lambda: pool.update(whole),
        "the same again": lambda: pool.update(whole),
        "one is not ready": lambda: pool.update(one_unready),
        "one is, a slice of 100 anew": lambda: pool.update(slice_anew),
        "one is gone": lambda: pool.update(one_gone),
        "and is there again": lambda: pool.update(whole),
        "half of them gone": lambda: pool.update(half),
        "and back again": lambda: pool.update(whole),
        "from a source without uids": lambda: pool.update(unknown),
        "all become ready": report(states.READY, count),
        "one is lost": report(states.CONNECTING, 1),
        "and is ready again": report(states.READY, 1),
        "all fail": report(states.TRANSIENT_FAILURE, count),
    }
    measured: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(9):
        for name, act in cases.items():
            measured[name].append(update_ms(act))
    print(f"\n{policy}: {count} endpoints, one update or report, milliseconds (median, worst)")
    for name, samples in measured.items():
        print(f"{name:>28} {statistics.median(samples):>8.1f} {max(samples):>8.1f}")


if __name__ == "__main__":
    for name in sys.argv[1:] or ["p2c"]:
        bench_attempts(name)
        bench_features(name)
        bench_updates(name)
        bench_memory(name)
