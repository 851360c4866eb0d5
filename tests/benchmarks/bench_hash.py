"""What the tables of hash policies cost to build, in the thread that brings the news and under the pool's lock.

    python -m tests.benchmarks.bench_hash

"first": nothing is known of anybody; "one new": one of the endpoints is another since, as in a rollout. Once with hashes in Python, once
with the C package ``xxhash``, if it is installed. The thread's own time, as the machine may be busy. Limits: 50 ms for a Maglev table of 65537 and for a ring of 10,000 points, in Python, at
10 to 1000 endpoints. (What a pick costs: bench_pick.)
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from meshlb.balance.maglev import filled
from meshlb.balance.ring_hash import RingHash, Rings
from meshlb.core import xxhash
from tests.benchmarks import common

ROUNDS = 5
SIZES = (3, 10, 100, 1_000, 10_000)
RINGS = (1_024, 10_000, 100_000)


def keys_of(count: int, generation: int = 0) -> list[bytes]:
    """Addresses; those of another generation differ in one."""
    return [b"10.%d.%d.%d:8080" % (at >> 16, at >> 8 & 255, at & 255) for at in range(count - 1)] + [b"10.9.9.%d:80" % generation]


def milliseconds(work: Callable[[int], object]) -> str:
    """The median of some rounds, each told its number."""
    times_ms = []
    for number in range(ROUNDS):
        gc.collect()
        start_s = time.thread_time()
        work(number)
        times_ms.append((time.thread_time() - start_s) * 1e3)
    return f"{common.median(times_ms):.1f}"


def ring_rows() -> list[list[str]]:
    rows = []
    for size in RINGS:
        for count in (3, 10, 100, 1_000):
            config = RingHash(minimum_ring_size=size)
            kept, weights = Rings(config), [1.0] * count
            kept.ring(keys_of(count), weights)
            rows.append(
                [
                    f"ring_hash, {size}, n = {count}",
                    milliseconds(lambda number, c=config, n=count, w=weights: Rings(c).ring(keys_of(n), w)),  # type: ignore[misc]
                    milliseconds(lambda number, k=kept, n=count, w=weights: k.ring(keys_of(n, number + 1), w)),  # type: ignore[misc]
                ]
            )
    return rows


def maglev_rows() -> list[list[str]]:
    rows = []
    for count in SIZES:
        for name, weights in (("", [1.0] * count), (", weighted", [1.0 + at % 3 for at in range(count)])):
            took = milliseconds(lambda number, n=count, w=weights: filled(keys_of(n, number), w, 65537))  # type: ignore[misc]
            rows.append([f"maglev, 65537, n = {count}{name}", took, took])
    return rows


def main() -> None:
    fastest = xxhash._digest
    ways = {"in Python": xxhash.in_python} | ({"with the C package": fastest} if fastest is not xxhash.in_python else {})
    for name, digest in ways.items():
        xxhash._digest = digest
        print(f"{name}; a lock pair takes {common.lock_pair_ns():.0f} ns here")
        common.table(["table", "first, ms", "one new, ms"], ring_rows() + maglev_rows())


if __name__ == "__main__":
    main()
