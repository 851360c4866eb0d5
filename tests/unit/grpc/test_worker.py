"""The thread that runs the user's code."""

from __future__ import annotations

import logging
import sys
import threading

import pytest

from meshlb.grpc.worker import Worker
from tests.support.channels import eventually


def test_jobs_run_one_at_a_time_in_order_in_one_daemon_thread() -> None:
    """Started by the first job."""
    worker, ran = Worker("meshlb-test", idle_s=0.05), []
    for number in range(100):
        worker.submit(
            lambda number=number: ran.append((number, threading.current_thread().name, threading.current_thread().daemon))
        )
    eventually(lambda: len(ran) == 100, "all ran")
    assert ran == [(number, "meshlb-test", True) for number in range(100)]


def test_an_idle_worker_ends_and_comes_back() -> None:
    """No thread is kept for what may never come again."""
    worker, ran = Worker("meshlb-test-idle", idle_s=0.02), []
    worker.submit(lambda: ran.append(1))
    eventually(lambda: not any(thread.name == "meshlb-test-idle" for thread in threading.enumerate()), "it ended")
    worker.submit(lambda: ran.append(2))
    eventually(lambda: ran == [1, 2], "it came back")


def test_a_job_that_raises_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The next job runs."""
    worker, ran = Worker("meshlb-test", idle_s=0.05), []
    with caplog.at_level(logging.ERROR, "meshlb.grpc"):
        worker.submit(lambda: 1 / 0)
        worker.submit(lambda: ran.append(1))
        eventually(lambda: ran == [1], "the next one ran")
    assert "division by zero" in caplog.text


def test_a_system_without_threads_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job waits for the next one that finds a thread; nothing is lost."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    worker, ran = Worker("meshlb-test", idle_s=0.05), []
    with monkeypatch.context() as without, pytest.raises(RuntimeError, match="new thread"):
        without.setattr(threading.Thread, "start", refuse)
        worker.submit(lambda: ran.append(1))
    worker.submit(lambda: ran.append(2))
    eventually(lambda: ran == [1, 2], "both ran")


def test_a_job_that_exits_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    """``sys.exit`` in a callback: logged, and the next job runs."""
    worker, ran = Worker("meshlb-test", idle_s=0.05), []
    with caplog.at_level(logging.ERROR, "meshlb.grpc"):
        worker.submit(lambda: sys.exit(3))
        worker.submit(lambda: ran.append(1))
        eventually(lambda: ran == [1], "the next one ran")
    assert "SystemExit: 3" in caplog.text
