"""Calls to a fleet in virtual time, through the real picker, sets and metrics: Poisson arrivals, exponential service times, one server
that answers as many as it is sent (or ``workers`` at a time, first come first served), and failures that take next to no time.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from meshlb.balance.config import PolicyConfig
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt
from tests.picking import subchannels_of

NO_INFO = PickInfo()


@dataclass(frozen=True)
class Call:
    """When it began, who got it, how long it took (waiting included), and whether it failed."""

    at_s: float
    server: int
    took_s: float
    failed: bool


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """``mean_load``: live attempts an endpoint there would be on average, if all worked and were picked evenly."""

    config: PolicyConfig
    weights: Sequence[float]
    mean_load: float
    service_s: float
    failing: Callable[[int, float], float]  # server, time -> share of calls that fail
    streams: bool = False
    workers: int = 0  # 0: no queue

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.mean_load * len(self.weights) / self.service_s

    def run(self, calls: int, rng: random.Random) -> list[Call]:
        policy = self.config.build(rng)
        subs = subchannels_of(policy, self.weights)
        server_of = {sub: at for at, sub in enumerate(subs)}
        picker = policy.new_picker(subs, rng)
        ending: list[tuple[float, int, Attempt, Outcome]] = []
        free_s = [[0.0] * self.workers for _ in subs]
        order, log, now_s = count(), [], 0.0
        for _ in range(calls):
            now_s += rng.expovariate(self.rate)
            while ending and ending[0][0] <= now_s:
                end_s, _, attempt, outcome = heapq.heappop(ending)
                attempt.live.remove(attempt)
                attempt.subchannel.metric.on_end(end_s, end_s - attempt.started_s, outcome)
            sub = picker.pick(NO_INFO, now_s)
            assert sub is not None
            server = server_of[sub]
            failed = rng.random() < self.failing(server, now_s)
            took_s = self.service_s / 1000 if failed else self._took_s(free_s[server], now_s, rng)
            attempt = Attempt()
            attempt.subchannel, attempt.started_s = sub, now_s
            attempt.live = sub.streams if self.streams else sub.unary
            attempt.live.add(attempt)
            outcome = Outcome.FAILURE if failed else Outcome.SUCCESS
            heapq.heappush(ending, (now_s + took_s, next(order), attempt, outcome))
            log.append(Call(now_s, server, took_s, failed))
        return log

    def _took_s(self, free_s: list[float], now_s: float, rng: random.Random) -> float:
        took_s = rng.expovariate(1 / self.service_s)
        if not free_s:
            return took_s
        worker = free_s.index(min(free_s))
        free_s[worker] = max(now_s, free_s[worker]) + took_s
        return free_s[worker] - now_s


def share_of(server: int, log: Sequence[Call]) -> float:
    """The part of the calls that a server got."""
    return sum(call.server == server for call in log) / len(log)


def percentile_s(ratio: float, log: Sequence[Call]) -> float:
    """Of how long successful calls took."""
    took_s = sorted(call.took_s for call in log if not call.failed)
    return took_s[int(ratio * len(took_s))]
