"""One transport's eye on a pool, in one event loop: what it wants connected, what is ready, and the picker over that.

Readiness belongs to a connection, so it lives here and not in the pool. The driver of the connections is level-triggered:
``on_change`` says that something is different; the driver opens and closes until its connections are those of ``wanted()``, and
reports by ``set_states`` wherever a connection's state is not what ``state_of`` says. That can be without a change of the
connection: an attempt that found it unreachable was counted against it. A connection that the driver closes is reported IDLE. A
driver may be late or be called too often and still ends up right.

Who takes traffic, and who is wanted: choice.py.

Threads: ``begin`` and ``end`` run anywhere, take no lock and read one attribute (an ``end`` with UNREACHABLE takes the pool's; one with
another failure takes it if it is free).
Everything that ends in ``_locked`` runs under the pool's lock. Listeners are called outside it. ``close`` takes no lock, so that
a finalizer may call it wherever the collector happens to run.

Spec: gRPC connectivity semantics; aggregation as round_robin does it (READY if any, else CONNECTING if any, else
TRANSIENT_FAILURE), with its rule that after a failure only READY, or a fresh start from IDLE, counts as news.
Deviations: IDLE counts as CONNECTING, since drivers connect at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import filterfalse
from typing import TYPE_CHECKING, Any, Protocol

from meshlb.core.clock import Clock, Lock, Rng
from meshlb.core.connectivity import Connectivity
from meshlb.core.outcome import Outcome
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.errors import ResolveError
from meshlb.pool.choice import Choice
from meshlb.pool.describe import explain
from meshlb.pool.snapshot import PoolSnapshot

if TYPE_CHECKING:
    from meshlb.pool.pool import Pool

IDLE = Connectivity.IDLE
CONNECTING = Connectivity.CONNECTING
READY = Connectivity.READY
TRANSIENT_FAILURE = Connectivity.TRANSIENT_FAILURE
SUCCESS = Outcome.SUCCESS
CANCELLED = Outcome.CANCELLED
UNREACHABLE = Outcome.UNREACHABLE


class ViewListener(Protocol):
    """The driver of a view's connections."""

    def on_change(self) -> None:
        """``wanted()``, ``state``, ``state_of`` or the first answer changed. Called from any thread, under no lock; must not
        block.
        """
        ...


class _NoPicker:
    """The picker while nothing can be picked."""

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        return None


def _say_nothing(subchannel: Subchannel) -> dict[str, object]:
    return {}


_NOBODY: Picker = _NoPicker()
_STARTING = (IDLE, CONNECTING)


