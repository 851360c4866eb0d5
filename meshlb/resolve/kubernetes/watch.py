"""One stream's list and watch as decisions: what to request next, and what an answer means. No I/O, no clock of its own.

A driver asks ``next`` what to do, does it, and reports back; everything runs on the discovery thread. The state is small:

- ``services``: asked for. ``covered``: those whose state is continuous up to ``resource_version``, so that a watch from there
  misses nothing. A list makes services covered; a lost place in history (410, a refused watch) uncovers them all. Uncovered means
  "list again", never "forget": what is known stays until a list replaces it;
- at most one watch (of the covered services) and one list (of the others) are under way. A service that joins is listed while the
  watch of the others goes on; then the watch is opened again, wider, at the earlier of the two places. What it repeats is
  recognised as past by the reducers, so nothing is lost and nothing comes twice, and a list that is refused disturbs nobody;
- where nothing is covered and the server has them, the list is a streaming one: a watch that begins with the present state and
  marks its end. From that mark on it is the watch. A server that does not know it or leaves out the mark is asked for plain lists from
  then on (``streaming_lists``); one that forbids it (it is a watch, and only ``list`` may be allowed), for one at once.

Versions, and what a list asks for, are ``history``'s.

How a stream ends, and what follows:

=================================================  ==================================================================
end of file at its time; it lived (``liveness``)   watch again at once from the last version
ended early, cut, silent; it lived                 the same within ``RECONNECT_SPREAD_S``
the same, but sooner                               back-off, watch again
410, as a status or as an ERROR event              list again; within ``RELIST_SPREAD_S`` if any stream lived since the last
                                                   list, else back-off
429, no answer, connection refused                 back-off, same version (the Retry-After if longer)
401                                                new credentials at once, then back-off
403, 404                                           30 s to 5 minutes, list again
anything else (400, 500, ERROR events)             back-off, list again
=================================================  ==================================================================

The spreads are ``backoff``'s. Here a client that starts is not delayed (``source`` does that), and neither is a service that joins.

An event that cannot be read is followed by a list, which the stream outlives until its turn comes.

Spec: client-go reflector.go; KEP-3157; reference sections 3.2, 3.3, 8.3. Deviations: joining services (client-go has one reflector
each); a streaming list begins at version 0, as other lists do.
"""

from __future__ import annotations

from typing import Final

from meshlb.core.clock import Rng
from meshlb.resolve.kubernetes.backoff import Delays, Pace, Waits
from meshlb.resolve.kubernetes.history import History
from meshlb.resolve.kubernetes.liveness import NEVER, SHORT_WATCH_S, SILENCE_S, Liveness
from meshlb.resolve.kubernetes.requests import WATCH_TIMEOUT_S, ListRequest, Resource, WatchRequest
from meshlb.resolve.kubernetes.streaming_lists import StreamingLists
from meshlb.resolve.kubernetes.transport import ApiError, SourceError
from meshlb.resolve.kubernetes.versions import is_older
from meshlb.resolve.kubernetes.wire import Bookmark, Event, ObjectEvent, Passed, Removal, Unreadable

_ENDED_SOON: Final = f"a watch ended within {SHORT_WATCH_S:g} s and without an event"
_ENDED_UNREAD: Final = "a watch ended and nothing in it could be read"


