"""One Service's sources, asked at once, ranked, and told as one truth: the resolver of everything that is a Service.

The API server and DNS race from the start; whatever answers is used until something better does (``ranking``). A better source
takes over make-before-break: common addresses keep their identity, the ClusterIP's connections move to the fallback, removals are
held (``publish``). *Losing* a source changes nothing: what it said last stays what it said, and only a newer answer of a source
that may know displaces it.

========================  ==========================================================================================================
what                      when
========================  ==========================================================================================================
EndpointSlices            watched from the start, for good; at a moment of their own if DNS has an answer meanwhile
DNS                       polled from the start; stopped while slices are synced, once the ClusterIP is known (or there is none);
                          again while the API server's word is stale (``confirmation``), or there are no slices and the Service is
                          unknown (deleted, or refused): an external name that takes its name shows in DNS alone
the Service               read after the first slices or their refusal, so that an API server that is away is asked once, not twice;
                          again every 300 to 600 s, and a few times before (``service_reads``) when it does not fit the slices (other
                          ports, an external name that has some), was deleted, or a connect failed: its ClusterIP may be another
the environment           when the API and DNS both failed, or said nothing for ``PATIENCE_S``
========================  ==========================================================================================================

DNS lists pods without their port's number. While slices may still say it (``API_PATIENCE_S``, or until their first error) no guess is
dialled. Sources contradict each other when a Service is changed or made anew: a port that nobody can map at the moment (neither by its
name nor by the number that was dialled so far), a Service that has slices and cannot be read, leave the published pods and the last
choice of a port as they are; the ClusterIP is for whoever has no pods yet.

A port may depend on the Service itself (several ports, an authority without a written number): slices then wait for it, though
never longer than ``PATIENCE_S``. A Service that nobody knows is told as an error as soon as everybody has answered, with what each
said; everybody goes on being asked, so it recovers by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from meshlb.core.clock import Rng
from meshlb.core.endpoint import EndpointSet
from meshlb.core.resolver import Listener
from meshlb.core.scheduler import Scheduler
from meshlb.errors import ResolveError
from meshlb.resolve import explain
from meshlb.resolve.asking import needs_service, wants_dns, wants_service
from meshlb.resolve.confirmation import Confirmation
from meshlb.resolve.env import EnvService
from meshlb.resolve.explain import Hearing, LastWord
from meshlb.resolve.external import ExternalName, NewExternal
from meshlb.resolve.families import FamilyChange
from meshlb.resolve.known import Concern, Known, ServiceName, Source, Verdict, external_name, hosts_of, is_headless
from meshlb.resolve.kubernetes.feed import ServiceSlices
from meshlb.resolve.kubernetes.service_wire import ServiceRecord
from meshlb.resolve.kubernetes.transport import SourceError
from meshlb.resolve.place import OwnPlace
from meshlb.resolve.ranking import decide, numbers_by, service_is_outdated
from meshlb.resolve.routes import Routes
from meshlb.resolve.service_reads import ServiceReads
from meshlb.resolve.settings import Fallback
from meshlb.resolve.sources import DnsSource, Heard, SlicesSource, Watched
from meshlb.resolve.telling import LISTED, Teller
from meshlb.resolve.timers import Timers

API_PATIENCE_S = 2.0  # a first list takes well under one, with the import of the client
PATIENCE_S = 0.25  # an in-cluster answer takes milliseconds; beyond this the next best is used meanwhile


class ServiceResolver:
    """A ``Resolver`` for one Service (``want``), or one pod of it; lives on the discovery thread.

    ``kubernetes`` and ``new_dns`` are None where that source is not to be used; ``env`` is None where the environment does not know
    the Service, or speaks of another namespace's. ``own`` and ``routes`` are shared by all; ``new_external`` makes the resolver of
    the name that an ExternalName Service stands for.
    """

    def __init__(
        self,
        want: ServiceName,
        *,
        kubernetes: SlicesSource | None,
        new_dns: Callable[[], DnsSource] | None,
        env: EnvService | None,
        fallback: Fallback,
        own: OwnPlace,
        routes: Routes,
        new_external: NewExternal,
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
        self._hearing = Hearing(slices=LastWord(used=api), dns=LastWord(used=new_dns is not None), service=LastWord(used=api))
        self._verdict = Verdict(source=Source.NOTHING)
        self._version = ""
        self._teller: Teller | None = None  # while started and not closed
        self._watch: Watched | None = None
        self._dns: DnsSource | None = None
        self._timers = Timers(scheduler)
        self._reads = ServiceReads(
            want,
            kubernetes,
            timers=self._timers,
            scheduler=scheduler,
            rng=rng,
            heard=self._on_service,
            late=self._evaluate,
        )
        self._own = own
        self._routes = routes
        self._unsubscribe: Callable[[], None] | None = None
        self._external = ExternalName(str(want), new_external, Heard(self._on_external, self._on_external_error))
        self._confirmation = Confirmation(self._timers, scheduler, self._evaluate)
        self._families = FamilyChange(self._timers, self._evaluate)
        self._truncated = 0  # Endpoints objects that were full
        self._impatient = False  # PATIENCE_S is over
        self._renews = False  # the fallback's connections too

    # --- Resolver ---------------------------------------------------------------------------------------------------------

    def start(self, listener: Listener, /) -> None:
        self._teller = Teller(
            self.want, listener, fallback=self._fallback, scheduler=self._scheduler, rng=self._rng, on_change=self._evaluate
        )
        self._timers.after("patience", PATIENCE_S, self._lose_patience)
        self._timers.after("api patience", API_PATIENCE_S, self._evaluate)
        self._unsubscribe = self._own.subscribe(self._evaluate)
        if self._kubernetes is not None:
            self._watch = self._kubernetes.watch(self.want.namespace, self.want.service, self)
        self._steer_dns()
        self._evaluate()

    def resolve_now(self) -> None:
        """A connect failed: DNS is asked sooner, if it is in use. A watch needs no hint; nobody watches the ClusterIP.

        Of pods that nobody confirms one is gone: the ClusterIP may have to serve for long, so its connections are renewed.
        """
        if self._verdict.unverified and not self._renews:
            self._renews = True
            self._evaluate()
        if self._dns is not None:
            self._dns.resolve_now()
        self._external.resolve_now()
        if self._verdict.virtual_ip is not None and self._hearing.service.satisfied and self._hearing.slices.satisfied:
            self._reads.doubt()

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
        if self._dns is not None:
            self._dns.close()
        if self._teller is not None:
            self._teller.close()
            self._teller = None
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._external.close()
        self._reads.close()
        self._timers.cancel_all()

    # --- the sources speak ------------------------------------------------------------------------------------------------

    def on_slices(self, slices: ServiceSlices, /) -> None:
        """The whole truth of the API server about this Service."""
        if self._known.slices and not slices.slices:
            self._forget()
        elif self._known.seen and not self._known.slices and slices.slices and self._known.service is None:
            self._close_dns()  # what it says may be of the Service that had this name before
        known = self._known
        before = (known.before if known.legacy else known.slices or ()) if slices.truncated else ()
        self._known = replace(
            known,
            slices=slices.slices,
            before=before,
            seen=known.seen or bool(slices.slices),
            legacy=slices.kind == "endpoints",
            truncated=slices.truncated,
        )
        self._truncated += slices.truncated
        self._version = slices.resource_version
        self._hearing.slices.answered(self._scheduler.now_s())
        if slices.lost_s is None:
            self._confirmation.confirmed()
        else:  # another target of this Service has heard for some time that nobody confirms it
            self._hearing.slices.lost_s = slices.lost_s
            self._confirmation.lost(slices.lost_s)
        if self._hearing.service.satisfied and service_is_outdated(self._known):
            self._reads.doubt()
        elif wants_service(self._known, self._hearing.service):
            self._reads.read()
        told_before = set(map(id, known.slices or ()))
        self._own.learn(record for record in slices.slices if id(record) not in told_before)
        self._evaluate()

    def _forget(self) -> None:
        """A Service loses its last slice when it is deleted; one that takes its name may be of another kind."""
        self._known = Known(env=self._known.env, seen=True, chosen=self._known.chosen, dialled=self._known.dialled)
        self._reads.forget()
        self._hearing.service = LastWord(used=self._hearing.service.used)
        self._hearing.dns = LastWord(used=self._hearing.dns.used)

    def on_source_error(self, error: SourceError, /) -> None:
        """The API server cannot be asked, or refuses; what it said before stands."""
        self._hearing.slices.failed(error, self._scheduler.now_s())
        if self._known.slices is not None:
            self._confirmation.lost()
        if error.kind == "forbidden" and not self._hearing.service.satisfied:
            self._reads.read()
        self._evaluate()

    def on_addresses(self, endpoints: EndpointSet, source: DnsSource) -> None:
        """DNS's addresses changed, or what ``source`` says of them."""
        addresses = tuple(endpoint.host for endpoint in endpoints.endpoints)
        before = self._known.dns_lists_pods
        known = replace(
            self._known,
            addresses=addresses,
            answer=source.answer,
            complete=source.complete,
            unseen=endpoints.unverified,
            records=source.records,
            alias=source.alias,
            dns_lists_pods=False,
        )
        # An address that comes alone may be a ClusterIP. A target port has no number on that, and is dialled as before.
        stays = before and (len(addresses) != 1 or self.want.port.is_target)
        self._known = replace(known, dns_lists_pods=stays or source.together or is_headless(known) is True)
        self._hearing.dns.answered(self._scheduler.now_s())
        self._confirmation.dns_answered(complete=source.complete)
        self._evaluate()

    def on_dns_error(self, error: ResolveError) -> None:
        self._hearing.dns.failed(error, self._scheduler.now_s())
        self._confirmation.dns_failed()
        self._evaluate()

    def _on_service(self, record: ServiceRecord | None, error: SourceError | None) -> None:
        if error is not None:
            self._hearing.service.failed(error, self._scheduler.now_s())
        else:
            self._hearing.service.answered(self._scheduler.now_s())
            if record is not None or not self._known.slices:  # who still has slices was not deleted: they would go with it
                self._known = replace(self._known, service=record)
            known = self._known
            if (record is None and known.seen and not known.slices) or service_is_outdated(known):
                self._reads.doubt()
        self._evaluate()

    def _on_external(self, endpoints: EndpointSet) -> None:
        """Of the name that this Service stands for."""
        if self._teller is not None:
            self._teller.relay(endpoints)

    def _on_external_error(self, error: ResolveError) -> None:
        if self._teller is not None:
            self._teller.tell_error(error)

    def _lose_patience(self) -> None:
        self._impatient = True
        self._evaluate()

    # --- what is asked besides the watch ----------------------------------------------------------------------------------

    def _steer_dns(self) -> None:
        """Poll DNS while it may matter, and only then."""
        if wants_dns(self._known, self.want, self._verdict, fallback=self._fallback.enabled):
            if self._dns is None and self._new_dns is not None:
                dns = self._dns = self._new_dns()
                dns.start(Heard(lambda endpoints: self.on_addresses(endpoints, dns), self.on_dns_error))
        elif is_headless(self._known) is not False:
            self._close_dns()
        else:
            self._close_dns(forget=False)  # pods' addresses grow old; a ClusterIP is kept as the fallback

    def _close_dns(self, *, forget: bool = True) -> None:
        if self._dns is not None:
            self._dns.close()
            self._dns = None
            self._confirmation.dns_closed()
            if forget:
                self._known = replace(self._known, addresses=None, records=None, alias="")

    # --- judging ----------------------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        teller = self._teller
        if teller is None:
            return
        known = replace(self._known, place=self._own.place, unroutable=self._routes.lacking(hosts_of(self._known)))
        known = self._known = self._confirmation.of(self._families.of(known, lists_pods=teller.lists_pods))
        if self._external.follow(external_name(known), known.service):
            self._steer_dns()
            return
        hearing = self._hearing
        waits = bool(known.slices) and self._reads.awaited and needs_service(known, self.want)
        verdict = decide(replace(known, slices=None) if waits else known, self.want, cluster_ip=self._fallback.enabled)
        if Concern.NUMBER_UNMAPPED in verdict.concerns and teller.lists_pods:
            problem = (
                f"{self.want.port} is no pod's port any more, and the Service that maps it cannot be read, or was not yet again"
            )
            verdict = Verdict(source=Source.NOTHING, problem=problem, port_wrong=True)
        racing = waits or self._reads.awaited or hearing.slices.pending or (self._dns is not None and hearing.dns.pending)
        self._verdict = verdict
        if verdict.selector is not None and verdict.pods:
            self._known = replace(known, chosen=verdict.selector, dialled=numbers_by(verdict.selector, known))
        if self._pods_may_still_be_told(teller.published, verdict, waits):
            teller.keep_pods()
        elif verdict.source is Source.NOTHING:
            teller.keep_pods()
            if not racing or (verdict.port_wrong and known.slices and not waits):
                teller.tell_error(explain.why_nothing(verdict, self.want, known, hearing))
                if verdict.port_wrong and known.service is not None:
                    teller.take_back_a_guess(verdict.problem)
                teller.advise(verdict, hearing.slices.error)
        elif verdict.source is not Source.ENVIRONMENT or self._impatient or not racing:
            self._renews = self._renews and bool(verdict.unverified)
            teller.tell(verdict, self._version, renew=self._renews)
            if not (waits or hearing.slices.pending):
                teller.advise(verdict, hearing.slices.error)
        if self._watch is not None and teller.published is None and (self._impatient or not hearing.dns.pending):
            self._watch.hurry()
        self._steer_dns()

    def _pods_may_still_be_told(self, published: EndpointSet | None, verdict: Verdict, waits: bool) -> bool:
        """Slices are about to say better than ``verdict``, so that it is not worth a change, or a port that is a guess."""
        if waits and published is not None and published.source in [source.value for source in LISTED]:
            return True
        return Concern.DNS_PORT in verdict.concerns and self._hearing.slices.pending and "api patience" in self._timers

    # --- for people -------------------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Which source is in use and why, and what each said, as plain data; any thread."""
        now_s, teller = self._scheduler.now_s(), self._teller
        return {
            "service": self.want.service,
            "namespace": self.want.namespace,
            "port": str(self.want.port),
            "headless": is_headless(self._known),
            **(teller.describe(now_s) if teller is not None else {}),
            **self._confirmation.describe(now_s),
            "truncated_answers": self._truncated,
            "place": {"node": self._own.place.node, "zone": self._own.place.zone},
            "policies": explain.policies(self._known),
            "dns": self._dns.describe() if self._dns is not None else {},
            "sources": explain.describe(
                now_s, self.want, self._known, self._hearing, dns_answered_s=self._dns.answered_s if self._dns is not None else None
            ),
        }

    def __repr__(self) -> str:
        source = self._verdict.source.value or "nothing"
        return f"<ServiceResolver {self.want} by {source}>"
