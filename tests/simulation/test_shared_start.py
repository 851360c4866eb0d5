"""Two thousand clients that start together: what one API server hears of it, in virtual time.

Each client is a real ``KubernetesSource`` with the settings that every mesh has; DNS serves its first calls meanwhile. What is modelled:
the import of the client takes each the same 0.3 s (the worst case: differences would spread them further), an answer 5 ms. Peaks are
requests within a second, a tenth and a fiftieth of one.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Generator

import pytest

from meshlb.errors import ClosedError
from meshlb.resolve.classify import DNS_HEAD_START_S, START_WITHIN_S
from meshlb.resolve.kubernetes.feed import ServiceSlices
from meshlb.resolve.kubernetes.requests import Query
from meshlb.resolve.kubernetes.source import KubernetesSource
from meshlb.resolve.kubernetes.transport import Interrupt, SourceError
from meshlb.testing.loop import ManualLoop

CLIENTS = 2000
IMPORT_S = 0.25
ANSWER_S = 0.005
LISTED = json.dumps({"kind": "EndpointSliceList", "metadata": {"resourceVersion": "7"}, "items": []}).encode()
MARKED = json.dumps(
    {
        "type": "BOOKMARK",
        "object": {"metadata": {"resourceVersion": "7", "annotations": {"k8s.io/initial-events-end": "true"}}},
    }
).encode()


class Clock:
    """Virtual time for all; each client has a loop of its own that asks it for its turns."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when_s: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when_s, next(self._order), callback))

    def run(self, until_s: float) -> None:
        while self._due and self._due[0][0] <= until_s:
            self.now_s, _, callback = heapq.heappop(self._due)
            callback()


class ClientLoop(ManualLoop):
    """Helper threads take their time instead of being started."""

    def __init__(self, client: Client) -> None:
        super().__init__(client.clock.now_s)
        self._client = client

    def start_thread(self, name: str, run: Callable[[], None], /) -> None:
        delay_s = IMPORT_S if name == "connect" else ANSWER_S
        if name != "connect":
            self._client.requests.append((self.now_s(), "list" if name.startswith("list") else "watch"))

        def reader() -> None:
            with contextlib.suppress(ClosedError):
                run()

        self.call_later(delay_s, reader)


class Client:
    """One process; ``synced_s`` is when it had its slices."""

    def __init__(
        self, clock: Clock, requests: list[tuple[float, str]], seed: int, *, start_within_s: float, streaming: bool
    ) -> None:
        self.clock = clock
        self.requests = requests
        self.began_s = clock.now_s
        self.synced_s: float | None = None
        self.streaming = streaming
        self.loop = ClientLoop(self)
        self._source = KubernetesSource(
            lambda: self,
            self.loop,
            random.Random(seed),
            streaming_lists=streaming,
            head_start_s=DNS_HEAD_START_S,
            start_within_s=start_within_s,
        )
        self.watching = self._source.watch("shop", "orders", self)
        self.turn()

    def turn(self) -> None:
        self.loop.advance(max(0.0, self.clock.now_s - self.loop.now_s()))
        due = [timer.when_s for timer in self.loop.timers]
        if due and self.synced_s is None:
            self.clock.at(max(due[0], self.clock.now_s), self.turn)

    # --- SlicesListener ---------------------------------------------------------------------------------------------------

    def on_slices(self, slices: ServiceSlices, /) -> None:
        self.synced_s = self.clock.now_s if self.synced_s is None else self.synced_s

    def on_source_error(self, error: SourceError, /) -> None:
        raise AssertionError(error)

    # --- ApiTransport -----------------------------------------------------------------------------------------------------

    server = "https://virtual"

    def get(self, path: str, query: Query, interrupt: Interrupt) -> bytes:
        return LISTED

    def watch(self, path: str, query: Query, interrupt: Interrupt, *, read_timeout_s: float) -> Generator[list[bytes]]:
        yield []
        if dict(query).get("sendInitialEvents"):
            yield [MARKED]
        raise ClosedError("it stays open")  # a reader that hears this says nothing more

    def renew_credentials(self) -> None: ...

    def close(self) -> None: ...


def peak(requests: list[tuple[float, str]], kind: str, window_s: float) -> int:
    """The most in any window, wherever it begins."""
    times = sorted(at_s for at_s, what in requests if what == kind)
    first, most = 0, 0
    for last, at_s in enumerate(times):
        while times[first] <= at_s - window_s:
            first += 1
        most = max(most, last - first + 1)
    return most


def start_fleet(within_s: float, start_within_s: float, *, streaming: bool) -> tuple[list[Client], list[tuple[float, str]]]:
    """All of them start within that time of each other."""
    clock, rng = Clock(), random.Random(1)
    requests: list[tuple[float, str]] = []
    clients: list[Client] = []
    for seed in range(CLIENTS):

        def begin(seed: int = seed) -> None:
            clients.append(Client(clock, requests, seed, start_within_s=start_within_s, streaming=streaming))

        clock.at(rng.random() * within_s, begin)
    clock.run(30.0)
    return clients, requests


@pytest.mark.parametrize("streaming", [False, True], ids=["lists", "streaming lists"])
@pytest.mark.parametrize(
    ("within_s", "a_second", "a_tenth", "a_fiftieth"),
    [(0.0, CLIENTS, 480, 120), (1.0, 1850, 260, 70), (10.0, 250, 50, 20)],
    ids=["in one instant", "within a second", "within ten seconds"],
)
def test_two_thousand_clients_that_start_together_do_not_list_together(
    within_s: float, a_second: int, a_tenth: int, a_fiftieth: int, streaming: bool
) -> None:
    """Everybody has the slices within a second of its own start, with one list and one watch each, and the server hears no burst."""
    clients, requests = start_fleet(within_s, START_WITHIN_S, streaming=streaming)
    listing = "watch" if streaming else "list"  # a streaming list is the watch
    synced_s = [client.synced_s - client.began_s for client in clients if client.synced_s is not None]
    counts = Counter(kind for _, kind in requests)
    print(
        f"start within {within_s:g} s: {counts['list']} lists, {counts['watch']} watches; at most {peak(requests, listing, 1.0)} lists/s, "
        f"{peak(requests, listing, 0.1)} in 0.1 s, {peak(requests, listing, 0.02)} in 20 ms; the last is synced {max(synced_s):.2f} s after its start"
    )
    assert len(synced_s) == CLIENTS
    assert max(synced_s) < 1.0
    assert counts["list"] == (0 if streaming else CLIENTS)
    assert counts["watch"] == CLIENTS
    assert peak(requests, listing, 1.0) <= a_second
    assert peak(requests, listing, 0.1) <= a_tenth
    assert peak(requests, listing, 0.02) <= a_fiftieth


def test_without_a_moment_of_their_own_they_would_all_come_at_once() -> None:
    """What the spread is for: the same fleet without it."""
    _, requests = start_fleet(0.0, 0.0, streaming=False)
    assert peak(requests, "list", 0.02) == CLIENTS
