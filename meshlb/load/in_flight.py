"""Live attempts as load, and a decaying penalty for what fails, so that failing fast does not look like being idle.

The live attempts stand on the subchannel (the sizes of its two sets); what is kept here is the penalty:

    load of an endpoint = (live unary + stream_weight * live streams) / weight + penalty      (weights about 1, see balance/draw.py)

Why a penalty: an endpoint that fails at once has nothing in flight, and every policy that looks at load sends it more than its
share; all of it, if the others are busy. Why it is counted in *picks*: a share is a share of picks, so "not again before the
others had their turns" holds at one call a minute and at 10,000 a second, for calls of a millisecond and for streams of a day. A
penalty that decays with time alone is over before the next slow call, or keeps a busy endpoint idle for seconds because of one
error in a hundred.

On a failure an endpoint is given what its peers carry, and two attempts more, which it then loses one a turn:

    penalty = m + (HELD_TURNS - turns) / weight,  at least 0

m is the mean load of (up to 16 of) its peers at that moment; a turn is (sum of weights) / weight picks, n where all are equal.
One attempt a turn is the pace of a peer in balance: as one begins there in each turn, one ends. So on paper the endpoint carries
what a working one would, two attempts ahead. It is passed over for two turns, and then gets one attempt a turn at most, its
share, whether or not the first of them has failed yet; and if it works again, it fills at the pace of the others instead of
drawing everything at once. A new failure replaces the penalty and never adds to it. m fades within ``PEERS_LOAD_S`` = 60 whatever
the picks, so that the load of a burst is not borne through the quiet hours after it.

Who *stands out* is also kept away for ``STANDING_OUT_S`` = 5 (Linkerd's figure): a straight line in seconds from the same height;
the higher of the two counts. Standing out: the share of failures among the last ten or so attempts (an average that forgets a
tenth with each) is 0.4 above the mean of the peers'. Such an average strays by sqrt(0.1 / 1.9 * p (1 - p)) <= 0.115, so where all
fail alike nobody is 0.4 above the others (3 sigma at the worst p) and relative scores vanish; a black hole is at its fifth
failure in a row, an endpoint that fails every other call most of the time.

Simulated (tests/simulation, and more of the same): 2 to 10 endpoints, mean loads of 0.01 to 100, calls of 10 ms to 30 s, one
endpoint that fails in a tenth to all of its calls after a fiftieth of a call's time or less: never above its share but for noise.
Limit: m fades too early for calls of minutes; with 100 calls of 5 minutes each on every peer a black hole gets up to twice its
share.

Recovery: two turns after the last failure (or 5 s, if it stood out) an endpoint gets calls again, and what is left of the penalty
after 60 s is what is left of two turns.

Cost: a success adds one to an integer. All else happens at failures, in O(16), and in picks only while somebody is penalised. The
counters may lose an update under threads without the GIL: they are estimates. A penalty is one store of an immutable tuple.

Spec: none; Finagle's and Linkerd's failure penalties (in seconds of latency) for the idea.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from meshlb.core.outcome import Outcome
from meshlb.core.policy import LoadMetric
from meshlb.core.subchannel import Subchannel

HELD_TURNS = 2.0
PEERS_LOAD_S = 60.0
STANDING_OUT_S = 5.0
STANDING_OUT_RATIO = 0.4
SAMPLED_PEERS = 16
_KEEP = 0.9  # of the average of failures, with each attempt
_LOOK_EVERY = 100  # picks; any number that makes looking cheap

SUCCESS = Outcome.SUCCESS
CANCELLED = Outcome.CANCELLED


class Peers:
    """The subchannels of one picker and their relative weights (None: all 1); lives as long as its picker."""

    __slots__ = ("__weakref__", "_weight_of", "subchannels", "total_weight")

    def __init__(self, subchannels: Sequence[Subchannel], weights: Sequence[float] | None) -> None:
        self.subchannels = subchannels
        self.total_weight = sum(weights) if weights else float(len(subchannels))
        self._weight_of = {sub.metric: weight for sub, weight in zip(subchannels, weights, strict=True)} if weights else {}

    def weight_of(self, metric: LoadMetric) -> float:
        return self._weight_of.get(metric, 1.0)


class Penalties:
    """What the metrics of one policy share: their peers, the clock of picks, and who is penalised now.

    A picker asks a metric for its load only while ``penalised`` is not empty, and then calls ``turn`` with each pick. ``join`` is
    called under the pool's lock, the rest from any thread, without one. The peers are those of the largest live picker: a view
    that is still connecting knows too few.
    """

    __slots__ = ("_failures", "_joined", "_look_again_at", "penalised", "picks", "stream_weight")

    def __init__(self, stream_weight: float) -> None:
        self.stream_weight = stream_weight
        self.picks = 0
        self.penalised: dict[InFlight, None] = {}
        self._joined: tuple[weakref.ref[Peers], ...] = ()
        self._failures = 0
        self._look_again_at = 0  # in picks

    def join(self, subchannels: Sequence[Subchannel], weights: Sequence[float] | None) -> Peers:
        """These are compared with one another for as long as the caller, a picker, holds what is returned."""
        peers = Peers(subchannels, weights)
        self._joined = (*(ref for ref in self._joined if ref() is not None), weakref.ref(peers))
        return peers

    def turn(self, now_s: float) -> None:
        """A pick is made while ``penalised`` is not empty: count it, and now and then forget who has nothing left to bear."""
        self.picks += 1
        if self.picks < self._look_again_at:
            return
        for metric in tuple(self.penalised):
            self.penalised.pop(metric, None)
            if metric.load(now_s) > 0.0:
                self.penalised[metric] = None
        self._look_again_at = self.picks + _LOOK_EVERY + len(self.penalised)

    def blame(self, failed: InFlight, now_s: float) -> None:
        """Give a metric that has just counted a failure its penalty; alone, it has none."""
        peers = max((peers for ref in self._joined if (peers := ref())), key=_size, default=None)
        sample = self._sample(peers, failed) if peers is not None else []
        if peers is None or not sample:
            return
        live = sum(len(sub.unary) + self.stream_weight * len(sub.streams) for sub in sample)
        live /= sum(peers.weight_of(sub.metric) for sub in sample)
        failing = sum(sub.metric.failing_ratio for sub in sample if isinstance(sub.metric, InFlight)) / len(sample)
        standing_out_s = STANDING_OUT_S if failed.failing_ratio - failing >= STANDING_OUT_RATIO else 0.0
        weight = peers.weight_of(failed)
        failed.penalise(live, now_s, standing_out_s, self.picks, peers.total_weight / weight, 1.0 / weight)
        self.penalised[failed] = None

    def _sample(self, peers: Peers, failed: InFlight) -> list[Subchannel]:
        """Up to 16 peers of the one that failed, evenly spread over all and other ones each time."""
        subchannels = peers.subchannels
        self._failures += 1
        step = max(1, len(subchannels) // SAMPLED_PEERS)
        chosen = (subchannels[at] for at in range(self._failures % step, len(subchannels), step)[: SAMPLED_PEERS + 1])
        return [sub for sub in chosen if sub.metric is not failed][:SAMPLED_PEERS]


class InFlight:
    """The penalty of one endpoint; see the module head. Any thread; ``on_start`` does nothing, ``on_end(SUCCESS)`` adds one."""

    __slots__ = ("_failing", "_penalties", "_penalty", "_successes")

    def __init__(self, penalties: Penalties) -> None:
        self._penalties = penalties
        self._failing = 0.0
        self._successes = 0  # since the last failure
        self._penalty: tuple[float, float, float, float, float, float] | None = None

    def on_start(self, now_s: float, /) -> None:
        """Nothing: the pool's own sets count the live attempts."""

    def on_end(self, now_s: float, rtt_s: float, outcome: Outcome, /) -> None:
        """A success is counted, a failure of any kind penalised; who gave up blames nobody."""
        if outcome is SUCCESS:
            self._successes += 1
        elif outcome is not CANCELLED:
            self._failing = _KEEP * self.failing_ratio + (1.0 - _KEEP)
            self._successes = 0
            self._penalties.blame(self, now_s)

    @property
    def failing_ratio(self) -> float:
        """The share of failures among the last ten or so attempts, 0 to 1."""
        return self._failing * _KEEP**self._successes if self._failing else 0.0

    def penalise(self, peers_load: float, now_s: float, standing_out_s: float, pick: int, turn: float, attempt: float) -> None:
        """From now on and from this pick on. ``turn`` is in picks, ``attempt`` what one attempt weighs here."""
        self._penalty = (peers_load, now_s, standing_out_s, pick, turn, attempt)

    def load(self, now_s: float, /) -> float:
        """What is left of the penalty, >= 0."""
        penalty = self._penalty
        if penalty is None:
            return 0.0
        peers_load, since_s, standing_out_s, since_pick, turn, attempt = penalty
        passed_s = max(0.0, now_s - since_s)  # a thread may have read the clock before another one failed
        left = (HELD_TURNS - (self._penalties.picks - since_pick) / turn) * attempt
        if passed_s < PEERS_LOAD_S:
            left += peers_load * (1.0 - passed_s / PEERS_LOAD_S)
        if passed_s < standing_out_s:
            left = max(left, (peers_load + HELD_TURNS * attempt) * (1.0 - passed_s / standing_out_s))
        return left if left > 0.0 else 0.0

    def penalised(self, now_s: float, /) -> bool:
        """Is anything left of the penalty?"""
        return self._penalty is not None and self.load(now_s) > 0.0

    def forgive(self) -> None:
        """No penalty is left, and no failure is remembered: who came back from an ejection has proved itself, and two owners of one
        absence would add up."""
        self._failing = 0.0
        self._penalty = None

    def __repr__(self) -> str:
        return f"<InFlight failing={self.failing_ratio:.2f} penalty={self._penalty}>"


def _size(peers: Peers) -> int:
    return len(peers.subchannels)


class LiveOnly:
    """For policies that do not look at load: nothing is added to the live attempts."""

    __slots__ = ()

    def on_start(self, now_s: float, /) -> None:
        """Nothing."""

    def on_end(self, now_s: float, rtt_s: float, outcome: Outcome, /) -> None:
        """Nothing."""

    def load(self, now_s: float, /) -> float:
        """Always 0."""
        return 0.0

    def forgive(self) -> None:
        """Nothing."""
