"""What DNS says about one Service in one look-up: SRV, which has ports and tells pods from a ClusterIP, else A or AAAA.

=================  ====================================================  ==========================================================
the port is        asked                                                 CoreDNS answers
=================  ====================================================  ==========================================================
a name             SRV ``_<port>._tcp.<service>``                        that port
a number, nothing  SRV ``<service>`` itself                              every port, unnamed ones too (its own habit, in no
                                                                         specification; others say NODATA)
nothing, and the   SRV ``_<protocol>._tcp.<service>``                    the port that is called ``grpc``
above has several
=================  ====================================================  ==========================================================

A target that *is* the Service's name is its ClusterIP with the Service's port; a target below it is a pod with its own (target)
port, whose first label is the pod's hostname. Addresses come along (glue), so this is one question. The Service's own addresses are
asked besides where SRV is denied (unnamed ports, another server), fails, or came without all its addresses; if all its records have
one port, that is then the port of the addresses as well. So a look-up costs two questions at most, but for the third line above,
and one that was answered with NODATA is not repeated for ``PAUSE_S``. One that failed, or was answered before, where the addresses
are known, is paused for ``FIRST_PAUSE_S``, doubled up to that: packets get lost, a replica may lag, and a port's name is known by no
other way. NXDOMAIN does not pause it: a headless Service has no name while no pod is ready.

One pod of a Service: the SRV records at the pod's own name, or those of the Service's port that lead to it.

Spec: Kubernetes DNS specification 1.1.0, 2.3.2 and 2.4.2; RFC 2782.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from meshlb.core.target import PortRef
from meshlb.resolve.dns_client import TOTAL_S, DnsClient
from meshlb.resolve.lookup import Found, Lookup, SrvEndpoint, SrvTarget
from meshlb.resolve.ports import DEFAULT_NUMBERS

SRV_S: Final = 2.0  # of TOTAL_S: whoever drops SRV may yet answer A
PAUSE_S: Final = 60.0
FIRST_PAUSE_S: Final = 1.0


class ServiceLookup:
    """Call it to look ``service`` (absolute, with its final dot) or one ``pod`` of it up; blocks, one call at a time."""

    def __init__(self, service: str, *, client: DnsClient, pod: str = "", port: PortRef, protocol: str) -> None:
        self._service = service.rstrip(".").lower()
        self._pod = pod.lower()
        self._name = f"{pod}.{service}" if pod else service
        self._client = client
        named = port.name and not port.is_target
        self._first = f"_{port.name}._tcp.{service}" if named else self._name
        self._question = self._first
        # Asked where nothing was written, several ports are there and no number is understood.
        self._fitting = "" if port or pod or protocol in DEFAULT_NUMBERS else f"_{protocol}._tcp.{service}"
        self._paused: dict[str, float] = {}
        self._failures: dict[str, int] = {}  # of a question, in a row
        self._answered: set[str] = set()

    def __call__(self) -> Lookup:
        deadline_s = time.monotonic() + TOTAL_S
        found = self._srv(self._question, deadline_s)
        if found is not None and found.absent and self._question != self._first:
            self._question = self._first
            found = self._srv(self._first, deadline_s)
        if found is not None and found.found is Found.ADDRESSES:
            self._failures.clear()
            self._answered.add(self._question)
            return self._with_addresses(self._fit(found, deadline_s), deadline_s)
        addresses = self._client.lookup(self._name, within_s=deadline_s - time.monotonic())
        if addresses.found is Found.ADDRESSES and found is not None and found.found is not Found.NO_NAME:
            self._pause(self._question, found)
        return replace(addresses, records=() if found is not None and found.absent else None)

    def _srv(self, question: str, deadline_s: float) -> Lookup | None:
        """None: it is paused, so nothing is learnt."""
        if time.monotonic() < self._paused.get(question, 0.0):
            return None
        return self._client.srv(question, within_s=min(SRV_S, deadline_s - time.monotonic()))

    def _pause(self, question: str, found: Lookup | None) -> None:
        pause_s = PAUSE_S
        if question in self._answered or (found is not None and found.found is Found.FAILED):
            failures = self._failures.get(question, 0)
            self._failures[question] = min(failures + 1, 6)
            pause_s = min(PAUSE_S, FIRST_PAUSE_S * 2**failures)
        self._paused[question] = time.monotonic() + pause_s

    def _fit(self, found: Lookup, deadline_s: float) -> Lookup:
        """Of several ports the one that is called like the protocol, if DNS knows it; it is asked first from then on."""
        several = len({target.port for target in found.targets}) > 1
        if not (several and self._fitting and self._question == self._first):
            return found
        fitting = self._srv(self._fitting, deadline_s)
        if fitting is not None and fitting.found is Found.ADDRESSES:
            self._question = self._fitting
            return fitting
        self._pause(self._fitting, fitting)
        return found

    def _with_addresses(self, found: Lookup, deadline_s: float) -> Lookup:
        targets = found.targets
        if self._pod:
            targets = tuple(target for target in targets if self._label(target) == self._pod)
        records = {self._record(address, target) for target in targets for address in target.addresses}
        if not (found.complete and targets and all(target.addresses for target in targets)):
            plain = self._client.lookup(self._name, within_s=deadline_s - time.monotonic())
            whole = False
            if plain.addresses and len({target.port for target in targets}) == 1:
                is_virtual_ip = targets[0].name == self._service
                whose = replace(targets[0], name=self._service if is_virtual_ip else "")
                listed = {record.host for record in records}
                records |= {self._record(address, whose) for address in plain.addresses if address not in listed}
                whole = plain.complete
            if not records:
                return replace(plain, records=None)
            ttl_s = min(found.ttl_s, plain.ttl_s) if plain.addresses else found.ttl_s
            found = replace(found, complete=whole, ttl_s=ttl_s)
        ordered = sorted(records, key=lambda record: (record.host, record.port, record.hostname))
        addresses = tuple(dict.fromkeys(record.host for record in ordered))
        return replace(found, name=self._name, alias="", canonical_name="", addresses=addresses, records=tuple(ordered), targets=())

    def _record(self, address: str, target: SrvTarget) -> SrvEndpoint:
        label = self._question.partition(".")[0]
        port_name = label[1:] if label.startswith("_") else ""
        of_pod = target.name != self._service
        return SrvEndpoint(host=address, port=target.port, port_name=port_name, hostname=self._label(target), of_pod=of_pod)

    def _label(self, target: SrvTarget) -> str:
        """The pod's own label, where the target is one below the Service's name."""
        label, _, rest = target.name.partition(".")
        return label if rest == self._service else ""
