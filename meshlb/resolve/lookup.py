"""What one look-up of a name has found; the common language of DNS and the system's resolver."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Found(enum.Enum):
    """The four things that a look-up can mean. Only the first three are answers."""

    ADDRESSES = "addresses"
    NO_ADDRESS = "no address"  # NODATA: the name is there, without an address of the families asked for
    NO_NAME = "no such name"  # NXDOMAIN
    FAILED = "failed"  # nothing was learnt: SERVFAIL, REFUSED, no reply, no nameserver


@dataclass(frozen=True, slots=True, kw_only=True)
class SrvTarget:
    """One SRV record: ``name`` in lower case without its final dot; ``addresses`` from the answer itself (glue), perhaps none."""

    name: str
    port: int
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SrvEndpoint:
    """One address and one port that DNS gave together (SRV).

    ``of_pod``: the record's target is below the Service's name, so this is a pod and its own number; else it is the ClusterIP and
    the Service's. ``hostname`` is the pod's label in DNS, empty where it is not known; ``port_name`` the label that was asked for.
    """

    host: str
    port: int
    port_name: str = ""
    hostname: str = ""
    of_pod: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """One look-up of ``name``.

    ``addresses`` are IP literals of one family (of both from the system, the preferred one first), at least one if ``found`` is
    ADDRESSES, else none. ``alias`` is where the first CNAME leads, ``canonical_name`` where the last one does, without trailing dots.
    ``ttl_s`` is how long the answer may be believed, negative ones too. ``complete`` is False for an answer that was cut off. ``reason`` is for people: why there is no
    address, or why the answer is not complete. ``code`` tells answers apart in counters: DNS's own word (``NOERROR``,
    ``NXDOMAIN``, ``SERVFAIL``, ``REFUSED``, …), or ``NODATA``, ``TRUNCATED``, ``REFERRAL``,
    ``TIMEOUT``, ``UNREACHABLE``, ``INVALID`` (the answer) and ``INVALID NAME``.

    Of SRV: ``targets`` are what the answer says (``addresses`` stays empty), ``records`` what a Service's look-up made of it; None
    is "not learnt", empty is "there is none".
    """

    name: str
    found: Found
    addresses: tuple[str, ...] = ()
    alias: str = ""
    canonical_name: str = ""
    ttl_s: float = 0.0
    complete: bool = True
    reason: str = ""
    code: str = ""
    targets: tuple[SrvTarget, ...] = ()
    records: tuple[SrvEndpoint, ...] | None = None

    @property
    def absent(self) -> bool:
        """The source says that there is no address, which is not the same as saying nothing."""
        return self.found in (Found.NO_NAME, Found.NO_ADDRESS)
