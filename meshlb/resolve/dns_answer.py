"""What a nameserver's response means: a message of A, AAAA or SRV records -> ``Lookup``. Pure.

SRV. Weights mean nothing (CoreDNS writes 100/N) and are not read. Of several priorities only the lowest number is used, as RFC 2782
wants while those can be reached; the others are not kept as spares, as no cluster DNS has any. Port 0 and the target "." say "not
here". The Additional section's addresses (glue) are used in one family for the whole answer, the first that has any: a dual-stack
pod stands there with both.

Names are compared as DNS does, without regard to case: a server may answer in any (0x20).

Spec: RFC 1035, RFC 2308 (negative answers and their TTL), RFC 2782 (SRV). Imported lazily, as it imports dnspython.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from meshlb.resolve.lookup import Found, Lookup, SrvTarget

MAX_TTL_S: Final = 300.0  # a denial without an SOA has none, which old versions of dnspython report as 2**32 - 1
ADDRESS_TYPES: Final = {"ipv4": dns.rdatatype.A, "ipv6": dns.rdatatype.AAAA}


def read(name: str, response: dns.message.Message, complete: bool, families: Sequence[str] = ("ipv4", "ipv6")) -> Lookup:
    """``complete``: the response is whole. ``families``: which glue is wanted, the preferred one first."""
    rcode = response.rcode()
    code = dns.rcode.to_text(rcode)
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return Lookup(name=name, found=Found.FAILED, reason=code, code=code)
    try:
        chain = response.resolve_chaining()  # type: ignore[attr-defined]
    except dns.exception.DNSException as error:
        return Lookup(name=name, found=Found.FAILED, reason=f"an answer that cannot be followed: {error}", code="INVALID")
    answer = Lookup(
        name=name,
        found=Found.ADDRESSES,
        alias=_alias(response),
        canonical_name=_text(chain.canonical_name),
        # The least along the aliases; of a denial the SOA's.
        ttl_s=min(float(chain.minimum_ttl), MAX_TTL_S),
        complete=complete,
        code=code if complete else "TRUNCATED",
    )
    if chain.answer is not None:
        if chain.answer.rdtype != dns.rdatatype.SRV:
            return replace(answer, addresses=tuple(sorted({record.address for record in chain.answer})))
        targets = _targets(chain.answer, response, families)
        if targets:
            return replace(answer, targets=targets)
    if not complete:
        reason = "an answer that was cut off before its first record"
        return Lookup(name=name, found=Found.FAILED, reason=reason, code="TRUNCATED")
    return _denial(answer, response)


def _denial(answer: Lookup, response: dns.message.Message) -> Lookup:
    types = {rrset.rdtype for rrset in response.authority}
    if response.rcode() == dns.rcode.NXDOMAIN:
        found, code, reason = Found.NO_NAME, "NXDOMAIN", "NXDOMAIN"
    elif dns.rdatatype.NS in types and dns.rdatatype.SOA not in types and not response.flags & dns.flags.AA:
        # Name servers in place of an SOA (RFC 2308 2.2.1): the answer is elsewhere, so this is none.
        reason = "a referral to other servers: it does not answer for clients"
        return Lookup(name=answer.name, found=Found.FAILED, reason=reason, code="REFERRAL")
    else:
        found, code, reason = Found.NO_ADDRESS, "NODATA", "NOERROR without an address"
    ttl_s = answer.ttl_s if dns.rdatatype.SOA in types else 0.0  # RFC 2308, 5: without an SOA it is not to be remembered
    return replace(answer, found=found, ttl_s=ttl_s, reason=reason, code=code)


def _targets(records: dns.rrset.RRset, response: dns.message.Message, families: Sequence[str]) -> tuple[SrvTarget, ...]:
    usable = [record for record in records if record.port and record.target != dns.name.root]
    first = min((record.priority for record in usable), default=0)
    chosen = {(record.target, record.port) for record in usable if record.priority == first}
    glue = _glue({target for target, _ in chosen}, response, families)
    found = (SrvTarget(name=_text(target), port=port, addresses=glue.get(target, ())) for target, port in chosen)
    return tuple(sorted(found, key=lambda target: (target.name, target.port)))


def _glue(
    targets: set[dns.name.Name], response: dns.message.Message, families: Sequence[str]
) -> dict[dns.name.Name, tuple[str, ...]]:
    """Addresses in the first family that any target has."""
    for family in families:
        found = {
            rrset.name: tuple(sorted(record.address for record in rrset))
            for rrset in response.additional
            if rrset.rdtype == ADDRESS_TYPES[family] and rrset.name in targets
        }
        if found:
            return found
    return {}


def _alias(response: dns.message.Message) -> str:
    asked = response.question[0].name
    leads = (rrset[0].target for rrset in response.answer if rrset.rdtype == dns.rdatatype.CNAME and rrset.name == asked)
    return next(map(_text, leads), "")


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()
