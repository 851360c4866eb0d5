"""A client whose connections stand: the real pool, view, picker, metrics, ejection and ticks, and nothing else.

For comparing policies over millions of calls: a call is one attempt, begun at once, never tried again and without a deadline, and who
is listed is connected a moment later; a call that nobody can take fails, where a real one would wait. Calls have no key, so a policy that
hashes does what it does without one. What ``Client`` does beyond that (retries, budgets, deadlines, connections that break) takes
most of its time and would hide what a policy did.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from meshlb.config import Config
from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import EndpointSet
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.testing.simulation.answer import Answer
from meshlb.testing.simulation.client import METHOD, pool_of
from meshlb.testing.simulation.events import Events
from meshlb.testing.simulation.server import Server

READY = Connectivity.READY
IDLE = Connectivity.IDLE

INFO = PickInfo(METHOD)


class Ask:
    """A call under way."""

    __slots__ = ("at_s", "attempt", "back_s", "client", "server", "stream", "then", "work_s")

    at_s: float
    attempt: Attempt
    back_s: float
    client: Standing
    server: Server
    stream: bool
    then: tuple[Callable[..., object], Any, Any] | None  # what its user does next
    work_s: float

    def answered(self, answer: Answer) -> None:
        """The server has finished it; the reply travels."""
        client = self.client
        client.events.after(self.back_s, client.hear, self, answer)


class Standing:
    """``ended(ask, answer)`` hears of each call's end; ``answer`` is None where nobody could be picked."""

    def __init__(
        self,
        events: Events,
        rng: random.Random,
        *,
        config: Config,
        find: Callable[[str], Server],
        ended: Callable[[Ask, Answer | None], None],
    ) -> None:
        self.events = events
        self.pool = pool_of(config, events, rng, self._wake)
        self.view = self.pool.view(self)
        self._servers: dict[Subchannel, Server] = {}  # by its connections
        self._find = find
        self._ended = ended
        self._turn_due = False

    def learn(self, latest: EndpointSet) -> None:
        """Discovery has spoken."""
        self.pool.update(latest)

    def call(self, ask: Ask, out_s: float) -> None:
        """A user's call begins, and arrives at its server so much later."""
        attempt = self.view.begin(INFO, ask.stream)
        if attempt is None:
            self._ended(ask, None)
            return
        ask.attempt = attempt
        ask.server = server = self._servers[attempt.subchannel]
        self.events.after(out_s, server.hold if ask.stream else server.arrive, ask)

    def hear(self, ask: Ask, answer: Answer) -> None:
        """The reply is here."""
        self.view.end(ask.attempt, answer.outcome)
        self._ended(ask, answer)

    def on_change(self) -> None:
        """The view's listener."""
        if not self._turn_due:
            self._turn_due = True
            self.events.after(0.0, self.connect)

    def connect(self) -> None:
        """Its connections become those that are wanted, at once."""
        self._turn_due = False
        wanted = dict.fromkeys(self.view.wanted())
        gone = [sub for sub in self._servers if sub not in wanted]
        new = [sub for sub in wanted if sub not in self._servers]
        for sub in gone:
            del self._servers[sub]
        for sub in new:
            self._servers[sub] = self._find(sub.endpoint.address)
        if gone or new:
            self.view.set_states([*((sub, IDLE) for sub in gone), *((sub, READY) for sub in new)])

    def _wake(self, delay_s: float | None) -> None:
        if delay_s is not None:
            self.events.after(delay_s, lambda: self._wake(self.pool.tick()))
