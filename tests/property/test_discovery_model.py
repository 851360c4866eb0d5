"""The whole way of a slice, from the server's history to what listeners are told, against a server that is a list of changes.

Real: ``ListWatch``, ``NamespaceStream``, the sides, the reducers, ``Feed``. The server is brute force: it remembers the state of every
Service after every change. Whatever is done to it and to the requests, in any order: what a listener is told is always the whole state
of its Service at one moment, moments never go backwards, and when the faults end it is the present one. A set that shrank by an error,
a slice taken for the whole, or a gap would be a state that never was.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshlb.core.endpoint import Endpoint
from meshlb.resolve.kubernetes.backoff import Waits
from meshlb.resolve.kubernetes.feed import Feed, ServiceSlices
from meshlb.resolve.kubernetes.reading import Run
from meshlb.resolve.kubernetes.refusal import Refusal
from meshlb.resolve.kubernetes.requests import ListRequest, WatchRequest
from meshlb.resolve.kubernetes.stream import NamespaceStream
from meshlb.resolve.kubernetes.streaming_lists import StreamingLists
from meshlb.resolve.kubernetes.transport import ApiError, SourceError
from meshlb.resolve.kubernetes.watch import ListWatch
from meshlb.resolve.kubernetes.wire import (
    Bookmark,
    Event,
    Removal,
    SliceEvent,
    SliceList,
    SlicePort,
    SliceRecord,
    Unreadable,
)
from meshlb.testing.loop import ManualLoop

SERVICES = ("orders", "pay")
NAMES = ("a", "b", "c", "d")
State = dict[str, tuple[Endpoint, ...]]


class Server:
    """Slices by name, and everything that ever was, by version."""

    def __init__(self) -> None:
        self.version = 100
        self.states: list[tuple[int, dict[str, SliceRecord]]] = [(100, {})]
        self.oldest = 0  # versions before it are forgotten

    @property
    def now(self) -> dict[str, SliceRecord]:
        return self.states[-1][1]

    def change(self, name: str, service: str | None, pods: tuple[int, ...]) -> None:
        """Put a slice of these pods (any may be in several slices), or remove it."""
        self.version += 1
        state = dict(self.now)
        if service is None:
            state.pop(name, None)
        else:
            endpoints = tuple(Endpoint(host=f"10.0.0.{pod}", port=0, uid=f"u{pod}") for pod in pods)
            ports = (SlicePort("grpc", 80),)
            state[name] = SliceRecord(name, "shop", service, str(self.version), "IPv4", False, ports, endpoints)
        self.states.append((self.version, state))

    def at(self, version: int) -> dict[str, SliceRecord]:
        return next(state for known, state in reversed(self.states) if known <= version)

    def events(self, after: int, services: frozenset[str]) -> list[tuple[int, Event]]:
        """What a watch of these services sees from there on."""
        found: list[tuple[int, Event]] = []
        for (_, before), (version, state) in zip(self.states, self.states[1:], strict=False):
            for name in before.keys() | state.keys():
                old, new = before.get(name), state.get(name)
                if version <= after or old is new:
                    continue
                saw, sees = old is not None and old.service in services, new is not None and new.service in services
                if sees and new is not None:
                    found.append((version, SliceEvent("MODIFIED" if saw else "ADDED", new)))
                elif saw:
                    found.append((version, Removal(name, str(version))))
        return found

    def state_of(self, service: str, version: int) -> State:
        return {name: record.endpoints for name, record in self.at(version).items() if record.service == service}


class Listener:
    """Asserts at each statement that there was such a state, not before the last one."""

    def __init__(self, server: Server, service: str) -> None:
        self.server = server
        self.service = service
        self.version = 0
        self.told: State | None = None

    def on_slices(self, slices: ServiceSlices, /) -> None:
        self.told = {record.name: record.endpoints for record in slices.slices}
        later = [version for version, _ in self.server.states if version >= self.version]
        fitting = [version for version in later if self.server.state_of(self.service, version) == self.told]
        assert fitting, f"{self.service} was never {self.told} at or after {self.version}"
        self.version = fitting[0]

    def on_source_error(self, error: SourceError, /) -> None: ...


class Wire(ManualLoop):
    """A loop whose reader threads are answers of the server, a few milliseconds later."""

    def __init__(self, server: Server) -> None:
        super().__init__(1000.0)
        self.server = server
        self.refusals: list[Refusal | None] = []  # of the next requests; None: the connection is refused
        self.lag = 0  # how many versions the next list lags behind what it was asked for
        self.streams: dict[Run, int] = {}  # open watches, and how far they are
        self.stream: Any = None

    def start_thread(self, name: str, run: Callable[[], None], /) -> None:
        assert isinstance(run, partial)
        request_run: Run = run.args[0]
        request = request_run.request
        refused = self.refusals.pop(0) if self.refusals else Refusal(200)
        if refused is None or refused.code != 200:
            error = ApiError("refused", refused)
            self.call_later(0.005, partial(self.stream._on_ended, request_run, error))
        elif isinstance(request, ListRequest):
            self.call_later(0.005, partial(self.stream._on_list, request_run, self.list(request)))
        else:
            self.call_later(0.005, partial(self.open, request_run, request, self.list(request) if request.initial else None))

    def list(self, request: ListRequest | WatchRequest) -> SliceList:
        lag, self.lag = self.lag, 0
        if not request.resource_version:  # the most recent was asked for, and no server lies about that
            lag = 0
        version = max(100, self.server.version - lag)
        records = [record for record in self.server.at(version).values() if record.service in request.services]
        return SliceList(str(version), tuple(records))

    def open(self, run: Run, request: WatchRequest, initial: SliceList | None) -> None:
        if initial is not None:
            events: list[Event] = [SliceEvent("ADDED", record) for record in initial.slices]
            self.stream._on_opened(run)
            self.stream._on_events(run, [*events, Bookmark(initial.resource_version, initial_events_end=True)])
            self.streams[run] = int(initial.resource_version)
        elif int(request.resource_version) < self.server.oldest:
            self.stream._on_opened(run)
            self.stream._on_ended(run, ApiError("gone", Refusal(410, "Expired")))
        else:
            self.stream._on_opened(run)
            self.streams[run] = int(request.resource_version)

    def deliver(self, count: int) -> None:
        for run, position in list(self.streams.items()):
            for version, event in self.server.events(position, run.request.services)[:count]:
                self.streams[run] = version
                self.stream._on_events(run, [event])

    def tell(self, event: Event) -> None:
        for run in list(self.streams):
            self.stream._on_events(run, [event])

    def bookmark(self) -> None:
        for run, position in list(self.streams.items()):
            if not self.server.events(position, run.request.services):
                self.streams[run] = self.server.version
                self.stream._on_events(run, [Bookmark(str(self.server.version))])

    def end(self, error: ApiError | None) -> None:
        for run in list(self.streams):
            del self.streams[run]
            self.stream._on_ended(run, error)


class World:
    """The server, the wire, one stream, and a listener per Service that is wanted."""

    def __init__(self, *, streaming: bool, seed: int) -> None:
        self.server = Server()
        self.wire = Wire(self.server)
        waits = Waits(failure=lambda attempt: min(30.0, 0.4 * 2**attempt), refusal=lambda attempt: min(150.0, 15.0 * 2**attempt))
        list_watch = ListWatch("shop", waits, random.Random(seed), streaming=StreamingLists(streaming))
        self.stream = self.wire.stream = NamespaceStream(list_watch, object(), self.wire)  # type: ignore[arg-type]
        self.feeds: dict[str, Feed] = {}
        self.listeners: dict[str, Listener] = {}

    def join(self, service: str) -> None:
        if service not in self.feeds:
            feed = self.feeds[service] = Feed("shop", service, self.wire)
            self.listeners[service] = Listener(self.server, service)
            feed.add(self.listeners[service])
            self.stream.add(feed.slices)

    def leave(self, service: str) -> None:
        feed = self.feeds.pop(service, None)
        if feed is not None:
            feed.close()
            del self.listeners[service]
            self.stream.discard(feed.slices)

    def do(self, what: str, number: int, name: str, service: str, pods: tuple[int, ...]) -> None:
        wire = self.wire
        actions: dict[str, Callable[[], object]] = {
            "put": lambda: self.server.change(name, service, pods),
            "remove": lambda: self.server.change(name, None, ()),
            "deliver": lambda: wire.deliver(number),
            "deliver all": lambda: wire.deliver(1000),
            "bookmark": wire.bookmark,
            "pass": lambda: wire.advance(0.01),
            "wait": lambda: wire.advance(float(2**number)),
            "cut": lambda: wire.end(ApiError("connection reset")),
            "end": lambda: wire.end(None),
            "gone": lambda: wire.end(ApiError("gone", Refusal(410, "Expired"))),
            "error": lambda: wire.end(ApiError("error", Refusal((500, 403, 429, 401, 503)[number % 5]))),
            "forget": lambda: setattr(self.server, "oldest", self.server.version + 1),
            "refuse": lambda: wire.refusals.extend([Refusal((500, 403, 429, 401, 504, 410, 404, 400)[number % 8], "", "", 0.0, number % 8 == 4)]),
            "unreachable": lambda: wire.refusals.extend([None] * number),
            "lag": lambda: setattr(wire, "lag", number),
            "garbage": lambda: wire.tell(Unreadable("", "", "no JSON")),
            "join": lambda: self.join(service),
            "leave": lambda: self.leave(service),
        }  # fmt: skip
        actions[what]()
        wire.run_until_idle()


KINDS = [
    *["put"] * 6, *["deliver"] * 4, *["deliver all"] * 2, *["pass"] * 6, *["wait"] * 4, "remove", "remove", "bookmark", "cut", "cut", "end", "gone",
    "error", "forget", "refuse", "unreachable", "lag", "garbage", *["join"] * 4, *["leave"] * 2,
]  # fmt: skip
steps = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(1, 7),
        st.sampled_from(NAMES),
        st.sampled_from(SERVICES),
        st.lists(st.integers(1, 6), max_size=4, unique=True).map(tuple),
    ),
    min_size=20,
    max_size=80,
)


@pytest.mark.parametrize("streaming", [False, True], ids=["lists", "streaming lists"])
@settings(max_examples=300, deadline=None)
@given(steps=steps, seed=st.integers(0, 2**16))
def test_what_is_told_was_true_never_goes_back_and_is_the_present_in_the_end(
    streaming: bool, steps: list[tuple[Any, ...]], seed: int
) -> None:
    """Every statement is checked as it is made (``Listener``), the last ones after ten quiet minutes."""
    world = World(streaming=streaming, seed=seed)
    world.join("orders")
    for step in steps:
        world.do(*step)
    world.wire.refusals.clear()
    world.wire.lag = 0
    for service in SERVICES:
        world.join(service)
    for _ in range(60):
        world.wire.advance(10.0)
        world.wire.deliver(1000)
        world.wire.bookmark()
        world.wire.run_until_idle()
    for service, listener in world.listeners.items():
        assert listener.told == world.server.state_of(service, world.server.version), (service, world.stream.describe())
