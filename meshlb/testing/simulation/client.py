"""A client process: the real pool, view, calls, budget and ejection, with a simulated transport below and simulated users above.

It does what ``meshlb.grpc`` does with them, in the same order: the loop of attempts, the driver of connections (with the real
``ConnectQueue``), and the timer of the pool's ticks. Clients share nothing but the servers.

A process may stand still (a long garbage collection, a lock that everybody waits for, a container without CPU): what comes meanwhile is
heard at the end of the pause, all at once. ``deaf`` is for those in which the transport stands still too: replies that came in time are
then found when their deadline is over.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable
from typing import Any

from meshlb.call.call import Call, CallLimits
from meshlb.config import Config
from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import EndpointSet
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.errors import ConfigError, DeadlineExceededError, MeshError
from meshlb.pool.connecting import ConnectQueue
from meshlb.pool.pool import Pool
from meshlb.retry.budget import BudgetSettings, CallCount, RetryBudget
from meshlb.retry.rules import rules_of
from meshlb.retry.tries import Failure
from meshlb.testing.simulation.answer import ATTEMPT_TIMED_OUT, DEADLINE_EXCEEDED, UNAVAILABLE, Answer
from meshlb.testing.simulation.events import Events
from meshlb.testing.simulation.link import Link, Network, Request
from meshlb.testing.simulation.record import Ended, Record, Sent
from meshlb.testing.simulation.server import Server

METHOD = "/shop.Orders/Get"

READY = Connectivity.READY
TRANSIENT_FAILURE = Connectivity.TRANSIENT_FAILURE
SETTLED = (READY, TRANSIENT_FAILURE)


class Client:
    """One process; ``number`` is its own in the records. ``rng`` is for what meshlb draws, so that the load of a seed does not depend on how many picks were made."""

    def __init__(
        self,
        events: Events,
        rng: random.Random,
        number: int,
        *,
        config: Config,
        network: Network,
        find: Callable[[str], Server | None],
        record: Record,
    ) -> None:
        self.number = number
        self.pool = pool_of(config, events, rng, self._wake)
        self.view = self.pool.view(self)
        self.links: dict[Subchannel, Link] = {}
        self._events = events
        self._rng = rng
        self._network = network
        self._find = find
        self._record = record
        self._asleep_until_s = 0.0
        self._deaf = False
        self._waiting: dict[_Call, None] = {}
        self._queue = ConnectQueue(rng)
        self._turn_due = False
        self._rules = rules_of(config.retry, METHOD)
        self._info = PickInfo(METHOD, replays=self._rules.retries)
        retry = config.retry
        settings = BudgetSettings(retry.budget_ratio, retry.budget_min_per_s, retry.budget_ttl_s)
        begun = CallCount(self._subchannels, events.now_s()).rise
        self.budget = RetryBudget(events, threading.Lock(), begun, settings=settings)
        self._limits = CallLimits(
            self.budget, first_answer_timeout_s=config.first_answer_timeout_s, connect_timeout_s=config.connect_timeout_s, rng=rng
        )

    # --- from outside -----------------------------------------------------------------------------------------------------------

    def call(self, work_s: float, deadline_s: float | None, done: Callable[[], None] | None = None) -> None:
        """A user's call begins; ``deadline_s`` from now. ``done`` when it is over, whatever came of it."""
        if self._stalls(self.call, work_s, deadline_s, done):
            return
        now_s = self._events.now_s()
        until_s = None if deadline_s is None else now_s + deadline_s
        call = Call(
            self.view, self._limits, self._info, deadline_s=until_s, rules=self._rules, idempotent=self._rules.is_idempotent(None)
        )
        self._go_on(_Call(call, work_s, now_s, done))

    def learn(self, latest: EndpointSet) -> None:
        """Discovery has spoken."""
        if not self._stalls(self.learn, latest):
            self.pool.update(latest)

    def stall(self, length_s: float, *, deaf: bool = False) -> None:
        """From now on for so long."""
        self._asleep_until_s = self._events.now_s() + length_s
        self._deaf = deaf

    # --- the loop of attempts ---------------------------------------------------------------------------------------------------

    def _go_on(self, running: _Call) -> None:
        """After a back-off, or when something has changed; ``meshlb.grpc.multicallable`` has the same in real time."""
        call = running.call
        while True:
            now_s = self._events.now_s()
            try:
                attempt = call.begin_attempt(now_s)
            except DeadlineExceededError:
                return self._end(running, "DEADLINE_EXCEEDED")
            except MeshError as error:
                return self._end(running, type(error).__name__)
            if attempt is None:
                self._waiting[running] = None
                if call.wait_until_s is not None:
                    self._events.at(call.wait_until_s, self._waited, running)
                return None
            link = self.links.get(attempt.subchannel)
            if link is not None and link.state is READY:
                return self._send(running, attempt, link, now_s)
            if link is not None and self.view.state_of(attempt.subchannel) is TRANSIENT_FAILURE:
                if self._ended(running, attempt, UNAVAILABLE, never_sent=True):
                    continue
                return None
            self.view.end(attempt, Outcome.CANCELLED)
            self.view.set_states([(attempt.subchannel, link.state if link is not None else Connectivity.IDLE)])

    def _send(self, running: _Call, attempt: Attempt, link: Link, now_s: float) -> None:
        running.attempts += 1
        self._record.attempts.append(Sent(now_s, self.number, link.subchannel.endpoint.address, running.attempts))
        request = Request(link, running.work_s, lambda answer: self._hear(running, attempt, answer))
        left_s = running.call.attempt_timeout_s(now_s)
        if left_s is not None:
            self._events.after(left_s, self._time_out, running, attempt, request)
        link.send(request)

    def _time_out(self, running: _Call, attempt: Attempt, request: Request) -> None:
        if request.over:
            return
        own = running.call.timed_out(attempt, self._events.now_s())
        request.end(ATTEMPT_TIMED_OUT if own else DEADLINE_EXCEEDED)
        request.link.abandon(request)

    def _hear(self, running: _Call, attempt: Attempt, answer: Answer) -> None:
        if self._stalls(self._hear, running, attempt, answer):
            return
        deadline_s = running.call.deadline_s
        if self._deaf and answer.ok and deadline_s is not None and self._events.now_s() >= deadline_s:
            answer = DEADLINE_EXCEEDED
        if self._ended(running, attempt, answer):
            self._go_on(running)

    def _ended(self, running: _Call, attempt: Attempt, answer: Answer, *, never_sent: bool = False) -> bool:
        """True if another attempt is due at once."""
        now_s = self._events.now_s()
        failure = None if answer.ok or never_sent else Failure(answer.code, lost=answer.lost)
        outcome = Outcome.UNREACHABLE if never_sent else answer.outcome
        delay_s = running.call.end_attempt(attempt, outcome, now_s, failure)
        if delay_s is None:
            self._end(running, answer.code, ok=answer.ok)
        elif delay_s > 0.0:
            self._events.after(delay_s, self._again, running)
        return delay_s == 0.0

    def _again(self, running: _Call) -> None:
        if not self._stalls(self._again, running):
            self._go_on(running)

    def _waited(self, running: _Call) -> None:
        if running in self._waiting and not self._stalls(self._waited, running):
            del self._waiting[running]
            self._go_on(running)

    def _end(self, running: _Call, code: str, *, ok: bool = False) -> None:
        self._record.calls.append(Ended(running.began_s, self._events.now_s(), self.number, running.attempts, code, ok))
        if running.done is not None:
            running.done()

    # --- the driver of connections ----------------------------------------------------------------------------------------------

    def on_change(self) -> None:
        """The view's listener."""
        if not self._turn_due:
            self._turn_due = True
            self._events.after(0.0, self._turn)

    def _turn(self) -> None:
        if self._stalls(self._turn):
            return
        self._turn_due = False
        opened, gone = self._queue.reconcile(self.view.wanted())
        for sub in gone:
            link = self.links.pop(sub, None)
            if link is not None:
                link.close()
        self._open(opened)
        if gone:
            self.view.set_states([(sub, Connectivity.IDLE) for sub in gone])
        for running in list(self._waiting):
            self._waited(running)

    def _open(self, opened: Iterable[tuple[Subchannel, float]]) -> None:
        for sub, delay_s in opened:
            link = self.links[sub] = Link(sub, self._events, self._rng, self._network, self._find, self._tell)
            self._events.after(delay_s, link.connect)

    def _tell(self, link: Link) -> None:
        if self._stalls(self._tell, link) or self.links.get(link.subchannel) is not link:
            return
        if link.state in SETTLED:
            self._open(self._queue.settled(link.subchannel))
        self.view.set_states([(link.subchannel, link.state)])

    # --- time -------------------------------------------------------------------------------------------------------------------

    def _wake(self, delay_s: float) -> None:
        self._events.after(delay_s, self._tick)

    def _tick(self) -> None:
        if self._stalls(self._tick):
            return
        again_s = self.pool.tick()
        if again_s is not None:
            self._wake(again_s)

    def _stalls(self, action: Callable[..., object], *args: Any) -> bool:
        """The process stands still, and does this when it goes on."""
        if self._events.now_s() >= self._asleep_until_s:
            return False
        self._events.at(self._asleep_until_s, action, *args)
        return True

    def _subchannels(self) -> Iterable[Subchannel]:
        snapshot = self.pool.snapshot
        return (*snapshot.listed, *snapshot.lingering, *snapshot.fallback, *snapshot.spare)

    def __repr__(self) -> str:
        return f"<Client {self.view.state.value} links={len(self.links)} waiting={len(self._waiting)}>"


