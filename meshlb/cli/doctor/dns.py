"""What each nameserver says of the name by itself: over UDP for each type of record, and over TCP, which large answers need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from meshlb.cli.doctor.check import FAIL, OK, SKIPPED, WARN, Check, Finding, Probe
from meshlb.resolve.fork_gate import fork_gate
from meshlb.resolve.known import ServiceName
from meshlb.resolve.lookup import Found, Lookup
from meshlb.resolve.resolv_conf import ResolvConf, split_server
from meshlb.resolve.settings import Discovery

TRY_S: Final = 2.0  # a reply takes milliseconds; discovery itself goes to the next server much sooner
MAX_SERVERS: Final = 3  # resolv.conf's own limit
_SHOWN: Final = 4


def resolv_conf(discovery: Discovery, conf: ResolvConf, zone: str) -> Finding:
    """What the file says, and what is taken where it says nothing."""
    if conf.problem:
        status = OK if discovery.nameservers else FAIL
        return Finding(status, conf.problem, "" if status == OK else "name nameservers: --nameserver or discovery.nameservers")
    source = "" if conf.cluster_domain else " (not from this file)"
    asked = ", ".join(conf.nameservers) or "none"
    if discovery.nameservers:
        asked += f", replaced by {', '.join(discovery.nameservers)}"
    detail = f"nameservers {asked}; zone {zone}{source}; search {' '.join(conf.search) or 'none'}; ndots {conf.ndots}"
    if not (conf.nameservers or discovery.nameservers):
        return Finding(FAIL, detail, "name nameservers: --nameserver or discovery.nameservers")
    if not conf.cluster_domain and not discovery.cluster_domain:
        advice = "no search entry begins with 'svc.': not a pod's file, or a pod with hostNetwork: set dnsPolicy: ClusterFirstWithHostNet"
        return Finding(WARN, detail, advice)
    return Finding(OK, detail)


def probes(discovery: Discovery, conf: ResolvConf, name: str, want: ServiceName) -> list[Probe]:
    """Of those that discovery asks; ``name`` is the Service's in DNS, absolute."""
    if "dns" not in discovery.sources:
        return [Probe("dns udp", "DNS", lambda: Finding(SKIPPED, "DNS is not among the sources that are configured"))]
    service_port = f"_{want.port.name}._tcp.{name}" if want.port.name else name
    questions = (("A", name), ("AAAA", name), ("SRV", service_port))
    found = []
    for server in (discovery.nameservers or conf.nameservers)[:MAX_SERVERS]:
        for kind, asked in questions:
            found.append(Probe("dns udp", f"{kind} {asked} of {server} over UDP", _udp(asked, kind, server), _UDP_ADVICE))
        found.append(Probe("dns tcp", f"A {name} of {server} over TCP", _tcp(name, server), _TCP_ADVICE))
    return found


def weigh(checks: Sequence[Check]) -> list[Check]:
    """One nameserver that answers is enough: the failure of another is a warning then."""
    if not any(check.name == "dns udp" and check.status in (OK, WARN) for check in checks):
        return list(checks)
    return [replace(check, status=WARN) if check.name == "dns udp" and check.status == FAIL else check for check in checks]


def _udp(name: str, kind: str, server: str) -> Callable[[], Finding]:
    def ask() -> Finding:
        with fork_gate:
            from meshlb.resolve import dns_exchange
        try:
            found = dns_exchange.ask(name, kind, split_server(server), TRY_S, tcp_timeout_s=0.0, families=("ipv4", "ipv6"))
        except TimeoutError:
            return Finding(FAIL, f"no reply in {TRY_S:g} s", _UDP_ADVICE)
        except OSError as error:
            return Finding(FAIL, error.strerror or str(error), _UDP_ADVICE)
        return _read(found, kind)

    return ask


def _tcp(name: str, server: str) -> Callable[[], Finding]:
    def ask() -> Finding:
        with fork_gate:
            from meshlb.resolve import dns_exchange
        try:
            found = dns_exchange.ask_over_tcp(name, "A", split_server(server), TRY_S)
        except TimeoutError:
            return Finding(WARN, f"no connection or no reply in {TRY_S:g} s", _TCP_ADVICE)
        except OSError as error:
            return Finding(WARN, error.strerror or str(error), _TCP_ADVICE)
        return Finding(OK, f"open, {found.code or found.found.value}")

    return ask


def _read(found: Lookup, kind: str) -> Finding:
    ttl = f"TTL {found.ttl_s:g} s"
    if found.found is Found.ADDRESSES:
        records = found.addresses or tuple(f"{target.name}:{target.port}" for target in found.targets)
        more = f" and {len(records) - _SHOWN} more" if len(records) > _SHOWN else ""
        cut = "" if found.complete else ", cut off: the rest needs TCP"
        return Finding(OK, f"{found.code}, {len(records)}: {', '.join(records[:_SHOWN])}{more}; {ttl}{cut}")
    if found.found is Found.NO_ADDRESS:
        return Finding(OK, f"{found.code or 'NODATA'}: the name is there, without {kind} records; {ttl}")
    if found.found is Found.NO_NAME:
        srv = kind == "SRV"
        return Finding(OK if srv else WARN, f"NXDOMAIN; {ttl}", "" if srv else _NXDOMAIN)
    return Finding(FAIL, found.reason, _FAILED)


_UDP_ADVICE: Final = "is it this cluster's DNS, and does no NetworkPolicy close UDP port 53 to it?"
_TCP_ADVICE: Final = (
    "answers of more than 1232 bytes (about 70 pods) are cut off without it: allow TCP port 53 beside UDP in the NetworkPolicy"
)
_NXDOMAIN: Final = "no such Service, a headless one without a ready pod, or a nameserver that does not serve this cluster's zone"
_FAILED: Final = "it answers, and refuses or fails: is it this cluster's DNS, and is that healthy?"
