"""``meshlb doctor TARGET``: each source asked by itself, everything at once, and then what discovery as a whole makes of it.

The checks ask with discovery's own rooms (credentials, connections, requests, DNS exchange, the choice of a port), and who would serve
is what a real ``Mesh`` says: the doctor has no opinion of its own that could differ.

It takes 15 s at most, whatever hangs: every phase waits for helper threads, for its own time and for no more than is left until
``END_S``. Configuration and files (a kubeconfig on a dead mount) have 3 s; credentials (a plug-in may be slow), DNS and discovery
begin together and have 4.5 s; then the API server has 3.5 s and its reads 3 s, discovery 9 s since its start, and the connects 1.3 s.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from meshlb.cli.cluster import ClusterFlags, stock_channel
from meshlb.cli.doctor import dns, reach, report, surroundings
from meshlb.cli.doctor.api import ApiExam
from meshlb.cli.doctor.check import FAIL, OK, WARN, Check, Finding, Probe, examine, within
from meshlb.cli.doctor.verdict import BY_CLUSTER_IP, SERVED, Verdict, judge
from meshlb.cli.resolve import look
from meshlb.config import Config
from meshlb.core.endpoint import Place
from meshlb.core.target import Target
from meshlb.errors import MeshError
from meshlb.resolve.classify import Classifier
from meshlb.resolve.known import ServiceName
from meshlb.resolve.resolv_conf import ResolvConf
from meshlb.resolve.sidecar import detect
from meshlb.runtime.clock import system_rng
from meshlb.runtime.loop import Loop

END_S: Final = 13.5  # and then the connects
PREPARE_S: Final = 3.0
FIRST_S: Final = 4.5
DISCOVERY_S: Final = 6.0  # a first call waits 5
DISCOVERY_END_S: Final = DISCOVERY_S + 3.0  # and a moment for the API server, and to close
_PODS_ADVICE: Final = (
    "kube-proxy chooses a pod for each connection; to balance call by call over the pods, allow this client to list and watch "
    "EndpointSlices, or make the Service headless (clusterIP: None)"
)


def doctor(target: str, cluster: ClusterFlags, *, as_json: bool) -> int:
    """Print the report; 0 pods would serve and all is well, 1 degraded, 2 nobody would serve. Raises MeshError for a wrong call."""
    start_s = time.monotonic()
    show = report.as_json if as_json else report.as_text
    title = {"target": target, "service": "", "namespace": "", "cluster": ""}
    stock = stock_channel(target)
    if stock:
        verdict = Verdict(status=SERVED, by="stock", source="", endpoints=0, why=stock)
        print(show(title, [], verdict, time.monotonic() - start_s))
        return SERVED
    logging.getLogger("meshlb").addHandler(logging.NullHandler())  # what it would say is in the report

    def left_s(longest_s: float) -> float:
        return max(0.0, min(longest_s, start_s + END_S - time.monotonic()))

    try:
        subject = within(lambda: _Subject(target, cluster), PREPARE_S)
    except TimeoutError:
        checks = [_unread()]
        verdict = judge(_nothing(checks[0].detail), checks)
    else:
        discovery = _Discovery(target, subject.config, left_s)
        title["cluster"] = subject.where
        if subject.want is not None:
            title |= {"service": subject.want.service, "namespace": subject.want.namespace}
            checks = _service(subject, subject.want, discovery, left_s)
        else:
            checks = [discovery.check(), *reach.checks(discovery.usable, "", "no Service is meant")]
        verdict = judge(discovery.described, checks, sidecar=subject.sidecar is not None)
    print(show(title, checks, verdict, time.monotonic() - start_s))
    return verdict.status


class _Subject:
    """What the report is about: all that configuration and files say, read before anybody is asked. Raises MeshError."""

    def __init__(self, target: str, cluster: ClusterFlags) -> None:
        parsed = Target.parse(target)
        self.config, where = cluster.config_for(parsed)
        self.where = where or ""
        settings = self.config.discovery
        classifier = Classifier(settings, self.config.fallback, scheduler=Loop(), rng=system_rng(), environ=os.environ)
        self.want = classifier.wanted(parsed) if classifier.key(parsed).cluster else None
        self.sidecar = classifier.sidecar_of(parsed)
        self.zone, self.own_namespace = classifier.own.zone, classifier.own.own_namespace
        self.dns_name = classifier.dns_name(self.want) if self.want is not None else ""
        self.env = classifier.env(parsed) if self.want is not None else None
        self.resolv_conf = ResolvConf.read(settings.resolv_conf)
        self.beside = detect(os.environ)


def _unread() -> Check:
    return Check(
        name="configuration",
        status=FAIL,
        what="the configuration and its files",
        took_ms=round(PREPARE_S * 1000, 1),
        detail=f"not read in {PREPARE_S:g} s",
        advice="the kubeconfig, resolv.conf or the service account's folder is on a mount that hangs, or one of them is a pipe",
    )


def _service(subject: _Subject, want: ServiceName, discovery: _Discovery, left_s: Callable[[float], float]) -> list[Check]:
    settings, env = subject.config.discovery, subject.env
    exam = ApiExam(settings, os.environ, want)
    first = [
        exam.credentials(),
        Probe("environment", "the environment", lambda: surroundings.environment(env, want, subject.own_namespace)),
        Probe("resolv.conf", settings.resolv_conf, lambda: dns.resolv_conf(settings, subject.resolv_conf, subject.zone)),
        *dns.probes(settings, subject.resolv_conf, subject.dns_name, want),
    ]
    credentials, *others = dns.weigh(examine(first, left_s(FIRST_S)))
    api = exam.checks(left_s)
    found = discovery.check(sidecar=not want.pods)
    hinted = any(endpoint.hints.zones or endpoint.hints.nodes for record in exam.slices or () for endpoint in record.endpoints)
    local = exam.service is not None and exam.service.local_only
    last = [
        Probe("sidecar", "a service mesh's sidecar", lambda: surroundings.sidecar(subject.beside, settings.sidecar)),
        Probe("port", "the port", lambda: surroundings.port(want, exam.service, exam.slices, env, discovery.usable)),
        Probe("place", "where this runs", lambda: surroundings.place(discovery.place, hinted or local)),
    ]
    pods = [one for one in discovery.usable if not one["uid"].startswith("clusterip/")]
    cluster_ip, why = _cluster_ip(exam, discovery)
    return [credentials, *api, *others, *examine(last, FIRST_S), found, *reach.checks(pods, cluster_ip, why)]


def _cluster_ip(exam: ApiExam, discovery: _Discovery) -> tuple[str, str]:
    """``ip:port`` of what discovery has as such, or why there is none."""
    if discovery.cluster_ip:
        return discovery.cluster_ip, ""
    if exam.service is not None and exam.service.headless:
        return "", "the Service is headless"
    if exam.service is not None and exam.service.cluster_ips:
        return "", "discovery has no use for it"
    return "", "it is not known"


class _Discovery:
    """What the library itself makes of the target, found out in the background."""

    def __init__(self, target: str, config: Config, left_s: Callable[[float], float]) -> None:
        self.described = self._described = _nothing("not asked yet")
        self._left_s = left_s
        self._start_s = time.monotonic()
        self._took_s = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(target, config), name="doctor-discovery", daemon=True)
        self._thread.start()

    def _look(self, target: str, config: Config) -> None:
        try:
            self._described = look(target, config, DISCOVERY_S)
        except MeshError as error:
            self._described = _nothing(str(error))
        self._took_s = time.monotonic() - self._start_s
        self._done.set()

    def check(self, *, sidecar: bool = False) -> Check:
        """Wait for it, for at most what is left of its time. ``sidecar``: that it stays with the ClusterIP is meant so."""
        timely = self._done.wait(self._left_s(max(0.0, self._start_s + DISCOVERY_END_S - time.monotonic())))
        self.described = self._described if timely else _nothing("discovery did not answer in time")
        finding = _finding(self.described, len(self.usable), sidecar)
        return Check(
            name="discovery",
            status=finding.status,
            what="discovery as a whole",
            took_ms=round(self._took_s * 1000, 1),
            detail=finding.detail,
            advice=finding.advice,
        )

    @property
    def usable(self) -> Sequence[dict[str, Any]]:
        return [one for one in self.described["endpoints"] if one["state"].startswith("usable")]

    @property
    def place(self) -> Place:
        """Where it takes this process to run."""
        return Place(**((self.described.get("discovery") or {}).get("place") or {}))

    @property
    def cluster_ip(self) -> str:
        every = (*self.described["endpoints"], *self.described["fallback"])
        return next((one["address"] for one in every if one["uid"].startswith("clusterip/")), "")


def _finding(described: dict[str, Any], usable: int, sidecar: bool) -> Finding:
    if described["explained"]:
        return Finding(FAIL, described["explained"])
    said = f"{usable} usable by {described['source']}{described['note'] and ', ' + described['note']}"
    if described["source"] in BY_CLUSTER_IP and not sidecar:
        return Finding(WARN, f"only the ClusterIP: {described['note']}", _PODS_ADVICE)
    return Finding(OK if usable else FAIL, said)


def _nothing(why: str) -> dict[str, Any]:
    return {"source": "", "authoritative": False, "note": "", "endpoints": [], "fallback": [], "explained": why}
