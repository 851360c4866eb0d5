"""The API server's memory of one kind: objects, their history, and what each watcher must hear. Pure: no sockets, no time.

All kinds share one `Revision`, as all of a cluster's objects share one etcd. A write makes an `Event`; a watcher hears it in its
own terms: an object that starts to match its selection is ADDED, one that stops is DELETED (with its last state and the newer
version), whatever happened to it in truth. The history is bounded; who asks for what came before it is told 410 Expired.

Spec: kubernetes.io/docs/reference/using-api/api-concepts (resource versions), apiserver ``storage/cacher``.
Deviations: one server, hence version "0" and an unset one give the same, never an older state.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from meshlb.testing.resources import Resource, compact_json, event_line
from meshlb.testing.selectors import Predicate
from meshlb.testing.status import bad_request, expired, version_too_large

Key = tuple[str, str]  # namespace, name
HISTORY_EVENTS = 102_400  # the upper end of the real watch cache's ring; a test that wants less calls compact()


@dataclass(slots=True)
class Revision:
    """The cluster-wide counter behind every resourceVersion."""

    current: int = 0

    def next(self) -> int:
        self.current += 1
        return self.current


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which objects a request is about. ``namespace`` None means all of them."""

    namespace: str | None
    labels: Predicate
    fields: Predicate

    def __call__(self, obj: dict[str, Any]) -> bool:
        metadata = obj["metadata"]
        if self.namespace is not None and metadata["namespace"] != self.namespace:
            return False
        named = {"metadata.name": metadata["name"], "metadata.namespace": metadata["namespace"]}
        return self.labels(metadata.get("labels", {})) and self.fields(named)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One write. ``after`` None is a deletion, ``before`` None a creation; both are never changed once stored."""

    version: int
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    lines: dict[str, bytes] = field(default_factory=dict)  # encoded once, however many watch

    def line_for(self, selection: Selection, resource: Resource) -> bytes | None:
        """The line a watcher with this selection hears, or None if the event is none of its business."""
        was = self.before is not None and selection(self.before)
        now = self.after is not None and selection(self.after)
        if not (was or now):
            return None
        kind = "DELETED" if not now else "MODIFIED" if was else "ADDED"
        if kind not in self.lines:
            self.lines[kind] = event_line(kind, resource.typed(self._state(kind)))
        return self.lines[kind]

    def _state(self, kind: str) -> dict[str, Any]:
        if kind != "DELETED":
            assert self.after is not None
            return self.after
        assert self.before is not None
        return {**self.before, "metadata": {**self.before["metadata"], "resourceVersion": str(self.version)}}


class Watcher:
    """One open watch: the lines it has yet to send. ``wake`` is called when there is something new."""

    __slots__ = ("_cache", "pending", "selection", "start_version", "wake")

    def __init__(self, cache: WatchCache, selection: Selection, start_version: int, wake: Callable[[], None]) -> None:
        self._cache = cache
        self.selection = selection
        self.start_version = start_version
        self.wake = wake
        self.pending: deque[bytes] = deque()

    def offer(self, event: Event) -> None:
        # A watch from the future stays silent until the server gets there.
        if event.version > self.start_version and (line := event.line_for(self.selection, self._cache.resource)):
            self.pending.append(line)
            self.wake()

    def close(self) -> None:
        self._cache.watchers.discard(self)


class WatchCache:
    """All objects of one kind. Not thread-safe: it belongs to the cluster's loop."""

    def __init__(self, resource: Resource, revision: Revision, *, history_events: int = HISTORY_EVENTS) -> None:
        self.resource = resource
        self.revision = revision
        self.watchers: set[Watcher] = set()
        self._objects: dict[Key, dict[str, Any]] = {}
        self._history: deque[Event] = deque()
        self._history_events = history_events
        self._forgotten_version = 0  # events up to and including this one are gone
        self._watchable_from = 0  # a restarted server has an empty watch cache over a store that remembers

    # -- writing

    def put(self, obj: dict[str, Any]) -> dict[str, Any]:
        """Create or replace an object; returns it as stored, with its new resourceVersion in its place in metadata."""
        version = self.revision.next()
        key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
        stored = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(version)}}
        before = self._objects.get(key)
        self._objects[key] = stored
        self._publish(Event(version=version, before=before, after=stored))
        return stored

    def delete(self, namespace: str, name: str) -> None:
        before = self._objects.pop((namespace, name))
        self._publish(Event(version=self.revision.next(), before=before, after=None))

    def compact(self) -> None:
        """From now on every version before the present is too old, for watches and exact lists."""
        self._history.clear()
        self._forgotten_version = self.revision.current

    def restart(self) -> None:
        """From now on every version before the present is too old to watch from; exact lists still find it in the store."""
        self._watchable_from = self.revision.current

    def _publish(self, event: Event) -> None:
        self._history.append(event)
        while len(self._history) > self._history_events:
            self._forgotten_version = self._history.popleft().version
        for watcher in list(self.watchers):
            watcher.offer(event)

    # -- reading

    def get(self, namespace: str, name: str) -> dict[str, Any] | None:
        return self._objects.get((namespace, name))

    def select(self, selection: Selection) -> list[dict[str, Any]]:
        return [obj for _, obj in sorted(self._objects.items()) if selection(obj)]

    def list(
        self, selection: Selection, *, version: int = 0, exact: bool = False, limit: int = 0, continue_token: str = ""
    ) -> dict[str, Any]:
        """The answer to a list: the kind's List object.

        ``version`` is the oldest state the client accepts, or with ``exact`` the very one; 0 accepts any. Raises `StatusError`
        504 for the future, 410 for an exact version (or a continue token) that is no longer known.
        """
        start = ""
        if continue_token:
            version, start = _read_token(continue_token)
            exact = True
        if version > self.revision.current:
            raise version_too_large(version, self.revision.current)
        answered = version if exact else self.revision.current
        objects = self._objects if not exact else self._objects_at(version, bool(continue_token))
        found = [(key, obj) for key, obj in sorted(objects.items()) if selection(obj) and _token_key(selection, key) >= start]
        metadata: dict[str, Any] = {"resourceVersion": str(answered)}
        if limit and len(found) > limit:
            last = _token_key(selection, found[limit - 1][0])
            metadata["continue"] = _write_token(answered, last + "\0")
            metadata["remainingItemCount"] = len(found) - limit
            found = found[:limit]
        items = [obj for _, obj in found]
        resource = self.resource
        return {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": metadata, "items": items}

    def watch(
        self, selection: Selection, wake: Callable[[], None], *, version: int | None = None, bookmark: bool = False
    ) -> Watcher:
        """Open a watch: of everything after ``version``, or, if that is None, of the present state as ADDED events first.

        ``bookmark`` ends that state with the mark of a streaming list. Raises `StatusError` 410 when ``version`` is too old.
        """
        oldest = max(self._forgotten_version, self._watchable_from)
        if version is not None and version < oldest:
            raise expired(f"too old resource version: {version} ({oldest})")
        watcher = Watcher(self, selection, self.revision.current if version is None else version, wake)
        if version is None:
            watcher.pending.extend(event_line("ADDED", self.resource.typed(obj)) for obj in self.select(selection))
            if bookmark:
                watcher.pending.append(self.resource.bookmark(self.revision.current, initial_events_end=True))
        else:
            for event in self._events_after(version):
                watcher.offer(event)
        self.watchers.add(watcher)
        return watcher

    def _events_after(self, version: int) -> Iterator[Event]:
        return (event for event in self._history if event.version > version)

    def _objects_at(self, version: int, paged: bool) -> dict[Key, dict[str, Any]]:
        """The objects as they were: the present with every later event undone."""
        if version < self._forgotten_version:
            raise expired(
                "The provided continue parameter is too old to display a consistent list result."
                if paged
                else "The resourceVersion for the provided list is too old."
            )
        objects = dict(self._objects)
        for event in reversed(list(self._events_after(version))):
            metadata = (event.after or event.before or {})["metadata"]
            key = (metadata["namespace"], metadata["name"])
            if event.before is None:
                del objects[key]
            else:
                objects[key] = event.before
        return objects


def _token_key(selection: Selection, key: Key) -> str:
    return f"/{key[1]}" if selection.namespace is not None else f"/{key[0]}/{key[1]}"


def _write_token(version: int, start: str) -> str:
    token = compact_json({"v": "meta.k8s.io/v1", "rv": version, "start": start})
    return base64.urlsafe_b64encode(token).decode().rstrip("=")


def _read_token(token: str) -> tuple[int, str]:
    try:
        fields = json.loads(base64.urlsafe_b64decode(token + "=="))
        return int(fields["rv"]), str(fields["start"])
    except (binascii.Error, ValueError, KeyError, TypeError):
        raise bad_request("continue key is not valid") from None
