"""Many checks at once, none of which can hold up the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from meshlb.cli.doctor.check import FAIL, OK, Finding, Probe, examine


@pytest.fixture
def never() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_what_hangs_is_left_behind_and_the_others_keep_their_order(never: threading.Event) -> None:
    """It has failed after the common time; what it would have advised is said."""

    def hang() -> Finding:
        never.wait()
        return Finding(OK, "late")

    probes = [
        Probe("a", "A", hang, "look there"),
        Probe("b", "B", lambda: Finding(OK, "fine")),
        Probe("c", "C", hang),
        Probe("d", "D", lambda: Finding(FAIL, "no", "do that")),
    ]
    start_s = time.monotonic()
    checks = examine(probes, 0.2)
    assert time.monotonic() - start_s < 2.0
    assert [(check.name, check.status, check.detail, check.advice) for check in checks] == [
        ("a", "fail", "no answer in 0.2 s", "look there"),
        ("b", "ok", "fine", ""),
        ("c", "fail", "no answer in 0.2 s", ""),
        ("d", "fail", "no", "do that"),
    ]


def test_a_check_that_breaks_fails_by_itself() -> None:
    """What the others found is still told."""

    def broken() -> Finding:
        raise LookupError("nothing here")

    first, second = examine([Probe("a", "A", broken), Probe("b", "B", lambda: Finding(OK, "fine"))], 5.0)
    assert (first.status, first.detail) == ("fail", "the check itself failed: LookupError: nothing here")
    assert second.status == "ok"


def test_all_run_at_once() -> None:
    """Each needs the other to be there."""
    both = threading.Barrier(2, timeout=5.0)

    def meet() -> Finding:
        both.wait()
        return Finding(OK, "met")

    assert [check.status for check in examine([Probe("a", "A", meet), Probe("b", "B", meet)], 5.0)] == ["ok", "ok"]
