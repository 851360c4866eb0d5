"""The latency of one endpoint, remembered by its peaks: a slower answer counts at once, a faster one by how much time has passed.

    rtt > estimate:   estimate = rtt
    else:             estimate = estimate * w + rtt * (1 - w)        w = exp(-(time since the last end) / tau)
    on read:          estimate * w, so that who is not asked is tried again, but at least ``LEAST_S``

A failure counts as ``failure_penalty_s`` of latency, or as what the estimate is by now if that is more: an endpoint that fails in a
millisecond would else be the fastest of all, and draw everything. From 5 s it is back at 30 ms after tau * ln(5 / 0.03) = 51 s at the
default tau, sooner if it answers meanwhile, since each answer outweighs what the time since the last one has worn off.

A call that its caller gave up took *at least* as long as it was waited for: it can raise the estimate and never lowers it. The
length of a stream says nothing about latency, so only its failures count (``on_attempt_end``).

Reading stores nothing, but for the first time after ``forgive``, when the estimate is the default again and begins to fade; an update is one
store of a pair, so that threads may lose one of two that end together, and no more. ``penalised`` holds for tau after a failure, in which
the peak falls to 1/e.

Spec: Tower's PeakEwma (load/peak_ewma.rs), and the load biaser of linkerd2-proxy for failures.
Deviations: Tower's reads store what they decayed to, so that how often somebody looks decides how peaks fade; here, as in the biaser, they
do not. A cancelled call counts as any other there. ``LEAST_S``: a decay without end makes all costs 0 after hours without calls, and
the number of calls in flight would count no more. Linkerd prolongs a penalty by Retry-After or gRPC's pushback; a metric is not told of
these here.
"""

from __future__ import annotations

from math import exp, inf

from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Attempt

LEAST_S = 1e-4  # no call over a network and through Python is faster, so no two endpoints differ by less

SUCCESS = Outcome.SUCCESS
CANCELLED = Outcome.CANCELLED


class PeakLatency:
    """See the module head; ``default_s`` is the estimate of who has not answered yet. Any thread."""

    __slots__ = ("_default_s", "_failed_until_s", "_failure_penalty_s", "_known", "_tau_s")

    def __init__(self, now_s: float, default_s: float, tau_s: float, failure_penalty_s: float) -> None:
        self._default_s = default_s
        self._tau_s = tau_s
        self._failure_penalty_s = failure_penalty_s
        self._failed_until_s = -inf
        self._known: tuple[float, float] | None = (default_s, now_s)  # the estimate, and when it was that; None: forgiven

    def on_start(self, now_s: float, /) -> None:
        """Nothing: the pool's own sets count the live attempts."""

    def on_end(self, now_s: float, rtt_s: float, outcome: Outcome, /) -> None:
        """A unary attempt ended."""
        estimate_s, since_s = self._known or self._anew(now_s)
        if outcome is SUCCESS:
            if rtt_s < estimate_s:
                left = exp(-max(0.0, now_s - since_s) / self._tau_s)
                rtt_s = estimate_s * left + rtt_s * (1.0 - left)
            self._known = (rtt_s, now_s)
        elif outcome is not CANCELLED:
            self._known = (max(self._failure_penalty_s, self.load(now_s)), now_s)
            if self._failure_penalty_s:
                self._failed_until_s = now_s + self._tau_s
        elif rtt_s > self.load(now_s):
            self._known = (rtt_s, now_s)

    def on_attempt_end(self, attempt: Attempt, now_s: float, outcome: Outcome) -> None:
        """An attempt of either kind ended."""
        is_stream = attempt.live is attempt.subchannel.streams
        if not is_stream:
            self.on_end(now_s, now_s - attempt.started_s, outcome)
        elif outcome is not SUCCESS and outcome is not CANCELLED:
            self.on_end(now_s, 0.0, outcome)

    def load(self, now_s: float, /) -> float:
        """The estimate in seconds, as of now."""
        estimate_s, since_s = self._known or self._anew(now_s)
        passed_s = now_s - since_s
        if passed_s > 0.0:  # a thread may have read the clock before another one's call ended
            estimate_s *= exp(-passed_s / self._tau_s)
        return estimate_s if estimate_s > LEAST_S else LEAST_S

    def penalised(self, now_s: float, /) -> bool:
        """Has it failed within tau?"""
        return now_s < self._failed_until_s

    def forgive(self) -> None:
        """Nothing is known of it, as at the start; which is when it is next looked at."""
        self._known = None
        self._failed_until_s = -inf

    def _anew(self, now_s: float) -> tuple[float, float]:
        self._known = known = (self._default_s, now_s)
        return known

    def __repr__(self) -> str:
        if self._known is None:
            return "<PeakLatency forgiven>"
        estimate_s, since_s = self._known
        return f"<PeakLatency {estimate_s:.6f} s at {since_s:.3f}>"
