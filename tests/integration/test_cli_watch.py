"""``meshlb watch`` as a process of its own, on the fake cluster: changes, outages, Ctrl-C, a reader that goes away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshlb.testing import FakeCluster, FakeEndpoint, FakeService

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(namespace="shop") as one:
        yield one


@pytest.fixture
def orders(cluster: FakeCluster) -> FakeService:
    return cluster.service("orders", endpoints=["127.9.0.1:9000", "127.9.0.2:9000"])


class Watch:
    """The command under test; ``lines`` grows as it prints."""

    def __init__(self, cluster: FakeCluster, *arguments: str, target: str = "orders.shop:grpc") -> None:
        environ = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HOME": "/nonexistent",
            "MESHLB_DISCOVERY_RESOLV_CONF": cluster.resolv_conf,
        }
        flags = ["--kubeconfig", cluster.kubeconfig, "--nameserver", cluster.nameserver]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "meshlb", "watch", target, *flags, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    def wait(self, condition: Callable[[list[str]], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.lines), 20.0), self.lines

    def wait_line(self, *words: str) -> None:
        self.wait(lambda lines: any(all(word in line for word in words) for line in lines))

    def end(self, number: int | None = signal.SIGINT) -> tuple[int, str]:
        """Exit status and standard error."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(timeout=20)
        self._reader.join(5.0)
        assert self.process.stderr is not None
        return code, self.process.stderr.read()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def watch(cluster: FakeCluster) -> Iterator[Callable[..., Watch]]:
    running: list[Watch] = []

    def start(*arguments: str, target: str = "orders.shop:grpc") -> Watch:
        running.append(Watch(cluster, *arguments, target=target))
        return running[-1]

    yield start
    for one in running:
        one.close()


def test_changes_come_as_they_happen_and_ctrl_c_ends_it_quietly(
    cluster: FakeCluster, orders: FakeService, watch: Callable[..., Watch]
) -> None:
    """First the whole set, then a line a change: added, removed, changed, a source that fails and recovers."""
    following = watch()
    following.wait_line("> 2 endpoints by kubernetes")
    following.wait_line("+ 127.9.0.2:9000", "usable")
    ending = FakeEndpoint(address="127.9.0.2", ports={"grpc": 9000}, ready=False, serving=True, terminating=True)
    orders.set_endpoints(["127.9.0.3:9000", ending])
    following.wait_line("+ 127.9.0.3:9000")
    following.wait_line("- 127.9.0.1:9000")
    following.wait_line("~ 127.9.0.2:9000", "usable → terminating")
    cluster.api.stop()
    following.wait_line("! kubernetes:", "cannot reach the API server")
    cluster.api.start()
    following.wait_line("> kubernetes: ")
    code, errors = following.end()
    assert code == 130
    assert errors == "context fake, namespace shop\n"


def test_json_is_one_object_a_line_with_stable_keys(cluster: FakeCluster, orders: FakeService, watch: Callable[..., Watch]) -> None:
    """``time`` and ``event`` in each."""
    following = watch("--json")
    following.wait(lambda lines: sum('"added"' in line for line in lines) >= 2)
    orders.set_endpoints(["127.9.0.1:9000"])
    following.wait(lambda lines: any('"removed"' in line for line in lines))
    assert following.end()[1] == ""
    events = [json.loads(line) for line in following.lines]
    assert all(set(event) >= {"time", "event"} for event in events)
    state = next(event for event in events if event["event"] == "state" and event["source"] == "kubernetes")
    assert set(state) == {"time", "event", "source", "authoritative", "service_port", "note", "endpoints"}
    gone = next(event for event in events if event["event"] == "removed" and event["address"] == "127.9.0.2:9000")
    assert set(gone) == {"time", "event", "address", "name", "uid", "node", "zone", "weight", "state"}


def test_the_time_is_bounded_on_request(orders: FakeService, watch: Callable[..., Watch]) -> None:
    """0 if anything was known, 1 if not; the reason is a line."""
    known = watch("--for", "2")
    unknown = watch("--for", "2", target="k8s:///nobody.shop:grpc")
    assert known.end(None)[0] == 0
    assert unknown.end(None)[0] == 1
    assert any("! nobody.shop:grpc: no such Service" in line for line in unknown.lines), unknown.lines


def test_a_reader_that_goes_away_ends_it_without_a_word(cluster: FakeCluster, orders: FakeService) -> None:
    """As ``meshlb watch … | head -1`` does."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": "/nonexistent", "MESHLB_DISCOVERY_RESOLV_CONF": cluster.resolv_conf}
    flags = ["--kubeconfig", cluster.kubeconfig, "--nameserver", cluster.nameserver]
    process = subprocess.Popen(
        [sys.executable, "-m", "meshlb", "watch", "orders.shop:grpc", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert "endpoints by" in process.stdout.readline()
        process.stdout.close()
        deadline_s = time.monotonic() + 20.0
        for number in range(3, 200):  # each change is a line that nobody takes
            if process.poll() is not None or time.monotonic() > deadline_s:
                break
            orders.set_endpoints([f"127.9.0.{number}:9000"])
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        assert process.poll() == 0
        assert process.stderr.read() == "context fake, namespace shop\n"
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()
