"""When to ask a source that does not push, and how much of its answers to believe; pure decisions, used for DNS and getaddrinfo.

When. After an answer: in its TTL, clamped to 1..30 s and jittered by a tenth to either side, so that the replicas of a service do
not ask in step. After a failure: in 1 s, doubled up to 30 s, jittered alike (after the cap, else all who wait longest would meet).
A hint (a connect failed) asks at once, though never within 1 s of the last question; also while the source itself fails, since who
hints has calls that fail, and the first answer ends that.

What. A positive answer adds at once, and removes only what two of them in a row lack: answers may be partial, shuffled by a
rotating server, or come from replicas that are not equally up to date. An incomplete answer (cut off, and no TCP) removes nothing:
it may be all that the server ever shows, so that time alone proves nothing about the rest. But what no answer has shown for
``UNSEEN_S`` is *unverified*: the pool uses its connection for as long as it lasts, does not trust a later one (the address may be
another pod's by then) and does not dial it again once it failed. Of those at most ``MOST_UNVERIFIED`` are kept, the longest unseen go
first: more than the largest Service has pods, and the one place where something goes without an authoritative answer.
"No such name" removes nothing until it was the only answer throughout ``empty_grace_s``: CoreDNS says so for a headless Service
without a ready pod, but also after a restart, and for a Service being replaced. A failure (SERVFAIL, no reply) removes nothing,
ever, and starts that time afresh: what was not answered was not denied. A name that never had an address is unknown, not empty.

An address that also fails to connect takes two whole answers all the same: one, and a handshake that was lost on the way, are what a
bad minute of the network looks like, and nothing is gained, since the pool sends nothing there. But each failed connect is a hint, so
the two come within seconds.

Limits: without such a hint a removal is seen after two polls; an emptied Service after ``empty_grace_s`` and what is left of the
negative TTL.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from meshlb.core.clock import Rng

MIN_INTERVAL_S: Final = 1.0  # also for a TTL of 0: nameservers are shared by a whole cluster
MAX_INTERVAL_S: Final = 30.0  # the TTL of a default Corefile; a longer one must not make us blind for longer
JITTER_RATIO: Final = 0.1
UNSEEN_S: Final = 300.0  # as long as the API server may be silent, see ``confirmation``
MOST_UNVERIFIED: Final = 10_000


class Polling:
    """The state of one polled name. Not thread-safe: everything happens on the discovery thread.

    ``known`` is what is published, None while nothing was ever found; ``unverified`` is that part of it which no answer has shown for
    long. ``next_s`` is when to ask again.
    """

    def __init__(self, rng: Rng, *, empty_grace_s: float = 60.0) -> None:
        self.known: frozenset[str] | None = None
        self.unverified: frozenset[str] = frozenset()
        self.next_s = 0.0
        self.failures = 0  # in a row
        self.absent_since_s: float | None = None
        self._rng = rng
        self._empty_grace_s = empty_grace_s
        self._missed: frozenset[str] = frozenset()  # known, but not in the last positive answer
        self._unseen_since_s: dict[str, float] = {}  # known, but in no answer since then; the longest first
        self._asked_s: float | None = None

    def asked(self, now_s: float) -> None:
        """The question went out."""
        self._asked_s = now_s

    def found(self, now_s: float, addresses: Iterable[str], ttl_s: float, *, complete: bool = True) -> bool:
        """A positive answer, with one address at least; True if what is known has changed, or how well."""
        answer = frozenset(addresses)
        told = (self.known, self.unverified)
        gone = (self.known or frozenset()) - answer
        self._missed = gone - self._missed if complete else self._missed - answer
        self.known = answer | (self._missed if complete else gone)
        self._look_who_is_unseen(now_s, self.known - answer)
        self.failures = 0
        self.absent_since_s = None
        self.next_s = now_s + self._interval_s(ttl_s)
        return (self.known, self.unverified) != told

    def absent(self, now_s: float, ttl_s: float) -> bool:
        """The name does not exist, or has no address; True if that has now lasted long enough to be published as empty."""
        self.failures = 0
        since_s = self.absent_since_s = now_s if self.absent_since_s is None else self.absent_since_s
        self.next_s = now_s + self._interval_s(ttl_s)
        if not self.known:
            return False
        end_s = since_s + self._empty_grace_s
        if now_s < end_s:
            self.next_s = min(self.next_s, max(end_s, now_s + MIN_INTERVAL_S))
            return False
        self.known = self._missed = self.unverified = frozenset()
        self._unseen_since_s.clear()
        return True

    def failed(self, now_s: float) -> None:
        """No answer, or one that says nothing about the name."""
        self.absent_since_s = None
        # Beyond 2**10 the cap has long been reached, and a float would overflow in the end.
        self.next_s = now_s + self._jittered(min(MAX_INTERVAL_S, MIN_INTERVAL_S * 2.0 ** min(self.failures, 10)))
        self.failures += 1

    def hint(self, now_s: float) -> None:
        """What is known may be stale: ask sooner, if that is allowed."""
        earliest_s = now_s if self._asked_s is None else self._asked_s + MIN_INTERVAL_S
        self.next_s = min(self.next_s, max(now_s, earliest_s))

    def _look_who_is_unseen(self, now_s: float, unseen: frozenset[str]) -> None:
        since_s = {address: at_s for address, at_s in self._unseen_since_s.items() if address in unseen}
        since_s.update((address, now_s) for address in sorted(unseen.difference(since_s)))
        unverified = [address for address, at_s in since_s.items() if at_s + UNSEEN_S <= now_s]
        dropped = unverified[: max(0, len(unverified) - MOST_UNVERIFIED)]
        for address in dropped:
            del since_s[address]
        self._unseen_since_s = since_s
        self._missed -= frozenset(dropped)
        self.known = (self.known or frozenset()).difference(dropped)
        self.unverified = frozenset(unverified[len(dropped) :])

    def _interval_s(self, ttl_s: float) -> float:
        return max(MIN_INTERVAL_S, self._jittered(min(ttl_s, MAX_INTERVAL_S)))

    def _jittered(self, length_s: float) -> float:
        return length_s * (1.0 + JITTER_RATIO * (2.0 * self._rng.random() - 1.0))
