"""``outlier="envoy"``: Envoy's outlier detection (external and local origin not split) and its panic threshold, number by number.

* **Consecutive 5xx** and **consecutive gateway failures** are judged at the failure itself, when the counter *equals* its figure; it
  starts anew then, whether or not the endpoint goes. One that is out is not judged.
* Each ``interval_s``: who has been out for min(base * n, max) + jitter comes back, its counters cleared; buckets are swapped; then, among
  those who are in, **success rate** (mean - factor * population stdev of all with ``request_volume``, if these are ``minimum_hosts``) and
  **failure percentage** (at least the threshold); then n is lowered by one for each that has been back for an interval.
* An ejection needs 100 * (out + 1) / hosts <= max_ejection_percent: with 10 % and fewer than 10 endpoints nobody ever goes, unless
  ``always_eject_one_host``; and the draw against its enforcing percentage. n is then raised by one, while n * base < max + base.
* **Panic**: with h % of the endpoints in, everybody is used while h is below ``healthy_panic_threshold_ratio``, unless 1.4 * h (in whole
  per cent) reaches 100.

5xx are FAILURE and UNREACHABLE. OVERLOADED is 429 to Envoy (RESOURCE_EXHAUSTED), hence no 5xx.

Spec: envoyproxy/envoy source/common/upstream/outlier_detection_impl.cc; load_balancer_impl.cc for panic.
Deviations: outcomes do not tell 500 (INTERNAL, UNKNOWN, DATA_LOSS) from 503 and 504 (UNAVAILABLE, DEADLINE_EXCEEDED, unreachable), so
each counts as a gateway failure. What the success rate has ejected the failure percentage does not eject again in the same sweep.
Envoy fails all calls if everybody is out and the panic threshold is 0; here everybody is used. The timer rests while nothing fails
(sweeps.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Subchannel
from meshlb.health.outlier import EnvoyRules
from meshlb.health.sweeps import Bucket, Swept, ejection_s, enforced, percent, with_volume

OVERPROVISIONING_PERCENT = 140  # Envoy's default; what makes a priority "whole" with 72 % of its hosts


class EnvoyOutlier(Swept[EnvoyRules]):
    """See the module head."""

    @property
    def panic(self) -> bool:
        """Too few are in, so that all are used."""
        hosts = len(self._buckets)
        healthy = hosts - len(self._book.out)
        if not healthy:
            return hosts > 0
        if OVERPROVISIONING_PERCENT * healthy // hosts >= 100:
            return False
        return 100.0 * healthy / hosts < percent(self._rules.healthy_panic_threshold_ratio)

    def failed(self, sub: Subchannel, outcome: Outcome, now_s: float) -> None:
        bucket = self._failing(sub, now_s)
        if bucket is None:
            return
        if outcome is Outcome.OVERLOADED:
            bucket.served += 1
            bucket.run.reset()
            bucket.gateway.reset()
            return
        bucket.failed += 1
        rules = self._rules
        if bucket.gateway.failed() == rules.consecutive_gateway_failure:
            ratio = rules.enforcing_consecutive_gateway_failure_ratio
            self._consecutive(bucket, "consecutive_gateway_failure", ratio, now_s)
        if bucket.run.failed() == rules.consecutive_5xx:
            self._consecutive(bucket, "consecutive_5xx", rules.enforcing_consecutive_5xx_ratio, now_s)

    def returned(self, sub: Subchannel) -> None:
        """So that a counter which is near its figure does not eject it again at once."""
        bucket = self._buckets.get(sub)
        if bucket is not None:
            bucket.run.reset()
            bucket.gateway.reset()

    def sweep(self, now_s: float, buckets: Sequence[Bucket], /) -> None:
        book = self._book
        for sub in [sub for sub, ejection in book.out.items() if now_s >= ejection.until_s]:
            book.readmit(sub, "its time is over", now_s)
        for bucket in buckets:
            bucket.swap()
        judged = [bucket for bucket in buckets if bucket.sub not in book.out]
        for sub, reason in self._far_below_the_mean(judged):
            self._eject(sub, "success_rate", reason, self._rules.enforcing_success_rate_ratio, now_s)
        self._by_failure_percentage(judged, now_s)
        for sub, standing in book.standing.items():
            if sub not in book.out and standing.returned_s is not None and now_s - standing.returned_s >= self._rules.interval_s:
                standing.level = max(standing.level - 1, 0)

    def _consecutive(self, bucket: Bucket, rule: str, enforcing_ratio: float, now_s: float) -> None:
        if bucket.sub in self._book.out:
            return
        run = bucket.run if rule == "consecutive_5xx" else bucket.gateway
        length = run.length
        self._eject(bucket.sub, rule, f"{length} failures in a row", enforcing_ratio, now_s)
        run.reset()

    def _by_failure_percentage(self, judged: Sequence[Bucket], now_s: float) -> None:
        rules = self._rules
        busy = with_volume(judged, rules.failure_percentage_request_volume)
        if len(busy) < rules.failure_percentage_minimum_hosts:
            return
        threshold = percent(rules.failure_percentage_threshold_ratio)
        for bucket in busy:
            failing = 100.0 - bucket.success_rate
            if failing >= threshold and bucket.sub not in self._book.out:
                reason = f"{failing:.3g} % of its calls failed"
                self._eject(bucket.sub, "failure_percentage", reason, rules.enforcing_failure_percentage_ratio, now_s)

    def _eject(self, sub: Subchannel, rule: str, reason: str, enforcing_ratio: float, now_s: float) -> None:
        rules, book = self._rules, self._book
        allowed = 100.0 * (len(book.out) + 1) / len(self._buckets) <= percent(rules.max_ejection_ratio)
        if not allowed and not (rules.always_eject_one_host and not book.out):
            book.refused += 1
            return
        if not enforced(enforcing_ratio, self._rng):
            book.not_enforced[rule] = book.not_enforced.get(rule, 0) + 1
            return
        standing = book.standing_of(sub)
        if standing.level * rules.base_ejection_s < rules.max_ejection_s + rules.base_ejection_s:
            standing.level += 1
        jitter_s = self._rng.random() * rules.max_ejection_jitter_s
        book.eject(sub, rule, reason, now_s + ejection_s(rules, standing.level) + jitter_s, now_s)
