"""One namespace's list and watch as decisions: what to request next, and what an answer means. No I/O, no clock of its own.

A driver asks ``next`` what to do, does it, and reports back; everything runs on the discovery thread. The state is small:

- ``services``: asked for. ``covered``: those whose state is continuous up to ``resource_version``, so that a watch from there
  misses nothing. A list makes services covered; a lost place in history (410, a refused watch) uncovers them all. Uncovered means
  "list again", never "forget": what is known stays until a list replaces it;
- at most one watch (of the covered services) and one list (of the others) are under way. A service that joins is listed while the
  watch of the others goes on; then the watch is opened again, wider, at the earlier of the two places. What it repeats is
  recognised as past by the reducers, so nothing is lost and nothing comes twice, and a list that is refused disturbs nobody.

What is listed at: version ``0`` (any, from the server's cache) when nothing is known; then the last version seen, which must not be
answered with an older one; ``""`` (the most recent, consistent) after the server called a version too old or too new. Only such an
answer may be older than ours: then the server's history is another one (restored from a backup), and all services are listed again.

How a stream ends, and what follows:

=================================================  ==================================================================
end of file, cut, silence; lived >= 1 s or spoke   watch again at once from the last version
the same, but sooner                               back-off, watch again
410, as a status or as an ERROR event              list again; at once if any stream lived since the last list, else back-off
429, no answer, connection refused                 back-off, same version (the Retry-After if longer)
401                                                new credentials at once, then back-off
403, 404                                           30 s to 5 minutes, list again
anything else (400, 500, ERROR events)             back-off, list again
=================================================  ==================================================================

A stream in which nothing can be read never lived. A stream that ended cleanly after a second, or was cut after five, does not count
against the pace: its successor may start at once. An event that cannot be read is followed by a list, which the stream outlives
until its turn comes.

Once a bookmark came, 150 s without a line are a dead stream: the server sends one about every minute.

Spec: client-go reflector.go; reference sections 3.2, 3.3, 8.3. Deviations: joining services (client-go has one reflector each).
"""

from __future__ import annotations

from typing import Final

from meshlb.core.clock import Rng
from meshlb.resolve.kubernetes.backoff import Backoff, Pace, Waits
from meshlb.resolve.kubernetes.requests import WATCH_TIMEOUT_S, ListRequest, WatchRequest
from meshlb.resolve.kubernetes.transport import ApiError, SourceError
from meshlb.resolve.kubernetes.versions import comparable, is_older
from meshlb.resolve.kubernetes.wire import Bookmark, Event, Passed, Removal, SliceEvent, Unreadable

SHORT_WATCH_S: Final = 1.0
CUT_WATCH_S: Final = 5.0
SILENCE_S: Final = 150.0
MAX_RETRY_AFTER_S: Final = 60.0  # an API server asks for 1 to 32 s; who asks for an hour is no API server
_ENDED_SOON: Final = f"a watch ended within {SHORT_WATCH_S:g} s and without an event"
_ENDED_UNREAD: Final = "a watch ended and nothing in it could be read"
_NEVER: Final = float("inf")


