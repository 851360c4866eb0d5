"""I/O driver: one question to one nameserver, over UDP, and over TCP if the answer was cut off.

dnspython writes and reads the messages; the sockets are ours, because its ``query`` module imports httpx where that is installed,
and measures time-outs with the wall clock, so that a helper would hang for an hour when the clock is set back by one.

The UDP socket is connected: the kernel drops what comes from elsewhere and reports a closed port at once. What comes from the right
place but is no answer to this question (late, forged, mangled) is ignored, and the wait goes on until the deadline.

This module imports dnspython, so it is itself imported lazily, inside ``fork_gate``. Blocks; used in helper threads only.

Spec: RFC 1035 4.2, RFC 6891 (EDNS), RFC 2308 (negative answers and their TTL), RFC 7766 (TCP).
"""

from __future__ import annotations

import socket
import struct
import time
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from meshlb.resolve.lookup import Found, Lookup

UDP_PAYLOAD: Final = 1232  # passes any path that IPv6 allows without fragments (DNS flag day 2020); CoreDNS caps it there too
MAX_TTL_S: Final = 300.0  # a denial without an SOA has none, which old versions of dnspython report as 2**32 - 1
RECORD_TYPES: Final = {"ipv4": dns.rdatatype.A, "ipv6": dns.rdatatype.AAAA}

_NO_EDNS: Final = (dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS)


def ask(name: str, family: str, server: tuple[str, int], timeout_s: float) -> Lookup:
    """The answer to one question (``family``: ipv4 or ipv6). Raises OSError (TimeoutError too) if there is none in time.

    ``name`` is absolute, with or without its dot. Raises ValueError if it cannot be a DNS name at all.
    """
    deadline_s = time.monotonic() + timeout_s
    try:
        question = dns.name.from_text(name)
    except dns.exception.DNSException as error:
        raise ValueError(f"{name!r} is not a DNS name: {error}") from error
    address = _socket_address(server)
    query = dns.message.make_query(question, RECORD_TYPES[family], use_edns=0, payload=UDP_PAYLOAD)
    response, complete = _exchange(query, address, deadline_s)
    if response.rcode() in _NO_EDNS:  # a server from before EDNS
        query = dns.message.make_query(question, RECORD_TYPES[family])
        response, complete = _exchange(query, address, deadline_s)
    return _read(name, response, complete)


_Address = tuple[socket.AddressFamily, "tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]"]


def _socket_address(server: tuple[str, int]) -> _Address:
    """With the number of a ``%scope``, which only the system can tell; numeric, so nothing is looked up."""
    found = socket.getaddrinfo(*server, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)
    return found[0][0], found[0][4]


def _exchange(query: dns.message.Message, address: _Address, deadline_s: float) -> tuple[dns.message.Message, bool]:
    """The response, and whether it is whole."""
    wire = query.to_wire()
    response, complete = _over_udp(query, wire, address, deadline_s)
    if complete:
        return response, True
    try:
        return _over_tcp(query, wire, address, deadline_s), True
    except (OSError, dns.exception.DNSException):
        # TCP port 53 closed by a network policy: what did arrive may still be added, and says so.
        return response, False


def _over_udp(query: dns.message.Message, wire: bytes, address: _Address, deadline_s: float) -> tuple[dns.message.Message, bool]:
    with socket.socket(address[0], socket.SOCK_DGRAM) as udp:
        udp.settimeout(_remaining_s(deadline_s))
        udp.connect(address[1])
        udp.send(wire)
        while True:
            udp.settimeout(_remaining_s(deadline_s))
            datagram = udp.recv(65535)
            try:
                response = dns.message.from_wire(datagram, ignore_trailing=True, raise_on_truncation=True)
                complete = True
            except dns.message.Truncated as cut:
                response, complete = cut.message(), False  # type: ignore[no-untyped-call]
            except dns.exception.DNSException:
                continue
            if query.is_response(response):
                return response, complete


def _over_tcp(query: dns.message.Message, wire: bytes, address: _Address, deadline_s: float) -> dns.message.Message:
    with socket.socket(address[0], socket.SOCK_STREAM) as tcp:
        tcp.settimeout(_remaining_s(deadline_s))
        tcp.connect(address[1])
        tcp.sendall(struct.pack("!H", len(wire)) + wire)
        (length,) = struct.unpack("!H", _receive(tcp, 2, deadline_s))
        response = dns.message.from_wire(_receive(tcp, length, deadline_s), ignore_trailing=True)
    if not query.is_response(response) or response.flags & dns.flags.TC:
        raise OSError("no whole answer over TCP either")
    return response


def _receive(tcp: socket.socket, length: int, deadline_s: float) -> bytes:
    parts = b""
    while len(parts) < length:
        tcp.settimeout(_remaining_s(deadline_s))
        part = tcp.recv(length - len(parts))
        if not part:
            raise ConnectionResetError("the nameserver closed the connection within an answer")
        parts += part
    return parts


def _remaining_s(deadline_s: float) -> float:
    remaining_s = deadline_s - time.monotonic()
    if remaining_s <= 0:  # a socket would take 0 for "do not wait at all" and a negative number for an error
        raise TimeoutError("no reply in time")
    return remaining_s


def _read(name: str, response: dns.message.Message, complete: bool) -> Lookup:
    rcode = response.rcode()
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return Lookup(name=name, found=Found.FAILED, reason=dns.rcode.to_text(rcode))
    try:
        chain = response.resolve_chaining()  # type: ignore[attr-defined]
    except dns.exception.DNSException as error:
        return Lookup(name=name, found=Found.FAILED, reason=f"an answer that cannot be followed: {error}")
    canonical_name = chain.canonical_name.to_text(omit_final_dot=True).lower()
    ttl_s = min(float(chain.minimum_ttl), MAX_TTL_S)  # the least along the aliases; of a denial the SOA's
    if chain.answer is None and not any(rrset.rdtype == dns.rdatatype.SOA for rrset in response.authority):
        ttl_s = 0.0  # RFC 2308, 5: a denial without an SOA is not to be remembered
    if chain.answer is not None:
        addresses = tuple(sorted({record.address for record in chain.answer}))
        return Lookup(
            name=name, found=Found.ADDRESSES, addresses=addresses, canonical_name=canonical_name, ttl_s=ttl_s, complete=complete
        )
    if not complete:
        return Lookup(name=name, found=Found.FAILED, reason="an answer that was cut off before its first address")
    if rcode == dns.rcode.NOERROR and _is_referral(response):
        return Lookup(name=name, found=Found.FAILED, reason="a referral to other servers: it does not answer for clients")
    found, reason = (Found.NO_NAME, "NXDOMAIN") if rcode == dns.rcode.NXDOMAIN else (Found.NO_ADDRESS, "NOERROR without an address")
    return Lookup(name=name, found=found, canonical_name=canonical_name, ttl_s=ttl_s, reason=reason)


def _is_referral(response: dns.message.Message) -> bool:
    """Name servers in place of an SOA (RFC 2308 2.2.1): the answer is elsewhere, so this is none."""
    types = {rrset.rdtype for rrset in response.authority}
    return dns.rdatatype.NS in types and dns.rdatatype.SOA not in types and not response.flags & dns.flags.AA
