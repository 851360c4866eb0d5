"""What endpoints bear, by their own word: a factor on the weight of each, made of its load reports, which every policy reads.

    weight of a report = qps / (utilization + eps / qps * error_utilization_penalty)
    capacity           = weight / the pool's mean weight

An endpoint that serves 100 calls a second at half its strength bears 200. ``utilization`` is the largest of ``metric_names`` in the
report, else ``application_utilization``, else ``cpu_utilization``. A report without calls or without utilization says nothing of that and
changes nothing.

**Usable** is an endpoint that has reported for ``blackout_s`` and whose last report is younger than ``expiration_s``. Who is not has the
mean, capacity 1; and while fewer than two are, all have. Who comes back from either state, or connects anew, has its blackout again; of who
connects anew nothing that was said before counts.

**a58** takes the last report's weight and the mean of all, at every update; a weight is cut to ``A58_RATIOS`` of the median of all first.

**reported** is for calls that are few, short or noisy, where the last report is mostly chance (with it, round robin's p99 is *worse* than
without weights at 70 % load), and for servers that may be wrong:

- a weight is the quotient of two sums over ``smoothing_s``, of qps and of utilization, older reports fading. A mean of quotients would
  be ruled by the moments at which a server was nearly idle. Out of band it is three intervals at least: one report is no mean.
- It is drawn to the mean as if one report more had come that says the mean: ``(n w + mean) / (n + 1)``, n reports in the sums.
- The mean is of weights cut to ``min_ratio``..``max_ratio`` of their median, and so is in the end each weight of the mean. So one absurd
  server has ``max_ratio`` at most and moves nobody else.
- Pickers are made anew only if some capacity would move by ``STEP_RATIO``; then all move.

Threads: ``on_report`` from any, without a lock: every store is a single one of an immutable tuple, so two at once lose one report and
harm nothing. All else under the pool's lock.

Spec: gRFC A58, A114; C-core's weighted_round_robin (EndpointWeight).
Deviations (a58): A58 has a weight for each channel, this is the process's; it is multiplied with discovery's weight (A58 knows none) and
with slow start's; the mean is of all known members, ready or not. A58 bounds weights in its scheduler, by the mean, which one absurd server moves:
here the bounds are for every policy, and by the median. Of two servers that is the mean: nobody knows which of them is wrong. What round robin itself does with weights (the bounds of its stride
scheduler) is ``balance/weighted_round_robin.py``'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from meshlb.core.report import LoadReport
from meshlb.core.subchannel import Subchannel
from meshlb.load.weight import Weight

STEP_RATIO = 0.05  # what a pool of ten does not notice
A58_RATIOS = (0.01, 10.0)  # of A58's scheduler
_REASON = 1e15  # a weight beyond it, or below its inverse, is nonsense, and would spoil the sums


class _Heard:
    """What one endpoint said. ``last``: weight, qps, utilization and time of the last usable report; ``sums``: of qps, of utilization and
    how many, as of a time; ``since_s``: it has been reporting since."""

    __slots__ = ("last", "problem", "since_s", "sums")

    def __init__(self) -> None:
        self.last: tuple[float, float, float, float] | None = None
        self.sums = (0.0, 0.0, 0.0, 0.0)
        self.since_s: float | None = None
        self.problem = ""


class Capacities:
    """One pool's; sets ``Subchannel.capacity``. See the module head for the rules and the threads."""

    def __init__(self, settings: Weight) -> None:
        self._settings = settings
        self._careful = settings.source == "reported"
        self._fading_s = max(settings.smoothing_s, 3.0 * settings.oob_interval_s if settings.oob else 0.0)
        self._heard_of: dict[Subchannel, _Heard] = {}
        self._news = False  # a usable report came
        self._due_s: float | None = None
        self._next_s = math.inf  # when somebody becomes usable, or ceases to be, without a report
        self._using = 0
        self.reports = 0
        self.rejected = 0
        self.unusable = 0
        self.expired = 0
        self.cut = 0  # weights that were beyond their bounds when weights were made

    # --- any thread -------------------------------------------------------------------------------------------------------

    def on_report(self, sub: Subchannel, report: LoadReport, now_s: float) -> None:
        """An endpoint said how loaded it is."""
        heard = self._heard_of.get(sub)
        if heard is None:  # it left meanwhile
            return
        if report.problem:
            self._reject(heard, report.problem)
            return
        qps, utilization = report.qps, self._utilization(report)
        if not (qps > 0.0 and utilization > 0.0):
            self.unusable += 1
            heard.problem = f"no weight in it: qps={qps:g}, utilization={utilization:g}"
            return
        if report.eps > 0.0:
            utilization += report.eps / qps * self._settings.error_utilization_penalty
        weight = qps / utilization
        if not 1.0 / _REASON < weight < _REASON:
            self._reject(heard, f"a weight of {weight:g}: beyond all reason")
            return
        if heard.since_s is None:
            heard.since_s = now_s
        if self._careful:
            self._add(heard, qps, utilization, now_s)
        heard.last = (weight, qps, utilization, now_s)
        heard.problem = ""
        self.reports += 1
        self._news = True

    def on_connected(self, sub: Subchannel) -> None:
        """A connection to it came up, maybe to another process than before: nothing is known of that, and its blackout begins. Under the
        pool's lock: whoever reports meanwhile tells the one that is forgotten."""
        if sub in self._heard_of:
            self._heard_of[sub] = _Heard()
            self._news = True

    def describe(self) -> dict[str, Any]:
        """Plain data for ``status()``."""
        return {
            "weight": {
                "source": self._settings.source,
                "using": self._using,
                "reports": self.reports,
                "rejected": self.rejected,
                "unusable": self.unusable,
                "expired": self.expired,
                "cut": self.cut,
            }
        }

    def describe_one(self, sub: Subchannel, now_s: float) -> dict[str, Any]:
        """The last report of one endpoint, what became of it, and why it is not used; empty for one that never reported anything."""
        heard = self._heard_of.get(sub)
        if heard is None or (heard.last is None and not heard.problem):
            return {}
        said: dict[str, Any] = {"capacity": round(sub.capacity, 3)}
        if heard.last is not None:
            weight, qps, utilization, at_s = heard.last
            weight = self._weight_of(heard)
            said |= {"qps": _rounded(qps), "utilization": _rounded(utilization), "weight": _rounded(weight)}
            said["age_s"] = round(now_s - at_s, 3)
        said["unused"] = self._why_unused(heard, now_s)
        return {"reported": said | ({"problem": heard.problem} if heard.problem else {})}

    # --- under the pool's lock --------------------------------------------------------------------------------------------

    def know(self, members: Sequence[Subchannel], now_s: float) -> None:
        """These are eligible now; who is new has the mean until it has reported for long enough. O(n)."""
        known = self._heard_of
        self._heard_of = {sub: known.get(sub) or _Heard() for sub in members}
        for sub in members:
            if sub not in known:
                sub.capacity = 1.0
        self._news = True  # the mean is another one
        if not members:
            self._due_s = None
        elif self._due_s is None:
            self._due_s = now_s + self._settings.update_s

    def tick(self, now_s: float) -> bool:
        """Time passed. True if capacities changed, so that pickers must be made anew."""
        if self._due_s is None or now_s < self._due_s:
            return False
        self._due_s = now_s + self._settings.update_s
        if not self._news and now_s < self._next_s:
            return False
        self._news = False
        weights = self._usable(now_s)
        self._using = len(weights) if len(weights) > 1 else 0
        return self._set(self._capacities(weights) if self._using else {})

    def due_s(self) -> float | None:
        """When weights are made the next time; None without members."""
        return self._due_s

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _reject(self, heard: _Heard, problem: str) -> None:
        self.rejected += 1
        heard.problem = problem

    def _utilization(self, report: LoadReport) -> float:
        largest = 0.0
        for name in self._settings.metric_names:
            largest = max(largest, report.metric(name))
        return largest or report.application_utilization or report.cpu_utilization

    def _add(self, heard: _Heard, qps: float, utilization: float, now_s: float) -> None:
        qps_sum, utilization_sum, count, at_s = heard.sums
        kept = math.exp(min(at_s - now_s, 0.0) / self._fading_s) if count else 0.0
        heard.sums = (qps_sum * kept + qps, utilization_sum * kept + utilization, count * kept + 1.0, now_s)

    def _weight_of(self, heard: _Heard) -> float:
        if heard.last is None:
            return 0.0
        qps_sum, utilization_sum, *_ = heard.sums
        return qps_sum / utilization_sum if utilization_sum else heard.last[0]

    def _usable(self, now_s: float) -> dict[Subchannel, float]:
        settings, weights = self._settings, dict[Subchannel, float]()
        self._next_s = math.inf
        for sub, heard in self._heard_of.items():
            last, since_s = heard.last, heard.since_s
            if last is None:
                continue
            if now_s - last[3] >= settings.expiration_s:
                self.expired += 1
                heard.last, heard.since_s, heard.sums = None, None, (0.0, 0.0, 0.0, 0.0)
                heard.problem = f"expired: no report for {settings.expiration_s:g} s"
                continue
            self._next_s = min(self._next_s, last[3] + settings.expiration_s)
            if since_s is None:
                continue
            if now_s - since_s < settings.blackout_s:
                self._next_s = min(self._next_s, since_s + settings.blackout_s)
                continue
            weights[sub] = self._weight_of(heard)
        return weights

    def _capacities(self, weights: Mapping[Subchannel, float]) -> dict[Subchannel, float]:
        """The weights, two at least, as factors about 1."""
        bounds = (self._settings.min_ratio, self._settings.max_ratio) if self._careful else A58_RATIOS
        middle = median(weights.values())
        cut = {sub: _cut(weight, middle, bounds) for sub, weight in weights.items()}
        self.cut += sum(weight != cut[sub] for sub, weight in weights.items())
        mean = fmean(cut.values())
        if not self._careful:
            return {sub: weight / mean for sub, weight in cut.items()}
        counts = {sub: self._heard_of[sub].sums[2] for sub in weights}
        drawn = {sub: (counts[sub] * weight + mean) / (counts[sub] + 1.0) for sub, weight in weights.items()}
        return {sub: _cut(weight, mean, bounds) / mean for sub, weight in drawn.items()}

    def _set(self, capacities: Mapping[Subchannel, float]) -> bool:
        step = STEP_RATIO if self._careful else 0.0
        members = self._heard_of
        if not any(abs(capacities.get(sub, 1.0) - sub.capacity) > step * sub.capacity for sub in members):
            return False
        for sub in members:
            sub.capacity = capacities.get(sub, 1.0)
        return True

    def _why_unused(self, heard: _Heard, now_s: float) -> str:
        """Empty: it is used."""
        settings, since_s = self._settings, heard.since_s
        if heard.last is None:
            return "no usable report"
        if now_s - heard.last[3] >= settings.expiration_s:
            return "expired"
        for_s = 0.0 if since_s is None else now_s - since_s
        if for_s < settings.blackout_s:
            return f"blackout: has reported for {for_s:.1f} of {settings.blackout_s:g} s"
        return "" if self._using else "fewer than two endpoints report"


def _cut(weight: float, middle: float, bounds: tuple[float, float]) -> float:
    least, most = bounds
    return min(max(weight, least * middle), most * middle)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
