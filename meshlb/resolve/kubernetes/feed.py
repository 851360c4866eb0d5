"""What is known of one Service, and who hears of it.

A feed speaks only after the first list that covers its Service; from then on every statement is the whole truth. A failure is told
beside it, never instead of it, and when the failure is over the truth is told again, changed or not. Nothing is held back here
(``resolve.publish`` does that, per address); but events that wait while the discovery thread is busy become one statement.

Everything runs on the discovery thread. Each listener is told in a callback of its own, so that one that raises harms no other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from meshlb.core.scheduler import Scheduler
from meshlb.resolve.kubernetes.slices import SliceReducer
from meshlb.resolve.kubernetes.transport import SourceError
from meshlb.resolve.kubernetes.wire import Removal, SliceEvent, SliceRecord


@dataclass(frozen=True, slots=True)
class ServiceSlices:
    """All slices of a Service, by name; none if it has none: a Service without endpoints usually has an empty one."""

    namespace: str
    service: str
    slices: tuple[SliceRecord, ...]
    resource_version: str = ""


class SlicesListener(Protocol):
    """Who hears of a Service; on the discovery thread, must not block."""

    def on_slices(self, slices: ServiceSlices, /) -> None: ...

    def on_source_error(self, error: SourceError, /) -> None:
        """Nothing new comes, for this reason; what was said before stays true as far as anybody knows."""
        ...


class Feed:
    """One Service's slices and listeners. ``state`` is what was last told, None before the first list."""

    def __init__(self, namespace: str, service: str, scheduler: Scheduler) -> None:
        self.namespace = namespace
        self.service = service
        self.state: ServiceSlices | None = None
        self.error: SourceError | None = None  # since the last list
        self.listeners: list[SlicesListener] = []
        self.unwanted_since_s = 0.0  # when the last listener left
        self._scheduler = scheduler
        self._reducer = SliceReducer()
        self._version = ""
        self._untold = False

    # -- who hears

    def add(self, listener: SlicesListener) -> None:
        """It is told what is known at once."""
        self.listeners.append(listener)
        if self.state is not None:
            self._tell(listener, partial(listener.on_slices, self.state))
        if self.error is not None:
            self._tell(listener, partial(listener.on_source_error, self.error))

    def remove(self, listener: SlicesListener) -> None:
        """It hears nothing any more, not even what is on its way."""
        if listener in self.listeners:
            self.listeners.remove(listener)

    def fail(self, error: SourceError) -> None:
        self.error = error
        for listener in self.listeners:
            self._tell(listener, partial(listener.on_source_error, error))

    # -- what is known

    def replace(self, records: Iterable[SliceRecord], resource_version: str, unreadable: Iterable[str]) -> None:
        """A list that covers this Service."""
        changed = self._reducer.replace(records, resource_version, unreadable)
        self._version = resource_version
        if changed or self.state is None:
            self._tell_state()
        self.recover()

    def apply(self, event: SliceEvent | Removal) -> None:
        """An event of the watch."""
        if self._reducer.apply(event):
            self._version = event.resource_version
            self._tell_state()

    def has(self, name: str) -> bool:
        """Is the slice of this name one of the Service's?"""
        return name in self._reducer

    def recover(self) -> None:
        """What is known is up to date again."""
        if self.error is not None and self.state is not None:
            self._tell_state()
        self.error = None

    def close(self) -> None:
        """Nobody is told anything any more."""
        self.listeners.clear()

    def describe(self) -> dict[str, object]:
        """Plain data for ``status()``."""
        slices = self.state.slices if self.state is not None else ()
        return {
            "synced": self.state is not None,
            "slices": len(slices),
            "endpoints": sum(len(record.endpoints) for record in slices),
            "resource_version": self._version,
            "listeners": len(self.listeners),
            "error": str(self.error) if self.error is not None else None,
        }

    def _tell_state(self) -> None:
        if not self._untold:
            self._untold = True
            self._scheduler.call_soon(self._speak)

    def _speak(self) -> None:
        self._untold = False
        self.state = ServiceSlices(self.namespace, self.service, self._reducer.slices, self._version)
        for listener in self.listeners:
            self._tell(listener, partial(listener.on_slices, self.state))

    def _tell(self, listener: SlicesListener, message: partial[None]) -> None:
        def tell() -> None:
            if listener in self.listeners:
                message()

        self._scheduler.call_soon(tell)

    def __repr__(self) -> str:
        return f"<Feed {self.service}.{self.namespace} {self.describe()}>"
