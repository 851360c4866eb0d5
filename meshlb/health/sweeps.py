"""What Envoy's and A50's detectors share: sweeps at fixed intervals, two buckets of counts an endpoint, and the rule of success rates.

The bucket that is judged is the one that was filled until the sweep; it is closed there, and a new one opened. Successes are the rise of
the endpoint's total. Their timers run always; ours starts at the first failure and goes on until a whole interval had none, nobody is out
and no multiplier is left: without a failure all rates are equal and nothing could have happened in between.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from math import sqrt
from typing import Generic, TypeVar

from meshlb.core.clock import Rng
from meshlb.core.subchannel import Subchannel
from meshlb.health.book import Book
from meshlb.health.outlier import GrpcRules
from meshlb.health.run import Run


class Bucket:
    """The counts of one endpoint: of the interval that runs (``failed``, and what the total rose by), and of the one before (``closed``)."""

    __slots__ = ("_base", "closed", "failed", "gateway", "run", "served", "sub")

    def __init__(self, sub: Subchannel) -> None:
        self.sub = sub
        self.run = Run(sub)
        self.gateway = Run(sub)
        self.failed = 0
        self.served = 0  # attempts that are no success to us, but are one to the rule
        self.closed = (0, 0)  # failures and all
        self._base = sub.succeeded

    def open(self) -> None:
        """A new interval begins."""
        self.failed = self.served = 0
        self._base = self.sub.succeeded

    def swap(self) -> None:
        """The interval is over, and the next one begins."""
        self.closed = (self.failed, self.failed + self.served + max(self.sub.succeeded - self._base, 0))
        self.open()

    @property
    def volume(self) -> int:
        return self.closed[1]

    @property
    def success_rate(self) -> float:
        """In per cent, as both have it."""
        failed, total = self.closed
        return 100.0 * (total - failed) / total

    def __repr__(self) -> str:
        return f"<Bucket {self.sub.endpoint} failed={self.closed[0]} of {self.closed[1]}>"


R = TypeVar("R", bound=GrpcRules)


class Swept(ABC, Generic[R]):
    """A detector that looks each ``interval_s`` at the buckets of all that are known. Writes into ``book``; every method runs under the
    pool's lock."""

    def __init__(self, rules: R, book: Book, rng: Rng) -> None:
        self._rules = rules
        self._book = book
        self._rng = rng
        self._buckets: dict[Subchannel, Bucket] = {}
        self._due_s: float | None = None

    @property
    @abstractmethod
    def panic(self) -> bool:
        """All are used, whoever is out."""

    @abstractmethod
    def sweep(self, now_s: float, buckets: Sequence[Bucket], /) -> None: ...

    def know(self, members: Sequence[Subchannel], now_s: float) -> None:
        known = self._buckets
        self._buckets = {sub: known.get(sub) or Bucket(sub) for sub in members}
        for gone in known.keys() - self._buckets.keys():
            self._book.forget(gone)

    def tick(self, now_s: float) -> None:
        if self._due_s is None or now_s < self._due_s:
            return
        buckets = tuple(self._buckets.values())
        self.sweep(now_s, buckets)
        book = self._book
        busy = any(bucket.closed[0] for bucket in buckets) or book.out or any(one.level for one in book.standing.values())
        self._due_s = now_s + self._rules.interval_s if busy else None

    def due_s(self) -> float | None:
        return self._due_s

    def _failing(self, sub: Subchannel, now_s: float) -> Bucket | None:
        """The bucket of one that failed, which starts the timer; None if it is not known."""
        bucket = self._buckets.get(sub)
        if bucket is not None and self._due_s is None:
            self._due_s = now_s + self._rules.interval_s
            for one in self._buckets.values():
                one.open()
        return bucket

    def _far_below_the_mean(self, buckets: Iterable[Bucket]) -> Iterator[tuple[Subchannel, str]]:
        """Those whose success rate is an outlier, and the reason in words; nobody unless enough have the volume."""
        rules = self._rules
        busy = with_volume(buckets, rules.success_rate_request_volume)
        if not busy or len(busy) < rules.success_rate_minimum_hosts:
            return
        threshold = success_rate_threshold([bucket.success_rate for bucket in busy], rules.success_rate_stdev_factor)
        for bucket in busy:
            if bucket.success_rate < threshold:
                yield bucket.sub, f"success rate {bucket.success_rate:.3g} % is below {threshold:.3g} %"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self._buckets)} endpoints out={len(self._book.out)} due_s={self._due_s}>"


def success_rate_threshold(rates: Sequence[float], factor: float) -> float:
    """Mean minus ``factor`` standard deviations of the population. Envoy's own example: 50, 100, 100, 100, 100 and 1.9 give 52."""
    mean = sum(rates) / len(rates)
    return mean - factor * sqrt(sum((rate - mean) ** 2 for rate in rates) / len(rates))


def with_volume(buckets: Iterable[Bucket], least: int) -> list[Bucket]:
    """Those with at least so many attempts, and with any."""
    return [bucket for bucket in buckets if bucket.volume and bucket.volume >= least]


def percent(ratio: float) -> float:
    """0.29 is 29 and no digit more."""
    return round(100.0 * ratio, 9)


def enforced(ratio: float, rng: Rng) -> bool:
    """A whole number drawn from 0 to 99 is below the percentage."""
    return int(rng.random() * 100) < percent(ratio)


def ejection_s(rules: GrpcRules, level: int) -> float:
    return min(rules.base_ejection_s * level, rules.max_ejection_s)
