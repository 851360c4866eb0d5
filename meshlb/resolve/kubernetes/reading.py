"""What happens to one request in its helper thread: read, parse, post to the discovery thread. Nothing is decided here.

A ``Run`` is a request under way, with what ends it. JSON is parsed in the helper thread too, as it is the larger part of the work.
Whatever goes wrong becomes an ``ApiError``, so that no request ends without a word.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from meshlb.core.scheduler import Timer
from meshlb.resolve.kubernetes.endpoints import parse_endpoints_line, parse_endpoints_list
from meshlb.resolve.kubernetes.refusal import Refusal
from meshlb.resolve.kubernetes.requests import ListRequest, Resource, WatchRequest
from meshlb.resolve.kubernetes.transport import MAX_ANSWER, ApiError, ApiTransport, Interrupt, as_api_error
from meshlb.resolve.kubernetes.wire import (
    Bookmark,
    EndpointsEvent,
    Event,
    Passed,
    Recall,
    Removal,
    SliceEvent,
    SliceList,
    SliceRecord,
    Unreadable,
    parse_slice_line,
    parse_slice_list,
)


class Parsers(NamedTuple):
    """For the answers of one stream, which share what they remember."""

    list: Callable[[bytes], SliceList]
    line: Callable[[bytes], Event]

    @classmethod
    def of(cls, resource: Resource) -> Parsers:
        if resource is Resource.ENDPOINTS:
            return cls(parse_endpoints_list, parse_endpoints_line)
        recall = Recall()
        return cls(partial(parse_slice_list, recall=recall), partial(parse_slice_line, recall=recall))


class Run:
    """A request under way. Belongs to the discovery thread, except for what readers are given of it."""

    __slots__ = ("deadline", "gathered", "interrupt", "mark", "request")

    def __init__(self, request: ListRequest | WatchRequest) -> None:
        self.request = request
        self.interrupt = Interrupt()
        self.deadline: Timer | None = None  # of the whole answer
        self.mark: Timer | None = None  # of the next word of a streaming list
        self.gathered: Gathering | None = Gathering() if isinstance(request, WatchRequest) and request.initial else None

    def settle(self) -> None:
        """Nothing is waited for any more."""
        for timer in (self.deadline, self.mark):
            if timer is not None:
                timer.cancel()


class Gathering:
    """A streaming list until its end is marked: whatever it says becomes the list that another request would have brought."""

    __slots__ = ("_others", "_slices")

    def __init__(self) -> None:
        self._slices: dict[str, tuple[SliceRecord, ...]] = {}
        self._others: list[Passed | Unreadable] = []

    def take(self, event: Event) -> SliceList | None:
        """The list, once it is complete."""
        if isinstance(event, Bookmark) and event.initial_events_end:
            passed = tuple(other for other in self._others if isinstance(other, Passed))
            unreadable = tuple(other for other in self._others if isinstance(other, Unreadable))
            slices = tuple(record for records in self._slices.values() for record in records)
            return SliceList(event.resource_version, slices, passed, unreadable)
        if isinstance(event, SliceEvent):
            self._slices[event.slice.name] = (event.slice,)
        elif isinstance(event, EndpointsEvent):
            self._slices[event.service] = event.slices
        elif isinstance(event, Removal):
            self._slices.pop(event.name, None)
        elif isinstance(event, (Passed, Unreadable)):
            self._others.append(event)
        return None


def read_list(request: ListRequest, interrupt: Interrupt, transport: ApiTransport, parsers: Parsers) -> SliceList | ApiError:
    """The whole answer, or why there is none."""
    try:
        if request.renew:
            transport.renew_credentials()
        return parsers.list(transport.get(request.path, request.query, interrupt))
    except BaseException as error:  # noqa: BLE001 - see as_api_error
        return as_api_error(error)


def read_watch(
    request: WatchRequest,
    interrupt: Interrupt,
    transport: ApiTransport,
    parsers: Parsers,
    on_events: Callable[[list[Event]], None],
) -> ApiError | None:
    """Give events as they come, an empty batch first when the server accepts; returns how the stream ended (None: cleanly)."""
    try:
        if request.renew:
            transport.renew_credentials()
        lines = transport.watch(request.path, request.query, interrupt, read_timeout_s=request.read_timeout_s)
        size, complete = 0, not request.initial
        with contextlib.closing(lines):
            for batch in lines:
                events = [parsers.line(line) for line in batch]
                _give(events, on_events)
                if not complete:  # all of it is kept until it is
                    complete = any(isinstance(event, Bookmark) and event.initial_events_end for event in events)
                    size += sum(map(len, batch))
                    if size > MAX_ANSWER:
                        raise ApiError(f"a streaming list of over {MAX_ANSWER} bytes")
    except BaseException as error:  # noqa: BLE001 - see as_api_error
        return as_api_error(error)
    return None


def _give(events: list[Event], on_events: Callable[[list[Event]], None]) -> None:
    """What comes before a refusal counts, what comes after it does not."""
    refused = next((event for event in events if isinstance(event, Refusal)), None)
    before = events[: events.index(refused)] if refused is not None else events
    if before or refused is None:
        on_events(before)
    if refused is not None:
        raise ApiError(str(refused), refused)
