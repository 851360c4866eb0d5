"""A name that may be a Service: asked of the cluster's DNS, and an ordinary name while that does not know it.

================  ==============================================================================================================
cluster's DNS     then
================  ==============================================================================================================
knows the name    it is a Service, for good
denies it         it is resolved as an ordinary name, and DNS is asked again: a Service may be made after its clients, a headless
                  one has no name before its first pod is ready, and meanwhile the system may find somebody else's host
says nothing      asked again. It is not tried as an ordinary name: the system would most likely find the same
                  Service, on its search path, and pin it to one address
================  ==============================================================================================================

"Again" is within 2 s while nothing is known, with back-off up to 30 s while DNS says nothing and an answer of the system is used, and
with back-off from 5 s up to 60 s while it is an ordinary name, as most are for ever: one question a minute is what that costs. A hint
asks sooner: after 1 s, or 5 s for an ordinary name. The API server is never asked about a name before it is known to be a Service.

An ordinary name that begins to work after it failed is held back until DNS was asked once more: a Service that just got its first
pod is on the system's search path as well. An ordinary name in use that turns out to be a Service goes on until the Service's own
resolver knows an endpoint: what works is never taken away for a promise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshlb.core.clock import Rng
from meshlb.core.endpoint import EndpointSet
from meshlb.core.resolver import Listener, Resolver
from meshlb.core.scheduler import Scheduler, Timer
from meshlb.errors import ResolveError, ServiceNotFoundError
from meshlb.resolve.lookup import Found, Lookup

MIN_BACKOFF_S = 1.0
MAX_BACKOFF_S = 30.0  # as often as DNS itself is polled
ORDINARY_BACKOFF_S = (5.0, 60.0)
EMPTY_HANDED_S = 2.0  # while nothing is known calls fail, and the first answer ends that
MIN_INTERVAL_S = 1.0
JITTER_RATIO = 0.1


class AskedResolver:
    """``ask`` looks the name up in the cluster's DNS; ``new_service`` and ``new_ordinary`` make what it turns out to be.

    Names whose port only a Service can give a number never come here: there is no question what they are.
    """

    def __init__(
        self,
        title: str,
        *,
        ask: Callable[[Callable[[Lookup], None]], None],
        new_service: Callable[[], Resolver],
        new_ordinary: Callable[[], Resolver],
        scheduler: Scheduler,
        rng: Rng,
    ) -> None:
        self._title = title
        self._ask_dns = ask
        self._new_service = new_service
        self._new_ordinary = new_ordinary
        self._scheduler = scheduler
        self._rng = rng
        self._listener: Listener | None = None
        self._resolver: Resolver | None = None
        self._is = ""  # "service" or "ordinary" once that is known; a Service is one for good
        self._leaving: Resolver | None = None  # the ordinary name's, in use until the Service's knows an endpoint
        self._asking = False
        self._asked_s = 0.0
        self._used = False  # an answer of the system is published
        self._answer: Lookup | None = None
        self._failures = 0
        self._error: ResolveError | None = None  # the ordinary name's
        self._held: EndpointSet | None = None
        self._timer: Timer | None = None

    def start(self, listener: Listener, /) -> None:
        self._listener = listener
        self._ask()

    def resolve_now(self) -> None:
        """A connect failed, or a call found nothing: whoever can help is asked sooner, DNS at most once a second."""
        if self._resolver is not None:
            self._resolver.resolve_now()
        if self._leaving is not None:
            self._leaving.resolve_now()
        if self._listener is not None and self._is != "service" and not self._asking:
            interval_s = ORDINARY_BACKOFF_S[0] if self._is else MIN_INTERVAL_S
            self._ask_in(max(0.0, self._asked_s + interval_s - self._scheduler.now_s()))

    def close(self) -> None:
        self._listener = None
        self._cancel()
        for resolver in (self._resolver, self._leaving):
            if resolver is not None:
                resolver.close()

    # --- the ordinary name speaks -----------------------------------------------------------------------------------------

    def on_endpoints(self, endpoints: EndpointSet, /) -> None:
        if self._listener is None or (self._is == "service" and self._leaving is None):
            return
        if self._is:
            self._listener.on_endpoints(endpoints)
        elif self._error is None:
            self._settle(endpoints)
        else:
            self._held = endpoints
            self._ask()

    def on_error(self, error: ResolveError, /) -> None:
        if self._listener is None or (self._is == "service" and self._leaving is None):
            return
        if self._is:
            self._listener.on_error(error)
            return
        self._error = error
        self._held = None
        self._complain()

    def _settle(self, endpoints: EndpointSet) -> None:
        assert self._listener is not None
        self._is = "ordinary"
        self._used = True
        self._held = None
        self._failures = 0
        self._ask_again()
        self._listener.on_endpoints(endpoints)

    # --- the cluster's DNS ------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        self._cancel()
        if not self._asking:
            self._asking = True
            self._asked_s = self._scheduler.now_s()
            self._ask_dns(self._heard)

    def _heard(self, found: Lookup) -> None:
        self._asking = False
        listener = self._listener
        if listener is None or self._is == "service":
            return
        self._answer = found
        if found.found is Found.ADDRESSES:
            self._become_service(listener)
            return
        if self._is == "ordinary":
            self._ask_again()
            return
        if self._held is not None and found.absent:
            self._settle(self._held)
            return
        held, self._held = self._held, None
        self._used = self._used or held is not None
        self._ask_again()
        if found.absent and self._resolver is None:
            self._resolver = self._new_ordinary()
            self._resolver.start(self)
        elif held is not None:
            listener.on_endpoints(held)  # the system knows it and DNS is away: better than nothing, and not for good
        else:
            self._complain()

    def _become_service(self, listener: Listener) -> None:
        self._is = "service"
        self._held = None
        self._cancel()
        ordinary, self._resolver = self._resolver, self._new_service()
        if ordinary is not None and self._used:
            self._leaving = ordinary
            self._resolver.start(_Successor(listener, self._leave))
        else:
            if ordinary is not None:
                ordinary.close()
            self._resolver.start(listener)

    def _leave(self) -> None:
        """The Service's resolver knows an endpoint."""
        ordinary, self._leaving = self._leaving, None
        if ordinary is not None:
            ordinary.close()

    def _complain(self) -> None:
        """Both were asked, or DNS did not answer: say what is known to be wrong."""
        answer, listener = self._answer, self._listener
        if listener is None or answer is None or (answer.absent and self._resolver is not None and self._error is None):
            return
        causes = [f"dns: {answer.reason}"]
        if self._error is not None:
            causes += self._error.causes
        if answer.absent:
            listener.on_error(ServiceNotFoundError(self._title, causes, summary="neither a Service nor a host name"))
        else:
            listener.on_error(ResolveError(self._title, causes, summary="the cluster's DNS does not answer"))

    def _ask_again(self) -> None:
        """With back-off, jittered: many clients start together."""
        if self._is:
            shortest_s, longest_s = ORDINARY_BACKOFF_S
        else:
            shortest_s, longest_s = MIN_BACKOFF_S, MAX_BACKOFF_S if self._used else EMPTY_HANDED_S
        delay_s = min(longest_s, shortest_s * 2.0 ** min(self._failures, 10))
        self._failures += 1
        self._ask_in(delay_s * (1 + JITTER_RATIO * (2 * self._rng.random() - 1)))

    def _ask_in(self, delay_s: float) -> None:
        self._cancel()
        self._timer = self._scheduler.call_later(delay_s, self._ask)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def describe(self) -> dict[str, Any]:
        """What it is taken for, and what the resolver in use says; any thread."""
        known = "a service, an ordinary name until an endpoint of it is known" if self._leaving is not None else self._is
        described: dict[str, Any] = {"is": known or "not known yet"}
        answer = self._answer
        if answer is not None:
            described["dns_said"] = answer.reason or ", ".join(answer.addresses)
        inner = getattr(self._resolver, "describe", None)
        if inner is not None:
            described |= inner()
        return described

    def __repr__(self) -> str:
        return f"<AskedResolver {self._title} {self._is or 'asking'}>"


class _Successor:
    """The listener of a Service's resolver while the ordinary name is in use: its first endpoints end that."""

    def __init__(self, listener: Listener, on_first: Callable[[], None]) -> None:
        self._listener = listener
        self._on_first: Callable[[], None] | None = on_first

    def on_endpoints(self, endpoints: EndpointSet, /) -> None:
        if self._on_first is not None:
            if not (endpoints.endpoints or endpoints.fallback):
                return
            on_first, self._on_first = self._on_first, None
            on_first()
        self._listener.on_endpoints(endpoints)

    def on_error(self, error: ResolveError, /) -> None:
        self._listener.on_error(error)
