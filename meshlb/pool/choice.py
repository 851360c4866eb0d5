"""Who of a pool takes traffic through one view's connections, and which of these should exist. Decisions only: ``view`` has the rest.

Who takes traffic, in this order: eligible subchannels that are READY; while there is none, the fallback's READY connections (the
ClusterIP), if there are any already, or all of the eligible failed, or none of them became ready within ``fallback_after_s``;
else the spare's (endpoints lost with most of the pool, see leavers.py); else nobody, and the caller waits or fails. Hence a new
endpoint gets no call before it is connected while another is ready, one that cannot be connected gets none, and the ClusterIP's
connections are given up only when a pod's has taken over.

An endpoint that ``health`` ejected gets none but its probes while another of the eligible is ready. Where there is no other, ejection
steps back: it takes calls as if it were not ejected, before the fallback does.

An endpoint that is *unverified* (``EndpointSet.unverified``) counts as itself only while it stays connected, since nobody else can
have its connection. Without one, or with a later one, it is *doubted* until a source confirms it: its address may be another pod's by
now, so it takes traffic only after everybody above. The fallback is connected at once when only doubted ones are ready, and they wait
for it for ``HOPE_S``; not at all if one of the connections to its address has failed, since a later one (the ClusterIP's are renewed)
will hardly fare better. So doubt stops no call for longer. A doubted one that failed is not dialled again while others are trusted
and ready.

Every method is called under the pool's lock, but for ``shut``, which may run wherever the collector does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meshlb.core.connectivity import Connectivity
from meshlb.core.subchannel import Subchannel
from meshlb.pool.snapshot import PoolSnapshot

IDLE = Connectivity.IDLE
CONNECTING = Connectivity.CONNECTING
READY = Connectivity.READY
TRANSIENT_FAILURE = Connectivity.TRANSIENT_FAILURE

HOPE_S = 0.25  # a connection within a cluster takes milliseconds, with TLS and a busy core some tens of them


class Choice:
    """See the module head. ``candidates`` take traffic, ``usable`` may, ``wanted`` should have a connection: read from any thread.

    ``fallback_after_s``: for how long nobody of the eligible may be ready until the fallback is connected.
    """

    def __init__(self, fallback_after_s: float) -> None:
        self.snapshot = PoolSnapshot()
        self.states: dict[Subchannel, Connectivity] = {}
        self.ready: set[Subchannel] = set()  # those of them that are: to choose among 10,000 takes half the time by it
        self.doubted: set[Subchannel] = set()
        self.candidates: tuple[Subchannel, ...] = ()
        self.usable: tuple[Subchannel, ...] = ()  # the wanted ones without those that merely keep their connection
        self.wanted: tuple[Subchannel, ...] = ()
        self.probes: tuple[Subchannel, ...] = ()  # ejected and READY, each due for one call
        self.on_fallback = False
        self.on_spare = False
        self._fallback_after_s = fallback_after_s
        self._given_up: set[Subchannel] = set()  # the doubted that failed
        self._unready_since_s: float | None = None
        self._hoping = False  # the doubted wait for the fallback

    def know(self, snapshot: PoolSnapshot, forgotten: Iterable[Subchannel]) -> None:
        """The pool knows something else, and these not any more."""
        self.snapshot = snapshot
        for sub in forgotten:
            self._forget(sub)
        unverified = snapshot.latest.unverified if snapshot.latest is not None else frozenset()
        if not unverified:
            self.doubted, self._given_up = set(), set()
            return
        doubted, get = self.doubted, self.states.get
        suspects = (sub for sub in snapshot.listed if sub.endpoint.host in unverified)
        self.doubted = {sub for sub in suspects if sub in doubted or get(sub) is not READY}
        self._given_up = {sub for sub in self.doubted if sub in self._given_up or get(sub) is TRANSIENT_FAILURE}

    def hear(self, subchannel: Subchannel, state: Connectivity) -> Connectivity | None:
        """A connection's state; the one it had before, None if this is no news."""
        if subchannel.removed:  # let go: only that its connection is over is worth a note, should it come back
            if state is not READY:
                self._forget(subchannel)
            return None
        old = self.states.get(subchannel, IDLE)
        if old is state or (old is TRANSIENT_FAILURE and state is CONNECTING):
            return None
        self.states[subchannel] = state
        if state is READY:
            self.ready.add(subchannel)
            self._given_up.discard(subchannel)
        elif old is READY:
            self.ready.discard(subchannel)
            if self.snapshot.latest is not None and subchannel.endpoint.host in self.snapshot.latest.unverified:
                self.doubted.add(subchannel)
        if state is TRANSIENT_FAILURE and subchannel in self.doubted:
            self._given_up.add(subchannel)
        return old

    def choose(self, now_s: float) -> None:
        """Anew, from what is known and heard. O(n)."""
        snapshot, is_ready = self.snapshot, self.ready.__contains__
        ready = trusted = tuple(filter(is_ready, snapshot.eligible))
        if self.doubted:
            trusted = tuple([sub for sub in ready if sub not in self.doubted])
        if trusted or not snapshot.eligible:
            self._unready_since_s = None
            self.on_fallback = False
        else:
            self._consider_fallback(now_s, doubted=ready)
        spare = tuple(filter(is_ready, snapshot.spare))
        self.on_spare = self._hoping = False
        self.candidates = trusted or self._last_resorts(now_s, spare, ready)
        self.probes = ()
        if snapshot.ejected and trusted:
            fit = tuple([sub for sub in trusted if sub not in snapshot.ejected])
            if fit:
                self.candidates = fit
                self.probes = tuple([sub for sub in snapshot.probing if sub in self.ready and sub not in self.doubted])
        eligible = snapshot.eligible
        if trusted and self._given_up:
            eligible = tuple([sub for sub in eligible if sub not in self._given_up])
        self.usable = eligible + snapshot.fallback if self.on_fallback else eligible
        self.wanted = self.usable + tuple(filter(is_ready, snapshot.lingering)) + spare

    def due_s(self) -> float | None:
        """When time alone changes the choice, if nothing becomes ready before; None if it will not."""
        if self._unready_since_s is None or not self.snapshot.fallback:
            return None
        if not self.on_fallback:
            return self._unready_since_s + self._fallback_after_s
        return self._unready_since_s + HOPE_S if self._hoping else None

    def state(self) -> Connectivity:
        """READY if anybody takes traffic, else what can be hoped for."""
        if self.candidates:
            return READY
        snapshot, get = self.snapshot, self.states.get
        if snapshot.latest is None:
            return CONNECTING if snapshot.error is None else TRANSIENT_FAILURE
        return TRANSIENT_FAILURE if all(get(sub) is TRANSIENT_FAILURE for sub in self.usable) else CONNECTING

    def shut(self) -> None:
        """Nobody takes traffic any more, and no connection is wanted."""
        self.usable = self.wanted = self.candidates = self.probes = ()
        self.on_fallback = self.on_spare = False

    def _forget(self, sub: Subchannel) -> None:
        self.states.pop(sub, None)
        self.ready.discard(sub)

    def _consider_fallback(self, now_s: float, *, doubted: Sequence[Subchannel]) -> None:
        """No eligible subchannel is ready but these: is it time for the fallback? Once it is, it stays until one is ready."""
        snapshot, get = self.snapshot, self.states.get
        if self._unready_since_s is None:
            self._unready_since_s = now_s
        if not snapshot.fallback:
            self.on_fallback = False
        elif not self.on_fallback:
            self.on_fallback = (
                now_s >= self._unready_since_s + self._fallback_after_s
                or bool(doubted)
                or any(get(sub) is READY for sub in snapshot.fallback)
                or all(get(sub) is TRANSIENT_FAILURE or sub in self.doubted for sub in snapshot.eligible)
            )

    def _last_resorts(self, now_s: float, spare: tuple[Subchannel, ...], doubted: tuple[Subchannel, ...]) -> tuple[Subchannel, ...]:
        """Who takes traffic while nobody does who should: the fallback, the spare, the doubted, never two of them together."""
        if self.on_fallback:
            ready = tuple(filter(self.ready.__contains__, self.snapshot.fallback))
            if ready:
                return ready
        if spare:
            self.on_spare = True
            return spare
        self._hoping = bool(doubted) and self._may_hope(now_s)
        return () if self._hoping else doubted

    def _may_hope(self, now_s: float) -> bool:
        """Will the fallback be there in a moment?"""
        if self._unready_since_s is None or now_s >= self._unready_since_s + HOPE_S:
            return False
        fallback = self.snapshot.fallback
        failed = {_address(sub) for sub in fallback if self.states.get(sub) is TRANSIENT_FAILURE}
        return any(_address(sub) not in failed for sub in fallback)


def _address(sub: Subchannel) -> tuple[str, int]:
    return sub.endpoint.host, sub.endpoint.port
