"""What ``anchor`` adds to a call, beside ``p2c`` and ``least_request``: begin and end of an attempt, one at a time and with five in flight.

    python -m tests.benchmarks.bench_anchor

The limits are 3 us at 10 endpoints and 6 us from 64 on, where a lock's acquire and release take 83 ns; they are scaled by that pair,
measured in the same run. One at a time is the turn's way, five in flight the scan's (balance/anchor.py). All arms take turns within a
round, and medians are over rounds. Times are CPU time.
"""

from __future__ import annotations

import statistics
import time
from collections import deque

from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt
from meshlb.pool.view import View
from tests.benchmarks.bench_attempt import CALLS, LOCK_PAIR_NS, METHOD, connected, lock_pairs_ns

POLICIES = ("p2c", "least_request", "anchor")
LIMITS_NS = {3: 3_000.0, 10: 3_000.0, 64: 6_000.0, 100: 6_000.0, 1_000: 6_000.0}
ROUNDS = 61


def attempts_ns(view: View, in_flight: int) -> float:
    """A call begins and the oldest one ends."""
    begin, end, info = view.begin, view.end, PickInfo(METHOD)
    live: deque[Attempt | None] = deque(begin(info) for _ in range(in_flight))
    start_s = time.thread_time()
    for _ in range(CALLS):
        live.append(begin(info))
        end(live.popleft())  # type: ignore[arg-type]
    took_s = time.thread_time() - start_s
    for attempt in live:
        end(attempt)  # type: ignore[arg-type]
    return took_s / CALLS * 1e9


def main() -> None:
    views = {(policy, count): connected(policy, count) for policy in POLICIES for count in LIMITS_NS}
    samples: dict[tuple[str, int, int], list[float]] = {(*arm, live): [] for arm in views for live in (0, 5)}
    locks = []
    for _ in range(ROUNDS):
        locks.append(lock_pairs_ns())
        for policy, count, live in samples:
            samples[policy, count, live].append(attempts_ns(views[policy, count], live))
    lock_ns = statistics.median(locks)
    print(f"a lock pair takes {lock_ns:.0f} ns here, so the limits are {lock_ns / LOCK_PAIR_NS:.2f} of 3 and 6 us")
    print(f"{'':>14} {'endpoints':>10} {'in flight':>10} {'ns':>8} {'x p2c':>6} {'of limit':>9}")
    for (policy, count, live), measured in samples.items():
        ns, p2c_ns = statistics.median(measured), statistics.median(samples["p2c", count, live])
        of_limit = ns / (LIMITS_NS[count] * lock_ns / LOCK_PAIR_NS)
        print(f"{policy:>14} {count:>10} {live:>10} {ns:>8.0f} {ns / p2c_ns:>6.2f} {of_limit:>9.2f}")


if __name__ == "__main__":
    main()