class ListWatch:
    """See the module's head. ``trouble`` is why nothing new comes at present; None while all is well."""

    def __init__(
        self,
        namespace: str,
        waits: Waits,
        rng: Rng,
        silence_s: float = SILENCE_S,
        *,
        resource: Resource = Resource.SLICES,
        streaming: StreamingLists | None = None,
    ) -> None:
        self.namespace = namespace
        self.resource = resource
        self.services: set[str] = set()
        self.covered: set[str] = set()
        self.listing: ListRequest | WatchRequest | None = None
        self.watching: WatchRequest | None = None
        self.trouble: SourceError | None = None
        self.held_until_s = -NEVER  # the pace lets nothing start before
        self._rng = rng
        self._streaming = streaming or StreamingLists(wanted=False)
        self._alive = Liveness(silence_s)
        self._pace = Pace()
        self._delays = Delays(waits, rng)
        self._list_at_s = self._watch_at_s = self._spread_until_s = self._join_at_s = -NEVER
        self._history = History()
        self._plain = False  # the next list is no streaming one: that was forbidden
        self._renew = False  # the next request is made with new credentials
        self._renewed = False  # since the last success
        self._lived_since_list = False
        self._listed_s: float | None = None
        self._relist_at_s = NEVER  # an event could not be read: what it said is to be learned from a list

    @property
    def opened_s(self) -> float | None:
        """When the server accepted the watch that is under way; None: it did not yet."""
        return self._alive.opened_s

    @property
    def resource_version(self) -> str:
        """After which the next watch begins."""
        return self._history.place

    # -- what is wanted

    def add(self, service: str, at_s: float = -NEVER) -> None:
        """``at_s``: where others are covered already, nobody who joined is listed before the first of these."""
        if service not in self.services:
            if self.services <= self.covered | (self.listing.services if self.listing is not None else set()):
                self._join_at_s = at_s
            self.services.add(service)
            self._spread_until_s = -NEVER
            self._pace.grant(2)

    def discard(self, service: str) -> None:
        """The running watch goes on, wider than needed; the next one is narrower."""
        self.services.discard(service)
        self.covered.discard(service)

    def next(self, now_s: float) -> ListRequest | WatchRequest | float | None:
        """What to start now, or in how many seconds to ask again; None: only after an event.

        After each call, a request under way that is neither ``watching`` nor ``listing`` any more is to be abandoned.
        """
        self._check_health(now_s)
        list_at_s = self._list_due_s()
        watch_at_s = self._watch_due_s(now_s, list_due=list_at_s <= now_s)
        due_s = min(list_at_s, watch_at_s)
        at_s = max(due_s, self._pace.free_s(now_s))
        self.held_until_s = at_s if due_s <= now_s < at_s else -NEVER
        if at_s <= now_s:
            self._pace.spend(now_s)
            return self._new_watch() if watch_at_s <= list_at_s else self._new_list(now_s)
        at_s = min(at_s, self._health_due_s(now_s))
        return at_s - now_s if at_s < NEVER else None

    def held_s(self, now_s: float) -> float:
        """For how long the pace still holds back a request that is due; 0: it does not."""
        return max(0.0, self.held_until_s - now_s)

    # -- what came of it

    def on_list(self, resource_version: str, now_s: float) -> frozenset[str] | SourceError:
        """A complete answer came: the services whose objects it replaces, or why it must not be used."""
        request, self.listing = self.listing, None
        assert request is not None
        asked = request.resource_version
        if asked not in ("", "0") and is_older(resource_version, asked):
            self._history.consistent = True
            return self._list_failed(now_s, ApiError(f"a list is older ({resource_version}) than what is known ({asked})"))
        self._renewed = self._lived_since_list = False
        self._listed_s = now_s
        if not self.covered:
            self._relist_at_s = NEVER  # this list says it
        if not self._history.listed(resource_version, asked, joining=bool(self.covered)):
            self.covered.clear()  # nobody else to care for; or their place says nothing here, and they are listed again
        listed = request.services & self.services
        self.covered |= listed
        if isinstance(request, WatchRequest):  # it goes on
            self.watching = request
            self._alive.opened(now_s)
            self._alive.ordered = True
        return listed

    def on_list_failed(self, error: ApiError, now_s: float) -> SourceError | None:
        """Returns what to tell those who wait for it; None: it is tried again at once."""
        request, self.listing = self.listing, None
        assert request is not None
        refusal = error.refusal
        if isinstance(request, WatchRequest) and self._streaming.refused(error, now_s):
            return None
        if isinstance(request, WatchRequest) and error.kind == "forbidden":
            self._plain = True
            return None
        unusable = refusal is not None and (refusal.expired or refusal.too_large_version or refusal.code == 400)
        if unusable and request.resource_version not in ("", "0"):
            self._history.consistent = True  # the version is to blame; within the same attempt, ask for whatever is newest
            return None
        return None if self._renewing(error) else self._list_failed(now_s, error)

    def on_list_unmarked(self, now_s: float) -> None:
        """A streaming list was accepted, and its end was not marked in time: the server does not know what that is."""
        self.listing = None
        self._streaming.missing(now_s)

    def on_watch_opened(self, now_s: float) -> None:
        self._renewed = False
        self._alive.opened(now_s)

    def on_event(self, event: Event, now_s: float) -> bool:
        """Note an event of the stream; True if it is for the reducers: that of its service, or whichever has the removed object."""
        self._alive.heard(event, now_s)
        self._note_version(event)
        if isinstance(event, Unreadable) and self._relist_at_s == NEVER:
            self._relist_at_s = now_s + self._delays.doubt.next_s(now_s)
        return isinstance(event, Removal) or (isinstance(event, ObjectEvent) and event.service in self.covered)

    def on_watch_ended(self, error: ApiError | None, now_s: float) -> SourceError | None:
        """The stream is over (None: a clean end of file). Returns what to tell everybody; None: it is tried again at once."""
        lived, refused = self._alive.lived(now_s), error is not None and error.refusal is not None
        if not refused and self._alive.lasted(now_s, clean=error is None):
            self._pace.grant(1)
        self._lived_since_list = self._lived_since_list or lived
        if lived and not self._in_time(error, now_s):
            self._watch_at_s = max(self._watch_at_s, now_s + self._delays.reconnect_s(self.opened_s, now_s))
        self._leave_watch()
        error = error or ApiError(_ENDED_UNREAD if self._alive.readable is False else _ENDED_SOON)
        refusal = error.refusal
        if refusal is None:
            return None if lived else self._watch_failed(now_s, error)
        if self._renewing(error):
            return None
        if refusal.code == 429:
            return self._watch_failed(now_s, error)
        self.covered.clear()
        if refusal.expired and self._lived_since_list:
            self._spread_until_s = now_s + self._delays.relist_s(self._listed_s, now_s)
            return None
        trouble = self._watch_failed(now_s, error)
        self._list_at_s = max(self._list_at_s, self._watch_at_s)
        return trouble

    # -- inside

    def _leave_watch(self) -> None:
        self.watching = None
        self._alive.closed()

    def _in_time(self, error: ApiError | None, now_s: float) -> bool:
        """Did the stream end when we asked for it? Those ends are spread over minutes already."""
        if error is not None or self.watching is None or self.opened_s is None:
            return False
        return now_s - self.opened_s >= self.watching.timeout_s - SHORT_WATCH_S

    def _list_due_s(self) -> float:
        """Those who are covered come first: lists for others wait until the watch is open again."""
        wanted = self.listing is None and not self.services <= self.covered
        due = wanted and (not self.covered or self.opened_s is not None)
        return max(self._list_at_s, self._spread_until_s, self._join_at_s if self.covered else -NEVER) if due else NEVER

    def _watch_due_s(self, now_s: float, *, list_due: bool) -> float:
        if not self.covered:
            return NEVER
        if self.watching is None:
            return self._watch_at_s
        # A wider one: after all lists that can be made now, so that one new watch serves them all.
        waits = self.listing is not None or list_due or self.opened_s is None
        return NEVER if waits or self.covered <= self.watching.services else now_s

    def _new_list(self, now_s: float) -> ListRequest | WatchRequest:
        version = self._history.version_to_list(joining=bool(self.covered))
        missing = frozenset(self.services - self.covered)
        plain, self._plain = self._plain, False
        if self._streaming.available(now_s) and not self.covered and not plain:
            self.listing = self._watch_request(missing, version, initial=True)
        else:
            renew, self._renew = self._renew, False
            self.listing = ListRequest(
                namespace=self.namespace, services=missing, resource_version=version, renew=renew, resource=self.resource
            )
        return self.listing

    def _new_watch(self) -> WatchRequest:
        self.watching = self._watch_request(frozenset(self.covered), self.resource_version)
        self._alive.closed()
        self._alive.ordered = self.resource_version not in ("", "0")
        return self.watching

    def _watch_request(self, services: frozenset[str], version: str, *, initial: bool = False) -> WatchRequest:
        shortest, longest = WATCH_TIMEOUT_S
        renew, self._renew = self._renew, False
        return WatchRequest(
            namespace=self.namespace,
            services=services,
            resource_version=version,
            timeout_s=shortest + int(self._rng.random() * (longest - shortest + 1)),
            renew=renew,
            resource=self.resource,
            initial=initial,
        )

    def _note_version(self, event: Event) -> None:
        """Move on, unless a covered service is not in this stream: its events since its list are still to be fetched."""
        if not isinstance(event, (ObjectEvent, Removal, Bookmark, Passed)):
            return
        complete = self.watching is not None and self.covered <= self.watching.services
        self._history.told(event.resource_version, complete=self._alive.ordered and complete)

    def _check_health(self, now_s: float) -> None:
        if self._alive.silent_at_s <= now_s:
            silent_s = self._alive.silent_for_s(now_s)
            self.on_watch_ended(ApiError(f"nothing heard for {silent_s:.0f} s, not even a bookmark"), now_s)
        if self._alive.lived(now_s) and self.services <= self.covered:
            self.trouble = None
        if self.opened_s is not None and self.listing is None and max(self._relist_at_s, self._pace.free_s(now_s)) <= now_s:
            # Until now the stream went on; what came since its last version is in the list, which is a consistent one.
            self._relist_at_s = NEVER
            self._history.consistent = True
            self._leave_watch()
            self.covered.clear()

    def _health_due_s(self, now_s: float) -> float:
        """When ``_check_health`` may find something new."""
        if self.opened_s is None:
            return NEVER
        due_s = self._alive.silent_at_s
        if self._relist_at_s < NEVER and self.listing is None:
            due_s = min(due_s, max(self._relist_at_s, self._pace.free_s(now_s)))
        healthy_s = self.opened_s + SHORT_WATCH_S
        return min(due_s, healthy_s) if self.trouble is not None and now_s < healthy_s else due_s

    def _renewing(self, error: ApiError) -> bool:
        """Is this a 401 that new credentials may heal? Tried at once, and once."""
        if error.kind != "unauthorized":
            return False
        again, self._renew, self._renewed = not self._renewed, True, True
        return again

    def _list_failed(self, now_s: float, error: ApiError) -> SourceError:
        self._list_at_s = now_s + self._delays.list_s(error, now_s)
        self.trouble = error.told
        return self.trouble

    def _watch_failed(self, now_s: float, error: ApiError) -> SourceError:
        self._watch_at_s = now_s + self._delays.watch_s(error, now_s)
        self.trouble = error.told
        return self.trouble
