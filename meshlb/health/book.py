"""The book of who is out: since when, why, until when, how often; whoever decides (relative.py, envoy_outlier.py, a50.py) writes here.

One log line for each that goes (WARNING) and each that comes back (INFO), logger ``meshlb.health``: ten at once and one a second after that, the
next one saying how many were left out. Every method runs under the pool's lock but ``Ejection.claim``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from meshlb.core.subchannel import Subchannel

LINES_AT_ONCE: Final = 10.0
LINES_PER_S: Final = 1.0

_log = logging.getLogger("meshlb.health")


class Ejection:
    """One stay outside. ``rule`` is for counting, ``reason`` for people. ``until_s``: afterwards a probe may be sent, once ``picks_left`` is
    used up, too (None: nobody has asked yet, and ``began_at`` is how many attempts the pool had begun when it went)."""

    __slots__ = ("_claims", "_round", "began_at", "cancelled", "picks_left", "probed_s", "reason", "rule", "since_s", "until_s")

    def __init__(self, rule: str, reason: str, since_s: float, until_s: float, began_at: int = 0) -> None:
        self.rule = rule
        self.reason = reason
        self.since_s = since_s
        self.until_s = until_s
        self.began_at = began_at
        self.picks_left: int | None = None
        self.probed_s: float | None = None  # when the first probe was claimed
        self.cancelled = 0  # probes that ended without saying anything
        self._round = 0
        self._claims: dict[int, tuple[float, object]] = {}  # round: when it is over, and whose it is

    def claim(self, now_s: float, timeout_s: float, patience_s: float) -> bool:
        """May the caller send the probe, if it was due ``patience_s`` ago? True for one caller, until that probe is forgotten or
        ``timeout_s`` have passed. Any thread: who comes first in a round is decided by one ``setdefault``."""
        if now_s < self.until_s + patience_s:
            return False
        mine = (now_s + timeout_s, object())
        at = self._round
        while (holder := self._claims.setdefault(at, mine)) is not mine:
            if now_s < holder[0]:
                return False
            at += 1
        self._round = at
        if self.probed_s is None:
            self.probed_s = now_s
        return True

    def forget_probe(self) -> None:
        """The probe ended and said nothing: the next request is one."""
        self.cancelled += 1
        self._claims[self._round] = (float("-inf"), None)

    def is_probe(self, started_s: float) -> bool:
        """Was an attempt that started then the probe, and no straggler from before?"""
        return self.probed_s is not None and started_s >= self.probed_s

    def __repr__(self) -> str:
        return f"<Ejection {self.rule} {self.since_s:g}..{self.until_s:g} probed={self.probed_s}>"


class Standing:
    """What is remembered of one that has been out. ``level``: how many times the base time it would stay out, or doublings of it.
    ``returned_s``: since when it is in again; None while it is out. ``probed_s``: when its last probe began, on the clock."""

    __slots__ = ("level", "probed_s", "returned_s", "times")

    def __init__(self) -> None:
        self.level = 0
        self.times = 0
        self.probed_s: float | None = None
        self.returned_s: float | None = None


class Book:
    """See the module head. ``out`` is in the order of going, ``changes`` counts what was done to it, ``on_return`` is told who came back."""

    def __init__(self, target: str = "") -> None:
        self._prefix = f"{target}: " if target else ""
        self.out: dict[Subchannel, Ejection] = {}
        self.standing: dict[Subchannel, Standing] = {}
        self.ejections: dict[str, int] = {}  # by rule
        self.not_enforced: dict[str, int] = {}  # detected, but the enforcing ratio said no
        self.refused = 0  # detected, but too many were out
        self.returns = 0
        self.changes = 0
        self.on_return: Callable[[Subchannel], None] | None = None
        self._lines = LINES_AT_ONCE
        self._lines_s: float | None = None
        self._left_out = 0

    def eject(self, sub: Subchannel, rule: str, reason: str, until_s: float, now_s: float, began_at: int = 0) -> None:
        """It goes, or stays out for longer."""
        before = self.out.pop(sub, None)
        self.changes += 1
        self.out[sub] = Ejection(rule, reason, before.since_s if before is not None else now_s, until_s, began_at)
        standing = self.standing_of(sub)
        standing.times += 1
        standing.returned_s = None
        self.ejections[rule] = self.ejections.get(rule, 0) + 1
        self.say(
            now_s, f"{sub.endpoint} is {'still ' if before else ''}ejected for {until_s - now_s:.3g} s: {reason}", logging.WARNING
        )

    def shorten(self, sub: Subchannel, until_s: float) -> None:
        """It may come back sooner."""
        self.out[sub].until_s = until_s
        self.changes += 1

    def readmit(self, sub: Subchannel, why: str, now_s: float) -> None:
        """It is back."""
        ejection = self.out.pop(sub)
        self.changes += 1
        self.standing_of(sub).returned_s = now_s
        self.returns += 1
        sub.metric.forgive()
        if self.on_return is not None:
            self.on_return(sub)
        self.say(now_s, f"{sub.endpoint} is back after {now_s - ejection.since_s:.3g} s: {why}")

    def forget(self, sub: Subchannel) -> None:
        """Discovery does not know it any more."""
        if self.out.pop(sub, None) is not None:
            self.changes += 1
        self.standing.pop(sub, None)

    def standing_of(self, sub: Subchannel) -> Standing:
        standing = self.standing.get(sub)
        if standing is None:
            standing = self.standing[sub] = Standing()
        return standing

    def describe(self) -> dict[str, object]:
        return {
            "out": len(self.out),
            "ejections": dict(self.ejections),
            "not_enforced": dict(self.not_enforced),
            "refused": self.refused,
            "returns": self.returns,
        }

    def say(self, now_s: float, text: str, level: int = logging.INFO) -> None:
        """A line of the log, unless there were too many of late."""
        passed_s = max(now_s - self._lines_s, 0.0) if self._lines_s is not None else 0.0
        self._lines = min(self._lines + passed_s * LINES_PER_S, LINES_AT_ONCE)
        self._lines_s = now_s
        if self._lines < 1.0:
            self._left_out += 1
            return
        self._lines -= 1.0
        if self._left_out:
            text = f"{text} ({self._left_out} lines like this were left out)"
            self._left_out = 0
        _log.log(level, "%s%s", self._prefix, text)

    def __repr__(self) -> str:
        return f"<Book out={len(self.out)} ejections={sum(self.ejections.values())} returns={self.returns}>"
