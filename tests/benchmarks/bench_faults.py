"""What callers notice of faults: meshlb from threads and from asyncio beside an Envoy sidecar, in the same seconds, on the same pods.

    python -m tests.benchmarks.bench_faults [--row WORDS ...] [--rate CALLS] [--times N] [--no-envoy]

Eight faults, each for some seconds under a steady load (``--rate`` a second and arm), half of it reads that are declared idempotent.
All arms have the same terms: a read is tried up to three times and each try ends after ``TRY_S``, ejections begin at ``EJECTION_S``, the
retry budget is 20 % (meshlb's has 10 a second on top). It takes some 90 s a time; recovery depends on how far an ejection is when the
fault ends, so it means something from ``--times 4`` on. Columns, with what is wanted:

- ``reads``, ``writes``: failed calls, idempotent or not. No read may fail wherever a healthy pod exists.
- ``extra``: attempts beyond the calls, in shares of the calls during the fault, at most 20 % and 10 a second; counted by the pods, or
  where these cannot, by the clients themselves (``*``).
- ``share``: of the faulty pods, from 1 s after the fault began until it ended; at most 1 % where they fail fast.
- ``probe``, ``back``: seconds after the end of the fault until a faulty pod answered again, and until they had half their fair share
  and no call failed any more; at most 1 s after the probe.
- ``p50``, ``p99``: of all calls that were due during the fault, in milliseconds, from when they were due.
  Where calls began late the machine was busy, and no figure of that row says much.
- ``missed``: which of these were not reached. ``beside Envoy``: what is worse there, beyond chance.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace

import meshlb
from tests.benchmarks import bench_faults_network as network
from tests.benchmarks import common
from tests.benchmarks.bench_faults_envoy import Sidecar, sidecar
from tests.benchmarks.bench_faults_figures import Figures, Span, figures, merged, missed, recovery, worse
from tests.benchmarks.bench_faults_rows import ROWS, Row
from tests.support.faulty_pods import Pod, method
from tests.support.faulty_world import TARGET, World, world
from tests.support.programs import client_config
from tests.support.steady_load import ARMS, PROXY, Ended, Load

TRY_S = 0.3
DEADLINE_S = 2.0
EJECTION_S = 1.0
SETTLED_S = 1.0  # so long after its beginning a fault should be known
LONGER_S = 0.7  # by this much each further run of a fault is
AFTER_S = 6.0  # an ejection that grew, jitter, and then some
PATIENCE_S = 30.0


def settings(made: World, row: Row, arm: int) -> meshlb.Config:
    """What an arm of meshlb's is configured with: the terms that Envoy has."""
    retry = {"methods": {method(arm, "Read"): {"idempotent": True, "per_try_timeout_s": TRY_S}}}
    if row.zones:
        return client_config(made.cluster, settings={"retry": retry, "locality": "prefer"}, zone=row.zones[0])
    return client_config(made.cluster, settings={"retry": retry})


def new_pod(row: Row, number: int, other: network.OtherHost | None) -> Pod:
    zone = row.zones[number * len(row.zones) // row.pods] if row.zones else ""
    if other is not None and number == 0:
        return Pod("pod-0", host=network.POD_ADDRESS, work_s=row.work_s, inside=other.inside)
    return Pod(f"pod-{number}", zone=zone, work_s=row.work_s)


def until(is_so: Callable[[], bool], within_s: float) -> bool:
    """Look now and then; False when it took too long."""
    end_s = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.1)
    return True


def settled(calls: list[Ended], rate: float) -> bool:
    """A second's worth of calls, or nearly, and none of them failed."""
    last = calls[-int(0.8 * rate) :]
    return len(last) >= int(0.8 * rate) and not any(call.error for call in last)


def play(row: Row, *, rate: float, envoy: bool) -> list[Figures]:
    """One run of a row: the figures of every arm."""
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(network.other_host()) if row.apart else None
        made = stack.enter_context(world(new_pod(row, number, other) for number in range(row.pods)))
        proxy = None
        if envoy:
            proxy = stack.enter_context(sidecar(made.pods, ejection_s=EJECTION_S, try_s=TRY_S, zones=row.zones))
        if proxy is not None:
            made.tell = proxy.tell
        address = proxy.address if proxy is not None else None
        load = stack.enter_context(
            Load(TARGET, lambda arm: settings(made, row, arm), rate=rate, deadline_s=DEADLINE_S, proxy=address)
        )
        load.start()
        assert until(lambda: all(settled(calls, rate) for calls in load.ended.values()), PATIENCE_S), "the arms never settled"
        before = {arm: extra_attempts(arm, row, made, load, proxy) for arm in load.ended}
        began_s = time.monotonic()
        row.begin(made, other)
        time.sleep(max(0.0, began_s + SETTLED_S - time.monotonic()))
        late = made.attempts()
        time.sleep(max(0.0, began_s + row.lasts_s - time.monotonic()))
        early = made.attempts()
        row.end(made, other)
        span = Span(began_s, time.monotonic(), *row.awaited(made))
        until(lambda: all(_is_back(calls, span) for calls in load.ended.values()), AFTER_S)
        load.stop()
        return [
            figures(
                arm,
                calls,
                span,
                extra_attempts=extra_attempts(arm, row, made, load, proxy) - before[arm],
                share=share_of(row, late[number], early[number]),
                near={pod.name for pod in made.pods if row.zones and pod.zone == row.zones[0]},
            )
            for number, (arm, calls) in enumerate(load.ended.items())
        ]


