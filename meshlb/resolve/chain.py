"""One Service's sources, asked at once, ranked, and told as one truth: the resolver of everything that is a Service.

The API server and DNS race from the start; whatever answers is used until something better does (``ranking``). A better source
takes over make-before-break: common addresses keep their identity, the ClusterIP's connections move to the fallback, removals are
held (``publish``). *Losing* a source changes nothing: what it said last stays what it said, and only a newer answer of a source
that may know displaces it.

========================  ==========================================================================================================
what                      when
========================  ==========================================================================================================
EndpointSlices            watched from the start, for good
DNS                       polled from the start; stopped while slices are synced, once the ClusterIP is known (or there is none);
                          again when the API was away for ``STALE_S``, or when its list is empty and the Service unknown
the Service               read after the first slices or their refusal, so that an API server that is away is asked once, not twice;
                          again every 300 to 600 s, and at once (at most every ``REREAD_S``) when its ports do not fit the slices
the environment           when the API and DNS both failed, or said nothing for ``PATIENCE_S``
========================  ==========================================================================================================

DNS lists pods without their port's number. While slices may still say it (``API_PATIENCE_S``, or until their first error) no guess is
dialled. Sources contradict each other when a Service is changed or made anew: a port that nobody can map at the moment, a Service
that has slices and cannot be read, leave the published pods and the last choice of a port as they are.

A port may depend on the Service itself (several ports, an authority without a written number): slices then wait for it, though
never longer than ``PATIENCE_S``. A Service that nobody knows is told as an error as soon as everybody has answered, with what each
said; everybody goes on being asked, so it recovers by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from meshlb.core.clock import Rng
from meshlb.core.endpoint import EndpointSet
from meshlb.core.resolver import Listener
from meshlb.core.scheduler import Scheduler, Timer
from meshlb.errors import ResolveError
from meshlb.resolve import explain
from meshlb.resolve.advice import advice
from meshlb.resolve.env import EnvService
from meshlb.resolve.explain import Hearing, Told
from meshlb.resolve.kubernetes.feed import ServiceSlices
from meshlb.resolve.kubernetes.transport import SourceError
from meshlb.resolve.kubernetes.wire import ServiceRecord
from meshlb.resolve.publish import Publisher
from meshlb.resolve.ranking import Concern, Known, ServiceName, Source, Verdict, decide, is_headless, service_is_outdated
from meshlb.resolve.settings import Fallback
from meshlb.resolve.sources import Closable, DnsSource, SlicesSource
from meshlb.resolve.virtual_ip import VirtualIp

API_PATIENCE_S = 2.0  # a first list takes well under one, with the import of the client
PATIENCE_S = 0.25  # an in-cluster answer takes milliseconds; beyond this the next best is used meanwhile
STALE_S = 30.0  # an API server that restarts is back by then
REREAD_S = 10.0
REFRESH_S = (300.0, 600.0)

_log = logging.getLogger("meshlb.resolve")


class ServiceResolver:
    """A ``Resolver`` for one Service (``want``), or one pod of it; lives on the discovery thread.

    ``kubernetes`` and ``new_dns`` are None where that source is not to be used; ``env`` is None where the environment does not know
    the Service, or speaks of another namespace's.
    """

    def __init__(
        self,
        want: ServiceName,
        *,
        kubernetes: SlicesSource | None,
        new_dns: Callable[[], DnsSource] | None,
        env: EnvService | None,
        fallback: Fallback,
        scheduler: Scheduler,
        rng: Rng,
    ) -> None:
        self.want = want
        self._kubernetes = kubernetes
        self._new_dns = new_dns
        self._fallback = fallback
        self._scheduler = scheduler
        self._rng = rng
        self._known = Known(env=env)
        api = kubernetes is not None
        self._hearing = Hearing(slices=Told(used=api), dns=Told(used=new_dns is not None), service=Told(used=api))
        self._verdict = Verdict(source=Source.NOTHING)
        self._version = ""
        self._listener: Listener | None = None
        self._publisher: Publisher | None = None
        self._watch: Closable | None = None
        self._dns: DnsSource | None = None
        self._virtual_ip: VirtualIp | None = None
        self._timers: dict[str, Timer] = {}
        self._service_asked_s: float | None = None
        self._impatient = False  # PATIENCE_S is over
        self._told_error = ""
        self._logged_source = ""
        self._advised: set[str] = set()

    # --- Resolver ---------------------------------------------------------------------------------------------------------

    def start(self, listener: Listener, /) -> None:
        self._listener = listener
        self._publisher = Publisher(listener, self._scheduler)
        self._after("patience", PATIENCE_S, self._lose_patience)
        self._after("api patience", API_PATIENCE_S, self._evaluate)
        if self._kubernetes is not None:
            self._watch = self._kubernetes.watch(self.want.namespace, self.want.service, self)
        self._steer_dns()
        self._evaluate()

    def resolve_now(self) -> None:
        """A connect failed: DNS is asked sooner, if it is in use. A watch needs no hint."""
        if self._dns is not None:
            self._dns.resolve_now()

    def close(self) -> None:
        self._listener = None
        if self._watch is not None:
            self._watch.close()
        if self._dns is not None:
            self._dns.close()
        if self._virtual_ip is not None:
            self._virtual_ip.pause()
        if self._publisher is not None:
            self._publisher.close()
        while self._timers:
            self._timers.popitem()[1].cancel()

    # --- the sources speak ------------------------------------------------------------------------------------------------

    def on_slices(self, slices: ServiceSlices, /) -> None:
        """The whole truth of the API server about this Service."""
        if self._known.slices and not slices.slices:
            self._forget()
        self._known = replace(self._known, slices=slices.slices, seen=self._known.seen or bool(slices.slices), stale=False)
        self._version = slices.resource_version
        self._hearing.slices.answered(self._scheduler.now_s())
        self._cancel("stale")
        if self._should_read_service():
            self._read_service()
        self._evaluate()

    def _forget(self) -> None:
        """A Service loses its last slice when it is deleted; one that takes its name may be of another kind."""
        self._known = Known(env=self._known.env, seen=True, chosen=self._known.chosen)
        self._service_asked_s = None
        self._hearing.service = Told(used=self._hearing.service.used)
        self._hearing.dns = Told(used=self._hearing.dns.used)

    def on_source_error(self, error: SourceError, /) -> None:
        """The API server cannot be asked, or refuses; what it said before stands."""
        self._hearing.slices.failed(error, self._scheduler.now_s())
        if self._known.slices is not None and not self._known.stale and "stale" not in self._timers:
            self._after("stale", STALE_S, self._grow_stale)
        if error.kind == "forbidden" and self._hearing.service.heard_s is None:
            self._read_service()
        self._evaluate()

    def on_addresses(self, endpoints: EndpointSet, together: bool, answer: tuple[str, ...]) -> None:
        """DNS's addresses changed; ``answer`` are those of its last answer alone."""
        addresses = tuple(endpoint.host for endpoint in endpoints.endpoints)
        known = replace(self._known, addresses=addresses, answer=answer)
        self._known = replace(known, dns_lists_pods=known.dns_lists_pods or together or is_headless(known) is True)
        self._hearing.dns.answered(self._scheduler.now_s())
        self._evaluate()

    def on_dns_error(self, error: ResolveError) -> None:
        self._hearing.dns.failed(error, self._scheduler.now_s())
        self._evaluate()

    def _on_service(self, record: ServiceRecord | None, error: SourceError | None) -> None:
        if self._listener is None:
            return
        if error is not None:
            self._hearing.service.failed(error, self._scheduler.now_s())
        else:
            self._hearing.service.answered(self._scheduler.now_s())
            if record is not None or not self._known.slices:  # who still has slices was not deleted: they would go with it
                self._known = replace(self._known, service=record)
        self._cancel("service wait")
        low_s, high_s = REFRESH_S
        self._after("service", low_s + (high_s - low_s) * self._rng.random(), self._read_service)
        self._evaluate()

    def _lose_patience(self) -> None:
        self._impatient = True
        self._evaluate()

    def _grow_stale(self) -> None:
        self._known = replace(self._known, stale=True)
        self._evaluate()

    # --- what is asked besides the watch ----------------------------------------------------------------------------------

    def _read_service(self) -> None:
        """At most once per REREAD_S; the timer of the next regular reading is brought forward instead."""
        if self._kubernetes is None:
            return
        now_s, asked_s = self._scheduler.now_s(), self._service_asked_s
        if asked_s is not None and now_s < asked_s + REREAD_S:
            self._after("service", asked_s + REREAD_S - now_s, self._read_service)
            return
        self._service_asked_s = now_s
        if asked_s is None:
            self._after("service wait", PATIENCE_S, self._evaluate)
        self._kubernetes.get_service(self.want.namespace, self.want.service, self._on_service)

    def _waits_for_service(self) -> bool:
        """Does the choice of the port, or the authority, depend on an answer that is under way?"""
        if "service wait" not in self._timers or self.want.port.is_target:
            return False
        names = {port.name for record in self._known.slices or () for port in record.ports}
        return not self.want.port.number or len(names) > 1

    def _should_read_service(self) -> bool:
        """It was not read yet, and may be; or what was read does not fit the slices."""
        told, known = self._hearing.service, self._known
        if not told.satisfied:
            return told.error is None or told.error.kind != "forbidden" or service_is_outdated(known)
        return service_is_outdated(known) or (known.service is None and bool(known.slices))

    def _steer_dns(self) -> None:
        """Poll DNS while it may matter, and only then."""
        if self._wants_dns():
            if self._dns is None and self._new_dns is not None:
                self._dns = self._new_dns()
                self._dns.start(_DnsListener(self, self._dns))
        elif self._dns is not None:
            self._dns.close()
            self._dns = None
            if is_headless(self._known) is not False:
                # Pods' addresses grow old; a ClusterIP is kept as the fallback.
                self._known = replace(self._known, addresses=None)

    def _wants_dns(self) -> bool:
        known = self._known
        if known.slices is None or known.stale or self._verdict.source is not Source.KUBERNETES:
            return True
        if self.want.pod or not self._fallback.enabled or not known.slices or is_headless(known):
            return False
        return known.service is None and known.addresses is None and known.env is None  # the ClusterIP is not known yet

    # --- judging ----------------------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        if self._listener is None:
            return
        known, hearing = self._known, self._hearing
        waits = bool(known.slices) and self._waits_for_service()
        verdict = decide(replace(known, slices=None) if waits else known, self.want, cluster_ip=self._fallback.enabled)
        racing = waits or hearing.slices.pending or (self._dns is not None and hearing.dns.pending)
        self._verdict = verdict
        if verdict.selector is not None and verdict.pods:
            self._known = replace(known, chosen=verdict.selector)
        if self._pods_may_still_be_told(verdict, waits):
            self._keep_pods()
        elif verdict.source is Source.NOTHING:
            self._keep_pods()
            if not racing or (verdict.port_wrong and known.slices and not waits):
                self._tell_error(explain.why_nothing(verdict, self.want, known, hearing))
                self._take_back_a_guess(verdict)
                self._advise(verdict)
        elif verdict.source is not Source.ENVIRONMENT or self._impatient or not racing:
            self._tell(verdict)
            if not (waits or hearing.slices.pending):
                self._advise(verdict)
        self._steer_dns()

    def _pods_may_still_be_told(self, verdict: Verdict, waits: bool) -> bool:
        """Slices are about to say better than ``verdict``, so that it is not worth a change, or a port that is a guess."""
        assert self._publisher is not None
        published = self._publisher.published
        if waits and published is not None and published.source == Source.KUBERNETES.value:
            return True
        return Concern.DNS_PORT in verdict.concerns and self._hearing.slices.pending and "api patience" in self._timers

    def _keep_pods(self) -> None:
        """Nobody says that there are none any more: what is published stays."""
        assert self._publisher is not None
        self._publisher.withdraw_empty()

    def _take_back_a_guess(self, verdict: Verdict) -> None:
        """DNS was first, and the number was dialled on the ClusterIP; now the Service itself says that it has no such port."""
        assert self._publisher is not None
        published = self._publisher.published
        guessed = (Source.CLUSTER_IP.value, Source.ENVIRONMENT.value)
        if verdict.port_wrong and self._known.service is not None and published is not None and published.source in guessed:
            self._publisher.offer(EndpointSet((), Source.KUBERNETES.value, note=verdict.problem))

    def _tell(self, verdict: Verdict) -> None:
        assert self._publisher is not None
        virtual_ip = self._virtual_ip_at(verdict.virtual_ip)
        connections = virtual_ip.endpoints if virtual_ip is not None else ()
        by_pods = verdict.source in (Source.KUBERNETES, Source.DNS)
        if virtual_ip is not None and by_pods:
            virtual_ip.pause()
        elif virtual_ip is not None:
            virtual_ip.start()
        latest = EndpointSet.of(
            verdict.pods if by_pods else connections,
            verdict.source.value,
            version=self._version if verdict.source is Source.KUBERNETES else "",
            authoritative=verdict.source is Source.KUBERNETES,  # DNS names no Service without ready pods, the others no pods
            fallback=connections if by_pods else (),
            service_port=verdict.service_port,
            note=verdict.note,
        )
        if latest.source != self._logged_source:
            self._logged_source = latest.source
            _log.info("%s: %d endpoints by %s%s", self.want, len(latest), latest.source, latest.note and f", {latest.note}")
        self._told_error = ""
        self._publisher.offer(latest)

    def _virtual_ip_at(self, place: tuple[str, int] | None) -> VirtualIp | None:
        """The connections to this address: those there are, or new ones."""
        current = self._virtual_ip
        if current is not None and (current.host, current.port) != place:
            current.pause()
            current = None
        if current is None and place is not None:
            current = VirtualIp(*place, self._fallback, scheduler=self._scheduler, rng=self._rng, on_change=self._evaluate)
        self._virtual_ip = current
        return current

    def _tell_error(self, error: ResolveError) -> None:
        if self._listener is not None and str(error) != self._told_error:
            self._told_error = str(error)
            self._listener.on_error(error)

    def _advise(self, verdict: Verdict) -> None:
        for key, text in advice(verdict, self.want, refusal=self._hearing.slices.error, fallback=self._fallback):
            if key not in self._advised:
                self._advised.add(key)
                _log.warning("%s", text)

    # --- timers -----------------------------------------------------------------------------------------------------------

    def _after(self, name: str, delay_s: float, callback: Callable[[], None]) -> None:
        def fire() -> None:
            del self._timers[name]
            callback()

        self._cancel(name)
        self._timers[name] = self._scheduler.call_later(delay_s, fire)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    # --- for people -------------------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Which source is in use and why, and what each said, as plain data; any thread."""
        now_s = self._scheduler.now_s()
        published = self._publisher.published if self._publisher is not None else None
        headless = is_headless(self._known)
        return {
            "service": self.want.service,
            "namespace": self.want.namespace,
            "port": str(self.want.port),
            "headless": headless,
            "source": published.source if published is not None else "",
            "age_s": round(now_s - self._publisher.published_s, 3)
            if self._publisher is not None and published is not None
            else None,
            "stale": self._known.stale,
            "service_port": published.service_port if published is not None else 0,
            "endpoints": len(published) if published is not None else 0,
            "cluster_ip": f"{self._virtual_ip.host}:{self._virtual_ip.port}" if self._virtual_ip is not None else "",
            "note": published.note if published is not None else "",
            "error": self._told_error,
            "sources": explain.describe(now_s, self.want, self._known, self._hearing),
        }

    def __repr__(self) -> str:
        source = self._verdict.source.value or "nothing"
        return f"<ServiceResolver {self.want} by {source}>"


class _DnsListener:
    """Tells the chain what one DNS source says, for as long as it is the one in use."""

    def __init__(self, chain: ServiceResolver, source: DnsSource) -> None:
        self._chain = chain
        self._source = source

    def on_endpoints(self, endpoints: EndpointSet, /) -> None:
        self._chain.on_addresses(endpoints, self._source.together, self._source.answer)

    def on_error(self, error: ResolveError, /) -> None:
        self._chain.on_dns_error(error)
