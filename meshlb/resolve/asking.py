"""Who is worth a question, by what is known: pure answers for ``chain``, whose module head has the table."""

from __future__ import annotations

from meshlb.resolve.explain import LastWord
from meshlb.resolve.known import Known, ServiceName, Source, Verdict, is_headless
from meshlb.resolve.kubernetes.transport import SourceError
from meshlb.resolve.ranking import service_is_outdated
from meshlb.resolve.telling import LISTED


def wants_dns(known: Known, want: ServiceName, verdict: Verdict, *, fallback: bool) -> bool:
    """May DNS say something that matters?"""
    if known.service is not None and known.service.external_name:
        return False
    if not known.slices and known.service is None:
        return True  # deleted, or never there: DNS shows what takes its name, also what will never have slices
    enough = LISTED if want.pods else (*LISTED, Source.CLUSTER_IP)
    if known.slices is None or known.stale or verdict.source not in enough:
        return True
    if want.pod or not fallback or not known.slices or is_headless(known):
        return False
    return known.service is None and known.addresses is None and known.env is None  # the ClusterIP is not known yet


def wants_service(known: Known, told: LastWord[SourceError]) -> bool:
    """The Service was not read yet, and may be; or what was read does not fit the slices."""
    if not told.satisfied:
        return told.error is None or told.error.kind != "forbidden" or service_is_outdated(known)
    return service_is_outdated(known) or (known.service is None and bool(known.slices))


def needs_service(known: Known, want: ServiceName) -> bool:
    """Does the choice of the port, or the authority, depend on the Service?"""
    names = {port.name for record in known.slices or () for port in record.ports}
    return not want.port.is_target and (not want.port.number or len(names) > 1)
