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

from meshlb.testing.dns_size import first, fitted, records
from meshlb.testing.dns_zone import Ordinary, Zone
from meshlb.testing.errors import FakeClusterError
from meshlb.testing.loop_thread import LoopThread

_PLAIN_UDP_BYTES = 512
_MAX_UDP_BYTES = 1232
_MAX_TCP_BYTES = 65_535
_BIND_ATTEMPTS = 20  # the TCP port of the same number may be taken; each attempt draws another
_RCODES = ("NOERROR", "SERVFAIL", "REFUSED", "NOTIMP")
_FAILURES = (*_RCODES, "NXDOMAIN", "NODATA", "TIMEOUT", "TRUNCATED", "WRONG_ID", "WRONG_QUESTION", "GARBAGE")
_TCP = ("open", "refused", "silent")


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
        self._failing_types: frozenset[str] | None = None
        self._failures_left: int | None = None
        self._delay_s = 0.0
        self._edns = True
        self._tcp_state = "open"
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

    def fail(
        self, how: str, *, names: Collection[str] | None = None, types: Collection[str] | None = None, times: int | None = None
    ) -> None:
        """Misbehave in one way: in the next ``times`` answers or until `recover`. Replaces an earlier fault.

        - ``SERVFAIL``, ``REFUSED``, ``NOTIMP``, ``NXDOMAIN``, ``NODATA``: that answer; the latter two with the zone's SOA.
        - ``NOERROR``: an answer with nothing in it, not even that.
        - ``TIMEOUT``: none at all. ``WRONG_ID``, ``WRONG_QUESTION``, ``GARBAGE``: something a client must ignore, and no answer.
        - ``TRUNCATED``: over UDP the first half of the records with the TC bit, however few they are; TCP has them all.

        ``names`` limits it to these names (whole names, without the final dot), ``types`` to these types (``"SRV"``).
        """
        if how not in _FAILURES:
            raise ValueError(f"how={how!r}: must be one of {', '.join(_FAILURES)}")
        failing = None if names is None else frozenset(name.lower().rstrip(".") for name in names)
        self._thread.call(self._set_failure, how, failing, None if types is None else frozenset(types), times)

    def recover(self) -> None:
        """End `fail` and `delay`, and have TCP and EDNS as they were."""
        self._thread.call(self._set_failure, None, None, None, None)
        self.delay(0.0)
        self.set_edns(True)
        self.set_tcp("open")

    def delay(self, delay_s: float) -> None:
        """Answer this many seconds late, over UDP and TCP."""
        self._thread.call(setattr, self, "_delay_s", delay_s)

    def set_edns(self, known: bool) -> None:
        """Without it, a query with an OPT record is answered FORMERR, as by a server from before EDNS."""
        self._thread.call(setattr, self, "_edns", known)

    def set_tcp(self, state: str) -> None:
        """``open``; ``refused``, as where nothing listens; ``silent``: connects and never answers, as behind a policy that drops."""
        if state not in _TCP:
            raise ValueError(f"state={state!r}: must be one of {', '.join(_TCP)}")
        self._thread.run(self._change_tcp(state), timeout_s=10.0)

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

    def add_alias(self, name: str, target: str, *, ttl_s: int | None = None) -> None:
        """Make a name a CNAME of another, which is followed if it is known here; a loop is answered as far as it goes."""
        ordinary = Ordinary((), self._zone.ttl_s if ttl_s is None else ttl_s, alias=target.lower().rstrip("."))
        self._thread.call(self._zone.ordinary.__setitem__, name.lower().rstrip("."), ordinary)

    def remove(self, name: str) -> None:
        """Forget an ordinary name."""
        self._thread.call(self._zone.ordinary.pop, name.lower().rstrip("."), None)

    def set_ttl(self, ttl_s: int) -> None:
        """TTL of the cluster's own names from now on; the default of CoreDNS's kubernetes plugin is 5 s."""
        self._thread.call(setattr, self._zone, "ttl_s", ttl_s)

    # -- inside the loop

    def _set_failure(self, how: str | None, names: frozenset[str] | None, types: frozenset[str] | None, times: int | None) -> None:
        self._failure, self._failing, self._failing_types, self._failures_left = how, names, types, times

    async def _change_tcp(self, state: str) -> None:
        self._tcp_state = state
        if state == "refused" and self._tcp is not None:
            self._tcp.close()
            self._tcp = None
        elif state != "refused" and self._tcp is None and self._udp is not None:
            self._tcp = await asyncio.start_server(self._serve_tcp, self.host, self.port)

    async def _listen(self) -> None:
        if self._udp is not None:
            return
        loop = asyncio.get_running_loop()
        for _ in range(_BIND_ATTEMPTS):
            udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), local_addr=(self.host, self.port))
            port = udp.get_extra_info("sockname")[1]
            try:
                if self._tcp_state != "refused":
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

    async def respond(self, wire: bytes, transport: str) -> bytes | None:
        """What to send for one query, or None for silence."""
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return None
        if not query.question:
            return None
        name = query.question[0].name.to_text(omit_final_dot=True).lower()
        rdtype = dns.rdatatype.to_text(query.question[0].rdtype)
        if query.edns >= 0 and not self._edns:
            plain = dns.message.make_response(query)
            plain.use_edns(False)
            plain.set_rcode(dns.rcode.FORMERR)
            self._log.append(DnsQuery(name, rdtype, transport, time.monotonic(), "FORMERR"))
            return plain.to_wire()
        failure = self._due_failure(name, rdtype)
        response = self._response(query, failure)
        silent = response is None or failure in ("WRONG_ID", "WRONG_QUESTION", "GARBAGE")
        rcode = None if silent or response is None else dns.rcode.to_text(response.rcode())
        self._log.append(DnsQuery(name, rdtype, transport, time.monotonic(), rcode))
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        if failure == "GARBAGE":
            return b"garbage"
        if response is None:
            return None
        if transport == "tcp":
            return fitted(response, _MAX_TCP_BYTES)
        size = max(_PLAIN_UDP_BYTES, min(query.payload, _MAX_UDP_BYTES)) if query.edns >= 0 else _PLAIN_UDP_BYTES
        if failure == "TRUNCATED":
            response = first(response, records(response) // 2)
        return fitted(response, size)

    def _response(self, query: dns.message.Message, failure: str | None) -> dns.message.Message | None:
        if failure == "TIMEOUT":
            return None
        if failure in ("NXDOMAIN", "NODATA"):
            return self._zone.denial(query, name_exists=failure == "NODATA")
        if failure in _RCODES:
            response = dns.message.make_response(query, recursion_available=True)
            response.set_rcode(dns.rcode.from_text(failure or ""))
            return response
        if failure == "WRONG_QUESTION":
            other = dns.message.make_query("another.example.", query.question[0].rdtype)
            other.id = query.id
            return self._zone.denial(other)
        response = self._zone.answer(query)
        if failure == "WRONG_ID":
            response.id ^= 1
        return response

    def _due_failure(self, name: str, rdtype: str) -> str | None:
        if self._failure is None or self._failures_left == 0 or (self._failing is not None and name not in self._failing):
            return None
        if self._failing_types is not None and rdtype not in self._failing_types:
            return None
        if self._failures_left is not None:
            self._failures_left -= 1
        return self._failure

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):  # the client is done, or gone
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                query = await reader.readexactly(length)
                if self._tcp_state == "silent":
                    continue
                if (answer := await self.respond(query, "tcp")) is not None:
                    writer.write(struct.pack("!H", len(answer)) + answer)
                    await writer.drain()
        self._connections.discard(writer)
        writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(data, addr))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = await self._server.respond(data, "udp")
        if answer is not None and self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(answer, addr)
