"""Two thousand clients of one API server that fails for all of them in one moment: what comes back, and how fast, in virtual time.

Each client is a real ``ListWatch``; the server is a script that answers after 5 ms. Peaks are what the server sees: requests within one
second, and within a tenth of one. Without the spreads all of them would fall into the same 10 ms.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest

from meshlb.resolve.kubernetes.backoff import Waits
from meshlb.resolve.kubernetes.refusal import Refusal
from meshlb.resolve.kubernetes.requests import ListRequest, WatchRequest
from meshlb.resolve.kubernetes.streaming_lists import StreamingLists
from meshlb.resolve.kubernetes.transport import ApiError
from meshlb.resolve.kubernetes.watch import ListWatch

CLIENTS = 2000
ANSWER_S = 0.005
OUTAGE_AT_S = 200.0  # streams live for 300 to 600 s by themselves
EXPIRED = ApiError("expired", Refusal(410, "Expired"))
REFUSED = ApiError("connection refused")


@dataclass(frozen=True)
class Outage:
    """Every stream is cut at ``OUTAGE_AT_S``; connections are refused for ``down_s``; then versions from before may be too old."""

    down_s: float
    forgets: bool


class Fleet:
    """All clients and the server, on one virtual clock."""

    def __init__(self, outage: Outage, *, streaming: bool, seed: int = 1) -> None:
        print(f"seed {seed}")
        self.outage = outage
        self.now_s = 0.0
        self.requests: list[tuple[float, str]] = []  # when, and what the server had to do for it
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._version = "100"
        waits = Waits.load()
        self.clients = [
            ListWatch("shop", waits, random.Random(seed * CLIENTS + n), streaming=StreamingLists(streaming)) for n in range(CLIENTS)
        ]
        self._wakes = [0] * CLIENTS
        rng = random.Random(seed)
        for number, client in enumerate(self.clients):
            client.add("orders")
            self._after(rng.random() * 100.0, partial(self._step, number))
        self._after(OUTAGE_AT_S, self._fail)

    def run(self, until_s: float) -> None:
        while self._due and self._due[0][0] <= until_s:
            self.now_s, _, callback = heapq.heappop(self._due)
            callback()

    def peak(self, kind: str, window_s: float) -> int:
        """The most requests of a kind in any window after the outage began."""
        times = [int(at_s / window_s) for at_s, what in self.requests if what == kind and at_s >= OUTAGE_AT_S]
        return max(Counter(times).values(), default=0)

    def count(self, kind: str) -> int:
        return sum(what == kind and at_s >= OUTAGE_AT_S for at_s, what in self.requests)

    @property
    def watching(self) -> int:
        return sum(client.opened_s is not None for client in self.clients)

    def _after(self, delay_s: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now_s + delay_s, next(self._order), callback))

    @property
    def _down(self) -> bool:
        return OUTAGE_AT_S <= self.now_s < OUTAGE_AT_S + self.outage.down_s

    def _fail(self) -> None:
        if self.outage.forgets:
            self._version = "900"
        for number, client in enumerate(self.clients):
            client.on_watch_ended(ApiError("connection reset"), self.now_s)
            self._step(number)

    def _step(self, number: int) -> None:
        client = self.clients[number]
        self._wakes[number] += 1
        wake = self._wakes[number]
        while True:
            action = client.next(self.now_s)
            if not isinstance(action, (ListRequest, WatchRequest)):
                break
            self._after(ANSWER_S, partial(self._answer, number, action))
        if action is not None:
            self._after(max(action, 1e-6), lambda: self._step(number) if self._wakes[number] == wake else None)

    def _answer(self, number: int, request: ListRequest | WatchRequest) -> None:
        client = self.clients[number]
        if request is client.listing:
            if self._down:
                self.requests.append((self.now_s, "refused"))
                client.on_list_failed(REFUSED, self.now_s)
            else:
                self.requests.append((self.now_s, "list"))
                client.on_list(self._version, self.now_s)
        elif request is client.watching:
            if self._down:
                self.requests.append((self.now_s, "refused"))
                client.on_watch_ended(REFUSED, self.now_s)
            elif request.resource_version != self._version:
                self.requests.append((self.now_s, "expired watch"))
                client.on_watch_ended(EXPIRED, self.now_s)
            else:
                self.requests.append((self.now_s, "watch"))
                client.on_watch_opened(self.now_s)
        self._step(number)


@pytest.mark.parametrize("streaming", [False, True], ids=["lists", "streaming lists"])
@pytest.mark.parametrize(
    ("outage", "lists_a_second", "lists_a_tenth", "watches_a_second", "back_s"),
    [
        (Outage(down_s=0.0, forgets=False), 0, 0, 2000, 1.1),
        (Outage(down_s=0.0, forgets=True), 500, 80, 500, 6.2),
        (Outage(down_s=5.0, forgets=True), 500, 80, 500, 20.0),
        (Outage(down_s=60.0, forgets=True), 250, 50, 250, 70.0),
        (Outage(down_s=600.0, forgets=True), 150, 40, 150, 70.0),
    ],
    ids=["another replica", "a restart", "down for 5 s", "down for a minute", "down for ten minutes"],
)
def test_two_thousand_clients_come_back_spread_out(
    outage: Outage, lists_a_second: int, lists_a_tenth: int, watches_a_second: int, back_s: float, streaming: bool
) -> None:
    """A server that comes back is not brought down again by those who waited for it, and everybody is served soon."""
    fleet = Fleet(outage, streaming=streaming)
    fleet.run(OUTAGE_AT_S - 1.0)
    assert fleet.watching == CLIENTS
    fleet.run(OUTAGE_AT_S + outage.down_s + back_s)
    print(
        f"{outage}: {fleet.count('list')} lists, at most {fleet.peak('list', 1.0)}/s and {fleet.peak('list', 0.1)} in 0.1 s; "
        f"{fleet.count('watch')} watches, at most {fleet.peak('watch', 1.0)}/s and {fleet.peak('watch', 0.1)} in 0.1 s; "
        f"{fleet.count('refused')} refused, at most {fleet.peak('refused', 1.0)}/s; {fleet.watching} open"
    )
    assert fleet.watching == CLIENTS
    assert fleet.count("list") == (CLIENTS if outage.forgets else 0)
    assert fleet.peak("list", 1.0) <= lists_a_second
    assert fleet.peak("list", 0.1) <= lists_a_tenth
    assert fleet.peak("watch", 1.0) <= watches_a_second
    assert fleet.peak("watch", 0.1) <= 300


def test_a_stream_that_starts_waits_for_nobody() -> None:
    """Its list is made at once: those who start together were spread by their source already (``test_shared_start``)."""
    for seed in range(20):
        client = ListWatch("shop", Waits.load(), random.Random(seed), streaming=StreamingLists())
        client.add("orders")
        assert isinstance(client.next(0.0), WatchRequest)
