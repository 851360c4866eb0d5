"""What a chain has decided, told: the set with its ClusterIP connections, the error, the log line, the advice; each once.

The ClusterIP's connections live here because they must survive every change of mind: in use they are renewed, as a fallback they
wait, and a verdict that names the same address gets the very same ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from meshlb.core.clock import Rng
from meshlb.core.endpoint import EndpointSet
from meshlb.core.resolver import Listener
from meshlb.core.scheduler import Scheduler
from meshlb.errors import ResolveError
from meshlb.resolve.advice import advice
from meshlb.resolve.known import Concern, ServiceName, Source, Verdict
from meshlb.resolve.kubernetes.transport import SourceError
from meshlb.resolve.publish import Publisher
from meshlb.resolve.settings import Fallback
from meshlb.resolve.virtual_ip import VirtualIp

LISTED = (Source.KUBERNETES, Source.ENDPOINTS)
_GUESSED = (Source.CLUSTER_IP.value, Source.ENVIRONMENT.value)

_log = logging.getLogger("meshlb.resolve")


class Teller:
    """Speaks to one listener; lives on the discovery thread. ``on_change``: the ClusterIP's connections were renewed."""

    def __init__(
        self,
        want: ServiceName,
        listener: Listener,
        *,
        fallback: Fallback,
        scheduler: Scheduler,
        rng: Rng,
        on_change: Callable[[], None],
    ) -> None:
        self._want = want
        self._listener = listener
        self._fallback = fallback
        self._scheduler = scheduler
        self._rng = rng
        self._on_change = on_change
        self._publisher = Publisher(listener, scheduler)
        self._virtual_ip: VirtualIp | None = None
        self._logged_source = ""
        self._doubting = False
        self._advised: set[str] = set()
        self.error = ""  # what was told last, "" since a set was

    @property
    def published(self) -> EndpointSet | None:
        return self._publisher.published

    @property
    def lists_pods(self) -> bool:
        """Is what is published the Service's own pods?"""
        published = self._publisher.published
        by_pods = [source.value for source in (*LISTED, Source.DNS)]
        return published is not None and bool(published.endpoints) and published.source in by_pods and not published.authority_host

    def describe(self, now_s: float) -> dict[str, Any]:
        """What was told last, as plain data; any thread."""
        published = self._publisher.published
        return {
            "source": published.source if published is not None else "",
            "age_s": round(now_s - self._publisher.published_s, 3) if published is not None else None,
            "service_port": published.service_port if published is not None else 0,
            "endpoints": len(published) if published is not None else 0,
            "cluster_ip": self._cluster_ip,
            "note": published.note if published is not None else "",
            "error": self.error,
        }

    @property
    def _cluster_ip(self) -> str:
        """The address that is used, or fallen back to; "" if none is."""
        return f"{self._virtual_ip.host}:{self._virtual_ip.port}" if self._virtual_ip is not None else ""

    def tell(self, verdict: Verdict, version: str, *, renew: bool = False) -> None:
        """``renew``: the ClusterIP's connections grow old also as a fallback."""
        virtual_ip = self._virtual_ip_at(verdict.virtual_ip)
        connections = virtual_ip.endpoints if virtual_ip is not None else ()
        by_pods = verdict.source in (*LISTED, Source.DNS)
        if virtual_ip is not None and by_pods and not renew:
            virtual_ip.pause()
        elif virtual_ip is not None:
            virtual_ip.start()
        latest = EndpointSet.of(
            verdict.pods if by_pods else connections,
            verdict.source.value,
            version=version if verdict.source in LISTED else "",
            # DNS names no Service without ready pods, the others no pods, and a full list not all.
            authoritative=verdict.source in LISTED and Concern.TRUNCATED not in verdict.concerns,
            fallback=connections if by_pods else (),
            service_port=verdict.service_port,
            note=verdict.note,
            place=verdict.place,
            local_only=verdict.local_only,
            unverified=verdict.unverified,
            affinity_s=verdict.affinity_s if by_pods else 0.0,
        )
        self._log_doubt(latest)
        if latest.source != self._logged_source:
            self._logged_source = latest.source
            _log.info("%s: %d endpoints by %s%s", self._want, len(latest), latest.source, latest.note and f", {latest.note}")
        self.error = ""
        self._publisher.offer(latest)

    def relay(self, latest: EndpointSet) -> None:
        """What another resolver says of the name that this Service stands for."""
        self._virtual_ip_at(None)
        if latest.source != self._logged_source:
            self._logged_source = latest.source
            _log.info("%s stands for %s: %d endpoints by %s", self._want, latest.authority_host, len(latest), latest.source)
        self.error = ""
        self._publisher.offer(latest)

    def keep_pods(self) -> None:
        """Nobody says that there are none any more: what is published stays."""
        self._publisher.withdraw_empty()

    def take_back_a_guess(self, problem: str) -> None:
        """DNS was first, and the number was dialled on the ClusterIP; now the Service itself says that it has no such port."""
        published = self._publisher.published
        if published is not None and published.source in _GUESSED:
            self._publisher.offer(EndpointSet((), Source.KUBERNETES.value, note=problem))

    def tell_error(self, error: ResolveError) -> None:
        if str(error) != self.error:
            self.error = str(error)
            self._listener.on_error(error)

    def advise(self, verdict: Verdict, refusal: SourceError | None) -> None:
        for key, text in advice(verdict, self._want, refusal=refusal, fallback=self._fallback):
            if key not in self._advised:
                self._advised.add(key)
                _log.warning("%s", text)

    def close(self) -> None:
        if self._virtual_ip is not None:
            self._virtual_ip.pause()
        self._publisher.close()

    def _log_doubt(self, latest: EndpointSet) -> None:
        doubting = bool(latest.unverified)
        if doubting and not self._doubting:
            _log.warning(
                "%s: no source has confirmed %d of %d endpoints for long; they stay in use, and each that loses its connection gives "
                "way to those that did not%s",
                self._want,
                len(latest.unverified),
                len(latest),
                f" and to the ClusterIP {self._cluster_ip}" if latest.fallback else "",
            )
        elif self._doubting and not doubting:
            _log.info("%s: %d endpoints are confirmed again by %s", self._want, len(latest), latest.source)
        self._doubting = doubting

    def _virtual_ip_at(self, place: tuple[str, int] | None) -> VirtualIp | None:
        """The connections to this address: those there are, or new ones."""
        current = self._virtual_ip
        if current is not None and (current.host, current.port) != place:
            current.pause()
            current = None
        if current is None and place is not None:
            current = VirtualIp(*place, self._fallback, scheduler=self._scheduler, rng=self._rng, on_change=self._on_change)
        self._virtual_ip = current
        return current
