"""One client's connection to one server, and the requests on it: a round trip for everything, and time-outs where nobody answers.

A connection that is lost takes its requests along, which hear of it (UNAVAILABLE, perhaps processed). It is lost when its server stops,
or ``Network.give_up_s`` after something was sent that nobody acknowledged (TCP_USER_TIMEOUT). A new one takes a round trip, fails in
one where it is refused, and after ``Network.connect_timeout_s`` where nobody answers.

Spec: grpc/doc/connection-backoff.md; ``meshlb.grpc.options`` for the figures.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meshlb.core.connectivity import Connectivity
from meshlb.core.subchannel import Subchannel
from meshlb.testing.simulation.answer import UNAVAILABLE, Answer
from meshlb.testing.simulation.events import Events
from meshlb.testing.simulation.server import Server

IDLE = Connectivity.IDLE
CONNECTING = Connectivity.CONNECTING
READY = Connectivity.READY
TRANSIENT_FAILURE = Connectivity.TRANSIENT_FAILURE

_BACKOFF_RATIO = 1.6  # gRPC's, as is the jitter
_JITTER = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One way takes ``one_way_s`` and an exponential ``jitter_s``; the other fields are those of meshlb's gRPC connections."""

    one_way_s: float = 0.00025
    jitter_s: float = 0.00005
    connect_timeout_s: float = 3.0
    give_up_s: float = 3.0
    min_backoff_s: float = 0.2
    max_backoff_s: float = 5.0

    def delay_s(self, rng: random.Random) -> float:
        return self.one_way_s + (rng.expovariate(1.0 / self.jitter_s) if self.jitter_s else 0.0)


class Request:
    """An attempt on the wire: answered once, by the server, the network or its client's patience."""

    __slots__ = ("_answer", "link", "over", "work_s")

    def __init__(self, link: Link, work_s: float, answer: Callable[[Answer], Any]) -> None:
        self.link = link
        self.work_s = work_s
        self.over = False
        self._answer = answer

    def answered(self, answer: Answer) -> None:
        """The server has finished it; the reply travels."""
        if not self.over:
            self.link.carry_back(self, answer)

    def end(self, answer: Answer) -> None:
        """This is what it ends with; whatever comes later is not heard."""
        if not self.over:
            self.over = True
            self.link.requests.discard(self)
            self._answer(answer)


class Link:
    """See the module head. ``tell(link)``: its state changed."""

    def __init__(
        self,
        subchannel: Subchannel,
        events: Events,
        rng: random.Random,
        network: Network,
        find: Callable[[str], Server | None],
        tell: Callable[[Link], None],
    ) -> None:
        self.subchannel = subchannel
        self.state = IDLE
        self.requests: set[Request] = set()
        self._events = events
        self._rng = rng
        self._network = network
        self._find = find
        self._tell = tell
        self._server: Server | None = None
        self._failures = 0
        self._closed = False
        self._epoch = 0  # of the connection
        self._giving_up = False

    def connect(self) -> None:
        """From nothing, or again."""
        if self._closed or self._server is not None:
            return
        self._become(CONNECTING)
        server = self._find(self.subchannel.endpoint.address)
        silent = server is None or server.frozen or server.vanished
        if silent:
            self._events.after(self._network.connect_timeout_s, self._settle, None)
        else:
            self._events.after(2.0 * self._delay_s(), self._settle, server)

    def close(self) -> None:
        """No longer wanted: what is under way on it may end."""
        self._closed = True

    def send(self, request: Request) -> None:
        """Over a READY connection."""
        self.requests.add(request)
        server = self._server
        assert server is not None
        if server.vanished:
            self._give_up_later()
        else:
            self._events.after(self._delay_s(), self._arrive, request, server)

    def abandon(self, request: Request) -> None:
        """The client stops waiting for it, and says so."""
        if self._server is not None and not self._server.vanished:
            self._events.after(self._delay_s(), self._server.queue.abandon, request)

    def carry_back(self, request: Request, answer: Answer) -> None:
        if self._server is not None and not self._server.vanished:
            self._events.after(self._delay_s(), request.end, answer)

    def reset(self) -> None:
        """The server's side closed it."""
        self._events.after(self._delay_s(), self._lose, self._epoch)

    # --- inside ---------------------------------------------------------------------------------------------------------------

    def _arrive(self, request: Request, server: Server) -> None:
        if server is not self._server or server.stopped:
            return
        if server.vanished:
            self._give_up_later()
        elif not request.over:
            server.arrive(request)

    def _settle(self, server: Server | None) -> None:
        if self._closed:
            return
        if server is not None and not server.stopped and not server.vanished and not server.frozen:
            self._server = server
            server.links.add(self)
            self._failures = 0
            self._become(READY)
            return
        self._failures += 1
        self._become(TRANSIENT_FAILURE)
        network = self._network
        backoff_s = min(network.max_backoff_s, network.min_backoff_s * _BACKOFF_RATIO ** (self._failures - 1))
        self._events.after(backoff_s * (1.0 - _JITTER + 2.0 * _JITTER * self._rng.random()), self.connect)

    def _give_up_later(self) -> None:
        if not self._giving_up:
            self._giving_up = True
            self._events.after(self._network.give_up_s, self._give_up, self._epoch)

    def _give_up(self, epoch: int) -> None:
        self._giving_up = False
        if self._server is not None and self._server.vanished:
            self._lose(epoch)

    def _lose(self, epoch: int) -> None:
        if epoch != self._epoch or self._server is None:
            return
        self._server.links.discard(self)
        self._server = None
        self._epoch += 1
        self._become(IDLE)  # first: who is told that its request is lost may send another one at once
        for request in list(self.requests):
            request.end(UNAVAILABLE)
        self.connect()

    def _become(self, state: Connectivity) -> None:
        self.state = state
        if not self._closed:
            self._tell(self)

    def _delay_s(self) -> float:
        return self._network.delay_s(self._rng)

    def __repr__(self) -> str:
        return f"<Link {self.subchannel.endpoint} {self.state.value} requests={len(self.requests)}>"
