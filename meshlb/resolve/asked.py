"""A name that may be a Service: asked of the cluster's DNS, and an ordinary name if that does not know it.

================  ==============================================================================================================
cluster's DNS     then
================  ==============================================================================================================
knows the name    it is a Service, for good
denies it         it is resolved as an ordinary name. As soon as that works it is one, for good; while it fails, DNS is asked
                  again with back-off: a headless Service without a ready pod has no name, and gets one later
says nothing      asked again with back-off. It is not tried as an ordinary name: the system would most likely find the same
                  Service, on its search path, and pin it to one address
================  ==============================================================================================================

An ordinary name that begins to work after it failed is held back until DNS was asked once more: a Service that just got its first
pod is on the system's search path as well. The API server is never asked about a name before it is known to be a Service.
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
JITTER_RATIO = 0.1


class AskedResolver:
    """``ask`` looks the name up in the cluster's DNS; ``new_service`` and ``new_ordinary`` make what it turns out to be.

    ``new_ordinary`` is None where the target's port has a name, which only a Service can give a number.
    """

    def __init__(
        self,
        title: str,
        *,
        ask: Callable[[Callable[[Lookup], None]], None],
        new_service: Callable[[], Resolver],
        new_ordinary: Callable[[], Resolver] | None,
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
        self._is = ""  # "service" or "ordinary" once that is settled
        self._asking = False
        self._answer: Lookup | None = None
        self._failures = 0
        self._error: ResolveError | None = None  # the ordinary name's
        self._held: EndpointSet | None = None
        self._timer: Timer | None = None

    def start(self, listener: Listener, /) -> None:
        self._listener = listener
        self._ask()

    def resolve_now(self) -> None:
        if self._resolver is not None:
            self._resolver.resolve_now()

    def close(self) -> None:
        self._listener = None
        self._cancel()
        if self._resolver is not None:
            self._resolver.close()

    # --- the ordinary name speaks -----------------------------------------------------------------------------------------

    def on_endpoints(self, endpoints: EndpointSet, /) -> None:
        if self._listener is None or self._is == "service":
            return
        if self._is == "ordinary" or self._error is None:
            self._settle(endpoints)
            return
        self._held = endpoints
        self._ask()

    def on_error(self, error: ResolveError, /) -> None:
        if self._listener is None or self._is == "service":
            return
        if self._is == "ordinary":
            self._listener.on_error(error)
            return
        self._error = error
        self._held = None
        self._complain()

    def _settle(self, endpoints: EndpointSet) -> None:
        assert self._listener is not None
        self._is = "ordinary"
        self._held = None
        self._cancel()
        self._listener.on_endpoints(endpoints)

    # --- the cluster's DNS ------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        self._cancel()
        if not self._asking:
            self._asking = True
            self._ask_dns(self._heard)

    def _heard(self, found: Lookup) -> None:
        self._asking = False
        listener = self._listener
        if listener is None or self._is:
            return
        self._answer = found
        if found.found is Found.ADDRESSES:
            self._become_service(listener)
            return
        if self._held is not None and found.absent:
            self._settle(self._held)
            return
        held, self._held = self._held, None
        delay_s = min(MAX_BACKOFF_S, MIN_BACKOFF_S * 2.0 ** min(self._failures, 10))
        self._failures += 1
        self._timer = self._scheduler.call_later(delay_s * (1 + JITTER_RATIO * (2 * self._rng.random() - 1)), self._ask)
        if found.absent and self._resolver is None and self._new_ordinary is not None:
            self._resolver = self._new_ordinary()
            self._resolver.start(self)
        elif held is not None:
            listener.on_endpoints(held)  # the system knows it and DNS is away: better than nothing, and not for good
        else:
            self._complain()

    def _become_service(self, listener: Listener) -> None:
        self._is = "service"
        self._held = None
        if self._resolver is not None:
            self._resolver.close()
        self._resolver = self._new_service()
        self._resolver.start(listener)

    def _complain(self) -> None:
        """Both were asked, or DNS did not answer: say what is known to be wrong."""
        answer, listener = self._answer, self._listener
        if listener is None or answer is None or (answer.absent and self._resolver is not None and self._error is None):
            return
        causes = [f"dns: {answer.reason}"]
        if self._error is not None:
            causes += self._error.causes
        if answer.absent:
            summary = "neither a Service nor a host name" if self._error is not None else "no such Service"
            listener.on_error(ServiceNotFoundError(self._title, causes, summary=summary))
        else:
            listener.on_error(ResolveError(self._title, causes, summary="the cluster's DNS does not answer"))

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def describe(self) -> dict[str, Any]:
        """What it is taken for, and what the resolver in use says; any thread."""
        described: dict[str, Any] = {"is": self._is or "not known yet"}
        answer = self._answer
        if answer is not None:
            described["dns_said"] = answer.reason or ", ".join(answer.addresses)
        inner = getattr(self._resolver, "describe", None)
        if inner is not None:
            described |= inner()
        return described

    def __repr__(self) -> str:
        return f"<AskedResolver {self._title} {self._is or 'asking'}>"