class View:
    """See the module head. ``state`` is the aggregated connectivity; read it from any thread."""

    def __init__(self, pool: Pool, listener: ViewListener, *, clock: Clock, rng: Rng, lock: Lock) -> None:
        self.pool = pool
        self.listener = listener
        self.state = CONNECTING
        self.picker: Picker = _NOBODY
        self.closed = False
        # What only the driver knows of a connection, as plain data for ``status()``; any thread.
        self.describe_connection: Callable[[Subchannel], dict[str, object]] = _say_nothing
        self._now_s = clock.now_s
        self._rng = rng
        self._lock = lock
        self._choice = Choice(pool.fallback_after_s)

    # --- requests ---------------------------------------------------------------------------------------------------------

    def begin(self, info: PickInfo, stream: bool = False) -> Attempt | None:
        """Pick a ready subchannel and count an attempt on it; None when nothing is ready. Any thread, no lock, O(1) for p2c."""
        now_s = self._now_s()
        while (subchannel := self.picker.pick(info, now_s)) is not None:
            attempt = Attempt()  # from here on ``_start``, written out: the call would cost 40 ns
            attempt.subchannel = subchannel
            attempt.started_s = now_s
            attempt.info = info
            attempt.live = live = subchannel.streams if stream else subchannel.unary
            try:  # costs nothing; a signal's handler may raise in between, and the count would stay
                live.add(attempt)
                if not subchannel.removed:
                    subchannel.started += 1
                    subchannel.metric.on_start(now_s)
                    return attempt
            except BaseException:
                live.discard(attempt)
                raise
            live.discard(attempt)
        return None

    def begin_unready(self, info: PickInfo, stream: bool = False) -> Attempt | None:
        """Count an attempt on any subchannel in use, ready or not, so that a call can hear from the transport why. None if there
        is none. Those to be avoided are taken only when there is no other."""
        now_s = self._now_s()
        while usable := self._choice.usable:
            subchannel = usable[int(self._rng.random() * len(usable))]
            if subchannel in info.exclude:
                subchannel = next((sub for sub in usable if sub not in info.exclude), subchannel)
            attempt = _start(subchannel, info, stream, now_s)
            if attempt is not None:
                return attempt
        return None

    def end(self, attempt: Attempt, outcome: Outcome = SUCCESS) -> bool:
        """End an attempt; True the first time, False (and nothing happens) for any later end. Any thread."""
        try:
            attempt.live.remove(attempt)
        except KeyError:
            return False
        now_s = self._now_s()
        subchannel = attempt.subchannel
        if subchannel.by_attempt:
            subchannel.metric.on_attempt_end(attempt, now_s, outcome)  # type: ignore[attr-defined]
        else:
            subchannel.metric.on_end(now_s, now_s - attempt.started_s, outcome)
        if outcome is SUCCESS:
            if attempt.info.judged:
                subchannel.succeeded += 1
                if subchannel.watched:
                    self.pool.heard(subchannel, outcome, attempt.started_s)
            return True
        if attempt.info.judged:
            if outcome is not CANCELLED:
                subchannel.failed += 1
            if outcome is not CANCELLED or subchannel.watched:
                self.pool.heard(subchannel, outcome, attempt.started_s)
        if outcome is UNREACHABLE:
            self.set_states([(subchannel, TRANSIENT_FAILURE)])
        return True

    def answered(self, attempt: Attempt) -> None:
        """The first message of a stream came, which proves of its endpoint what the end of a call would; its own may be far away."""
        if attempt.info.judged and attempt.subchannel.watched:
            self.pool.heard(attempt.subchannel, SUCCESS, attempt.started_s)

    # --- the driver of connections ----------------------------------------------------------------------------------------

    def wanted(self) -> tuple[Subchannel, ...]:
        """The subchannels that should have a connection now: the eligible ones, the fallback's while it is in use, and, while they
        are connected, those that linger or are a spare."""
        return self._choice.wanted

    @property
    def candidates(self) -> tuple[Subchannel, ...]:
        """Those that take traffic now."""
        return self._choice.candidates

    def unready(self) -> list[Subchannel]:
        """Those of ``wanted()`` that are not READY, as far as this view has heard."""
        choice = self._choice
        wanted = choice.wanted
        if len(choice.candidates) == len(wanted):  # those are ready, and wanted
            return []
        return list(filterfalse(choice.ready.__contains__, wanted))  # a third of the time of a comprehension, with 10,000

    def set_states(self, changes: Iterable[tuple[Subchannel, Connectivity]]) -> None:
        """The driver saw connections change; one picker is built for the whole batch. The listener hears of it if it matters."""
        with self._lock:
            matters = self._apply_locked(changes)
        if matters:
            self.pool.tell((self,))

    def state_of(self, subchannel: Subchannel) -> Connectivity:
        """What this view last heard of a subchannel's connection; IDLE if nothing."""
        return self._choice.states.get(subchannel, IDLE)

    # --- what waiting callers need to know --------------------------------------------------------------------------------

    @property
    def known(self) -> bool:
        """True once discovery gave a first answer."""
        return self._choice.snapshot.latest is not None

    @property
    def error(self) -> ResolveError | None:
        """Why nothing is known; None while something is, or while the sources are still being asked. Shared: raise a copy."""
        snapshot = self._choice.snapshot
        return snapshot.error if snapshot.latest is None else None

    def explain(self) -> str:
        """One clause for people: why a call cannot go out now."""
        choice = self._choice
        return explain(choice.snapshot, len(choice.candidates), choice.on_spare, map(self.state_of, choice.wanted))

    def describe(self) -> dict[str, Any]:
        """Plain data for ``status()``."""
        choice = self._choice
        return {
            "state": self.state.value,
            "on_fallback": choice.on_fallback,
            "on_spare": choice.on_spare,
            "picking_from": len(choice.candidates),
            "probing": len(choice.probes),
            "wanted": len(choice.wanted),
            "doubted": len(choice.doubted),
        }

    def close(self) -> None:
        """Wants no connection any more; attempts that live may still end. The listener is not told: who closes knows."""
        self.closed = True
        self._shut()

    # --- under the pool's lock --------------------------------------------------------------------------------------------

    def refresh_locked(self, snapshot: PoolSnapshot, forgotten: Iterable[Subchannel] = (), *, rebuild: bool = True) -> None:
        """The pool knows something else: forget who is gone, choose anew; ``rebuild``: weights may have changed."""
        self._choice.know(snapshot, forgotten)
        self._choose_locked(rebuild=rebuild)

    def tick_locked(self, now_s: float) -> bool:
        """True if the view chose anew because something took too long."""
        due_s = self._choice.due_s()
        if due_s is None or now_s < due_s:
            return False
        self._choose_locked(rebuild=False)
        return True

    def due_s(self) -> float | None:
        """When it needs a tick; None if it needs none."""
        return self._choice.due_s()

    def _apply_locked(self, changes: Iterable[tuple[Subchannel, Connectivity]]) -> bool:
        """Take over connection states; True if anything that the driver or a waiting caller looks at changed."""
        if self.closed:
            return False
        matters = failed = False
        for subchannel, state in changes:
            old = self._choice.hear(subchannel, state)
            if old is None:
                continue
            failed = failed or state is TRANSIENT_FAILURE
            if state is READY and self.pool.balancer.capacities is not None:
                self.pool.connected_locked(self, subchannel)
            # Between these two nothing depends on which: a large pool that connects need not choose anew each time.
            matters = matters or not (old in _STARTING and state in _STARTING)
        if failed:
            self.pool.resolve_now()
        if matters:
            self._choose_locked(rebuild=False)
        return matters

    def _choose_locked(self, *, rebuild: bool) -> None:
        choice, now_s = self._choice, self._now_s()
        before = choice.candidates, choice.probes
        choice.choose(now_s)
        candidates = choice.candidates
        if rebuild or (candidates, choice.probes) != before:
            self.picker = self.pool.new_picker(candidates, choice.probes) if candidates else _NOBODY
        self.state = choice.state()
        due_s = choice.due_s()
        if due_s is not None:
            self.pool.wake_locked(due_s, now_s)
        if self.closed:  # meanwhile, in another thread
            self._shut()

    def _shut(self) -> None:
        self._choice.shut()
        self.picker = _NOBODY
        self.state = Connectivity.SHUTDOWN


def _start(subchannel: Subchannel, info: PickInfo, stream: bool, now_s: float) -> Attempt | None:
    """Count an attempt; None if the subchannel was removed meanwhile, in which case a new look will not find it again."""
    attempt = Attempt()
    attempt.subchannel = subchannel
    attempt.started_s = now_s
    attempt.info = info
    attempt.live = live = subchannel.streams if stream else subchannel.unary
    live.add(attempt)
    if subchannel.removed:  # looked at only now, so that a drain which saw no live attempt may close the connection
        live.discard(attempt)
        return None
    subchannel.started += 1
    subchannel.metric.on_start(now_s)
    return attempt
