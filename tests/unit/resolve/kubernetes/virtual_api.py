"""A ``ListWatch`` against an API server made of answers, in virtual time: every request is recorded with its moment."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from meshlb.resolve.kubernetes.backoff import Waits
from meshlb.resolve.kubernetes.refusal import Refusal
from meshlb.resolve.kubernetes.requests import ListRequest, WatchRequest
from meshlb.resolve.kubernetes.stream import MARK_S
from meshlb.resolve.kubernetes.streaming_lists import StreamingLists
from meshlb.resolve.kubernetes.transport import ApiError, SourceError
from meshlb.resolve.kubernetes.watch import ListWatch
from meshlb.resolve.kubernetes.wire import Bookmark, Event, Removal, SliceEvent, SliceRecord


@dataclass(frozen=True)
class Listed:
    """A list is answered after ``after_s``."""

    version: str
    after_s: float = 0.005


@dataclass(frozen=True)
class Failed:
    """A request fails after ``after_s``."""

    error: ApiError
    after_s: float = 0.005


@dataclass(frozen=True)
class Streamed:
    """A watch is accepted; ``events`` come at these seconds after that, and its end (None: never)."""

    events: tuple[tuple[float, Event], ...] = ()
    end_s: float | None = None
    error: ApiError | None = None
    after_s: float = 0.005


Answer = Listed | Failed | Streamed
Server = Callable[[ListRequest | WatchRequest, float], Answer]


def refused(code: int, reason: str = "", message: str = "no", retry_after_s: float = 0.0, *, too_large: bool = False) -> ApiError:
    refusal = Refusal(code, reason, message, retry_after_s, too_large)
    return ApiError(str(refusal), refusal)


def unreachable() -> ApiError:
    return ApiError("connection refused")


def slice_event(kind: str, version: str, *, service: str = "orders", name: str = "orders-a") -> SliceEvent | Removal:
    if kind == "DELETED":
        return Removal(name, version)
    return SliceEvent(kind, SliceRecord(name, "shop", service, version, "IPv4", False, (), ()))


def bookmark(version: str) -> Bookmark:
    return Bookmark(version)


class VirtualApi:
    """``run(seconds)`` lets time pass; ``requests`` and ``told`` say what happened when."""

    def __init__(self, server: Server, *services: str, seed: int = 1, streaming: StreamingLists | None = None) -> None:
        print(f"seed {seed}")
        self.server = server
        self.now_s = 1000.0
        self.list_watch = ListWatch("shop", Waits.load(), random.Random(seed), streaming=streaming)
        self.requests: list[tuple[float, ListRequest | WatchRequest]] = []
        self.used: list[SliceEvent | Removal] = []
        self.told: list[tuple[float, SourceError]] = []
        self.replaced: list[tuple[float, frozenset[str]]] = []
        self.started_s = self.now_s
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        for service in services or ("orders",):
            self.list_watch.add(service)

    def run(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while True:
            wait_s = self._start_what_is_due()
            timer_s = self.now_s + wait_s if wait_s is not None else float("inf")
            event_s = self._due[0][0] if self._due else float("inf")
            if min(timer_s, event_s) > end_s:
                self.now_s = end_s
                return
            if timer_s < event_s:
                self.now_s = timer_s
            else:
                self.now_s, _, callback = heapq.heappop(self._due)
                callback()

    def times(self, kind: type[ListRequest] | type[WatchRequest] | None = None) -> list[float]:
        """When requests (of this kind) were made, in seconds since the start."""
        return [at_s - self.started_s for at_s, request in self.requests if kind is None or isinstance(request, kind)]

    def _start_what_is_due(self) -> float | None:
        for _ in range(100):
            action = self.list_watch.next(self.now_s)
            if not isinstance(action, (ListRequest, WatchRequest)):
                assert action is None or action >= 0.0
                return action
            self.requests.append((self.now_s, action))
            self._answer(action, self.server(action, self.now_s - self.started_s))
        raise AssertionError("100 requests at one moment")

    def _answer(self, request: ListRequest | WatchRequest, answer: Answer) -> None:
        if isinstance(request, WatchRequest) and request.initial:
            self._answer_streaming(request, answer)
        elif isinstance(answer, Listed):
            self._after(answer.after_s, lambda: self._listed(answer.version))
        elif isinstance(answer, Failed) and isinstance(request, ListRequest):
            self._after(answer.after_s, lambda: self._tell(self.list_watch.on_list_failed(answer.error, self.now_s)))
        elif isinstance(answer, Failed):
            self._after(answer.after_s, self._of(request, lambda: self._ended(answer.error)))
        else:
            self._after(answer.after_s, self._of(request, lambda: self.list_watch.on_watch_opened(self.now_s)))
            for at_s, event in answer.events:
                self._after(answer.after_s + at_s, self._of(request, partial(self._event, event)))
            if answer.end_s is not None:
                self._after(answer.after_s + answer.end_s, self._of(request, lambda: self._ended(answer.error)))

    def _answer_streaming(self, request: WatchRequest, answer: Answer) -> None:
        """``Listed`` marks the end of the list and goes on for ever; ``Streamed`` has a marked bookmark among its events, or none."""
        if isinstance(answer, Listed):
            answer = Streamed(events=((0.0, Bookmark(answer.version, initial_events_end=True)),), after_s=answer.after_s)
        if isinstance(answer, Failed):
            self._after(answer.after_s, lambda: self._streaming_ended(request, answer.error))
            return
        for at_s, event in answer.events:
            self._after(answer.after_s + at_s, partial(self._streaming_event, request, event))
        if answer.end_s is not None:
            self._after(answer.after_s + answer.end_s, lambda: self._streaming_ended(request, answer.error))
        self._after(answer.after_s + MARK_S, lambda: self._streaming_ended(request, None, only_list=True))

    def _streaming_event(self, request: WatchRequest, event: Event) -> None:
        if self.list_watch.watching is request:
            self._event(event)
        elif self.list_watch.listing is request and isinstance(event, Bookmark) and event.initial_events_end:
            self._listed(event.resource_version)

    def _streaming_ended(self, request: WatchRequest, error: ApiError | None, *, only_list: bool = False) -> None:
        if self.list_watch.listing is request and error is None:
            self.list_watch.on_list_unmarked(self.now_s)
        elif self.list_watch.listing is request and error is not None:
            self._tell(self.list_watch.on_list_failed(error, self.now_s))
        elif self.list_watch.watching is request and not only_list:
            self._ended(error)

    def _of(self, request: ListRequest | WatchRequest, callback: Callable[[], None]) -> Callable[[], None]:
        """What an abandoned watch still says is not heard."""
        return lambda: callback() if self.list_watch.watching is request else None

    def _listed(self, version: str) -> None:
        outcome = self.list_watch.on_list(version, self.now_s)
        if isinstance(outcome, SourceError):
            self._tell(outcome)
        else:
            self.replaced.append((self.now_s - self.started_s, outcome))

    def _event(self, event: Event) -> None:
        if self.list_watch.on_event(event, self.now_s):
            assert isinstance(event, (SliceEvent, Removal))
            self.used.append(event)

    def _ended(self, error: ApiError | None) -> None:
        self._tell(self.list_watch.on_watch_ended(error, self.now_s))

    def _tell(self, trouble: SourceError | None) -> None:
        if trouble is not None:
            self.told.append((self.now_s - self.started_s, trouble))

    def _after(self, delay_s: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now_s + delay_s, next(self._order), callback))
