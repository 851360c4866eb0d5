"""What a polled name publishes, after any sequence of answers, failures, hints and time, against the rules read off the history."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from meshlb.core.endpoint import EndpointSet
from meshlb.errors import ResolveError
from meshlb.resolve.lookup import Found, Lookup
from meshlb.resolve.polled import PolledResolver
from meshlb.testing.loop import ManualLoop

GRACE_S = 60.0
ADDRESSES = tuple(f"10.0.0.{number}" for number in range(1, 6))


@dataclass(frozen=True)
class Said:
    at_s: float
    kind: str
    addresses: frozenset[str] = frozenset()


def is_allowed(address: str, history: list[Said]) -> bool:
    """Promise 1 for DNS, from the whole history: shown once, and since then neither missed twice nor denied throughout the grace."""
    shown = False
    for index, said in enumerate(history):
        if address in said.addresses:
            shown = True
        elif said.kind == "whole" and shown:
            last = max(i for i in range(index) if address in history[i].addresses)
            shown = sum(one.kind == "whole" for one in history[last + 1 : index + 1]) < 2
        elif said.kind == "denied":
            first = next(i for i in range(index, -1, -1) if i == 0 or history[i - 1].kind != "denied")
            if said.at_s - history[first].at_s >= GRACE_S - 1e-6:  # a sum and a difference of floats
                shown = False
    return shown


class Run:
    """A resolver whose every question is answered at random, and the history of what it was told."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.loop = ManualLoop(1000.0)
        self.history: list[Said] = []
        self.published: frozenset[str] | None = None
        self.pods = set(self.rng.sample(ADDRESSES, 3))
        # Long stretches of one thing, else no denial ever lasts.
        self.weather, self.weather_until_s = "whole", 0.0
        self.resolver = PolledResolver(
            "db.example.com", 443, self.look_up, source="dns", scheduler=self.loop, rng=self.rng, empty_grace_s=GRACE_S
        )

    def look_up(self) -> Lookup:
        now_s, rng = self.loop.now_s(), self.rng
        if self.history:
            assert now_s - self.history[-1].at_s >= 0.9, "asked more than once a second"
            assert now_s - self.history[-1].at_s <= 33.1, "asked too rarely"
        if now_s >= self.weather_until_s:
            self.weather = rng.choice(["whole", "whole", "cut", "denied", "failed", "mixed"])
            self.weather_until_s = now_s + rng.choice([1.0, 20.0, 100.0, 200.0])
        kind = rng.choice(["whole", "cut", "denied", "failed"]) if self.weather == "mixed" else self.weather
        for address in ADDRESSES:
            if rng.random() < 0.1:
                self.pods.symmetric_difference_update({address})
        shown = frozenset(address for address in self.pods if rng.random() < 0.9) or frozenset(ADDRESSES[:1])
        ttl_s = rng.choice([0.0, 1.0, 5.0, 30.0, 300.0])
        if kind in ("whole", "cut"):
            self.history.append(Said(now_s, kind, shown))
            found, addresses = Found.ADDRESSES, tuple(sorted(shown))
            return Lookup(name="db", found=found, addresses=addresses, ttl_s=ttl_s, complete=kind == "whole")
        self.history.append(Said(now_s, kind))
        found = Found.FAILED if kind == "failed" else rng.choice([Found.NO_NAME, Found.NO_ADDRESS])
        return Lookup(name="db", found=found, ttl_s=ttl_s, reason=kind)

    def on_endpoints(self, endpoints: EndpointSet, /) -> None:
        self.published = frozenset(endpoint.host for endpoint in endpoints.endpoints)

    def on_error(self, error: ResolveError, /) -> None:
        pass

    def check(self) -> None:
        allowed = frozenset(address for address in ADDRESSES if is_allowed(address, self.history))
        assert (self.published or frozenset()) == allowed, self.history[-5:]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_the_published_set_is_what_the_rules_allow(seed: int) -> None:
    """Throughout ten minutes of any DNS: what is published is what the history allows, and questions come at most once a second."""
    run = Run(seed)
    run.resolver.start(run)
    for _ in range(200):
        run.loop.advance(run.rng.choice([0.1, 1.0, 3.0, 7.0]))
        if run.rng.random() < 0.3:
            run.resolver.resolve_now()
            run.loop.run_until_idle()
        run.check()
