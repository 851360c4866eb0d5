"""What is known of one Service, and who hears of it.

A feed speaks only after the first list that covers its Service; from then on every statement is the whole truth. A failure is told
beside it, never instead of it, and when the failure is over the truth is told again, changed or not. Nothing is held back here
(``resolve.publish`` does that, per address); but events that wait while the discovery thread is busy become one statement.

Where slices are refused (403, or no such API group) the Endpoints object is asked for as well, and speaks as soon as it has something
to say; slices are tried on, and take over when their watch works: a list alone does not, since where only lists are allowed the two
would take turns. Neither switch says anything in between. As long as one of the two works, the other's failures are nobody's concern.

Everything runs on the discovery thread. Each listener is told in a callback of its own, so that one that raises harms no other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

from meshlb.core.scheduler import Scheduler
from meshlb.resolve.kubernetes.side import KINDS, EndpointsSide, Side
from meshlb.resolve.kubernetes.transport import SourceError
from meshlb.resolve.kubernetes.wire import SliceRecord

REFUSED: Final = ("forbidden", "not_served")


@dataclass(frozen=True, slots=True)
class ServiceSlices:
    """All slices of a Service, by name; none if it has none: a Service without endpoints usually has an empty one.

    ``kind``: ``slices``, or ``endpoints`` if they were made from an Endpoints object; ``truncated``: that lists only some of the pods.
    ``lost_s``: since when (monotonic) nobody says any more that this is still so; None while it is confirmed.
    """

    namespace: str
    service: str
    slices: tuple[SliceRecord, ...]
    resource_version: str = ""
    kind: str = "slices"
    truncated: bool = False
    lost_s: float | None = None


class SlicesListener(Protocol):
    """Who hears of a Service; on the discovery thread, must not block."""

    def on_slices(self, slices: ServiceSlices, /) -> None: ...

    def on_source_error(self, error: SourceError, /) -> None:
        """Nothing new comes, for this reason; what was said before stays true as far as anybody knows."""
        ...


class Feed:
    """One Service's two sides and its listeners. ``state`` is what was last told, None before the first list.

    ``want_endpoints`` hears whether the Endpoints object is needed: with True often, with False once the slices' watch works.
    """

    def __init__(
        self, namespace: str, service: str, scheduler: Scheduler, want_endpoints: Callable[[Feed, bool], None] | None = None
    ) -> None:
        self.namespace = namespace
        self.service = service
        self.state: ServiceSlices | None = None
        self.error: SourceError | None = None  # nothing is current any more, for this reason
        self._lost_s: float | None = None  # since when
        self.listeners: list[SlicesListener] = []
        self.unwanted_since_s = 0.0  # when the last listener left
        self.slices = Side(service, self)
        self.endpoints: EndpointsSide | None = None
        self._scheduler = scheduler
        self._want_endpoints = want_endpoints
        self._current: Side = self.slices
        self._untold = False

    # -- who hears

    def add(self, listener: SlicesListener) -> None:
        """It is told what is known at once, and since when that is not confirmed."""
        self.listeners.append(listener)
        if self.state is not None:
            self._tell(listener, partial(listener.on_slices, replace(self.state, lost_s=self._lost_s)))
        if self.error is not None:
            self._tell(listener, partial(listener.on_source_error, self.error))

    def remove(self, listener: SlicesListener) -> None:
        """It hears nothing any more, not even what is on its way."""
        if listener in self.listeners:
            self.listeners.remove(listener)

    def close(self) -> None:
        """Nobody is told anything any more."""
        self.listeners.clear()

    # -- the sides speak

    def add_endpoints(self) -> EndpointsSide:
        self.endpoints = EndpointsSide(self.service, self)
        return self.endpoints

    def drop_endpoints(self) -> None:
        """The slices are current again."""
        self.endpoints = None

    def on_news(self, side: Side, changed: bool, /) -> None:
        """A side is different, or works again."""
        live = self._live
        if live is not None and (self.error is not None or live is not self._current or (changed and live is side)):
            self._current, self.error, self._lost_s = live, None, None
            self._tell_state()
        if side is self.slices and side.live and self.endpoints is not None and self._want_endpoints is not None:
            self._want_endpoints(self, False)

    def on_failure(self, side: Side, error: SourceError, /) -> None:
        live = self._live
        if live is None:
            told = self.slices.error or error
            if side is self.slices or told != self.error:
                self.fail(told)
        elif live is not self._current:
            self.on_news(live, False)
        if side is self.slices and error.kind in REFUSED and self._want_endpoints is not None:
            self._want_endpoints(self, True)

    def fail(self, error: SourceError) -> None:
        """Nothing current is known any more."""
        self.error = error
        if self._lost_s is None:
            self._lost_s = self._scheduler.now_s()
        for listener in self.listeners:
            self._tell(listener, partial(listener.on_source_error, error))

    def waits_for_watch(self, side: Side, /) -> bool:
        return side is self.slices and self.endpoints is not None and self.endpoints.live

    def describe(self) -> dict[str, object]:
        """Plain data for ``status()``."""
        slices = self.state.slices if self.state is not None else ()
        return {
            "synced": self.state is not None,
            "by": self.state.kind if self.state is not None else None,
            "slices": len(slices),
            "endpoints": sum(len(record.endpoints) for record in slices),
            "resource_version": self._current.version,
            "listeners": len(self.listeners),
            "error": str(self.error) if self.error is not None else None,
        }

    @property
    def _live(self) -> Side | None:
        """Who is to be believed: the slices wherever they can be had."""
        return next((side for side in (self.slices, self.endpoints) if side is not None and side.live), None)

    def _tell_state(self) -> None:
        if not self._untold:
            self._untold = True
            self._scheduler.call_soon(self._speak)

    def _speak(self) -> None:
        self._untold = False
        side, slices = self._current, self._current.slices
        truncated = any(record.truncated for record in slices)
        kind = KINDS[side.resource]
        # What fails before this is told was confirmed, and is not any more.
        self.state = ServiceSlices(self.namespace, self.service, slices, side.version, kind, truncated, self._lost_s)
        for listener in self.listeners:
            self._tell(listener, partial(listener.on_slices, self.state))

    def _tell(self, listener: SlicesListener, message: partial[None]) -> None:
        def tell() -> None:
            if listener in self.listeners:
                message()

        self._scheduler.call_soon(tell)

    def __repr__(self) -> str:
        return f"<Feed {self.service}.{self.namespace} {self.describe()}>"
