"""I/O driver: one question to one nameserver, over UDP, and over TCP if the answer was cut off.

dnspython writes and reads the messages; the sockets are ours, because its ``query`` module imports httpx where that is installed,
and measures time-outs with the wall clock, so that a helper would hang for an hour when the clock is set back by one.

The UDP socket is connected: the kernel drops what comes from elsewhere and reports a closed port at once. What comes from the right
place but is no answer to this question (late, forged, mangled) is ignored, and the wait goes on until the deadline.

This module imports dnspython, so it is itself imported lazily, inside ``fork_gate``. Blocks; used in helper threads only.

Spec: RFC 1035 4.2, RFC 6891 (EDNS), RFC 7766 (TCP).
"""

from __future__ import annotations

import math
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode

from meshlb.resolve import dns_answer
from meshlb.resolve.lookup import Lookup

UDP_PAYLOAD: Final = 1232  # passes any path that IPv6 allows without fragments (DNS flag day 2020); CoreDNS caps it there too

_NO_EDNS: Final = (dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS)


def ask(
    name: str,
    kind: str,
    server: tuple[str, int],
    timeout_s: float,
    *,
    tcp_timeout_s: float,
    families: Sequence[str] = (),
    until_s: float = math.inf,
) -> Lookup:
    """The answer to one question (``kind``: A, AAAA or SRV). Raises OSError (TimeoutError too) if there is none in time.

    ``name`` is absolute, with or without its dot. ``tcp_timeout_s`` is what an answer that was cut off may take beyond
    ``timeout_s``, though not beyond ``until_s`` (monotonic); 0 is not to try. Raises ValueError if the name cannot be one of DNS at all.
    """
    deadline_s = time.monotonic() + timeout_s
    try:
        question = dns.name.from_text(name)
    except dns.exception.DNSException as error:
        raise ValueError(f"{name!r} is not a DNS name: {error}") from error
    address = _socket_address(server)
    query = dns.message.make_query(question, kind, use_edns=0, payload=UDP_PAYLOAD)
    response, cut = _over_udp(query, address, deadline_s)
    if response.rcode() in _NO_EDNS:  # a server from before EDNS
        query = dns.message.make_query(question, kind)
        response, cut = _over_udp(query, address, deadline_s)
    if not cut:
        return dns_answer.read(name, response, True, families)
    try:
        response = _over_tcp(query, address, min(time.monotonic() + tcp_timeout_s, until_s))
    except (OSError, dns.exception.DNSException) as error:
        # TCP port 53 closed by a network policy: what did arrive may still be added, and says so.
        reason = f"cut off, and not to be had over TCP: {error}"
        return replace(dns_answer.read(name, response, False, families), reason=reason)
    return dns_answer.read(name, response, True, families)


def ask_over_tcp(name: str, kind: str, server: tuple[str, int], timeout_s: float) -> Lookup:
    """The question over TCP alone, as an answer that was cut off would be fetched: is port 53 open for it? Raises OSError."""
    query = dns.message.make_query(dns.name.from_text(name), kind, use_edns=0, payload=UDP_PAYLOAD)
    try:
        response = _over_tcp(query, _socket_address(server), time.monotonic() + timeout_s)
    except dns.exception.DNSException as error:
        raise OSError(f"no answer that can be read: {error}") from error
    return dns_answer.read(name, response, True)


_Address = tuple[socket.AddressFamily, "tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]"]


def _socket_address(server: tuple[str, int]) -> _Address:
    """With the number of a ``%scope``, which only the system can tell; numeric, so nothing is looked up."""
    found = socket.getaddrinfo(*server, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)
    return found[0][0], found[0][4]


def _over_udp(query: dns.message.Message, address: _Address, deadline_s: float) -> tuple[dns.message.Message, bool]:
    """The response, and whether it was cut off."""
    with socket.socket(address[0], socket.SOCK_DGRAM) as udp:
        udp.settimeout(_remaining_s(deadline_s))
        udp.connect(address[1])
        udp.send(query.to_wire())
        while True:
            udp.settimeout(_remaining_s(deadline_s))
            datagram = udp.recv(65535)
            try:
                response = dns.message.from_wire(datagram, ignore_trailing=True, raise_on_truncation=True)
                cut = False
            except dns.message.Truncated as error:
                response, cut = error.message(), True  # type: ignore[no-untyped-call]
            except dns.exception.DNSException:
                continue
            if query.is_response(response):
                return response, cut


def _over_tcp(query: dns.message.Message, address: _Address, deadline_s: float) -> dns.message.Message:
    wire = query.to_wire()
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
