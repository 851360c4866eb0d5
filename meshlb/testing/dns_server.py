"""The fake cluster's DNS server: `dns_zone` over UDP and TCP on one port, with the ways in which cluster DNS fails.

Answers over UDP are cut to what the client said it can take (512 bytes without EDNS, else at most 1232, which CoreDNS's bufsize
plugin allows) with the TC bit, so that clients must come back over TCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import Collection
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from meshlb.testing.dns_zone import Ordinary, Zone
from meshlb.testing.errors import FakeClusterError
from meshlb.testing.loop_thread import LoopThread

_PLAIN_UDP_BYTES = 512
_MAX_UDP_BYTES = 1232
_MAX_TCP_BYTES = 65_535
_RECORD_HEAD_BYTES = 12  # a pointer to the name, type, class, TTL, length
_BIND_ATTEMPTS = 20  # the TCP port of the same number may be taken; each attempt draws another
_FAILURES = ("SERVFAIL", "NXDOMAIN", "REFUSED", "TIMEOUT")


@dataclass(frozen=True, slots=True)
class DnsQuery:
    """One query as it arrived. ``name`` is lower-case without the final dot; ``rcode`` is what was sent, None for silence."""

    name: str
    type: str
    transport: str
    time_s: float
    rcode: str | None


class DnsServer:
    """Made by `FakeCluster`, which owns it. Every public method may be called from any thread."""

    def __init__(self, thread: LoopThread, *, host: str, zone: Zone) -> None:
        self.host = host
        self.port = 0
        self._thread = thread
        self._zone = zone
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._failure: str | None = None
        self._failing: frozenset[str] | None = None
        self._failures_left: int | None = None
        self._log: list[DnsQuery] = []
        self.start()

    @property
    def address(self) -> str:
        """``"ip:port"``."""
        return f"{self.host}:{self.port}"

    @property
    def queries(self) -> list[DnsQuery]:
        """Every query so far, in order of arrival."""
        return list(self._log)

    def clear_queries(self) -> None:
        self._thread.call(self._log.clear)

    def fail(self, how: str, *, names: Collection[str] | None = None, times: int | None = None) -> None:
        """Answer SERVFAIL, NXDOMAIN or REFUSED, or nothing at all (TIMEOUT): the next ``times`` queries or until `recover`.

        ``names`` limits it to these names (whole names, without the final dot). Replaces an earlier fault.
        """
        if how not in _FAILURES:
            raise ValueError(f"how={how!r}: must be one of {', '.join(_FAILURES)}")
        failing = None if names is None else frozenset(name.lower().rstrip(".") for name in names)
        self._thread.call(self._set_failure, how, failing, times)

    def recover(self) -> None:
        """End `fail`."""
        self._thread.call(self._set_failure, None, None, None)

    def stop(self) -> None:
        """Close the port: queries are refused by the kernel, as on a node without cluster DNS."""
        self._thread.call(self.stop_in_loop)

    def start(self) -> None:
        """Listen again, on the same port as before."""
        self._thread.run(self._listen(), timeout_s=10.0)

    def add(self, name: str, addresses: Collection[str], *, ttl_s: int | None = None) -> None:
        """Give an ordinary name these IPv4 and IPv6 addresses, instead of those it had; none at all makes every answer NODATA."""
        ordinary = Ordinary(tuple(addresses), self._zone.ttl_s if ttl_s is None else ttl_s)
        self._thread.call(self._zone.ordinary.__setitem__, name.lower().rstrip("."), ordinary)

    def remove(self, name: str) -> None:
        """Forget an ordinary name."""
        self._thread.call(self._zone.ordinary.pop, name.lower().rstrip("."), None)

    def set_ttl(self, ttl_s: int) -> None:
        """TTL of the cluster's own names from now on; the default of CoreDNS's kubernetes plugin is 5 s."""
        self._thread.call(setattr, self._zone, "ttl_s", ttl_s)

    # -- inside the loop

    def _set_failure(self, how: str | None, names: frozenset[str] | None, times: int | None) -> None:
        self._failure, self._failing, self._failures_left = how, names, times

    async def _listen(self) -> None:
        if self._udp is not None:
            return
        loop = asyncio.get_running_loop()
        for _ in range(_BIND_ATTEMPTS):
            udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), local_addr=(self.host, self.port))
            port = udp.get_extra_info("sockname")[1]
            try:
                self._tcp = await asyncio.start_server(self._serve_tcp, self.host, port)
            except OSError:
                udp.close()
                if self.port:
                    raise
                continue
            self._udp, self.port = udp, port
            return
        raise FakeClusterError(f"no port on {self.host} that is free for UDP and TCP in {_BIND_ATTEMPTS} attempts")

    def stop_in_loop(self) -> None:
        if self._udp is not None:
            self._udp.abort()
            self._udp = None
        if self._tcp is not None:
            self._tcp.close()
            self._tcp = None
        for writer in list(self._connections):
            writer.transport.abort()

    def respond(self, wire: bytes, transport: str) -> bytes | None:
        """The answer to one query, or None for silence."""
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return None
        if not query.question:
            return None
        name = query.question[0].name.to_text(omit_final_dot=True).lower()
        failure = self._due_failure(name)
        if failure is None:
            response = self._zone.answer(query)
        elif failure == "NXDOMAIN":
            response = self._zone.denial(query)
        else:
            response = dns.message.make_response(query, recursion_available=True)
            if failure != "TIMEOUT":
                response.set_rcode(dns.rcode.from_text(failure))
        rcode = None if failure == "TIMEOUT" else dns.rcode.to_text(response.rcode())
        rdtype = dns.rdatatype.to_text(query.question[0].rdtype)
        self._log.append(DnsQuery(name, rdtype, transport, time.monotonic(), rcode))
        if rcode is None:
            return None
        if transport == "tcp":
            return _fitted(response, _MAX_TCP_BYTES)
        size = max(_PLAIN_UDP_BYTES, min(query.payload, _MAX_UDP_BYTES)) if query.edns >= 0 else _PLAIN_UDP_BYTES
        return _fitted(response, size)

    def _due_failure(self, name: str) -> str | None:
        if self._failure is None or self._failures_left == 0 or (self._failing is not None and name not in self._failing):
            return None
        if self._failures_left is not None:
            self._failures_left -= 1
        return self._failure

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):  # the client is done, or gone
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                if (answer := self.respond(await reader.readexactly(length), "tcp")) is not None:
                    writer.write(struct.pack("!H", len(answer)) + answer)
                    await writer.drain()
        self._connections.discard(writer)
        writer.close()


def _fitted(response: dns.message.Message, max_bytes: int) -> bytes:
    """The message in at most this many bytes: as many whole records as fit, and the TC bit if some do not."""
    try:
        return response.to_wire(max_size=max_bytes)
    except dns.exception.TooBig:
        (rrset,), response.answer = response.answer, []
        response.flags |= dns.flags.TC
        room = max_bytes - len(response.to_wire())
        record_bytes = _RECORD_HEAD_BYTES + (16 if rrset.rdtype == dns.rdatatype.AAAA else 4)
        fitting = list(rrset)[: room // record_bytes]
        response.answer = [dns.rrset.from_rdata_list(rrset.name, rrset.ttl, fitting)]
        return response.to_wire(max_size=max_bytes)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._server.respond(data, "udp")
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, addr)
