"""The grammar below a target: hosts, ports, IP literals and paths, each checked with the place of the first wrong character.

A ``Piece`` is a part of the target that remembers where it stands in the whole, so that no parser has to count offsets.

Spec: RFC 1123 for labels (63) and names (253), RFC 3986 section 2.1 for percent-encoding, Kubernetes ``IsDNS1123Label`` for
Services, namespaces and port names.
Deviations: ordinary labels may also hold ``_`` and begin or end with ``-`` (names that resolvers serve, such as those of docker
compose); such a name is never a Service.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import unquote_to_bytes

from meshlb.errors import TargetError

MAX_LABEL = 63
MAX_NAME = 253
_LABEL_CHARACTER = re.compile(r"[A-Za-z0-9_-]")
_PORT_CHARACTER = re.compile(r"[A-Za-z0-9-]")
_SERVICE_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
_OPEN = re.compile(r"\[|%5B", re.IGNORECASE)
_CLOSE = re.compile(r"\]|%5D", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Piece:
    """``target[at : at + len(text)]``, which is ``text``."""

    target: str
    text: str
    at: int = 0

    def fail(self, expected: str, offset: int = 0) -> NoReturn:
        """Raise a TargetError that points at ``offset`` within this piece."""
        raise TargetError(self.target, self.at + offset, expected)

    def part(self, start: int, end: int | None = None) -> Piece:
        return Piece(self.target, self.text[start:end], self.at + start)

    def split(self, separator: str) -> list[Piece]:
        pieces, start = [], 0
        for text in self.text.split(separator):
            pieces.append(self.part(start, start + len(text)))
            start += len(text) + len(separator)
        return pieces

    def cut(self, separator: str) -> tuple[Piece, Piece | None]:
        """Before and after the first ``separator``; no second piece without one."""
        index = self.text.find(separator)
        return (self, None) if index < 0 else (self.part(0, index), self.part(index + len(separator)))


def is_service_label(text: str) -> bool:
    """May ``text`` name a Service, a namespace or a pod?"""
    return _SERVICE_LABEL.fullmatch(text) is not None


def printable_ascii(piece: Piece, *, escaped: bool) -> None:
    """No space, control character or non-ASCII anywhere: these come from copying, and no resolver would find them.

    ``escaped``: the form takes percent-encoding, so the message says to use it.
    """
    for offset, character in enumerate(piece.text):
        if not character.isascii():
            how = "percent-encode it" if escaped else "an international name is written in punycode, xn--…"
            piece.fail(f"ASCII: {how}", offset)
        if character <= " " or character == "\x7f":
            piece.fail("no spaces or control characters" + (": percent-encode them" if escaped else ""), offset)


def host_and_port(piece: Piece) -> tuple[Piece, Piece | None]:
    """``host``, ``host:port``, ``[v6]``, ``[v6]:port``: the host is checked and loses its brackets, the port is not looked at."""
    at_sign = piece.text.find("@")
    if at_sign >= 0:
        piece.fail("no user name or password: they belong into the call's credentials", at_sign)
    opening = _OPEN.match(piece.text)
    if opening is None:
        host, port = piece.cut(":")
        if port is not None and ":" in port.text:
            port.fail("one port after the host; an IPv6 address stands in brackets: [::1]:50051", port.text.index(":"))
        host_name(host)
        return host, port
    closing = _CLOSE.search(piece.text)
    if closing is None:
        piece.fail("']' at the end of the IPv6 address", len(piece.text))
    host, rest = piece.part(opening.end(), closing.start()), piece.part(closing.end())
    ip_address(host, version=6)
    if rest.text and not rest.text.startswith(":"):
        rest.fail("':' and a port, or nothing, after ']'")
    return host, rest.part(1) if rest.text else None


def host_name(piece: Piece) -> None:
    """A DNS name, with or without its trailing dot, or an IPv4 literal."""
    if not piece.text:
        piece.fail("a host name")
    labels = piece.split(".")
    if len(labels) > 1 and not labels[-1].text:
        labels.pop()
    for label in labels:
        if not label.text:
            label.fail("a label between two dots" if label.at > piece.at else "a label before the dot")
        for offset, character in enumerate(label.text):
            if not _LABEL_CHARACTER.match(character):
                label.fail("a letter, a digit, '-', '_' or '.'", offset)
        if len(label.text) > MAX_LABEL:
            label.fail(f"at most {MAX_LABEL} characters in a label, this one has {len(label.text)}", MAX_LABEL)
    if len(piece.text.rstrip(".")) > MAX_NAME:
        piece.fail(f"at most {MAX_NAME} characters in a name, this one has {len(piece.text.rstrip('.'))}", MAX_NAME)
    if all(label.text.isdigit() for label in labels):
        ip_address(piece, version=4)


def ip_address(piece: Piece, *, version: int) -> str:
    """An IP literal of this version, as the text that sockets take (an IPv6 scope follows ``%`` or its escape ``%25``)."""
    text = re.sub("%25", "%", piece.text, count=1) if version == 6 else piece.text
    try:
        return str(ipaddress.IPv6Address(text) if version == 6 else ipaddress.IPv4Address(text))
    except ValueError:
        example = "fd00::1" if version == 6 else "10.0.0.1"
        piece.fail(f"an IPv{version} address, such as {example}")


def port_number(piece: Piece) -> int:
    """1 to 65535, in decimal."""
    for offset, character in enumerate(piece.text):
        if character not in "0123456789":
            piece.fail("a port number from 1 to 65535", offset)
    if not piece.text or not 1 <= int(piece.text) <= 65535:
        piece.fail("a port number from 1 to 65535")
    return int(piece.text)


def port_name(piece: Piece) -> str:
    """The name of a Service's port, lower-case."""
    for offset, character in enumerate(piece.text):
        if not _PORT_CHARACTER.match(character):
            piece.fail("a port: a number from 1 to 65535, or a name of letters, digits and '-'", offset)
    if not is_service_label(piece.text):
        piece.fail(f"a port name of at most {MAX_LABEL} characters that neither begins nor ends with '-'")
    return piece.text.lower()


def unescaped(piece: Piece) -> str:
    """The text with its percent-encoding undone; it must be UTF-8 and hold no NUL."""
    for match in re.finditer("%(?![0-9A-Fa-f]{2})", piece.text):
        piece.fail("two hexadecimal digits after '%'", match.start() + 1)
    try:
        text = unquote_to_bytes(piece.text).decode()
    except UnicodeDecodeError:
        piece.fail("percent-encoded UTF-8", piece.text.index("%"))
    if "\0" in text:
        piece.fail("no NUL character", piece.text.index("%00"))
    return text
