"""Cutting a DNS answer to what its transport can carry."""

from __future__ import annotations

import bisect
import copy

import dns.exception
import dns.flags
import dns.message
import dns.rrset


def fitted(response: dns.message.Message, max_bytes: int) -> bytes:
    """The message in at most this many bytes: as many records as fit, answers first, and the TC bit if some do not."""
    try:
        return response.to_wire(max_size=max_bytes)
    except dns.exception.TooBig:
        fitting = bisect.bisect_left(range(records(response)), True, key=lambda count: _is_too_big(response, count, max_bytes))
        return first(response, fitting - 1).to_wire(max_size=max_bytes)


def _is_too_big(response: dns.message.Message, count: int, max_bytes: int) -> bool:
    try:
        first(response, count).to_wire(max_size=max_bytes)
    except dns.exception.TooBig:
        return True
    return False


def records(response: dns.message.Message) -> int:
    return sum(len(rrset) for section in (response.answer, response.additional) for rrset in section)


def first(response: dns.message.Message, count: int) -> dns.message.Message:
    """A copy with the first so many records and the TC bit."""
    cut = copy.copy(response)
    cut.sections = [list(section) for section in response.sections]
    cut.flags |= dns.flags.TC
    for section in (cut.answer, cut.additional):
        kept, section[:] = list(section), []
        for rrset in kept:
            some, count = list(rrset)[:count], max(0, count - len(rrset))
            if some:
                section.append(dns.rrset.from_rdata_list(rrset.name, rrset.ttl, some))
    return cut
