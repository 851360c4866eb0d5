"""One thing that is looked at, and many looked at together: each in a thread of its own, none waited for beyond the common end."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

T = TypeVar("T")

OK: Final = "ok"
WARN: Final = "warn"  # could be better, and does not matter now
FAIL: Final = "fail"
SKIPPED: Final = "skipped"


class Finding(NamedTuple):
    """What came of it: ``detail`` is what came back, ``advice`` what to do about it."""

    status: str
    detail: str
    advice: str = ""


class Probe(NamedTuple):
    """``what`` is asked by ``ask``, which may block. ``name`` is stable, for programs."""

    name: str
    what: str
    ask: Callable[[], Finding]
    late_advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A line of the report; its fields are the keys of ``--json``."""

    name: str
    status: str
    what: str
    took_ms: float
    detail: str
    advice: str = ""


def examine(probes: Sequence[Probe], timeout_s: float) -> list[Check]:
    """All at once, in the order given. What hangs is left behind in its daemon thread, and has failed."""
    done: queue.SimpleQueue[tuple[int, Check]] = queue.SimpleQueue()
    start_s = time.monotonic()

    def run(position: int, probe: Probe) -> None:
        begun_s = time.monotonic()
        try:
            finding = probe.ask()
        except Exception as error:  # noqa: BLE001 - a bug in one check must not hide what the others found
            finding = Finding(FAIL, f"the check itself failed: {type(error).__name__}: {error}")
        done.put((position, _check(probe, finding, time.monotonic() - begun_s)))

    for position, probe in enumerate(probes):
        threading.Thread(target=run, args=(position, probe), name=f"doctor-{probe.name}", daemon=True).start()
    checks: dict[int, Check] = {}
    while len(checks) < len(probes):
        try:
            position, check = done.get(timeout=max(0.0, start_s + timeout_s - time.monotonic()))
        except queue.Empty:
            break
        checks[position] = check
    late = (_check(probe, Finding(FAIL, f"no answer in {timeout_s:g} s", probe.late_advice), timeout_s) for probe in probes)
    return [checks.get(position, check) for position, check in enumerate(late)]


def within(ask: Callable[[], T], timeout_s: float) -> T:
    """What ``ask`` returns or raises, or TimeoutError: it is left behind in its daemon thread then."""
    done: queue.SimpleQueue[Callable[[], T]] = queue.SimpleQueue()

    def run() -> None:
        try:
            found = ask()
        except BaseException as error:  # noqa: BLE001 - raised again, in the thread that waits
            raised = error

            def fail() -> T:
                raise raised

            done.put(fail)
        else:
            done.put(lambda: found)

    threading.Thread(target=run, name="doctor-prepare", daemon=True).start()
    try:
        answer = done.get(timeout=timeout_s)
    except queue.Empty:
        raise TimeoutError(f"no answer in {timeout_s:g} s") from None
    return answer()


def skipped(name: str, what: str, why: str) -> Check:
    """Not looked at, and why."""
    return Check(name=name, status=SKIPPED, what=what, took_ms=0.0, detail=why)


def _check(probe: Probe, finding: Finding, took_s: float) -> Check:
    return Check(
        name=probe.name,
        status=finding.status,
        what=probe.what,
        took_ms=round(took_s * 1000, 1),
        detail=finding.detail,
        advice=finding.advice,
    )
