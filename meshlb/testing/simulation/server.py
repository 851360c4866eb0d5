"""A pod: a queue behind a network that may break, in the ways in which pods do.

=============  ==========================  ===================================  ======================================
it is          what runs on it             a new request                        a new connection
=============  ==========================  ===================================  ======================================
serving        at its speed                is worked on, or fails by chance     is there after a round trip
failing        as before                   fails by chance, at once             as before
frozen         stands still; goes on when  waits                                is accepted by nobody: times out
               it thaws
vanished       goes on, unheard            is lost; the client's kernel gives   packets are dropped: times out
               up after a while
stopped        is gone, its callers hear   finds no connection                  is refused
               of it at once
=============  ==========================  ===================================  ======================================

Each change is a method, to be called by an event at its time: ``sim.at(25.0, pod.fail, 0.5)``.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from meshlb.core.endpoint import Endpoint
from meshlb.testing.simulation.answer import OK, UNAVAILABLE, Answer
from meshlb.testing.simulation.changes import RAMP_STEPS
from meshlb.testing.simulation.events import Events
from meshlb.testing.simulation.queues import Queue

if TYPE_CHECKING:
    from meshlb.testing.simulation.link import Link, Request

FAST_S = 0.0005  # how long failing takes


class Server:
    """One pod, from its start to its end; another one that takes its address is another server."""

    def __init__(self, events: Events, rng: random.Random, endpoint: Endpoint, queue: Queue) -> None:
        self.endpoint = endpoint
        self.queue = queue
        self.links: set[Link] = set()  # the connections to it
        self.frozen = self.vanished = self.stopped = False
        self._events = events
        self._rng = rng
        self._speed = 1.0
        self._failing_ratio = 0.0
        self._fails_with = UNAVAILABLE
        self._fails_after_s = FAST_S
        self._failed: list[tuple[Request, Answer]] = []  # that a frozen one has not sent yet
        queue.done = self._done  # type: ignore[assignment]

    # --- what may become of it ------------------------------------------------------------------------------------------------

    def fail(self, ratio: float = 1.0, answer: Answer = UNAVAILABLE, after_s: float = FAST_S) -> None:
        """This share of the requests that arrive from now on fails, without waiting in the queue."""
        self._failing_ratio, self._fails_with, self._fails_after_s = ratio, answer, after_s

    def heal(self) -> None:
        """Everything that arrives from now on is worked on again."""
        self._failing_ratio = 0.0

    def set_speed(self, speed: float) -> None:
        """Work takes 1/``speed`` of its time, also what has begun. 0: a pause that the network does not see."""
        self._speed = speed
        if not self.frozen:
            self.queue.set_speed(speed)

    def warm_up(self, length_s: float, from_speed: float = 0.2) -> None:
        """A cold start: from that speed to 1 in ten steps."""
        for step in range(RAMP_STEPS + 1):
            speed = from_speed + (1.0 - from_speed) * step / RAMP_STEPS
            self._events.after(length_s * step / RAMP_STEPS, self.set_speed, speed)

    def freeze(self) -> None:
        """The process stands still (SIGSTOP, a paused container); its kernel still acknowledges what it is sent."""
        self.frozen = True
        self.queue.set_speed(0.0)

    def thaw(self) -> None:
        """It goes on where it was."""
        self.frozen = False
        self.queue.set_speed(self._speed)
        failed, self._failed = self._failed, []
        for request, answer in failed:
            request.answered(answer)

    def vanish(self) -> None:
        """Packets to and from it are dropped: a lost node, a partition."""
        self.vanished = True

    def reappear(self) -> None:
        """Packets get through again; connections that were not given up meanwhile are as they were."""
        self.vanished = False

    def stop(self) -> None:
        """The process ends without a word of warning, and its connections with it."""
        self.stopped = True
        self.queue.clear()
        for link in list(self.links):
            link.reset()

    # --- what arrives ---------------------------------------------------------------------------------------------------------

    def arrive(self, request: Request) -> None:
        """A request came over the network."""
        if self._failing_ratio and self._rng.random() < self._failing_ratio:
            self._events.after(self._fails_after_s, self._refuse, request, self._fails_with)
        else:
            self.queue.add(request, request.work_s)

    def hold(self, request: Request) -> None:
        """A stream came, which keeps no worker busy; it ends when it has lasted for its work."""
        self._events.after(request.work_s, request.answered, OK)

    def _done(self, request: Request) -> None:
        request.answered(OK)

    def _refuse(self, request: Request, answer: Answer) -> None:
        if self.frozen:
            self._failed.append((request, answer))
        else:
            request.answered(answer)

    def __repr__(self) -> str:
        words = [word for word in ("frozen", "vanished", "stopped") if getattr(self, word)]
        failing = f" failing={self._failing_ratio:g}" if self._failing_ratio else ""
        return f"<Server {self.endpoint} speed={self._speed:g} queued={len(self.queue)}{failing} {' '.join(words)}>"
