"""What a pod is told about DNS: nameservers, search domains, ndots; from them the cluster's domain and the pod's namespace.

A kubelet writes ``search <ns>.svc.<zone> svc.<zone> <zone> …``: the entry that starts with ``svc.`` gives the zone, and the one
that ends with that entry and has one label before it gives the namespace. Nothing is guessed where they are missing.

Spec: resolv.conf(5) of glibc: the last of ``domain`` and ``search`` wins, the limit of 15 for ndots. Why ``timeout`` and ``attempts``
are not used: ``nameservers``.
Deviations: all nameservers count, not the first three; one may have a port (``10.0.0.1:5353``), and one that is no address is
skipped; without any, none is assumed (glibc asks the local host); a ``#`` or ``;`` after a word ends the line, as people expect.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import stat
from dataclasses import dataclass
from typing import Final

MAX_NDOTS: Final = 15
MAX_BYTES: Final = 65536  # of what is no resolv.conf at all

_log = logging.getLogger("meshlb.resolve")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvConf:
    """One reading of the file. ``nameservers`` are IP literals as written, an IPv6 one perhaps with ``%scope``; ``search`` is in
    lower case, without trailing dots. ``problem`` says why nothing could be read, and is empty otherwise.
    """

    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    ndots: int = 1
    problem: str = ""

    @property
    def cluster_domain(self) -> str:
        """``cluster.local``, or empty outside a cluster."""
        return next((entry[len("svc.") :] for entry in self.search if entry.startswith("svc.")), "")

    @property
    def namespace(self) -> str:
        """The pod's own namespace, or empty outside a cluster."""
        services = f".svc.{self.cluster_domain}"
        labels = (entry.removesuffix(services) for entry in self.search if self.cluster_domain and entry.endswith(services))
        return next((label for label in labels if label and "." not in label), "")

    @classmethod
    def parse(cls, text: str) -> ResolvConf:
        """What glibc would understand; lines and options that mean nothing are skipped, as it does."""
        nameservers: list[str] = []
        search: tuple[str, ...] = ()
        options: list[str] = []
        for line in text.splitlines():
            words = _words(line)
            match words[:1], words[1:]:
                case ["nameserver"], [address, *_] if _is_server(address):
                    nameservers.append(address)
                case ["search"], domains:
                    search = tuple(filter(None, (domain.strip(".").lower() for domain in domains)))
                case ["domain"], [domain, *_]:
                    search = (domain.strip(".").lower(),)
                case ["options"], more:
                    options += more
        return cls(nameservers=tuple(nameservers), search=search, ndots=_ndots(options))

    @classmethod
    def read(cls, path: str) -> ResolvConf:
        """Parse the file; one that is not there or not readable gives an empty reading that says so."""
        try:
            return cls.parse(_text_of(path))
        except OSError as error:
            return cls(problem=f"{path}: {error.strerror or error}")


class ResolvConfFile:
    """The file's present content, for any thread. It is read every time: a few hundred bytes, and no time stamp that may lie.

    While it is missing or names no nameserver that could be asked, the last reading that did stands; that is logged once.
    """

    __slots__ = ("_good", "_text", "path", "problem")

    def __init__(self, path: str) -> None:
        self.path = path
        self.problem = ""
        self._text: str | None = None
        self._good = ResolvConf()

    def current(self) -> ResolvConf:
        """The last good reading, empty if there was none; ``problem`` is what is wrong with the file now."""
        try:
            text, problem = _text_of(self.path), ""
        except OSError as error:
            text, problem = "", f"{self.path}: {error.strerror or error}"
        if text != self._text or problem != self.problem:
            self._learn(text, problem)
        return self._good

    def _learn(self, text: str, problem: str) -> None:
        reading = ResolvConf.parse(text)
        problem = problem or ("" if reading.nameservers else f"{self.path} names none")
        self._text = text
        if not problem or not self._good.nameservers:
            self._good = reading
        if problem and problem != self.problem and self._good.nameservers:
            kept = ", ".join(self._good.nameservers)
            _log.warning("resolv.conf has no usable nameserver any more (%s); what it said before is used: %s", problem, kept)
        self.problem = problem


def split_server(text: str) -> tuple[str, int]:
    """``10.0.0.1``, ``10.0.0.1:53``, ``fd00::1``, ``fe80::1%eth0`` or ``[fd00::1]:53`` -> (address, port)."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, int(rest.removeprefix(":") or 53)
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, int(port)
    return text, 53


def _is_server(text: str) -> bool:
    try:
        host, port = split_server(text)
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return 0 < port < 65536


def _text_of(path: str) -> str:
    if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe would wait for somebody to write
        raise OSError(errno.EINVAL, "is no file", path)
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(MAX_BYTES)


def _words(line: str) -> list[str]:
    words = line.split()
    for position, word in enumerate(words):
        if word[0] in "#;":
            return words[:position]
    return words


def _ndots(options: list[str]) -> int:
    """Of two, the last that is a number."""
    found = 1
    for option in options:
        name, _, number = option.partition(":")
        if name == "ndots" and number.isascii() and number.isdigit():
            found = min(int(number), MAX_NDOTS)
    return found
