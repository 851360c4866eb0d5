"""What one endpoint costs the next call, kept up to date as calls begin and end, so that a pick is a search for the least number.

    cost  = base * (1 + handicap + live / weight) ** 2
    base  = rank * warming * e ** latency * failing
    live  = len(unary) + stream_weight * len(streams)

    latency   what is remembered of how long its calls take (latency.py)
    failing   ((1 - pool) / (1 - own)) ** 4 while it fails more often than the pool does, else 1. ``own`` moves by a quarter to 1 with each
              failure and to 0 with each success, and fades in 30 s; ``pool`` by a hundredth. So it is a rate, not a run: what fails every
              other call is seen as well as a black hole; and where all fail alike nobody is dearer than the others. (The square: half as
              many errors again with a black hole. The eighth power, or 30 times as dear from two failures on: p99 up by a fifth to a
              half where a fifth of all calls fails everywhere.)
    warming   1 / (0.1 + 0.9 age / WARM_S) for the first ``WARM_S`` = 5 s of whoever joined a running pool, else 1
    rank, handicap, weight     the picker's, see balance/anchor.py (slow start, where it is on, is a weight, and comes on top)

The live attempts are the subchannel's own sets, read anew each time: nothing is counted twice, and a lost update is put right by
the next call that begins or ends there, and by the refresh every quarter of a second.

Threads: ``costs`` is one list a policy, and each store into it is a single operation; no lock. Two that store at once may leave the older
cost, by one call, until the next store. ``busy`` holds who has unary calls; an end that sees none left and a begin in between may take out
who has one, until the next begin: a pick then rotates (see the picker), as it does between calls. An endpoint's place in
the list is given back when the metric is collected, which is when no picker has it any more.

Cost: a begin is a multiplication or two, an end one logarithm and two exponentials.
"""

from __future__ import annotations

from math import exp

from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.load.latency import Latencies, Latency

WARM_S = 5.0
COLD_RATIO = 0.1
FADE_S = 30.0
SHUNNED_RATIO = 0.3  # two failures in a row, or one in three of late
_OWN_SHARE = 0.25
_POOL_SHARE = 0.01
_FORGOTTEN = 1e-3
_HIGHEST = 0.99  # 1 - own stays above zero

SUCCESS = Outcome.SUCCESS
CANCELLED = Outcome.CANCELLED


class Costs:
    """What the metrics of one policy share."""

    __slots__ = ("_free", "busy", "failing_ratio", "latencies", "of", "stream_weight")

    def __init__(self, stream_weight: float) -> None:
        self.stream_weight = stream_weight
        self.of: list[float] = []
        self.busy: set[Anchored] = set()
        self.failing_ratio = 0.0  # of the pool's calls
        self.latencies = Latencies()
        self._free: list[int] = []

    def take(self) -> int:
        """A place in the list."""
        if self._free:
            return self._free.pop()
        self.of.append(0.0)
        return len(self.of) - 1

    def give_back(self, place: int) -> None:
        self._free.append(place)


