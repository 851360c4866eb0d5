"""Policies on real processes: meshlb's p2c and anchor beside stock round_robin and an Envoy sidecar with LEAST_REQUEST, in one run.

    python -m tests.benchmarks.bench_policies [--times N] [--only WORDS]

Six pods, the first of which is odd in all rows but one: four times as slow, stopped for half a second every two, or failing at once in
the middle third of each turn. ``LOAD_RATIO`` of what six healthy pods can do, as Poisson arrivals from one client: a policy sees all there
is to see. All four arms are asyncio; a call counts from when it was due.

**In turns.** The arms call the same pods, one arm at a time, ``TURN_S`` each, ``--times`` rounds, in an order that changes. Arrivals and what
the first pod does are the same in each arm's turn, and a turn begins on idle pods; what an arm has learnt it keeps. All at once would be
closer in time, but then an arm that spares a busy pod helps those that do not, and each is measured in what the others leave. What the
machine does meanwhile strikes the arms by chance: mind ``late``, and that the p99 of two rounds, which take 3 1/4 minutes, moves by a tenth
of itself on a quiet machine.

**Policies alone.** Nobody retries (but for what never left the client), and nobody ejects: not even meshlb and the sidecar, except in
the last row, where both do as in bench_faults.py. Stock round_robin has no ejection.

- ``failed``: calls that ended with an error, those that ran out of time (``DEADLINE_S``) included.
- ``p50``, ``p99``, ``p99.9``: milliseconds, of calls that were answered or ran out of time; what failed at once was no service.
- ``p99/rr``: the p99 in shares of stock round_robin's.
- ``waited``: the share of these calls that took longer than ``WAITED_MS``, which only one in 3,000 works: others queued, or met a pause.
- ``busiest``: the busiest pod's calls in shares of the mean; ``odd``: the first pod's share of all calls, 17 % being even.
- ``late``: how long after it was due a call began at most, in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from tests.benchmarks import common
from tests.benchmarks.bench_policies_turns import ARMS, ROWS, STOCK, Arm, Row, Turns, arms_of, new_pods, rate_of
from tests.support.faulty_pods import Pod, pods

PODS = 6
LOAD_RATIO = 0.65
TURN_S, WARM_UP_S = 4.0, 1.0
DEADLINE_S = 2.0
WAITED_MS = 300.0


def took_ms(arm: Arm) -> list[float]:
    return [call.took_s * 1e3 for call in arm.calls if call.pod or call.took_s >= DEADLINE_S]


def line(name: str, row: Row, arm: Arm, stock_ms: float) -> tuple[str, ...]:
    seen, times_ms = arm.seen, took_ms(arm)
    return (
        name,
        arm.name,
        str(len(arm.calls)),
        str(sum(bool(call.error) for call in arm.calls)),
        *(f"{common.quantile(times_ms, share):.0f}" for share in (0.5, 0.99, 0.999)),
        f"{common.quantile(times_ms, 0.99) / stock_ms:.2f}",
        f"{sum(one > WAITED_MS for one in times_ms) / len(times_ms):.1%}",
        f"{max(seen.values()) * PODS / seen.total():.2f}",
        f"{arm.odd_ratio:.1%}" if row.during is not None else "-",
        f"{max(call.late_s for call in arm.calls) * 1e3:.0f}",
    )


async def played(row: Row, running: Sequence[Pod], rounds: int) -> list[Arm]:
    turns = Turns(rounds=rounds, turn_s=TURN_S, warm_up_s=WARM_UP_S, rate=rate_of(PODS, LOAD_RATIO), deadline_s=DEADLINE_S)
    async with arms_of(row, running) as arms:
        await turns.play(row, arms, running)
    return arms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=2, help="rounds of turns")
    parser.add_argument("--only", help="words of a row's name")
    arguments = parser.parse_args()
    lines: list[tuple[str, ...]] = []
    with pods(new_pods(PODS)) as running:
        for name in (name for name in ROWS if not arguments.only or arguments.only in name):
            arms = asyncio.run(played(ROWS[name], running, arguments.times))
            (stock_ms,) = [common.quantile(took_ms(arm), 0.99) for arm in arms if arm.name == STOCK]
            lines += [line(name if not number else "", ROWS[name], arm, stock_ms) for number, arm in enumerate(arms)]
            missing = [arm for arm in ARMS if arm not in [one.name for one in arms]]
            print(f"{name}: done{', without ' + missing[0] if missing else ''}", file=sys.stderr)
    headings = ("", "", "calls", "failed", "p50", "p99", "p99.9", "p99/rr", "waited", "busiest", "odd", "late")
    common.table(headings, lines)


if __name__ == "__main__":
    main()
