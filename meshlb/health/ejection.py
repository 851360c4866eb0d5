"""Ejection's one owner: who of a pool is out, since when, why, and who may take a probe. The rules of ``outlier`` decide (relative.py,
envoy_outlier.py, a50.py), the book remembers (book.py), and what the pool sees is worked out here.

**The probe** (our own rules only; Envoy and A50 have none): when its time is over, an endpoint may take one real request (``claim``), as soon
as enough were picked since it went (relative.py: who calls rarely would probe with each call), or there is nobody else with room.
The success of an attempt that began at or after the claim brings it back, any failure of such a one, OVERLOADED included, sends it out
again, for longer. Stragglers from before do not count. A probe that its caller cancels says nothing, and the next request is one; the
third in a row counts as failed, since callers give up on what does not answer. One that never ends holds the place for
``probe_timeout_s``, then another request may go; whichever ends first decides.

**A clock that jumps back** (by more than ``JUMP_S``; smaller steps are two threads that read it one after the other) moves everything that
is remembered with it: nobody stays out for longer because of it, and what had started before does not count as a probe.

Threads: every method runs under the pool's lock but ``claim`` and ``was_probe``, which take none. ``out`` and ``probing`` may be read by anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, nextafter
from typing import Final, Protocol

from meshlb.core.clock import Rng
from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Subchannel
from meshlb.health.a50 import A50
from meshlb.health.book import Book, Ejection
from meshlb.health.envoy_outlier import EnvoyOutlier
from meshlb.health.outlier import EnvoyRules, Outlier, OwnRules
from meshlb.health.relative import Relative

JUMP_S: Final = 1.0
CANCELLED_PROBES: Final = 3
PATIENCE_S: Final = 1.0  # as long as the first ejection

SUCCESS = Outcome.SUCCESS
CANCELLED = Outcome.CANCELLED


class Rules(Protocol):
    """What decides; it writes into the book. ``panic``: everybody is used, whoever is out."""

    @property
    def panic(self) -> bool: ...

    def know(self, members: Sequence[Subchannel], now_s: float, /) -> None: ...

    def failed(self, sub: Subchannel, outcome: Outcome, now_s: float, /) -> None: ...

    def tick(self, now_s: float, /) -> None: ...

    def due_s(self) -> float | None: ...

    def returned(self, sub: Subchannel, /) -> None: ...


class Ejector:
    """See the module head. What returns a bool says whether ``out`` or ``probing`` changed.

    ``out``: no calls but probes. ``probing``: those of them whose time is over, each of which may take ONE real request.
    """

    def __init__(self, settings: Outlier, rng: Rng, target: str = "") -> None:
        """``target``: for log lines."""
        self.settings = settings
        self.out: frozenset[Subchannel] = frozenset()
        self.probing: tuple[Subchannel, ...] = ()
        self._book = Book(target)
        self._rules = _rules_of(settings, self._book, rng)
        self._own = self._rules if isinstance(self._rules, Relative) else None  # the only ones that send probes
        if self._rules is not None:
            self._book.on_return = self._rules.returned
        self._settled = 0  # the book's changes that are in ``out``
        self._panic = False  # as it is in ``out``
        self._next_s: float | None = None  # when somebody's time is over
        self._latest_s: float | None = None
        self._ahead_s = 0.0  # of the clock, which jumped back by so much

    def know(self, members: Sequence[Subchannel], now_s: float) -> bool:
        """These are eligible now; what was known of others is forgotten. O(n)."""
        rules = self._rules
        if rules is None:
            return False
        time_s = self._time(now_s)
        rules.know(members, time_s)
        return self._settle(time_s)

    def heard(self, sub: Subchannel, outcome: Outcome, started_s: float, now_s: float) -> bool:
        """An attempt ended: every failure, and whatever the end of one that is ``watched``. O(1)."""
        rules = self._rules
        if rules is None:
            return False
        time_s = self._time(now_s)
        began_s = started_s + self._ahead_s if started_s <= now_s else -inf  # it began before the clock jumped
        if self._own is not None and sub in self._book.out:
            self._heard_out(self._own, sub, outcome, began_s, time_s)
        elif outcome is not SUCCESS and outcome is not CANCELLED and not self._is_straggler(sub, began_s):
            rules.failed(sub, outcome, time_s)
        return self._settle(time_s)

    def tick(self, now_s: float) -> bool:
        """Time has passed."""
        if self._rules is None:
            return False
        time_s = self._time(now_s)
        self._rules.tick(time_s)
        return self._settle(time_s)

    def due_s(self) -> float | None:
        """When it wants a tick; None while nobody is out and nothing failed lately."""
        if self._rules is None:
            return None
        due_s = self._rules.due_s()
        if self._next_s is not None and (due_s is None or self._next_s < due_s):
            due_s = self._next_s
        return None if due_s is None else self._on_the_clock(due_s)

    def claim(self, sub: Subchannel, now_s: float, *, replays: bool = True, alone: bool = False) -> bool:
        """May this request be the probe? True for exactly one caller, who then sends it there, with ``now_s`` as its start. One that could
        not go on elsewhere if it failed (not ``replays``) may only after nobody else came for ``PATIENCE_S``. ``alone``: all others are full,
        so it does not wait for other calls to be picked."""
        own, ejection = self._own, self._book.out.get(sub)
        if own is None or ejection is None:
            return False
        time_s = now_s + self._ahead_s
        if time_s < ejection.until_s or (not alone and own.too_soon(ejection, time_s)):
            return False
        claimed = ejection.claim(time_s, own.probe_timeout_s, 0.0 if replays else PATIENCE_S)
        if claimed:
            self._book.standing[sub].probed_s = now_s
        return claimed

    def was_probe(self, sub: Subchannel, started_s: float) -> bool:
        """Was an attempt on it that began then its last probe? Any thread."""
        standing = self._book.standing.get(sub)
        return standing is not None and standing.probed_s == started_s

    def why(self, sub: Subchannel, now_s: float) -> dict[str, object] | None:
        """Plain data for ``status()``: for how long it is out and will be, the reason in words, how often it was. None: it is in."""
        ejection, standing = self._book.out.get(sub), self._book.standing.get(sub)
        if ejection is None:
            return None
        time_s = now_s + self._ahead_s
        state = "ejected"
        if sub not in self.out:
            state = "used nevertheless: too many are out"
        elif sub in self.probing:
            state = self._waits_for(ejection, time_s)
        return {
            "state": state,
            "reason": ejection.reason,
            "since_s": round(max(time_s - ejection.since_s, 0.0), 3),
            "until_s": round(max(ejection.until_s - time_s, 0.0), 3),
            "times": standing.times if standing is not None else 0,
        }

    def describe(self) -> dict[str, object]:
        """Plain data for ``status()``: who decides, how many are out, and what was done, by rule."""
        rules = self._rules
        if rules is None:
            return {"mode": self.settings.mode}
        return {"mode": self.settings.mode, "panic": rules.panic, "probing": len(self.probing), **self._book.describe()}

    def _waits_for(self, ejection: Ejection, time_s: float) -> str:
        if ejection.probed_s is not None:
            return "waits for its probe to end"
        calls = self._own.picks_left(ejection, time_s) if self._own is not None else 0
        return f"waits for {calls} more call{'s' if calls > 1 else ''}, then for a probe" if calls else "waits for a probe"

    def _is_straggler(self, sub: Subchannel, began_s: float) -> bool:
        """It began before the endpoint came back: what it says is long known."""
        standing = self._book.standing.get(sub) if self._own is not None else None
        return standing is not None and standing.returned_s is not None and began_s < standing.returned_s

    def _heard_out(self, own: Relative, sub: Subchannel, outcome: Outcome, began_s: float, time_s: float) -> None:
        ejection = self._book.out[sub]
        if not ejection.is_probe(began_s):
            return
        if outcome is SUCCESS:
            self._book.readmit(sub, "its probe succeeded", time_s)
        elif outcome is not CANCELLED:
            own.eject(sub, "probe", f"its probe failed; before: {_first(ejection.reason)}", time_s)
        elif ejection.cancelled + 1 < CANCELLED_PROBES:
            ejection.forget_probe()
        else:
            own.eject(sub, "probe", f"its probes were not answered; before: {_first(ejection.reason)}", time_s)

    def _settle(self, time_s: float) -> bool:
        """What the pool sees. O(those out), if there is any news of them."""
        rules, own, book = self._rules, self._own, self._book
        panic = rules is not None and rules.panic
        over = self._next_s is not None and time_s >= self._next_s
        if not over and book.changes == self._settled and panic == self._panic:
            return False
        self._settled, self._panic = book.changes, panic
        before = self.out, self.probing
        self.out = frozenset() if panic else frozenset(book.out)
        if own is not None:
            self.probing = tuple([sub for sub, one in book.out.items() if one.until_s <= time_s])
            self._next_s = min((one.until_s for one in book.out.values() if one.until_s > time_s), default=None)
            for sub in before[0] ^ self.out:
                sub.watched = sub in self.out
        return before != (self.out, self.probing)

    def _time(self, now_s: float) -> float:
        """On a clock that never jumps back."""
        time_s = now_s + self._ahead_s
        if self._latest_s is not None and time_s < self._latest_s - JUMP_S:
            self._ahead_s += self._latest_s - time_s
            time_s = self._latest_s
        self._latest_s = max(time_s, self._latest_s) if self._latest_s is not None else time_s
        return time_s

    def _on_the_clock(self, time_s: float) -> float:
        """The first reading of the clock at which ``_time`` is not before this, also after rounding."""
        now_s = time_s - self._ahead_s
        while now_s + self._ahead_s < time_s:
            now_s = nextafter(now_s, inf)
        return now_s

    def __repr__(self) -> str:
        return f"<Ejector {self.settings.mode} out={len(self.out)} probing={len(self.probing)} due_s={self.due_s()}>"


def _rules_of(settings: Outlier, book: Book, rng: Rng) -> Rules | None:
    rules = settings.rules
    if rules is None:
        return None
    if isinstance(rules, OwnRules):
        return Relative(rules, book, rng)
    if isinstance(rules, EnvoyRules):
        return EnvoyOutlier(rules, book, rng)
    return A50(rules, book, rng)


def _first(reason: str) -> str:
    """The reason why it was ejected at first."""
    return reason.rpartition("before: ")[2]
