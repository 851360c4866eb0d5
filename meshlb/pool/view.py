"""One transport's eye on a pool, in one event loop: what it wants connected, what is ready, and the picker over that.

Readiness belongs to a connection, so it lives here and not in the pool. The driver of the connections is level-triggered:
``on_change`` says that something is different; the driver opens and closes until its connections are those of ``wanted()``, and
reports by ``set_states`` wherever a connection's state is not what ``state_of`` says. That can be without a change of the
connection: an attempt that found it unreachable was counted against it. A connection that the driver closes is reported IDLE. A
driver may be late or be called too often and still ends up right.

Who takes traffic, in this order: eligible subchannels that are READY; while there is none, the fallback's READY connections (the
ClusterIP), if there are any already, or all of the eligible failed, or none of them became ready within ``fallback_after_s``;
else nobody, and the caller waits or fails. Hence a new endpoint gets no call before it is connected while another is ready, one
that cannot be connected gets none, and the ClusterIP's connections are given up only when a pod's has taken over.

Threads: ``begin`` and ``end`` run anywhere, take no lock and read one attribute (an ``end`` with UNREACHABLE takes the pool's).
Everything that ends in ``_locked`` runs under the pool's lock. Listeners are called outside it. ``close`` takes no lock, so that
a finalizer may call it wherever the collector happens to run.

Spec: gRPC connectivity semantics; aggregation as round_robin does it (READY if any, else CONNECTING if any, else
TRANSIENT_FAILURE), with its rule that after a failure only READY, or a fresh start from IDLE, counts as news.
Deviations: IDLE counts as CONNECTING, since drivers connect at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from meshlb.core.clock import Clock, Lock, Rng
from meshlb.core.connectivity import Connectivity
from meshlb.core.outcome import Outcome
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.errors import ResolveError
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
        self._now_s = clock.now_s
        self._rng = rng
        self._lock = lock
        self._snapshot = PoolSnapshot()
        self._states: dict[Subchannel, Connectivity] = {}
        self._candidates: tuple[Subchannel, ...] = ()
        self._wanted: tuple[Subchannel, ...] = ()
        self._on_fallback = False
        self._unready_since_s: float | None = None

    # --- requests ---------------------------------------------------------------------------------------------------------

    def begin(self, info: PickInfo, stream: bool = False) -> Attempt | None:
        """Pick a ready subchannel and count an attempt on it; None when nothing is ready. Any thread, no lock, O(1) for p2c."""
        now_s = self._now_s()
        while (subchannel := self.picker.pick(info, now_s)) is not None:
            attempt = Attempt()  # from here on ``_start``, written out: the call would cost 40 ns
            attempt.subchannel = subchannel
            attempt.started_s = now_s
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
        """Count an attempt on any wanted subchannel, ready or not, so that a call can hear from the transport why. None if there
        is none. Those to be avoided are taken only when there is no other."""
        now_s = self._now_s()
        while wanted := self._wanted:
            subchannel = wanted[int(self._rng.random() * len(wanted))]
            if subchannel in info.exclude:
                subchannel = next((sub for sub in wanted if sub not in info.exclude), subchannel)
            attempt = _start(subchannel, stream, now_s)
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
        subchannel.metric.on_end(now_s, now_s - attempt.started_s, outcome)
        if outcome is not SUCCESS and outcome is not CANCELLED:
            subchannel.failed += 1
            if outcome is UNREACHABLE:
                self.set_states([(subchannel, TRANSIENT_FAILURE)])
        return True

    # --- the driver of connections ----------------------------------------------------------------------------------------

    def wanted(self) -> tuple[Subchannel, ...]:
        """The subchannels that should have a connection now: the eligible ones, terminating ones that are still connected (they
        may yet be the last resort), and the fallback's while it is in use."""
        return self._wanted

    def set_states(self, changes: Iterable[tuple[Subchannel, Connectivity]]) -> None:
        """The driver saw connections change; one picker is built for the whole batch. The listener hears of it if it matters."""
        with self._lock:
            matters = self._apply_locked(changes)
        if matters:
            self.pool.tell((self,))

    def state_of(self, subchannel: Subchannel) -> Connectivity:
        """What this view last heard of a subchannel's connection; IDLE if nothing."""
        return self._states.get(subchannel, IDLE)

    # --- what waiting callers need to know --------------------------------------------------------------------------------

    @property
    def known(self) -> bool:
        """True once discovery gave a first answer."""
        return self._snapshot.latest is not None

    @property
    def error(self) -> ResolveError | None:
        """Why nothing is known; None while something is, or while the sources are still being asked. Shared: raise a copy."""
        snapshot = self._snapshot
        return snapshot.error if snapshot.latest is None else None

    def explain(self) -> str:
        """One clause for people: why a call cannot go out now."""
        snapshot = self._snapshot
        if snapshot.latest is None:
            return str(snapshot.error) if snapshot.error is not None else "no source has answered yet"
        count = len(snapshot.listed)
        known = f"{count} endpoint{'' if count == 1 else 's'} known from {snapshot.source}"
        note = f" ({snapshot.latest.note})" if snapshot.latest.note else ""
        if not snapshot.eligible:
            return f"{known}, none ready{note}"
        connected = len(self._candidates)
        if connected:
            return f"{known}, {connected} connection{'' if connected == 1 else 's'} ready{note}"
        counts: dict[str, int] = {}
        for sub in self._wanted:
            word = self.state_of(sub).value.replace("_", " ")
            counts[word] = counts.get(word, 0) + 1
        said = ", ".join(f"{n} {word}" for word, n in sorted(counts.items()))
        return f"{known}, none connected: {said}{note}"

    def describe(self) -> dict[str, Any]:
        """Plain data for ``status()``."""
        return {
            "state": self.state.value,
            "on_fallback": self._on_fallback,
            "picking_from": len(self._candidates),
            "wanted": len(self._wanted),
        }

    def close(self) -> None:
        """Wants no connection any more; attempts that live may still end. The listener is not told: who closes knows."""
        self.closed = True
        self._shut()

    # --- under the pool's lock --------------------------------------------------------------------------------------------

    def refresh_locked(self, snapshot: PoolSnapshot) -> None:
        """The pool knows something else: forget who is gone, choose anew."""
        self._snapshot = snapshot
        if self._states:
            alive = {*snapshot.listed, *snapshot.fallback}
            self._states = {sub: state for sub, state in self._states.items() if sub in alive}
        self._choose_locked(rebuild=True)

    def tick_locked(self, now_s: float) -> bool:
        """True if the view turned to the fallback because connecting takes too long."""
        due_s = self.fallback_due_s()
        if due_s is None or now_s < due_s:
            return False
        self._choose_locked(rebuild=False)
        return True

    def fallback_due_s(self) -> float | None:
        """When this view turns to the fallback if nothing becomes ready before; None if it has no reason to."""
        if self._on_fallback or self._unready_since_s is None or not self._snapshot.fallback:
            return None
        return self._unready_since_s + self.pool.fallback_after_s

    def _apply_locked(self, changes: Iterable[tuple[Subchannel, Connectivity]]) -> bool:
        """Take over connection states; True if anything that the driver or a waiting caller looks at changed."""
        if self.closed:
            return False
        matters = failed = False
        for subchannel, state in changes:
            old = self._states.get(subchannel, IDLE)
            if old is state or subchannel.removed or (old is TRANSIENT_FAILURE and state is CONNECTING):
                continue
            self._states[subchannel] = state
            failed = failed or state is TRANSIENT_FAILURE
            # Between these two nothing depends on which: a large pool that connects need not choose anew each time.
            matters = matters or not (old in _STARTING and state in _STARTING)
        if failed:
            self.pool.resolve_now()
        if matters:
            self._choose_locked(rebuild=False)
        return matters

    def _choose_locked(self, *, rebuild: bool) -> None:
        snapshot, get = self._snapshot, self._states.get
        candidates = tuple(sub for sub in snapshot.eligible if get(sub) is READY)
        if candidates or not snapshot.eligible:
            self._unready_since_s = None
            self._on_fallback = False
        else:
            self._consider_fallback_locked()
            if self._on_fallback:
                candidates = tuple(sub for sub in snapshot.fallback if get(sub) is READY)
        wanted = snapshot.eligible
        if snapshot.lingering:
            wanted += tuple(sub for sub in snapshot.lingering if get(sub) is READY)
        if self._on_fallback:
            wanted += snapshot.fallback
        self._wanted = wanted
        if rebuild or candidates != self._candidates:
            self._candidates = candidates
            self.picker = self.pool.policy.new_picker(candidates, self._rng) if candidates else _NOBODY
        self.state = READY if candidates else self._unready_state_locked()
        if self.closed:  # meanwhile, in another thread
            self._shut()

    def _consider_fallback_locked(self) -> None:
        """No eligible subchannel is ready: is it time for the fallback? Once it is, it stays until one is ready."""
        snapshot, get, now_s = self._snapshot, self._states.get, self._now_s()
        if self._unready_since_s is None:
            self._unready_since_s = now_s
        due_s = self._unready_since_s + self.pool.fallback_after_s
        if not snapshot.fallback:
            self._on_fallback = False
        elif not self._on_fallback:
            self._on_fallback = (
                now_s >= due_s
                or any(get(sub) is READY for sub in snapshot.fallback)
                or all(get(sub) is TRANSIENT_FAILURE for sub in snapshot.eligible)
            )
            if not self._on_fallback:
                self.pool.wake_locked(due_s, now_s)

    def _unready_state_locked(self) -> Connectivity:
        snapshot, get = self._snapshot, self._states.get
        if snapshot.latest is None:
            return CONNECTING if snapshot.error is None else TRANSIENT_FAILURE
        usable = (*snapshot.eligible, *snapshot.fallback) if self._on_fallback else snapshot.eligible
        return TRANSIENT_FAILURE if all(get(sub) is TRANSIENT_FAILURE for sub in usable) else CONNECTING

    def _shut(self) -> None:
        self._wanted = self._candidates = ()
        self._on_fallback = False
        self.picker = _NOBODY
        self.state = Connectivity.SHUTDOWN


def _start(subchannel: Subchannel, stream: bool, now_s: float) -> Attempt | None:
    """Count an attempt; None if the subchannel was removed meanwhile, in which case a new look will not find it again."""
    attempt = Attempt()
    attempt.subchannel = subchannel
    attempt.started_s = now_s
    attempt.live = live = subchannel.streams if stream else subchannel.unary
    live.add(attempt)
    if subchannel.removed:  # looked at only now, so that a drain which saw no live attempt may close the connection
        live.discard(attempt)
        return None
    subchannel.started += 1
    subchannel.metric.on_start(now_s)
    return attempt
