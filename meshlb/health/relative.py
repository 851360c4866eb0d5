"""Our own rules of ejection: an endpoint goes when it does far worse than the others do at the same time, in a pool of 2 as of 1,000.

Every rule compares, and ends in "could chance alone have done that?" (chance.py):

* **a run** of ``consecutive_failures`` (5) with no success since, longer where the others fail too: p^k must be beyond chance, p being
  their ratio lately, or since the run began if that is higher (five suffice if 10 others' attempts were fine);
* **a run of attempts that found it unreachable** (3), by the same measure;
* **its ratio**: ``failure_ratio_above_pool`` (0.1) above that of all others together, and beyond chance. It needs no minimum of traffic: 30 %
  against 0 % takes about 20 attempts with five endpoints and 45 of each with two, however long these take.

Nothing is decided at the failure itself but ``SETTLE_S`` later at the earliest: a process that was stalled hears of all its failures in one
moment, one endpoint after the other, and the first must not be ejected before the last has been heard. Meanwhile load (load/in_flight.py)
keeps calls away from who fails. OVERLOADED is back-pressure: it counts for the ratio, and neither for nor against a run.

**Panic**: when the pool itself fails, nobody is ejected and those who are out come back. That is a ratio of *attempts*, not a count of
hosts: over the last second (at least 5 attempts of each), ``panic_failure_ratio`` (0.7) of the attempts on those who are in, the worst of
them left out as long as it may be ejected, since it does not speak for the pool. It ends below 0.8 of that figure, or when nothing failed
for ``window_s``. So of 10 endpoints that are called evenly, with 7 broken 5 go and the rest serves; with 8 broken all stay in. Policies
that look at load call the broken ones less, and come to that later: ``p2c`` with 9 broken, ``least_request`` with all.

**How many**: the share ``max_ejection_ratio``, rounded down, but always one and never the last. When the pool shrinks below that, those
who would come back first do.

**How long**: min(base * 2^n, max) * (1 - jitter * random), n ejections without ``forgive_s`` of good time each in between; jitter after the
cap, so that clients of a long ejected endpoint do not come back in step. While those who are in fail as well (``HURRY_RATIO`` of their
attempts in the last second), nobody waits for longer than the base time: they may lack the very capacity that is out and well again.
Simulated, five of ten broken for 10 s and the rest full: without it calls went on failing for half a minute after the fault was over.

**How many calls**: also not before the pool has begun ``TURNS`` (3) attempts for each of its endpoints, ``MOST_PICKS`` (100) at most, unless
those who are in fail as well. A time alone is over at the next call of somebody who calls every ten seconds, who would probe with nearly
each of them: of 2,900 calls in eight hours, one of ten pods broken, 514 met it, 100 without any ejection, and 96 with this; at one call in
100 s 66 %, and now 3 %. From one call a second on the times are longer than that, and nothing changes. It ends in time, too: when the time has
been over for ``PATIENT_FOR`` (60) times ``max_ejection_s``, an hour by default, the next call may be the probe. Shorter than what the
calls take, this would undo it: 30 of them, one each 100 s, are 50 minutes. Nor does it hold back a call for which all others are full
(pool/limited_view.py).

Cost: O(1) at a failure, O(n) in a sweep; these are at least 100 ms and n / 2,000 s apart, and there is none while nothing fails. The
totals of successes are read then, so a success pays nothing. Under threads they may be off by a few, which the rules do not notice. A
pool in which nothing ever failed keeps nothing but its members.

Spec: none; Finagle's and Linkerd's failure accrual for the run, the probe and its figures; Envoy for the share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from meshlb.core.clock import Rng
from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Subchannel
from meshlb.health.book import Book, Ejection
from meshlb.health.chance import bar, likely_ratio, run_needed, unlike
from meshlb.health.outlier import OwnRules
from meshlb.health.tally import Tally
from meshlb.health.window import Fading

SETTLE_S: Final = 0.1
SWEPT_PER_S: Final = 2000.0  # endpoints; about a microsecond each
KEEP_LATELY: Final = 50.0  # attempts: what 30 % against 0 % needs with two endpoints
NOW_S: Final = 1.0
KEEP_NOW: Final = 5.0
PANIC_ENDS: Final = 0.8
HURRY_RATIO: Final = 0.1
TURNS: Final = 3
MOST_PICKS: Final = 100
PATIENT_FOR: Final = 60.0  # times max_ejection_s


class Relative:
    """See the module head. Writes into ``book``; every method runs under the pool's lock."""

    def __init__(self, rules: OwnRules, book: Book, rng: Rng) -> None:
        self.panic = False
        self.probe_timeout_s = rules.probe_timeout_s
        self._rules = rules
        self._book = book
        self._rng = rng
        self._members: Sequence[Subchannel] = ()  # until the first failure; from then on there are tallies
        self._tallies: dict[Subchannel, Tally] = {}
        self._suspects: dict[Subchannel, None] = {}  # who failed since the last sweep
        self._lately = Fading(rules.window_s, KEEP_LATELY)
        self._now = Fading(NOW_S, KEEP_NOW)
        self._succeeded = self._failed = 0  # attempts of all who were in
        self._counted = (0, 0)  # both, when they were counted last
        self._counted_s: float | None = None
        self._failed_s = 0.0
        self._due_s: float | None = None

    def know(self, members: Sequence[Subchannel], now_s: float) -> None:
        if self._counted_s is None:
            self._counted_s = now_s
        known, book = self._tallies, self._book
        if not known:
            self._members = members
            return
        self._tallies = {sub: known.get(sub) or Tally(sub) for sub in members}
        for gone in known.keys() - self._tallies.keys():
            book.forget(gone)
            self._suspects.pop(gone, None)
        while len(book.out) > self._allowed():
            book.readmit(min(book.out, key=lambda sub: book.out[sub].until_s), "the pool has become too small", now_s)

    def failed(self, sub: Subchannel, outcome: Outcome, now_s: float) -> None:
        if not self._tallies:
            self._tallies = {member: Tally(member, 0) for member in self._members}
            self._members = ()
        tally = self._tallies.get(sub)
        if tally is None or self._counted_s is None:
            return
        if tally.starts_run and now_s - self._counted_s >= self._sweep_s():
            self._count(now_s)  # what the others do from now on is what the run is compared with
        tally.failed(outcome, self._counted)
        self._failed += outcome is not Outcome.OVERLOADED
        self._failed_s = now_s
        self._suspects[sub] = None
        if self._due_s is None:
            self._due_s = max(self._counted_s + self._sweep_s(), now_s + SETTLE_S)

    def tick(self, now_s: float) -> None:
        if self._due_s is None or now_s < self._due_s:
            return
        self._due_s = None
        self._count(now_s)
        tallies = [tally for sub, tally in self._tallies.items() if sub not in self._book.out]
        self._consider_panic(tallies, now_s)
        if self.panic:
            self._due_s = now_s + max(self._sweep_s(), NOW_S)
        else:
            self._judge(tallies, now_s)
            self._hurry(tallies, now_s)
        self._suspects.clear()

    def due_s(self) -> float | None:
        return self._due_s

    def returned(self, sub: Subchannel) -> None:
        tally = self._tallies.get(sub)
        if tally is not None:
            tally.clear()

    def eject(self, sub: Subchannel, rule: str, reason: str, now_s: float) -> None:
        """It goes, or stays out for longer than the last time."""
        rules, standing = self._rules, self._book.standing_of(sub)
        if standing.returned_s is not None:
            standing.level = max(standing.level - int(max(now_s - standing.returned_s, 0.0) / rules.forgive_s), 0)
        time_s = min(rules.base_ejection_s * 2.0**standing.level, rules.max_ejection_s)
        if time_s < rules.max_ejection_s:
            standing.level += 1
        time_s *= 1.0 - rules.ejection_jitter_ratio * self._rng.random()
        self._book.eject(sub, rule, reason, now_s + time_s, now_s, self._begun())

    def too_soon(self, ejection: Ejection, now_s: float) -> bool:
        """Its time is over, and a call was picked: have there been too few of them to risk this one? O(1), but for the first. Any thread."""
        left = self.picks_left(ejection, now_s)
        ejection.picks_left = left - 1
        return left > 0

    def picks_left(self, ejection: Ejection, now_s: float) -> int:
        """How many calls go elsewhere before one may be the probe. Any thread; changes nothing."""
        if now_s >= ejection.until_s + PATIENT_FOR * self._rules.max_ejection_s:
            return 0
        if ejection.picks_left is not None:
            return max(ejection.picks_left, 0)
        picked = max(self._begun() - ejection.began_at, 0)  # less than nothing: some that were counted then are gone
        return max(min(TURNS * len(self._tallies), MOST_PICKS) - picked, 0)

    def _begun(self) -> int:
        return sum([sub.started for sub in list(self._tallies)])

    def _sweep_s(self) -> float:
        return max(SETTLE_S, len(self._tallies) / SWEPT_PER_S)

    def _allowed(self) -> int:
        n = len(self._tallies)
        return min(max(int(self._rules.max_ejection_ratio * n + 1e-9), 1), n - 1) if n else 0

    def _count(self, now_s: float) -> None:
        assert self._counted_s is not None
        passed_s = max(now_s - self._counted_s, 0.0)
        self._counted_s = now_s
        lately, now, out = self._lately, self._now, self._book.out
        lately.passed(passed_s)
        now.passed(passed_s)
        for sub, tally in self._tallies.items():
            if sub not in out:
                self._succeeded += tally.count(lately, now)
        self._counted = (self._succeeded, self._failed)

    def _consider_panic(self, tallies: Sequence[Tally], now_s: float) -> None:
        failed = sum(tally.now.failed for tally in tallies)
        total = sum(tally.now.total for tally in tallies)
        if tallies and len(self._book.out) < self._allowed():
            worst = max(tallies, key=lambda tally: tally.now.failed).now
            failed, total = failed - worst.failed, total - worst.total
        ratio = failed / total if total else 0.0
        if self.panic:
            self.panic = ratio >= PANIC_ENDS * self._rules.panic_failure_ratio and now_s - self._failed_s < self._rules.window_s
            if not self.panic:
                self._book.say(now_s, "the pool works again: ejection goes on")
        elif total >= KEEP_NOW and ratio >= self._rules.panic_failure_ratio:
            self.panic = True
            self._book.say(now_s, f"the pool itself fails ({ratio:.0%} of its attempts): nobody is ejected")
            for sub in tuple(self._book.out):
                self._book.readmit(sub, "the pool itself fails", now_s)

    def _judge(self, tallies: Sequence[Tally], now_s: float) -> None:
        failed = sum(tally.lately.failed for tally in tallies)
        total = sum(tally.lately.total for tally in tallies)
        surely = bar(len(self._tallies))
        book = self._book
        suspects = [self._tallies[sub] for sub in self._suspects if sub not in book.out]
        for tally in sorted(suspects, key=lambda tally: -tally.lately.failing_ratio):
            lately = tally.lately
            found = self._stands_out(tally, failed - lately.failed, total - lately.total, surely)
            if found is None:
                continue
            if len(book.out) >= self._allowed():
                book.refused += 1
                continue
            self.eject(tally.sub, *found, now_s)
            failed, total = failed - lately.failed, total - lately.total

    def _hurry(self, tallies: Sequence[Tally], now_s: float) -> None:
        out = self._book.out
        failed = sum(tally.now.failed for tally in tallies if tally.sub not in out)
        total = sum(tally.now.total for tally in tallies if tally.sub not in out)
        if total < KEEP_NOW or failed < HURRY_RATIO * total:
            return
        base_s = self._rules.base_ejection_s
        for sub, ejection in tuple(out.items()):
            ejection.picks_left = 0
            if ejection.until_s > now_s + base_s:
                self._book.shorten(sub, now_s + base_s * (1.0 - self._rules.ejection_jitter_ratio * self._rng.random()))

    def _stands_out(self, tally: Tally, others_failed: float, others: float, surely: float) -> tuple[str, str] | None:
        """The rule it broke, and the reason in words. ``others``: their attempts lately."""
        rules, lately, run = self._rules, tally.lately, tally.run
        others_failed, others = max(others_failed, 0.0), max(others, 0.0)  # sums of floats
        ratio = others_failed / others if others else 0.0
        if not run.broken:
            succeeded, failed = self._succeeded - tally.before[0], self._failed - tally.before[1]
            failed -= tally.blamed - tally.before[2]
            meanwhile = max(likely_ratio(others_failed, others), failed / (failed + succeeded) if failed > 0 else 0.0)
            least = rules.consecutive_connect_failures
            if least and tally.unreachable >= run_needed(least, meanwhile, surely):
                return "consecutive_connect_failures", f"{tally.unreachable} attempts in a row could not reach it"
            least = rules.consecutive_failures
            if least and run.length >= run_needed(least, meanwhile, surely):
                return "consecutive_failures", f"{run.length} failures in a row"
        above = rules.failure_ratio_above_pool
        stands_out = above and others and lately.failing_ratio - ratio >= above
        if stands_out and unlike(lately.failed, lately.total, others_failed, others) >= surely:
            return "failure_ratio", f"{lately.failing_ratio:.0%} of its attempts failed lately, {ratio:.0%} of the others'"
        return None

    def __repr__(self) -> str:
        return f"<Relative {len(self._tallies)} endpoints panic={self.panic} due_s={self._due_s}>"