class Anchored(Latency):
    """The metric of one endpoint; see the module head. Any thread."""

    __slots__ = (
        "__weakref__",
        "_base",
        "_costs",
        "_failed_s",
        "_failing",
        "_list",
        "_per_attempt",
        "_streams",
        "_unary",
        "_upright",
        "draw",
        "joined_s",
        "known",
        "place",
        "rank",
    )

    def __init__(self, costs: Costs, draw: float) -> None:
        super().__init__(costs.latencies)
        self._costs = costs
        self._list = costs.of
        self.place = costs.take()
        self.draw = draw  # exponential with mean 1; its order by draw / weight is the policy's
        self.known = False
        self.joined_s: float | None = None  # None: it was there from the beginning
        self.rank = 1.0
        self._upright = 1.0  # 1 + handicap
        self._per_attempt = 1.0  # 1 / weight
        self._unary: set[Attempt] = set()
        self._streams: set[Attempt] = set()
        self._base = 1.0
        self._failing = 0.0
        self._failed_s = 0.0

    def __del__(self) -> None:
        self._costs.give_back(self.place)

    # --- pickers speak ----------------------------------------------------------------------------------------------------

    def seat(self, subchannel: Subchannel, rank: float, handicap: float, per_attempt: float) -> None:
        """Where it stands among those that are picked from; ``refresh`` follows."""
        self._unary = subchannel.unary
        self._streams = subchannel.streams
        self.rank = rank
        self._upright = 1.0 + handicap
        self._per_attempt = per_attempt

    def refresh(self, now_s: float) -> None:
        """Let time pass."""
        self._base = self.rank * self._warming(now_s) * exp(self.at(now_s)) * self._dearer(now_s)
        self._store()

    def warmth(self, now_s: float) -> float:
        """What it bears of what it will, 0.1 to 1."""
        joined_s = self.joined_s
        if joined_s is None:
            return 1.0
        age_s = now_s - joined_s
        if age_s >= WARM_S:
            self.joined_s = None
            return 1.0
        return COLD_RATIO + (1.0 - COLD_RATIO) * max(0.0, age_s) / WARM_S

    def shunned(self, now_s: float) -> bool:
        """Is it clearly slower, or failing more, than the others?"""
        if self.mean > 0.0 and self.stands_out(now_s):
            return True
        return self.penalised(now_s)

    def penalised(self, now_s: float, /) -> bool:
        """Does it clearly fail more than the others?"""
        return bool(self._failing) and self.failing_ratio(now_s) > self._costs.failing_ratio + SHUNNED_RATIO

    @property
    def idle(self) -> bool:
        """No unary call is in flight here."""
        return not self._unary

    # --- the pool speaks --------------------------------------------------------------------------------------------------

    def on_start(self, now_s: float, /) -> None:
        """An attempt was counted."""
        live: float = len(self._unary)
        if live:
            self._costs.busy.add(self)
        if self._streams:
            live += self._costs.stream_weight * len(self._streams)
        high = self._upright + live * self._per_attempt
        self._list[self.place] = self._base * high * high

    def on_end(self, now_s: float, rtt_s: float, outcome: Outcome, /) -> None:
        """A unary attempt without a method ended."""
        self._end("", now_s, rtt_s, outcome)

    def on_attempt_end(self, attempt: Attempt, now_s: float, outcome: Outcome) -> None:
        """An attempt of either kind ended. How long a stream lived says nothing."""
        if attempt.live is self._unary:
            self._end(attempt.info.method, now_s, now_s - attempt.started_s, outcome)
        else:
            self._end("", now_s, None, outcome)

    def load(self, now_s: float, /) -> float:
        """By what factor it is dearer, its live attempts left out."""
        return exp(self.at(now_s)) * self._dearer(now_s)

    def forgive(self) -> None:
        """Nothing is held against it."""
        self.forget()
        self._failing = 0.0
        self._base = self.rank
        self._store()

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _end(self, method: str, now_s: float, took_s: float | None, outcome: Outcome) -> None:
        costs = self._costs
        if outcome is SUCCESS:
            if took_s is not None:
                self.learn(self.latencies.residual(method, took_s), now_s)
            if costs.failing_ratio or self._failing:
                self._succeeded(now_s)
            self._base = self.rank * exp(self.mean)
            if self._failing or self.joined_s is not None:
                self._base *= self._warming(now_s) * self._dearer(now_s)
        elif outcome is not CANCELLED:
            self._failed(now_s)
            if took_s is not None and (x := self.latencies.surplus(method, took_s)) > self.mean:
                self.learn(x, now_s)
            self._base = self.rank * self._warming(now_s) * exp(self.at(now_s)) * self._dearer(now_s)
        if not self._unary:
            costs.busy.discard(self)
        self._store()

    def _store(self) -> None:
        live: float = len(self._unary)
        if self._streams:
            live += self._costs.stream_weight * len(self._streams)
        high = self._upright + live * self._per_attempt
        self._list[self.place] = self._base * high * high

    def failing_ratio(self, now_s: float) -> float:
        """The share of its calls that failed of late."""
        passed_s = now_s - self._failed_s
        return self._failing * exp(-passed_s / FADE_S) if passed_s > 0.0 else self._failing

    def _failed(self, now_s: float) -> None:
        own, pool = self.failing_ratio(now_s), self._costs.failing_ratio
        self._failing = own + _OWN_SHARE * (1.0 - own)
        self._failed_s = now_s
        self._costs.failing_ratio = pool + _POOL_SHARE * (1.0 - pool)

    def _succeeded(self, now_s: float) -> None:
        pool = self._costs.failing_ratio * (1.0 - _POOL_SHARE)
        self._costs.failing_ratio = pool if pool > _FORGOTTEN else 0.0
        if self._failing:
            own = self.failing_ratio(now_s) * (1.0 - _OWN_SHARE)
            self._failing = own if own > _FORGOTTEN else 0.0
            self._failed_s = now_s

    def _dearer(self, now_s: float) -> float:
        if not self._failing:
            return 1.0
        own, pool = min(_HIGHEST, self.failing_ratio(now_s)), self._costs.failing_ratio
        return ((1.0 - pool) / (1.0 - own)) ** 4 if own > pool else 1.0

    def _warming(self, now_s: float) -> float:
        return 1.0 / self.warmth(now_s) if self.joined_s is not None else 1.0

    def __repr__(self) -> str:
        return f"<Anchored cost={self._list[self.place]:.3f} latency={self.mean:+.2f} failing={self._failing:.2f}>"
