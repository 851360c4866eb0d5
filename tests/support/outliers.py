"""A pool's worth of subchannels, an ejector and a clock: attempts that end at once, as the pool would report them. Whatever the ejector
is told, what it answers is held against what it changed."""

from __future__ import annotations

import random
from collections.abc import Callable

from meshlb.core.clock import Rng
from meshlb.core.endpoint import Endpoint
from meshlb.core.outcome import Outcome
from meshlb.core.subchannel import Subchannel
from meshlb.health.ejection import Ejector
from meshlb.health.outlier import Outlier
from meshlb.health.relative import MOST_PICKS
from meshlb.load.in_flight import LiveOnly

FAILURE = Outcome.FAILURE
SUCCESS = Outcome.SUCCESS
START_S = 1000.0


class Drawn:
    """An rng that gives the same number for ever."""

    def __init__(self, value: float = 0.0) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


def subchannel(number: int) -> Subchannel:
    return Subchannel(Endpoint(host=f"10.0.{number // 250}.{number % 250 + 1}", port=80, name=f"pod-{number}"), LiveOnly())


class Field:
    """``n`` endpoints; ``subs[i]`` is endpoint i. Time stands still but for ``run``."""

    def __init__(self, n: int, settings: Outlier | None = None, rng: Rng | None = None) -> None:
        self.now_s = START_S
        self.ejector = Ejector(settings or Outlier(), rng or Drawn())
        self.subs = [subchannel(number) for number in range(n)]
        self.ejector.know(self.subs, self.now_s)

    def end(self, i: int, outcome: Outcome = SUCCESS, *, times: int = 1, began_s: float | None = None) -> None:
        """Attempts on endpoint i that began now, or then, end now."""
        sub = self.subs[i]
        for _ in range(times):
            sub.succeeded += outcome is SUCCESS
            if outcome not in (SUCCESS, Outcome.CANCELLED) or sub.watched:
                self._tell(self.ejector.heard, sub, outcome, self.now_s if began_s is None else began_s, self.now_s)

    def fail(self, i: int, times: int = 1, outcome: Outcome = FAILURE) -> None:
        self.end(i, outcome, times=times)

    def all_succeed(self, times: int = 1) -> None:
        for i in range(len(self.subs)):
            if self.subs[i] not in self.ejector.out:
                self.end(i, times=times)

    def run(self, seconds: float) -> None:
        """Time passes, with every tick that is due in between, when it is due."""
        end_s = self.now_s + seconds
        ticks = 0
        while (due_s := self.ejector.due_s()) is not None and due_s <= end_s:
            ticks += 1
            assert ticks <= 20 * seconds + 100, "a tick that is due changes nothing"
            self.now_s = max(due_s, self.now_s)
            self._tell(self.ejector.tick, self.now_s)
        self.now_s = end_s
        self._tell(self.ejector.tick, end_s)

    @property
    def out(self) -> set[int]:
        return {self.subs.index(sub) for sub in self.ejector.out}

    @property
    def probing(self) -> set[int]:
        return {self.subs.index(sub) for sub in self.ejector.probing}

    def claim(self, i: int, *, busy: bool = True) -> bool:
        """By one of many calls, or by one after a pause."""
        for sub in self.subs:
            sub.started += MOST_PICKS if busy else 0
        return self.ejector.claim(self.subs[i], self.now_s)

    def eject(self, i: int) -> None:
        """By a run of failures while the others work, without leaving time for it to come back."""
        self.all_succeed(10)
        self.fail(i, 20)
        self.run(0.11)
        assert i in self.out, self.ejector

    def members(self, *numbers: int) -> None:
        self._tell(self.ejector.know, [self.subs[number] for number in numbers], self.now_s)

    def _tell(self, call: Callable[..., bool], *arguments: object) -> None:
        before = self.ejector.out, self.ejector.probing
        changed = call(*arguments)
        assert changed == (before != (self.ejector.out, self.ejector.probing))


def traffic(field: Field, ratios: list[float], rate_hz: float, seconds: float, rng: random.Random) -> list[int]:
    """Each endpoint that is in gets about ``rate_hz`` attempts a second, endpoint i fails ``ratios[i]`` of them; how many each got."""
    served = [0] * len(ratios)
    end_s = field.now_s + seconds
    while True:
        step_s = rng.expovariate(rate_hz * len(ratios))
        if field.now_s + step_s >= end_s:
            field.run(max(end_s - field.now_s, 0.0))
            return served
        field.run(step_s)
        ejector = field.ejector
        probe = next((sub for sub in ejector.probing if ejector.claim(sub, field.now_s)), None)
        sub = probe or rng.choice([sub for sub in field.subs if sub not in ejector.out])
        i = field.subs.index(sub)
        served[i] += 1
        sub.started += 1
        field.end(i, FAILURE if rng.random() < ratios[i] else SUCCESS)