def pool_of(config: Config, events: Events, rng: random.Random, wake: Callable[[float], None]) -> Pool:
    """With what the mesh would hand over, but for what nothing here does: limits and load reports raise ConfigError, nobody looks for new
    endpoints when one fails, and no Service asks for affinity."""
    if config.limits.any:
        raise ConfigError(f"limits={config.limits.to_dict()!r}: must not limit anything: the simulation has none")
    if config.weight.source != "static":
        raise ConfigError(
            f"weight.source={config.weight.source!r}: must be 'static': servers report load, and the simulation has none that do"
        )
    return Pool(
        "orders.shop",
        config.policy.build(rng),
        clock=events,
        rng=rng,
        new_lock=threading.Lock,
        wake=wake,
        fallback_after_s=config.connect_timeout_s / 3,
        mass_removal_spare_s=config.mass_removal_spare_s,
        outlier=config.outlier,
        slow_start=config.slow_start,
        locality=config.locality,
        weight=config.weight,
        subset=config.subset,
    )


class _Call:
    """One call of a user under way."""

    __slots__ = ("attempts", "began_s", "call", "done", "work_s")

    def __init__(self, call: Call, work_s: float, began_s: float, done: Callable[[], None] | None) -> None:
        self.call = call
        self.work_s = work_s
        self.began_s = began_s
        self.done = done
        self.attempts = 0
