"""The helper threads for blocking reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from meshlb.runtime.lookups import MAX_THREADS, Lookups

WAIT_S = 5.0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.005)


@pytest.fixture
def lookups() -> Iterator[Lookups]:
    lookups = Lookups(idle_s=0.05)
    yield lookups
    lookups.end()


def test_helpers_are_made_on_demand_and_never_more_than_four(lookups: Lookups) -> None:
    """Twelve jobs that block hold four daemon threads with numbered names; the others wait their turn and all run."""
    release, names, ran = threading.Event(), set(), []

    def job() -> None:
        names.add((threading.current_thread().name, threading.current_thread().daemon))
        release.wait(WAIT_S)
        ran.append(1)

    assert lookups.threads == 0
    for _ in range(12):
        lookups.submit(job)
    wait_for(lambda: len(names) == MAX_THREADS)
    assert lookups.threads == MAX_THREADS == 4
    release.set()
    wait_for(lambda: len(ran) == 12)
    assert names == {(f"meshlb-lookup-{number}", True) for number in (1, 2, 3, 4)}


def test_one_job_after_another_needs_one_helper(lookups: Lookups) -> None:
    """An idle helper takes the next job: threads are made for what is outstanding, not for each job."""
    names: list[str] = []
    for number in range(5):
        lookups.submit(lambda: names.append(threading.current_thread().name))
        wait_for(lambda number=number: len(names) == number + 1 and lookups._outstanding == 0)
    assert set(names) == {"meshlb-lookup-1"}


def test_helpers_end_when_idle_and_come_back(lookups: Lookups) -> None:
    """After the idle time no thread is left, and the next job still runs."""
    ran: list[int] = []
    lookups.submit(lambda: ran.append(1))
    wait_for(lambda: ran == [1] and lookups.threads == 0)
    lookups.submit(lambda: ran.append(2))
    wait_for(lambda: ran == [1, 2])


def test_a_system_without_threads_is_reported_to_who_submits(lookups: Lookups, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that no thread can run is refused, not forgotten; it runs when threads are there again."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without, pytest.raises(RuntimeError, match="new thread"):
        without.setattr(threading.Thread, "start", refuse)
        lookups.submit(lambda: None)
    ran: list[int] = []
    lookups.submit(lambda: ran.append(1))
    wait_for(lambda: ran == [1] and lookups._outstanding == 0)


def test_idle_helpers_end_when_told() -> None:
    """end() does not wait for the idle time."""
    lookups = Lookups(idle_s=60.0)
    threads: list[threading.Thread] = []
    lookups.submit(lambda: threads.append(threading.current_thread()))
    wait_for(lambda: bool(threads))
    lookups.end()
    threads[0].join(WAIT_S)
    assert not threads[0].is_alive()


def test_jobs_that_hang_leave_helpers_to_the_others(lookups: Lookups) -> None:
    """Five names whose server is dead hold two helpers; a look-up in the cluster's DNS starts at once, and each gets its turn."""
    release = threading.Event()
    started: list[int] = []
    finished: list[int] = []

    def hangs(number: int) -> None:
        started.append(number)
        release.wait(30)
        finished.append(number)

    for number in range(5):
        lookups.submit(lambda number=number: hangs(number), may_hang=True)  # type: ignore[misc]
    ran: list[str] = []
    lookups.submit(lambda: ran.append("dns"))
    wait_for(lambda: ran == ["dns"] and len(started) == 2)
    lookups.submit(lambda: ran.append("again"))
    wait_for(lambda: ran == ["dns", "again"])
    assert started == [0, 1]
    release.set()
    wait_for(lambda: sorted(finished) == [0, 1, 2, 3, 4])
    wait_for(lambda: lookups._outstanding == lookups._hanging == 0)
