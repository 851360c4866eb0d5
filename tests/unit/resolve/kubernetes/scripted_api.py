"""The transport seam with answers made by the test, and a virtual loop whose reader threads are real."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from meshlb.resolve.kubernetes.requests import Query
from meshlb.resolve.kubernetes.source import ServiceSlices, SourceError
from meshlb.resolve.kubernetes.transport import ApiError, Interrupt
from meshlb.testing.loop import ManualLoop


class ThreadedLoop(ManualLoop):
    """Virtual time for decisions; blocking readers run in threads, and ``run_until`` waits for what they post."""

    def __init__(self) -> None:
        super().__init__(1000.0)
        self.started: list[threading.Thread] = []
        self.refuse_threads = False
        self.posts = 0

    def call_soon(self, callback: Callable[[], None], /) -> None:
        super().call_soon(callback)
        self.posts += 1

    def start_thread(self, name: str, run: Callable[[], None], /) -> None:
        if self.refuse_threads:
            raise RuntimeError("can't start new thread")
        thread = threading.Thread(target=run, name=name, daemon=True)
        self.started.append(thread)
        thread.start()

    @property
    def running(self) -> list[str]:
        return sorted(thread.name for thread in self.started if thread.is_alive())

    def let_pass(self, seconds: float, condition: Callable[[], Any], step_s: float = 1.0) -> None:
        """Let virtual time pass in steps until the condition holds, threads included."""
        for _ in range(int(seconds / step_s)):
            self.advance(step_s)
            try:
                self.run_until(condition, 0.02)
            except AssertionError:
                continue
            return
        raise AssertionError(f"not within {seconds:g} virtual seconds: {condition!r}")


def eventually(condition: Callable[[], Any], timeout_s: float = 5.0) -> None:
    """Wait for another thread, in real time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not hold in time"
        time.sleep(0.001)


class Stream:
    """One open watch: the test says what comes."""

    def __init__(self, query: dict[str, str], interrupt: Interrupt) -> None:
        self.query = query
        self._items: queue.SimpleQueue[list[bytes] | ApiError | None] = queue.SimpleQueue()
        self.interrupted = False
        interrupt.arm(self._interrupt)

    def send(self, *events: dict[str, Any] | bytes) -> None:
        self._items.put([event if isinstance(event, bytes) else json.dumps(event).encode() for event in events])

    def end(self, error: ApiError | None = None) -> None:
        self._items.put(error)

    def _interrupt(self) -> None:
        self.interrupted = True
        self._items.put(ApiError("interrupted"))

    def batches(self) -> Generator[list[bytes]]:
        yield []
        while True:
            item = self._items.get()
            if isinstance(item, ApiError):
                raise item
            if item is None:
                return
            yield item


class ScriptedApi:
    """``ApiTransport``: ``answer(path, query)`` gives a body or raises ApiError; watches are accepted, or refused by ``answer``."""

    server = "https://scripted"

    def __init__(self, answer: Callable[[str, dict[str, str]], bytes]) -> None:
        self.answer = answer
        self.requests: list[str] = []
        self.streams: list[Stream] = []
        self.renewed = 0
        self.closed = False

    def get(self, path: str, query: Query, interrupt: Interrupt) -> bytes:
        self.requests.append(f"get {path.rpartition('/')[2]} {_selection(dict(query))}".strip())
        return self.answer(path, dict(query))

    def watch(self, path: str, query: Query, interrupt: Interrupt, *, read_timeout_s: float) -> Generator[list[bytes]]:
        asked = dict(query)
        streaming = "streaming " if "sendInitialEvents" in asked else ""
        self.requests.append(f"{streaming}watch {asked['resourceVersion']} {_selection(asked)}")
        self.answer(path, asked)
        stream = Stream(asked, interrupt)
        self.streams.append(stream)
        yield from stream.batches()

    def renew_credentials(self) -> None:
        self.renewed += 1

    def close(self) -> None:
        self.closed = True


def _selection(query: dict[str, str]) -> str:
    return query.get("labelSelector", "") or query.get("fieldSelector", "").replace("metadata.name=", "")


class Heard:
    """A listener that keeps what it hears: ``name:host,host`` per slice, or ``error:kind``."""

    def __init__(self) -> None:
        self.slices: list[ServiceSlices] = []
        self.errors: list[SourceError] = []
        self.words: list[str] = []

    def on_slices(self, slices: ServiceSlices, /) -> None:
        self.slices.append(slices)
        self.words.append(
            " ".join(f"{record.name}:{','.join(pod.host for pod in record.endpoints)}" for record in slices.slices) or "empty"
        )

    def on_source_error(self, error: SourceError, /) -> None:
        self.errors.append(error)
        self.words.append(f"error:{error.kind}")


def slice_object(name: str, version: str, *hosts: str, service: str = "orders") -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "resourceVersion": version,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [host], "targetRef": {"uid": host}} for host in hosts],
        "ports": [{"name": "grpc", "port": 9000}],
    }


def slice_list(version: str, *items: dict[str, Any]) -> bytes:
    return json.dumps({"kind": "EndpointSliceList", "metadata": {"resourceVersion": version}, "items": list(items)}).encode()


def event(kind: str, item: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "object": item}
