"""The driver of one namespace: makes the requests that its ``ListWatch`` decides on, and feeds the Services with what comes back.

Blocking reads run in a helper thread per request (one at a time, save for the list of a Service that joins a running watch); JSON
is read there too, and the records are posted to the discovery thread, where everything else happens. A request that is not wanted
any more is interrupted, and from that moment on nothing it still says is heard: whoever comes after it does not wait for its end.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from meshlb.core.scheduler import Scheduler, Timer
from meshlb.resolve.kubernetes.feed import Feed
from meshlb.resolve.kubernetes.refusal import Refusal
from meshlb.resolve.kubernetes.requests import ListRequest, WatchRequest
from meshlb.resolve.kubernetes.transport import ApiError, ApiTransport, Interrupt, SourceError, as_api_error
from meshlb.resolve.kubernetes.watch import ListWatch
from meshlb.resolve.kubernetes.wire import (
    Event,
    Passed,
    Removal,
    SliceEvent,
    SliceList,
    SliceRecord,
    Unreadable,
    parse_event,
    parse_slice_list,
)

ANSWER_S: Final = 30.0  # a whole list, or the beginning of a watch
COALESCE_S: Final = 0.01  # a program makes its channels in a row; one list and one new watch serve them all
MAX_WARNED: Final = 1000  # names of unreadable slices, so that each is logged once and the memory of them is bounded

_log = logging.getLogger("meshlb.resolve.kubernetes")


class _Run:
    """A request under way."""

    __slots__ = ("deadline", "interrupt", "request")

    def __init__(self, request: ListRequest | WatchRequest) -> None:
        self.request = request
        self.interrupt = Interrupt()
        self.deadline: Timer | None = None

    def end(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()


class NamespaceStream:
    """List and watch of one namespace's Services. Every method belongs to the discovery thread; ``_read_…`` to helper threads."""

    def __init__(self, list_watch: ListWatch, transport: ApiTransport, scheduler: Scheduler) -> None:
        self._list_watch = list_watch
        self._transport = transport
        self._scheduler = scheduler
        self._feeds: dict[str, Feed] = {}
        self._list: _Run | None = None
        self._watch: _Run | None = None
        self._timer: Timer | None = None
        self._closed = False
        self._told: SourceError | None = None  # the trouble that was logged
        self._warned: set[str] = set()
        self._counts: Counter[str] = Counter()

    # -- what is wanted

    def add(self, feed: Feed) -> None:
        self._feeds[feed.service] = feed
        self._list_watch.add(feed.service)
        if self._list_watch.trouble is not None:
            feed.fail(self._list_watch.trouble)
        if self._list_watch.opened_s is not None:
            self._scheduler.call_later(COALESCE_S, self._step)
        else:
            self._scheduler.call_soon(self._step)  # after all that are added now

    def discard(self, feed: Feed) -> None:
        """What is known of it is dropped; the stream is narrowed when it is next opened."""
        self._feeds.pop(feed.service, None)
        self._list_watch.discard(feed.service)

    @property
    def empty(self) -> bool:
        return not self._feeds

    def close(self) -> None:
        """End the requests under way without waiting for them."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._abandon(self._list)
        self._abandon(self._watch)
        self._list = self._watch = None

    def describe(self) -> dict[str, Any]:
        """Plain data for ``status()``."""
        state, now_s = self._list_watch, self._scheduler.now_s()
        trouble = str(state.trouble) if state.trouble is not None else None
        if trouble is None and state.held_s(now_s):
            trouble = f"streams end too often: the next request is made in {state.held_s(now_s):.1f} s"
        return {
            "watching": sorted(state.watching.services) if state.watching is not None and state.opened_s is not None else [],
            "open_for_s": round(now_s - state.opened_s, 3) if state.opened_s is not None else None,
            "resource_version": state.resource_version,
            "trouble": trouble,
            "counts": dict(self._counts),
            "services": {name: feed.describe() for name, feed in sorted(self._feeds.items())},
        }

    # -- deciding

    def _step(self) -> None:
        if self._closed:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while True:
            action = self._list_watch.next(self._scheduler.now_s())
            if self._watch is not None and self._watch.request is not self._list_watch.watching:
                self._abandon(self._watch)
                self._watch = None
            if isinstance(action, ListRequest):
                self._list = _Run(action)
                self._start("list", self._list, self._read_list, self._on_list_failed)
            elif isinstance(action, WatchRequest):
                self._watch = _Run(action)
                self._start("watch", self._watch, self._read_watch, self._on_watch_ended)
            else:
                break
        if action is not None:
            self._timer = self._scheduler.call_later(action, self._step)
        self._log_trouble()

    def _start(self, kind: str, run: _Run, read: Callable[[_Run], None], failed: Callable[[_Run, ApiError], None]) -> None:
        self._counts[f"{kind} requests"] += 1
        try:
            self._scheduler.start_thread(f"{kind}:{self._list_watch.namespace}", partial(read, run))
        except RuntimeError as error:  # the system has no thread left for us
            self._scheduler.call_soon(partial(failed, run, ApiError(f"no thread to read in: {error}")))
        else:
            run.deadline = self._scheduler.call_later(ANSWER_S, partial(self._overdue, run, failed))

    def _overdue(self, run: _Run, failed: Callable[[_Run, ApiError], None]) -> None:
        """No complete list, or no beginning of a watch: each part of it may have come in time."""
        if run is self._list or (run is self._watch and self._list_watch.opened_s is None):
            self._abandon(run)
            failed(run, ApiError(f"no complete answer within {ANSWER_S:g} s"))

    def _abandon(self, run: _Run | None) -> None:
        if run is not None:
            run.end()
            run.interrupt.fire()

    def _on_list(self, run: _Run, listed: SliceList) -> None:
        if run is not self._list:
            return
        self._list = None
        run.end()
        outcome = self._list_watch.on_list(listed.resource_version, self._scheduler.now_s())
        if isinstance(outcome, SourceError):
            self._tell(run.request.services, outcome)
        else:
            self._replace(outcome, listed)
        self._step()

    def _replace(self, services: frozenset[str], listed: SliceList) -> None:
        for passed in listed.passed:
            self._counts[f"skipped: {passed.why}"] += 1
        for unreadable in listed.unreadable:
            self._warn(unreadable)
        records: dict[str, list[SliceRecord]] = {}
        for record in listed.slices:
            records.setdefault(record.service, []).append(record)
        names = [unreadable.name for unreadable in listed.unreadable]
        for service in services:
            self._feeds[service].replace(records.get(service, ()), listed.resource_version, names)

    def _on_list_failed(self, run: _Run, error: ApiError) -> None:
        if run is not self._list:
            return
        self._list = None
        run.end()
        self._counts[f"list failures: {error.kind}"] += 1
        trouble = self._list_watch.on_list_failed(error, self._scheduler.now_s())
        if trouble is not None:
            self._tell(run.request.services, trouble)
        self._step()

    def _on_watch_opened(self, run: _Run) -> None:
        if run is self._watch:
            run.end()
            self._list_watch.on_watch_opened(self._scheduler.now_s())
            for service in self._list_watch.covered:
                self._feeds[service].recover()
            self._step()

    def _on_events(self, run: _Run, events: list[Event]) -> None:
        if run is not self._watch:
            return
        now_s = self._scheduler.now_s()
        for event in events:
            self._counts["events"] += 1
            if isinstance(event, Unreadable):
                self._warn(event)
            elif isinstance(event, Passed):
                self._counts[f"skipped: {event.why}"] += 1
            if self._list_watch.on_event(event, now_s) and isinstance(event, (SliceEvent, Removal)):
                self._apply(event)
        unread = any(isinstance(event, Unreadable) for event in events)
        # A first bookmark starts the watch over silence; what could not be read is to be listed.
        if self._timer is None or self._list_watch.trouble is not None or unread:
            self._step()

    def _apply(self, event: SliceEvent | Removal) -> None:
        """To its Service; and a slice that has been given to another Service leaves the one that had it."""
        owner = event.slice.service if isinstance(event, SliceEvent) else None
        name = event.slice.name if isinstance(event, SliceEvent) else event.name
        for feed in self._feeds.values():
            if feed.service != owner and feed.has(name):
                feed.apply(Removal(name, event.resource_version))
        if owner is not None:
            self._feeds[owner].apply(event)

    def _on_watch_ended(self, run: _Run, error: ApiError | None) -> None:
        if run is not self._watch:
            return
        self._watch = None
        run.end()
        self._counts[f"watch ends: {error.kind if error is not None else 'end of file'}"] += 1
        trouble = self._list_watch.on_watch_ended(error, self._scheduler.now_s())
        if trouble is not None:
            self._tell(frozenset(self._feeds), trouble)
        self._step()

    def _tell(self, services: frozenset[str], trouble: SourceError) -> None:
        for service in services:
            if service in self._feeds:
                self._feeds[service].fail(trouble)

    # -- reading, in helper threads

    def _read_list(self, run: _Run) -> None:
        try:
            if run.request.renew:
                self._transport.renew_credentials()
            listed = parse_slice_list(self._transport.get(run.request.path, run.request.query, run.interrupt))
        except Exception as error:  # noqa: BLE001 - see as_api_error
            self._scheduler.call_soon(partial(self._on_list_failed, run, as_api_error(error)))
        else:
            self._scheduler.call_soon(partial(self._on_list, run, listed))

    def _read_watch(self, run: _Run) -> None:
        request = run.request
        assert isinstance(request, WatchRequest)
        try:
            if request.renew:
                self._transport.renew_credentials()
            lines = self._transport.watch(request.path, request.query, run.interrupt, read_timeout_s=request.read_timeout_s)
            with contextlib.closing(lines):
                for batch in lines:
                    self._post_events(run, [parse_event(line) for line in batch])
        except Exception as error:  # noqa: BLE001 - see as_api_error
            self._scheduler.call_soon(partial(self._on_watch_ended, run, as_api_error(error)))
        else:
            self._scheduler.call_soon(partial(self._on_watch_ended, run, None))

    def _post_events(self, run: _Run, events: list[Event]) -> None:
        if not events:
            self._scheduler.call_soon(partial(self._on_watch_opened, run))
            return
        refused = next((event for event in events if isinstance(event, Refusal)), None)
        before = events[: events.index(refused)] if refused is not None else events
        if before:
            self._scheduler.call_soon(partial(self._on_events, run, before))
        if refused is not None:
            raise ApiError(str(refused), refused)

    # -- saying so

    def _warn(self, unreadable: Unreadable) -> None:
        self._counts["unreadable"] += 1
        if unreadable.name not in self._warned and len(self._warned) < MAX_WARNED:
            self._warned.add(unreadable.name)
            where = f"{self._list_watch.namespace}/{unreadable.name or '?'}"
            _log.warning("EndpointSlice %s cannot be read and is skipped: %s", where, unreadable.problem)

    def _log_trouble(self) -> None:
        trouble, told = self._list_watch.trouble, self._told
        if (trouble.kind if trouble else None) == (told.kind if told else None):
            return
        self._told = trouble
        namespace = self._list_watch.namespace
        if trouble is None:
            _log.info("EndpointSlices of namespace %s are watched again", namespace)
        elif trouble.kind == "forbidden":  # who depends on it warns, with the Role that is missing
            _log.info("EndpointSlices of namespace %s: %s", namespace, trouble)
        else:
            _log.warning("EndpointSlices of namespace %s: %s", namespace, trouble)
