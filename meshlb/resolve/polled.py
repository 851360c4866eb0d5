"""A resolver for names that must be asked again and again: the driver around ``Polling``, the same for DNS and the system.

The question itself is a blocking function that runs in a look-up helper; everything else runs on the discovery thread. An answer is
published when it changes what is known, and once after a failure, so that who listens sees the failure end.

Both address families of one name are one endpoint's two addresses as often as not (gRFC A61), and which is which cannot be told. So
one family is published, the one of the first address found, for as long as any address of it is known; the other is the *fallback*,
used while none of the first can be connected. That is how ``localhost`` works with a server that listens on 127.0.0.1 only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from meshlb.core.clock import Rng
from meshlb.core.endpoint import Endpoint, EndpointSet
from meshlb.core.resolver import Listener
from meshlb.core.scheduler import Scheduler, Timer
from meshlb.errors import ResolveError, ServiceNotFoundError
from meshlb.resolve.lookup import Found, Lookup
from meshlb.resolve.polling import Polling


class PolledResolver:
    """Publishes what ``look_up`` finds for ``host``, each address with ``port``. An IP literal is published once and never
    asked.
    """

    def __init__(
        self,
        host: str,
        port: int,
        look_up: Callable[[], Lookup],
        *,
        source: str,
        scheduler: Scheduler,
        rng: Rng,
        empty_grace_s: float = 60.0,
        may_hang: bool = False,
    ) -> None:
        self._host = host
        self._port = port
        self._look_up = look_up
        self._may_hang = may_hang
        self._source = source
        self._scheduler = scheduler
        self._polling = Polling(rng, empty_grace_s=empty_grace_s)
        self._empty_grace_s = empty_grace_s
        self._listener: Listener | None = None
        self._timer: Timer | None = None
        self._asking = False
        self._failing = ""  # what was told by on_error and not yet made good
        self._family = 4
        self.answered_s: float | None = None
        self._said = ""  # the code of the last answer or failure
        self._published = 0

    # -- Resolver ------------------------------------------------------------------------------------------------------------------

    def start(self, listener: Listener, /) -> None:
        self._listener = listener
        if _is_literal(self._host):
            listener.on_endpoints(EndpointSet.of([self._endpoint(self._host)], self._source))
        else:
            self._ask()

    def resolve_now(self) -> None:
        if self._listener is not None and not self._asking and not _is_literal(self._host):
            self._polling.hint(self._scheduler.now_s())
            self._schedule()

    def close(self) -> None:
        self._listener = None
        if self._timer is not None:
            self._timer.cancel()

    # -- asking --------------------------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._scheduler.call_later(self._polling.next_s - self._scheduler.now_s(), self._ask)

    def _ask(self) -> None:
        self._asking = True
        self._polling.asked(self._scheduler.now_s())
        self._scheduler.run_blocking(self._look_up, self._heard, may_hang=self._may_hang)

    def _heard(self, found: Lookup | None, error: BaseException | None) -> None:
        self._asking = False
        listener = self._listener
        if listener is None:
            return
        if found is None:
            found = Lookup(name=self._host, found=Found.FAILED, reason=f"{type(error).__name__}: {error}")
        try:
            self._judge(found, listener)
        finally:  # a bug in who listens must not be the last question
            self._schedule()

    def _judge(self, found: Lookup, listener: Listener) -> None:
        polling, now_s = self._polling, self._scheduler.now_s()
        self._said = found.code
        if found.found is Found.FAILED:
            polling.failed(now_s)
            self._tell_error(listener, found)
            return
        self.answered_s = now_s
        if found.found is Found.ADDRESSES:
            changed = polling.found(now_s, found.addresses, found.ttl_s, complete=found.complete)
            changed |= self._learn(found)
            self._choose_family(found.addresses)
            if changed or self._failing:
                self._publish(listener, "")
        elif polling.absent(now_s, found.ttl_s):
            self._publish(listener, f"{found.reason} for {self._empty_grace_s:g} s")
        elif polling.known != frozenset():  # what was published as empty is no news
            self._tell_error(listener, found)

    def _tell_error(self, listener: Listener, found: Lookup) -> None:
        known = self._polling.known
        kind = ServiceNotFoundError if found.absent and not known else ResolveError
        kept = f"; the last answer is kept (addresses: {len(known)})" if known else ""
        self._failing = f"{self._source}: {found.reason}{kept}"
        listener.on_error(kind(f"{self._host}:{self._port}", [self._failing]))

    def _learn(self, found: Lookup) -> bool:
        """For who publishes more than addresses: take it from a positive answer; True if it has changed."""
        return False

    # -- publishing ----------------------------------------------------------------------------------------------------------------

    def _choose_family(self, answer: tuple[str, ...]) -> None:
        if not any(_family(address) == self._family for address in self._polling.known or ()) or not self._published:
            self._family = _family(answer[0])

    def _publish(self, listener: Listener, note: str) -> None:
        self._failing = ""
        self._published += 1
        known = self._polling.known or frozenset()
        chosen = [address for address in known if _family(address) == self._family]
        listener.on_endpoints(
            EndpointSet.of(
                map(self._endpoint, chosen),
                self._source,
                version=str(self._published),
                fallback=map(self._endpoint, known.difference(chosen)),
                note=note,
                unverified=self._polling.unverified,
            )
        )

    def _endpoint(self, address: str) -> Endpoint:
        return Endpoint(host=address, port=self._port)

    def describe(self) -> dict[str, object]:
        """Plain data for ``status()``."""
        now_s = self._scheduler.now_s()
        return {
            "source": self._source,
            "host": self._host,
            "addresses": sorted(self._polling.known or ()),
            "answer_age_s": None if self.answered_s is None else round(now_s - self.answered_s, 3),
            "said": self._said,
            "next_question_s": round(max(0.0, self._polling.next_s - now_s), 3),
            "error": self._failing,
        }

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._host}:{self._port} addresses={len(self._polling.known or ())}>"


def _family(address: str) -> int:
    return 6 if ":" in address else 4


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
