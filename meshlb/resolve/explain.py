"""What each source said last, and why nothing is known: the words of errors and of ``describe()``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from meshlb.errors import PortNotFoundError, ResolveError, ServiceNotFoundError
from meshlb.resolve.known import Known, ServiceName, Verdict
from meshlb.resolve.kubernetes.transport import SourceError

_E = TypeVar("_E")


@dataclass(slots=True)
class LastWord(Generic[_E]):
    """When a source was last heard, and what it complained of; ``error`` is None after an answer.

    ``answered_s``: its last answer. ``lost_s``: since when it only complains; until then it stood by what it had answered.
    """

    used: bool
    heard_s: float | None = None
    error: _E | None = None
    answered_s: float | None = None
    lost_s: float | None = None

    def answered(self, now_s: float) -> None:
        self.heard_s = self.answered_s = now_s
        self.error = self.lost_s = None

    def failed(self, error: _E, now_s: float) -> None:
        self.heard_s, self.error = now_s, error
        self.lost_s = now_s if self.lost_s is None else self.lost_s

    @property
    def pending(self) -> bool:
        return self.used and self.heard_s is None

    @property
    def satisfied(self) -> bool:
        return self.heard_s is not None and self.error is None

    def describe(self, now_s: float, answer: str, confirmed_s: float | None) -> dict[str, Any]:
        """``age_s``: of its last word; ``confirmed_age_s``: since when nothing says any more that its last answer is true."""
        if not self.used:
            return {"said": "not used"}
        if self.heard_s is None:
            return {"said": "nothing yet"}
        failed = self.error is not None
        return {
            "said": str(self.error) if failed else answer,
            "failed": failed,
            "age_s": round(now_s - self.heard_s, 3),
            "confirmed_age_s": round(now_s - confirmed_s, 3) if confirmed_s is not None else None,
        }


@dataclass(slots=True)
class Hearing:
    """The API server's slices, DNS, and the Service itself as the API server reads it."""

    slices: LastWord[SourceError]
    dns: LastWord[ResolveError]
    service: LastWord[SourceError]


def why_nothing(verdict: Verdict, want: ServiceName, known: Known, hearing: Hearing) -> ResolveError:
    """The error for a verdict without a source, once everybody was heard."""
    if verdict.port_wrong:
        # Where slices are known they have said what there is; else the reason lies with those who could have said it.
        said = [] if known.slices else what_was_said(want, known, hearing)
        return PortNotFoundError(str(want), [verdict.problem, *said], summary="its port is not known")
    causes = ([verdict.problem] if verdict.problem else []) + what_was_said(want, known, hearing)
    # Who is refused, or has no API, cannot know better than those who answer; who is only away may know.
    slices_deny = hearing.slices.error.kind != "unreachable" if hearing.slices.error is not None else True
    dns_denies = not hearing.dns.used or isinstance(hearing.dns.error, ServiceNotFoundError)
    if slices_deny and dns_denies and known.service is None:
        return ServiceNotFoundError(str(want), causes, summary="no such Service")
    return ResolveError(str(want), causes)


def what_was_said(want: ServiceName, known: Known, hearing: Hearing) -> list[str]:
    """One line a source, each beginning with its name."""
    environment = f"says {known.env.host}" if known.env is not None else "does not know it"
    return [
        f"kubernetes: {_slices_said(want, known, hearing)}",
        f"dns: {_dns_said(known, hearing)}",
        f"environment: {environment}",
    ]


def describe(
    now_s: float, want: ServiceName, known: Known, hearing: Hearing, *, dns_answered_s: float | None = None
) -> dict[str, Any]:
    """What each source said, as plain data. ``dns_answered_s``: its last answer, also one that brought nothing new."""
    slices, service, dns = hearing.slices, hearing.service, hearing.dns
    watched_s = None if slices.answered_s is None else now_s if slices.lost_s is None else slices.lost_s
    return {
        "kubernetes": slices.describe(now_s, _slices_said(want, known, hearing), watched_s),
        "service": service.describe(now_s, _service_said(known, hearing), service.answered_s),
        "dns": dns.describe(now_s, _dns_said(known, hearing), dns.answered_s if dns_answered_s is None else dns_answered_s),
        "environment": {"said": f"ClusterIP {known.env.host}" if known.env is not None else "does not know it"},
    }


def policies(known: Known) -> dict[str, Any]:
    """What the Service wants of those who call it; where it cannot be read, that its wishes are not known and not heeded."""
    service = known.service
    if service is None:
        unknown = "not known, as the Service was not read; not applied"
        return {"internal_traffic_policy": unknown, "session_affinity": unknown}
    said: dict[str, Any] = {
        "internal_traffic_policy": service.internal_traffic_policy,
        "session_affinity": service.session_affinity,
    }
    if service.session_affinity == "ClientIP":
        said["affinity_timeout_s"] = service.affinity_timeout_s
    if service.publish_not_ready_addresses:
        said["publish_not_ready_addresses"] = True
    if service.external_name:
        said["external_name"] = service.external_name
    return said


def _slices_said(want: ServiceName, known: Known, hearing: Hearing) -> str:
    if not hearing.slices.used:
        return "not used"
    if hearing.slices.error is not None:
        return str(hearing.slices.error)
    if known.slices is None:
        return "nothing yet"
    if known.slices:
        found = sum(len(record.endpoints) for record in known.slices)
        if known.legacy:
            return f"{found} endpoints in the Endpoints object{', which is full' if known.truncated else ''}"
        return f"{found} endpoints in {len(known.slices)} slices"
    service = _service_said(known, hearing) if hearing.service.satisfied else ""
    return f"no EndpointSlice of {want.service} in namespace {want.namespace}{service and ', ' + service}"


def _service_said(known: Known, hearing: Hearing) -> str:
    if known.service is None:
        return "no such Service"
    return f"{'headless' if known.service.headless else known.service.type} Service"


def _dns_said(known: Known, hearing: Hearing) -> str:
    if not hearing.dns.used:
        return "not used"
    if hearing.dns.error is not None:
        return "; ".join(cause.removeprefix("dns: ") for cause in hearing.dns.error.causes)
    if hearing.dns.heard_s is None:
        return "nothing yet"
    return ", ".join(known.addresses or ()) or "not polled now"