def _is_back(calls: list[Ended], span: Span) -> bool:
    back_s = recovery(list(calls), span)[1]
    return back_s is None or math.isfinite(back_s)


def extra_attempts(arm: str, row: Row, made: World, load: Load, proxy: Sidecar | None) -> int:
    """An arm's attempts so far beyond its calls that have ended."""
    if row.counts:
        return sum(made.attempts()[ARMS.index(arm)].values()) - len(load.ended[arm])
    if arm == PROXY:
        return proxy.retries() if proxy is not None else 0
    return sum(int(endpoint["started"]) for endpoint in load.endpoints(arm)) - len(load.ended[arm])


def share_of(row: Row, late: dict[str, int], early: dict[str, int]) -> float | None:
    if not row.counts or not row.faulty or row.faulty == row.pods:
        return None
    seen = [early[pod] - late[pod] for pod in early if pod in late]
    return sum(seen[: row.faulty]) / max(1, sum(seen))


# --- all of them ----------------------------------------------------------------------------------------------------------------------


def played(name: str, arguments: argparse.Namespace) -> list[Figures] | str:
    """The figures of a row's arms, or why there are none."""
    row = ROWS[name]
    if not row.apart or arguments.in_network:
        # Not all of the same length: each would end in the same phase of Envoy's ejections.
        rows = [replace(row, lasts_s=row.lasts_s + number * LONGER_S) for number in range(arguments.times)]
        runs = [play(one, rate=arguments.rate, envoy=not arguments.no_envoy) for one in rows]
        return [merged(of_arm) for of_arm in zip(*runs, strict=True)]
    if reason := network.why_not():
        return reason
    command = [*network.command(), sys.executable, "-m", "tests.benchmarks.bench_faults", "--in-network", "--row", name]
    command += ["--rate", str(arguments.rate), "--times", str(arguments.times), *["--no-envoy"] * arguments.no_envoy]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [Figures(**one) for one in json.loads(said)]


def line(name: str, one: Figures, row: Row, envoy: Figures | None, rate: float) -> tuple[str, ...]:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else "never" if math.isinf(value) else format(value, form)

    ours = one.arm != PROXY
    beside = "" if not ours or envoy is None else ", ".join(f"{word} worse" for word in worse(one, envoy)) or "not worse"
    return (
        name,
        one.arm,
        str(one.calls),
        str(one.reads),
        str(one.writes),
        number(one.extra, ".1%") + "*" * (not row.counts),
        number(one.share, ".1%"),
        number(one.probe_s, ".1f"),
        number(one.back_s, ".1f"),
        number(one.p50_ms, ".1f"),
        number(one.p99_ms, ".0f"),
        ", ".join(missed(one, survivors=row.survivors, fast=row.fast, rate=rate)) or "none",
        beside,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="append", help="words of its name; may be given again")
    parser.add_argument("--rate", type=float, default=150.0)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--no-envoy", action="store_true")
    parser.add_argument("--in-network", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    lines, notes = [], []
    for name in (name for name in ROWS if not arguments.row or any(words in name for words in arguments.row)):
        found = played(name, arguments)
        if arguments.in_network:
            print(json.dumps([asdict(one) for one in found if not isinstance(one, str)]))
            return
        if isinstance(found, str):
            notes.append(f"{name}: skipped, {found}")
            continue
        envoy = next((one for one in found if one.arm == PROXY), None)
        lines += [line(name if not number else "", one, ROWS[name], envoy, arguments.rate) for number, one in enumerate(found)]
        notes.append(f"{name}: calls began up to {max(one.late_ms for one in found):.0f} ms after they were due")
        notes += [f"{name}, {one.arm}: {one.near:.0%} of the answers were the own zone's" for one in found if one.near is not None]
        notes += [f"{name}, {one.arm}: {count} x {words[:160]}" for one in found for words, count in one.errors.items()]
        print(f"{name}: done", file=sys.stderr)
    headings = ("", "", "calls", "reads", "writes", "extra", "share", "probe", "back", "p50", "p99", "missed", "beside Envoy")
    common.table(headings, lines)
    print(*notes, sep="\n")


if __name__ == "__main__":
    main()