class ListWatch:
    """See the module's head. ``trouble`` is why nothing new comes at present; None while all is well."""

    def __init__(self, namespace: str, waits: Waits, rng: Rng, silence_s: float = SILENCE_S) -> None:
        self.namespace = namespace
        self._silence_s = silence_s
        self.services: set[str] = set()
        self.covered: set[str] = set()
        self.resource_version = ""
        self.listing: ListRequest | None = None
        self.watching: WatchRequest | None = None
        self.opened_s: float | None = None  # when the server accepted the watch
        self.trouble: SourceError | None = None
        self._rng = rng
        self._pace = Pace()
        self._watch_backoff = Backoff(waits.failure, rng)
        self._list_backoff = Backoff(waits.failure, rng)
        self._refused_backoff = Backoff(waits.refusal, rng)
        self._list_at_s = self._watch_at_s = -_NEVER
        self._consistent = False  # the next list asks for the most recent state
        self._renew = False  # the next request is made with new credentials
        self._renewed = False  # since the last success
        self._heard_s = 0.0
        self._spoke = False  # the stream carried an event
        self._ordered = True  # its events are history, not the present state in arbitrary order
        self._bookmarks = False  # this server sends them
        self._lived_since_list = False
        self._readable: bool | None = None  # does the stream carry what can be read? None: nothing came yet
        self._doubt_backoff = Backoff(waits.failure, rng)
        self._relist_at_s = _NEVER  # an event could not be read: what it said is to be learned from a list
        self.held_until_s = -_NEVER  # the pace lets nothing start before

    # -- what is wanted

    def add(self, service: str) -> None:
        if service not in self.services:
            self.services.add(service)
            self._pace.grant(2)

    def discard(self, service: str) -> None:
        """The running watch goes on, wider than needed; the next one is narrower."""
        self.services.discard(service)
        self.covered.discard(service)

    def next(self, now_s: float) -> ListRequest | WatchRequest | float | None:
        """What to start now, or in how many seconds to ask again; None: only after an event.

        After each call, a watch under way that is not ``watching`` any more is to be abandoned.
        """
        self._check_health(now_s)
        list_at_s = self._list_due_s()
        watch_at_s = self._watch_due_s(now_s, list_due=list_at_s <= now_s)
        due_s = min(list_at_s, watch_at_s)
        at_s = max(due_s, self._pace.free_s(now_s))
        self.held_until_s = at_s if due_s <= now_s < at_s else -_NEVER
        if at_s <= now_s:
            self._pace.spend(now_s)
            return self._new_watch() if watch_at_s <= list_at_s else self._new_list()
        at_s = min(at_s, self._health_due_s(now_s))
        return at_s - now_s if at_s < _NEVER else None

    def held_s(self, now_s: float) -> float:
        """For how long the pace still holds back a request that is due; 0: it does not."""
        return max(0.0, self.held_until_s - now_s)

    # -- what came of it

    def on_list(self, resource_version: str, now_s: float) -> frozenset[str] | SourceError:
        """A complete answer came: the services whose slices it replaces, or why it must not be used."""
        request, self.listing = self.listing, None
        assert request is not None
        asked = request.resource_version
        if asked not in ("", "0") and is_older(resource_version, asked):
            self._consistent = True
            return self._list_failed(now_s, ApiError(f"a list is older ({resource_version}) than what is known ({asked})"))
        self._consistent = self._renewed = self._lived_since_list = False
        if not self.covered:
            self._relist_at_s = _NEVER  # this list says it
        self._settle(resource_version, consistent=not asked)
        listed = request.services & self.services
        self.covered |= listed
        return listed

    def on_list_failed(self, error: ApiError, now_s: float) -> SourceError | None:
        """Returns what to tell those who wait for it; None: it is tried again at once."""
        request, self.listing = self.listing, None
        assert request is not None
        refusal = error.refusal
        unusable = refusal is not None and (refusal.expired or refusal.too_large_version or refusal.code == 400)
        if unusable and request.resource_version not in ("", "0"):
            self._consistent = True  # the version is to blame; within the same attempt, ask for whatever is newest
            return None
        return None if self._renewing(error) else self._list_failed(now_s, error)

    def on_watch_opened(self, now_s: float) -> None:
        self.opened_s = self._heard_s = now_s
        self._spoke = self._renewed = False
        self._readable = None

    def on_event(self, event: Event, now_s: float) -> bool:
        """Note an event of the stream; True if it is for the reducers: that of its service, or whichever has the removed slice."""
        self._heard_s = now_s
        self._bookmarks = self._bookmarks or isinstance(event, Bookmark)
        self._note_version(event)
        if isinstance(event, Unreadable):
            self._readable = self._readable or False
            if self._relist_at_s == _NEVER:
                self._relist_at_s = now_s + self._doubt_backoff.next_s(now_s)
            return False
        self._readable = True
        if not isinstance(event, (SliceEvent, Removal)):
            return False
        self._spoke = True
        return isinstance(event, Removal) or event.slice.service in self.covered

    def on_watch_ended(self, error: ApiError | None, now_s: float) -> SourceError | None:
        """The stream is over (None: a clean end of file). Returns what to tell everybody; None: it is tried again at once."""
        lived = self._lived(now_s)
        if self._earned(error, now_s):
            self._pace.grant(1)
        self._lived_since_list = self._lived_since_list or lived
        self.watching = self.opened_s = None
        error = error or ApiError(_ENDED_UNREAD if self._readable is False else _ENDED_SOON)
        refusal = error.refusal
        if refusal is None:
            return None if lived else self._watch_failed(now_s, error)
        if self._renewing(error):
            return None
        if refusal.code == 429:
            return self._watch_failed(now_s, error)
        self.covered.clear()
        at_once = refusal.expired and self._lived_since_list
        trouble = None if at_once else self._watch_failed(now_s, error)
        self._list_at_s = max(self._list_at_s, self._watch_at_s)
        return trouble

    # -- inside

    def _list_due_s(self) -> float:
        """Those who are covered come first: lists for others wait until the watch is open again."""
        wanted = self.listing is None and not self.services <= self.covered
        return self._list_at_s if wanted and (not self.covered or self.opened_s is not None) else _NEVER

    def _watch_due_s(self, now_s: float, *, list_due: bool) -> float:
        if not self.covered:
            return _NEVER
        if self.watching is None:
            return self._watch_at_s
        # A wider one: after all lists that can be made now, so that one new watch serves them all.
        waits = self.listing is not None or list_due or self.opened_s is None
        return _NEVER if waits or self.covered <= self.watching.services else now_s

    def _new_list(self) -> ListRequest:
        version = "" if self._consistent else self.resource_version or "0"
        missing = frozenset(self.services - self.covered)
        renew, self._renew = self._renew, False
        self.listing = ListRequest(namespace=self.namespace, services=missing, resource_version=version, renew=renew)
        return self.listing

    def _new_watch(self) -> WatchRequest:
        shortest, longest = WATCH_TIMEOUT_S
        renew, self._renew = self._renew, False
        self.watching = WatchRequest(
            namespace=self.namespace,
            services=frozenset(self.covered),
            resource_version=self.resource_version,
            timeout_s=shortest + int(self._rng.random() * (longest - shortest + 1)),
            renew=renew,
        )
        self.opened_s = None
        self._ordered = self.resource_version not in ("", "0")
        return self.watching

    def _settle(self, listed: str, *, consistent: bool) -> None:
        """Choose where the next watch begins: at the earlier of the two places, so that neither side misses anything."""
        ours = self.resource_version
        if self.covered and comparable(listed) and comparable(ours) and not (consistent and is_older(listed, ours)):
            self.resource_version = listed if is_older(listed, ours) else ours
        else:  # nobody else to care for; or the others' place says nothing here, and they are listed again
            self.covered.clear()
            self.resource_version = listed

    def _note_version(self, event: Event) -> None:
        """Move on, unless a covered service is not in this stream: its events since its list are still to be fetched."""
        if not isinstance(event, (SliceEvent, Removal, Bookmark, Passed)):
            return
        version = event.resource_version
        self._ordered = self._ordered or isinstance(event, (Bookmark, Removal)) or event.type != "ADDED"
        complete = self.watching is not None and self.covered <= self.watching.services
        if version and self._ordered and complete and not is_older(version, self.resource_version):
            self.resource_version = version

    def _lived(self, now_s: float) -> bool:
        if self.opened_s is None or self._readable is False:
            return False
        return self._spoke or now_s - self.opened_s >= SHORT_WATCH_S

    def _earned(self, error: ApiError | None, now_s: float) -> bool:
        """Did the stream live long enough to be opened again at once, however often (a proxy may cut every few seconds)?"""
        if not self._lived(now_s) or self.opened_s is None or (error is not None and error.refusal is not None):
            return False
        return now_s - self.opened_s >= (SHORT_WATCH_S if error is None else CUT_WATCH_S)

    def _check_health(self, now_s: float) -> None:
        if self.opened_s is not None and self._bookmarks and now_s - self._heard_s >= self._silence_s:
            self.on_watch_ended(ApiError(f"nothing heard for {self._silence_s:g} s, not even a bookmark"), now_s)
        if self._lived(now_s) and self.services <= self.covered:
            self.trouble = None
        if self.opened_s is not None and self.listing is None and max(self._relist_at_s, self._pace.free_s(now_s)) <= now_s:
            # Until now the stream went on; what came since its last version is in the list, which is a consistent one.
            self._relist_at_s = _NEVER
            self._consistent = True
            self.watching = self.opened_s = None
            self.covered.clear()

    def _health_due_s(self, now_s: float) -> float:
        """When ``_check_health`` may find something new."""
        if self.opened_s is None:
            return _NEVER
        silent_s = self._heard_s + self._silence_s if self._bookmarks else _NEVER
        if self._relist_at_s < _NEVER and self.listing is None:
            silent_s = min(silent_s, max(self._relist_at_s, self._pace.free_s(now_s)))
        healthy_s = self.opened_s + SHORT_WATCH_S
        return min(silent_s, healthy_s) if self.trouble is not None and now_s < healthy_s else silent_s

    def _renewing(self, error: ApiError) -> bool:
        """Is this a 401 that new credentials may heal? Tried at once, and once."""
        if error.kind != "unauthorized":
            return False
        again, self._renew, self._renewed = not self._renewed, True, True
        return again

    def _list_failed(self, now_s: float, error: ApiError) -> SourceError:
        self._list_at_s = now_s + self._delay_s(self._list_backoff, error, now_s)
        return self._troubled(error)

    def _watch_failed(self, now_s: float, error: ApiError) -> SourceError:
        self._watch_at_s = now_s + self._delay_s(self._watch_backoff, error, now_s)
        return self._troubled(error)

    def _delay_s(self, backoff: Backoff, error: ApiError, now_s: float) -> float:
        if error.kind in ("forbidden", "not_served"):
            backoff = self._refused_backoff
        asked_s = min(error.refusal.retry_after_s, MAX_RETRY_AFTER_S) if error.refusal is not None else 0.0
        return backoff.next_s(now_s, asked_s)

    def _troubled(self, error: ApiError) -> SourceError:
        self.trouble = error.told
        return self.trouble
