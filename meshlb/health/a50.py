"""``outlier="grpc"``: gRFC A50's outlier detection, both of its algorithms, as the text has them.

Each ``interval_s``, in this order: buckets are swapped; success rate; failure percentage; then each endpoint that is in loses one of its
multiplier, and each that is out for longer than min(base * multiplier, max(base, max)) comes back. There is no probe.

* Success rate: if at least ``minimum_hosts`` have ``request_volume``, those of them go whose rate is below mean - stdev * factor.
* Failure percentage: if there are at least ``minimum_hosts`` at all, those with ``request_volume`` go whose share of failures is above the
  threshold.
* Before each, the sweep stops if *more* than ``max_ejection_ratio`` are out. So one may always go, and with 10 endpoints and 10 % two may.

Spec: gRFC A50.
Deviations: a failure is what meshlb calls one, or OVERLOADED; A50 counts every status but OK, also those that only the application can
judge. Who is out is not ejected again. Nobody is out while everybody would be. The timer rests while nothing fails (sweeps.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Subchannel
from meshlb.health.outlier import GrpcRules
from meshlb.health.sweeps import Bucket, Swept, ejection_s, enforced, percent, with_volume


class A50(Swept[GrpcRules]):
    """See the module head."""

    @property
    def panic(self) -> bool:
        """Everybody is out."""
        return 0 < len(self._buckets) == len(self._book.out)

    def failed(self, sub: Subchannel, outcome: Outcome, now_s: float) -> None:
        bucket = self._failing(sub, now_s)
        if bucket is not None:
            bucket.failed += 1

    def returned(self, sub: Subchannel) -> None:
        """Nothing: its bucket goes on."""

    def sweep(self, now_s: float, buckets: Sequence[Bucket], /) -> None:
        for bucket in buckets:
            bucket.swap()
        self._by_success_rate(buckets, now_s)
        self._by_failure_percentage(buckets, now_s)
        for sub in [bucket.sub for bucket in buckets if bucket.sub in self._book.standing]:
            self._age(sub, now_s)

    def _by_success_rate(self, buckets: Sequence[Bucket], now_s: float) -> None:
        for sub, reason in self._far_below_the_mean(buckets):
            if self._too_many(len(buckets)):
                return
            self._eject(sub, "success_rate", reason, self._rules.enforcing_success_rate_ratio, now_s)

    def _by_failure_percentage(self, buckets: Sequence[Bucket], now_s: float) -> None:
        rules = self._rules
        if len(buckets) < rules.failure_percentage_minimum_hosts:
            return
        threshold = percent(rules.failure_percentage_threshold_ratio)
        for bucket in with_volume(buckets, rules.failure_percentage_request_volume):
            if self._too_many(len(buckets)):
                return
            failing = 100.0 - bucket.success_rate
            if failing > threshold:
                reason = f"{failing:.3g} % of its calls failed"
                self._eject(bucket.sub, "failure_percentage", reason, rules.enforcing_failure_percentage_ratio, now_s)

    def _too_many(self, known: int) -> bool:
        return 100.0 * len(self._book.out) / known > percent(self._rules.max_ejection_ratio)

    def _eject(self, sub: Subchannel, rule: str, reason: str, enforcing_ratio: float, now_s: float) -> None:
        book = self._book
        if sub in book.out:
            return
        if not enforced(enforcing_ratio, self._rng):
            book.not_enforced[rule] = book.not_enforced.get(rule, 0) + 1
            return
        standing = book.standing_of(sub)
        standing.level += 1
        book.eject(sub, rule, reason, now_s + ejection_s(self._rules, standing.level), now_s)

    def _age(self, sub: Subchannel, now_s: float) -> None:
        ejection, standing = self._book.out.get(sub), self._book.standing[sub]
        if ejection is None:
            standing.level = max(standing.level - 1, 0)
        elif now_s > ejection.until_s:
            self._book.readmit(sub, "its time is over", now_s)
