"""What a pod is told about DNS: nameservers, search domains, ndots; from them the cluster's domain and the pod's namespace.

A kubelet writes ``search <ns>.svc.<zone> svc.<zone> <zone> …``: the entry that starts with ``svc.`` gives the zone, and the one
that ends with that entry and has one label before it gives the namespace. Nothing is guessed where they are missing.

Spec: resolv.conf(5) of glibc: the last of ``domain`` and ``search`` wins, limits of 15 for ndots, 30 s for timeout, 5 for attempts.
Deviations: all nameservers count, not the first three; without any, none is assumed (glibc asks the local host); a ``#`` or ``;``
after a word ends the line, as people expect.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

MAX_NDOTS: Final = 15
MAX_TIMEOUT_S: Final = 30.0
MAX_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvConf:
    """One reading of the file. ``nameservers`` are IP literals as written, an IPv6 one perhaps with ``%scope``; ``search`` is in
    lower case, without trailing dots. ``problem`` says why nothing could be read, and is empty otherwise.
    """

    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    ndots: int = 1
    timeout_s: float = 5.0
    attempts: int = 2
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
                case ["nameserver"], [address, *_]:
                    nameservers.append(address)
                case ["search"], domains:
                    search = tuple(filter(None, (domain.strip(".").lower() for domain in domains)))
                case ["domain"], [domain, *_]:
                    search = (domain.strip(".").lower(),)
                case ["options"], more:
                    options += more
        numbers = _numbers(options)
        return cls(
            nameservers=tuple(nameservers),
            search=search,
            ndots=min(numbers.get("ndots", 1), MAX_NDOTS),
            timeout_s=min(max(1.0, numbers.get("timeout", 5)), MAX_TIMEOUT_S),
            attempts=min(max(1, numbers.get("attempts", 2)), MAX_ATTEMPTS),
        )

    @classmethod
    def read(cls, path: str) -> ResolvConf:
        """Parse the file; one that is not there or not readable gives an empty reading that says so."""
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return cls.parse(file.read())
        except OSError as error:
            return cls(problem=f"{path}: {error.strerror or error}")


class ResolvConfFile:
    """The file's present content, read again when its time, inode or size has changed. Any thread; a look costs one stat."""

    __slots__ = ("_seen", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._seen: tuple[object, ResolvConf] | None = None

    def current(self) -> ResolvConf:
        stamp = self._stamp()
        seen = self._seen
        if seen is None or stamp != seen[0]:
            # The stamp was taken before reading: a change in between costs one reading too many, never one too few.
            self._seen = seen = (stamp, ResolvConf.read(self.path))
        return seen[1]

    def _stamp(self) -> object:
        try:
            found = os.stat(self.path)
        except OSError as error:
            return error.errno
        return found.st_mtime_ns, found.st_ino, found.st_size


def _words(line: str) -> list[str]:
    words = line.split()
    for position, word in enumerate(words):
        if word[0] in "#;":
            return words[:position]
    return words


def _numbers(options: list[str]) -> dict[str, int]:
    """``ndots:5`` and its like; of two, the last."""
    found = {}
    for option in options:
        name, _, number = option.partition(":")
        if number.isascii() and number.isdigit():
            found[name] = int(number)
    return found
