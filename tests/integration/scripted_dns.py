"""A DNS server that says exactly what a test tells it to, also what no server should say: for the wire-level tests."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterable

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

Reply = dns.message.Message | bytes | None
Script = Callable[[dns.message.Message, str], "Reply | Iterable[Reply]"]


def answer(
    query: dns.message.Message, *lines: str, rcode: str = "NOERROR", authority: str = "", flags: int = 0
) -> dns.message.Message:
    """A response with these records, each ``owner ttl IN type data``."""
    response = dns.message.make_response(query, recursion_available=True)
    response.flags |= flags
    response.set_rcode(dns.rcode.from_text(rcode))
    for section, texts in ((response.answer, lines), (response.authority, [authority] if authority else [])):
        for text in texts:
            owner, ttl, _, kind, data = text.split(maxsplit=4)
            section.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, data))
    return response


def asked(query: dns.message.Message) -> tuple[str, str]:
    """("orders.shop.", "A")."""
    question = query.question[0]
    return question.name.to_text(), dns.rdatatype.to_text(question.rdtype)


def _pair() -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket with one port number, which is not always free for both."""
    while True:
        udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        udp.bind(("127.0.0.1", 0))
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
        else:
            return udp, tcp


class ScriptedDns:
    """Answers on one UDP and TCP port of 127.0.0.1 by ``script(query, transport)``; None is silence, bytes go out as they are."""

    def __init__(self, script: Script, *, tcp: bool = True) -> None:
        self.queries: list[tuple[str, str, str]] = []
        self.wire: list[dns.message.Message] = []
        self.script = script
        self._udp, self._tcp = _pair()
        self._threads = [threading.Thread(target=self._serve_udp, daemon=True)]
        if tcp:
            self._tcp.listen()
            self._threads.append(threading.Thread(target=self._serve_tcp, daemon=True))
        self.address = "127.0.0.1:{1}".format(*self._udp.getsockname())
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> ScriptedDns:
        return self

    def __exit__(self, *exc: object) -> None:
        for one in (self._udp, self._tcp):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # wakes who reads from it
            one.close()
        for thread in self._threads:
            thread.join(5.0)

    def _replies(self, wire: bytes, transport: str) -> list[bytes]:
        query = dns.message.from_wire(wire)
        self.wire.append(query)
        self.queries.append((*asked(query), transport))
        replies = self.script(query, transport)
        if replies is None or isinstance(replies, (bytes, dns.message.Message)):
            replies = [replies]
        return [reply if isinstance(reply, bytes) else reply.to_wire(max_size=65535) for reply in replies if reply is not None]

    def _serve_udp(self) -> None:
        while True:
            try:
                wire, client = self._udp.recvfrom(65535)
            except OSError:
                return
            if not wire:
                return
            for reply in self._replies(wire, "udp"):
                self._udp.sendto(reply, client)

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as reader:
                (length,) = struct.unpack("!H", reader.read(2))
                for reply in self._replies(reader.read(length), "tcp"):
                    connection.sendall(struct.pack("!H", len(reply)))
                    for part in (reply[:20], reply[20:]):  # in pieces, as a network may deliver it
                        connection.sendall(part)
                        threading.Event().wait(0.01)
