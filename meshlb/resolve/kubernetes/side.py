"""What one resource (EndpointSlices, or the Endpoints object) says of one Service: its state, and whether it is current.

A side is ``live`` while its stream works: it was listed, and nothing failed since. What it said before a failure stays as it is;
whether it is still told is the ``Feed``'s decision.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from meshlb.resolve.kubernetes.requests import Resource
from meshlb.resolve.kubernetes.slices import SliceReducer
from meshlb.resolve.kubernetes.transport import SourceError
from meshlb.resolve.kubernetes.versions import is_older
from meshlb.resolve.kubernetes.wire import ObjectEvent, Removal, SliceEvent, SliceRecord

KINDS: Final = {Resource.SLICES: "slices", Resource.ENDPOINTS: "endpoints"}


class Owner(Protocol):
    """Who is told that something is different; ``Feed``."""

    def on_news(self, side: Side, changed: bool, /) -> None: ...

    def on_failure(self, side: Side, error: SourceError, /) -> None: ...

    def waits_for_watch(self, side: Side, /) -> bool:
        """A list alone does not make this side the current one."""
        ...


class Side:
    """See the module's head. Belongs to the discovery thread."""

    resource = Resource.SLICES

    def __init__(self, service: str, owner: Owner) -> None:
        self.service = service
        self.version = ""
        self.synced = False
        self.error: SourceError | None = None
        self._owner = owner
        self._reducer = SliceReducer()

    @property
    def live(self) -> bool:
        return self.synced and self.error is None

    @property
    def slices(self) -> tuple[SliceRecord, ...]:
        return self._reducer.slices

    def replace(self, records: Iterable[SliceRecord], resource_version: str, unreadable: Iterable[str]) -> None:
        """A list that covers this Service."""
        names = set(unreadable)
        if "" in names:  # it may be any: whatever is missing may only be unreadable
            names.update(record.name for record in self._reducer.slices)
        self._changed(resource_version, self._reducer.replace(records, resource_version, names))

    def apply(self, event: ObjectEvent | Removal) -> None:
        """An event of the watch."""
        if isinstance(event, (SliceEvent, Removal)) and self._reducer.apply(event):
            self._news(event.resource_version, changed=True)

    def has(self, name: str) -> bool:
        """Is the object of this name one of the Service's?"""
        return name in self._reducer

    def fail(self, error: SourceError) -> None:
        self.error = error
        self._owner.on_failure(self, error)

    def recover(self) -> None:
        """What is known is up to date again."""
        if self.error is not None:
            self.error = None
            self._owner.on_news(self, False)

    def _changed(self, version: str, changed: bool) -> None:
        first, self.synced = not self.synced, True
        if not self._owner.waits_for_watch(self):
            self.error = None
        self._news(version, changed=changed or first)

    def _news(self, version: str, *, changed: bool) -> None:
        self.version = version
        self._owner.on_news(self, changed)


class EndpointsSide(Side):
    """An object is the whole truth, and its absence says nothing until it was there once: see ``endpoints``."""

    resource = Resource.ENDPOINTS

    def replace(self, records: Iterable[SliceRecord], resource_version: str, unreadable: Iterable[str]) -> None:
        known, found = self._reducer.slices, tuple(records)
        if not found and any(name in ("", self.service) for name in unreadable):
            found = known
        if found or self.synced:
            self._changed(resource_version, self._reducer.replace(found, resource_version))
        else:
            self.error = None

    def apply(self, event: ObjectEvent | Removal) -> None:
        if (
            isinstance(event, SliceEvent)
            or event.resource_version == self.version
            or is_older(event.resource_version, self.version)
        ):
            return
        records = () if isinstance(event, Removal) else event.slices
        self._changed(event.resource_version, self._reducer.replace(records, event.resource_version))

    def has(self, name: str) -> bool:
        return name == self.service
