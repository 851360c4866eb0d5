"""Is an endpoint slower than the others, by what its own calls took? The mean logarithm of latency, with a short memory.

    x       = ln(latency) - usual[method]            how much longer than usual for this method, anywhere in the pool
    weight' = weight * exp(-dt / MEMORY_S) + 1       of the samples so far; dt since the last one
    mean'   = mean + (x - mean) / weight'
    read:     mean * exp(-idle / FORGET_S)           idle: since the last sample

Why logarithms and means, never peaks: one long request in a thousand says nothing about its endpoint, and a peak blackens a healthy one
for as long as it is remembered (p99 1.93 of the optimum instead of 1.32, with everything else the same).

Why by method: an expensive method must not blacken whom it is sent to. ``usual`` is the mean over all endpoints, of the first
hundred samples plainly, then 1 % a sample; so what hits all alike (a blocked event loop, a stalled process) moves ``usual`` and nobody's mean.
It is kept for ``MAX_METHODS``, all further ones share one.

Why forgetting: who was slow is asked again some day, and who is not known counts as usual, neither free nor frozen. Nothing decays
towards zero latency.

What counts: unary calls that succeeded, and failures that took longer than usual (an expired deadline); one that fails at once
is not fast. x is held within ``OUTERMOST``, so that a call that hung for an hour does not rule for minutes.

Threads: plain stores; two calls that end at once may lose one sample of the two, and no more.

Spec: none. The constants are on a plateau: MEMORY_S 2 to 10 and FORGET_S 5 to 60 give the same p99 within 2 %.
"""

from __future__ import annotations

from math import exp, log, sqrt

MEMORY_S = 5.0
FORGET_S = 20.0
MAX_METHODS = 500
OUTERMOST = 4.0  # e ** 4 = 55 times as long as usual
SHORTEST_S = 1e-6
_PLAIN = 100  # samples of a method whose mean is plain
_SHARE = 0.01  # of each sample after that
_STANDS_OUT = 0.1  # a tenth slower is not worth a word
_SIGMAS = 2.0


class _Usual:
    """The mean logarithm of one method's latency in the whole pool."""

    __slots__ = ("count", "mean")

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0


class Latencies:
    """What the endpoints of one pool share: what is usual, by method, and by how much calls stray from it (``variance``)."""

    __slots__ = ("_others", "_usual", "variance")

    def __init__(self) -> None:
        self.variance = 1.0
        self._usual: dict[str, _Usual] = {}
        self._others = _Usual()

    def residual(self, method: str, took_s: float) -> float:
        """How much longer than usual that was, as a logarithm; and learn from it. The first call of a method is what is usual."""
        usual = self._usual.get(method)
        if usual is None:
            usual = self._first_seen(method)
        taken = log(took_s) if took_s > SHORTEST_S else log(SHORTEST_S)
        count = usual.count
        if count >= _PLAIN:
            x = taken - usual.mean
            usual.mean += _SHARE * x
        else:
            x = taken - usual.mean if count else 0.0
            usual.count = count = count + 1
            usual.mean += (taken - usual.mean) / count
        if x > OUTERMOST:
            x = OUTERMOST
        elif x < -OUTERMOST:
            x = -OUTERMOST
        self.variance += _SHARE * (x * x - self.variance)
        return x

    def surplus(self, method: str, took_s: float) -> float:
        """How much longer than usual that was, as a logarithm, >= 0; nothing is learnt from it."""
        usual = self._usual.get(method, self._others)
        if not usual.count or took_s <= SHORTEST_S:
            return 0.0
        return min(OUTERMOST, max(0.0, log(took_s) - usual.mean))

    def _first_seen(self, method: str) -> _Usual:
        return self._usual.setdefault(method, _Usual()) if len(self._usual) < MAX_METHODS else self._others


class Latency:
    """One endpoint's; see the module head. ``mean`` is as of ``last_s``."""

    __slots__ = ("last_s", "latencies", "mean", "samples")

    def __init__(self, latencies: Latencies) -> None:
        self.latencies = latencies
        self.mean = 0.0
        self.samples = 0.0  # their weight
        self.last_s = 0.0

    def learn(self, x: float, now_s: float) -> float:
        """A call took x longer than usual; what the mean is now."""
        passed_s = now_s - self.last_s
        samples = self.samples * exp(-passed_s / MEMORY_S) + 1.0 if passed_s > 0.0 else self.samples + 1.0
        self.samples = samples
        self.last_s = now_s
        self.mean = mean = self.mean + (x - self.mean) / samples
        return mean

    def at(self, now_s: float) -> float:
        """What is remembered at this time."""
        idle_s = now_s - self.last_s
        return self.mean * exp(-idle_s / FORGET_S) if idle_s > 0.0 else self.mean

    def stands_out(self, now_s: float) -> bool:
        """Slower by more than chance explains (two sigmas)."""
        if self.mean <= _STANDS_OUT:
            return False
        chance = sqrt(self.latencies.variance / max(0.5, self.samples))
        return self.at(now_s) > _STANDS_OUT + _SIGMAS * chance

    def forget(self) -> None:
        """As if it had never been called."""
        self.mean = self.samples = 0.0
