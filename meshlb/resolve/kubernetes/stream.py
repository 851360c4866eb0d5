"""The driver of one stream: makes the requests that its ``ListWatch`` decides on, and feeds the Services with what comes back.

A request is read in a helper thread of its own (one at a time, save for the list of a Service that joins a running watch); records
are posted to the discovery thread, where everything else happens. A request that is not wanted any more is interrupted, and from
that moment on nothing it still says is heard: whoever comes after it does not wait for its end.

A streaming list stands in the place of a list until its end is marked, and of the watch from then on.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from meshlb.core.scheduler import Scheduler, Timer
from meshlb.resolve.kubernetes.complaints import Complaints
from meshlb.resolve.kubernetes.reading import Parsers, Run, read_list, read_watch
from meshlb.resolve.kubernetes.requests import ListRequest, WatchRequest
from meshlb.resolve.kubernetes.side import Side
from meshlb.resolve.kubernetes.transport import ApiError, ApiTransport, SourceError
from meshlb.resolve.kubernetes.watch import ListWatch
from meshlb.resolve.kubernetes.wire import (
    EndpointsEvent,
    Event,
    ObjectEvent,
    Passed,
    Removal,
    SliceEvent,
    SliceList,
    SliceRecord,
    Unreadable,
)

ANSWER_S: Final = 30.0  # a whole list, or the beginning of a watch
MARK_S: Final = 3.0  # silence in a streaming list before its end was marked: a server waits that long for a version from the future
COALESCE_S: Final = 0.05  # a program makes its channels in a row; one list and one new watch serve them all


class NamespaceStream:
    """List and watch for Services of one namespace. Every method belongs to the discovery thread; ``_read_…`` to helper threads."""

    def __init__(self, list_watch: ListWatch, transport: ApiTransport, scheduler: Scheduler) -> None:
        self._list_watch = list_watch
        self._transport = transport
        self._scheduler = scheduler
        self._sides: dict[str, Side] = {}
        self._list: Run | None = None
        self._watch: Run | None = None
        self._timer: Timer | None = None
        self._closed = False
        self._parsers = Parsers.of(list_watch.resource)
        self._complaints = Complaints(list_watch.namespace, list_watch.resource)

    # -- what is wanted

    def add(self, side: Side) -> None:
        self._sides[side.service] = side
        self._list_watch.add(side.service, self._scheduler.now_s() + COALESCE_S)
        if self._list_watch.trouble is not None:
            side.fail(self._list_watch.trouble)
        if self._list_watch.opened_s is not None:
            self._scheduler.call_later(COALESCE_S, self._step)
        else:
            self._scheduler.call_soon(self._step)  # after all that are added now

    def discard(self, side: Side) -> None:
        """What is known of it is dropped; the stream is narrowed when it is next opened."""
        self._sides.pop(side.service, None)
        self._list_watch.discard(side.service)

    @property
    def services(self) -> frozenset[str]:
        return frozenset(self._sides)

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
        opened_s = state.opened_s
        return {
            "watching": sorted(state.watching.services) if state.watching is not None and opened_s is not None else [],
            "open_for_s": round(now_s - opened_s, 3) if opened_s is not None else None,
            "resource_version": state.resource_version,
            "trouble": trouble,
            "counts": dict(self._complaints.counts),
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
            if not isinstance(action, (ListRequest, WatchRequest)):
                break
            self._start(action)
        if action is not None:
            self._timer = self._scheduler.call_later(action, self._step)
        self._complaints.trouble(self._list_watch.trouble)

    def _start(self, request: ListRequest | WatchRequest) -> None:
        run = Run(request)
        if request is self._list_watch.listing:
            self._list = run
        else:
            self._watch = run
        kind = "list" if isinstance(request, ListRequest) else "streaming list" if request.initial else "watch"
        self._complaints.counts[f"{kind} requests"] += 1
        read = (
            partial(self._read_list, run, request) if isinstance(request, ListRequest) else partial(self._read_watch, run, request)
        )
        try:
            self._scheduler.start_thread(f"{'list' if kind == 'list' else 'watch'}:{request.namespace}", read)
        except RuntimeError as error:  # the system has no thread left for us
            self._scheduler.call_soon(partial(self._on_ended, run, ApiError(f"no thread to read in: {error}")))
        else:
            run.deadline = self._scheduler.call_later(ANSWER_S, partial(self._overdue, run))

    def _overdue(self, run: Run) -> None:
        """No complete list, or no beginning of a watch: each part of it may have come in time."""
        if run is self._list or (run is self._watch and self._list_watch.opened_s is None):
            run.interrupt.fire()
            self._on_ended(run, ApiError(f"no complete answer within {ANSWER_S:g} s"))

    def _abandon(self, run: Run | None) -> None:
        if run is not None:
            run.settle()
            run.interrupt.fire()

    # -- lists

    def _on_list(self, run: Run, listed: SliceList) -> None:
        if run is not self._list:
            return
        self._list = None
        run.settle()
        outcome = self._list_watch.on_list(listed.resource_version, self._scheduler.now_s())
        if isinstance(outcome, SourceError):
            self._tell(run.request.services, outcome)
        else:
            self._replace(outcome, listed)
        if run.request is self._list_watch.watching:
            self._abandon(self._watch)
            self._watch = run
            self._recover()
        elif run.gathered is not None:
            run.interrupt.fire()
        run.gathered = None
        self._step()

    def _replace(self, services: frozenset[str], listed: SliceList) -> None:
        for passed in listed.passed:
            self._complaints.passed(passed)
        for unreadable in listed.unreadable:
            self._complaints.unreadable(unreadable)
        self._complaints.flaws(listed.slices)
        records: dict[str, list[SliceRecord]] = {}
        for record in listed.slices:
            records.setdefault(record.service, []).append(record)
        names = [unreadable.name for unreadable in listed.unreadable]
        for service in services:
            self._sides[service].replace(records.get(service, ()), listed.resource_version, names)

    def _expect_mark(self, run: Run) -> None:
        if run.mark is not None:
            run.mark.cancel()
        run.mark = self._scheduler.call_later(MARK_S, partial(self._on_unmarked, run))

    def _on_unmarked(self, run: Run) -> None:
        """A server that knows no streaming lists, and says nothing about it."""
        if run is not self._list:
            return
        self._abandon(run)
        self._list = None
        self._complaints.counts["streaming lists without an end"] += 1
        self._list_watch.on_list_unmarked(self._scheduler.now_s())
        self._step()

    # -- watches

    def _recover(self) -> None:
        for service in self._list_watch.covered:
            self._sides[service].recover()

    def _on_opened(self, run: Run) -> None:
        if run is self._watch:
            run.settle()
            self._list_watch.on_watch_opened(self._scheduler.now_s())
            self._recover()
            self._step()
        elif run is self._list:
            self._expect_mark(run)

    def _on_events(self, run: Run, events: list[Event]) -> None:
        if run is self._list and run.gathered is not None:
            self._expect_mark(run)
            for index, event in enumerate(events):
                listed = run.gathered.take(event)
                if listed is not None:
                    self._on_list(run, listed)
                    events = events[index + 1 :]
                    break
        if run is not self._watch or not events:
            return
        now_s = self._scheduler.now_s()
        for event in events:
            self._complaints.counts["events"] += 1
            if isinstance(event, Unreadable):
                self._complaints.unreadable(event)
            elif isinstance(event, Passed):
                self._complaints.passed(event)
            wanted = self._list_watch.on_event(event, now_s)
            if isinstance(event, (ObjectEvent, Removal)):
                self._apply(event, wanted)
        unread = any(isinstance(event, Unreadable) for event in events)
        # A first bookmark starts the watch over silence; what could not be read is to be listed.
        if self._timer is None or self._list_watch.trouble is not None or unread:
            self._step()

    def _apply(self, event: ObjectEvent | Removal, wanted: bool) -> None:
        """To its Service; and a slice that has been given to another Service, wanted or not, leaves the one that had it."""
        if not isinstance(event, EndpointsEvent):
            name = event.slice.name if isinstance(event, SliceEvent) else event.name
            owner = event.service if isinstance(event, SliceEvent) else None
            for side in self._sides.values():
                if side.service != owner and side.has(name):
                    side.apply(Removal(name, event.resource_version))
        if wanted and isinstance(event, ObjectEvent):
            self._complaints.flaws(event.slices if isinstance(event, EndpointsEvent) else (event.slice,))
            self._sides[event.service].apply(event)

    # -- ends

    def _on_ended(self, run: Run, error: ApiError | None) -> None:
        if run is self._list:
            self._on_list_ended(run, error)
        elif run is self._watch:
            self._watch = None
            run.settle()
            self._complaints.counts[f"watch ends: {error.kind if error is not None else 'end of file'}"] += 1
            trouble = self._list_watch.on_watch_ended(error, self._scheduler.now_s())
            if trouble is not None:
                self._tell(frozenset(self._sides), trouble)
            self._step()

    def _on_list_ended(self, run: Run, error: ApiError | None) -> None:
        if error is None:
            self._on_unmarked(run)
            return
        self._list = None
        run.settle()
        self._complaints.counts[f"list failures: {error.kind}"] += 1
        trouble = self._list_watch.on_list_failed(error, self._scheduler.now_s())
        if trouble is not None:
            self._tell(run.request.services, trouble)
        self._step()

    def _tell(self, services: frozenset[str], trouble: SourceError) -> None:
        for service in services:
            if service in self._sides:
                self._sides[service].fail(trouble)

    # -- reading, in helper threads

    def _read_list(self, run: Run, request: ListRequest) -> None:
        answer = read_list(request, run.interrupt, self._transport, self._parsers)
        told = partial(self._on_ended, run, answer) if isinstance(answer, ApiError) else partial(self._on_list, run, answer)
        self._scheduler.call_soon(told)

    def _read_watch(self, run: Run, request: WatchRequest) -> None:
        def tell(events: list[Event]) -> None:
            self._scheduler.call_soon(partial(self._on_events, run, events) if events else partial(self._on_opened, run))

        error = read_watch(request, run.interrupt, self._transport, self._parsers, tell)
        self._scheduler.call_soon(partial(self._on_ended, run, error))
