"""A ClusterIP as k separate connections, renewed one at a time.

kube-proxy chooses a pod per *connection*, so one connection pins every call to one pod for ever. k of them reach up to k pods, and
replacing each at a jittered age lets new pods get their share. The expected number of distinct pods among n is n·(1 - (1 - 1/n)^k):
with k = 4 that is 2.4 of 3 pods and 3.4 of 10.

Connections are told apart by the endpoint's uid, ``clusterip/SLOT.GENERATION``: same address, another endpoint. A renewal is
make-before-break: the successor is listed first, the old one leaves ``overlap`` later and drains. At most one is under way, so at
least k - 1 settled connections carry calls at any moment.

Renewal runs only while the connections are *in use* (``start``/``pause``): a fallback that nobody dials has nothing to renew.

Deviations: no connection of kube-proxy's is weighted, so all k weigh the same. k = 1 is still make-before-break.
"""

from __future__ import annotations

from collections.abc import Callable

from meshlb.core.clock import Rng
from meshlb.core.endpoint import Endpoint
from meshlb.core.scheduler import Scheduler, Timer
from meshlb.resolve.settings import Fallback

JITTER_RATIO = 0.2  # to either side of max_age_s: replicas that start together must not renew together
MAX_OVERLAP_S = 5.0  # more than the 3 s within which a connection is made or given up


class VirtualIp:
    """Lives on the discovery thread. ``on_change`` is called after ``endpoints`` changed by a renewal."""

    def __init__(
        self,
        host: str,
        port: int,
        fallback: Fallback,
        *,
        scheduler: Scheduler,
        rng: Rng,
        on_change: Callable[[], None],
    ) -> None:
        self.host = host
        self.port = port
        self._max_age_s = fallback.max_age_s
        self._overlap_s = min(MAX_OVERLAP_S, fallback.max_age_s / fallback.connections / 2)
        self._scheduler = scheduler
        self._rng = rng
        self._on_change = on_change
        self._generations = [0] * fallback.connections
        self._due_s = [0.0] * fallback.connections
        self._leaving: Endpoint | None = None
        self._timer: Timer | None = None

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The k connections, and while one is being renewed its predecessor."""
        current = tuple(self._endpoint(slot) for slot in range(len(self._generations)))
        return (*current, self._leaving) if self._leaving is not None else current

    def start(self) -> None:
        """Begin to renew: the first after about max_age_s / k, then evenly spread. Idempotent."""
        if self._timer is not None:
            return
        now_s, count = self._scheduler.now_s(), len(self._generations)
        for slot in range(count):
            self._due_s[slot] = now_s + self._age_s() * (slot + 1) / count
        self._arm()

    def pause(self) -> None:
        """Renew no more; the connections stay listed as they are."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._leaving = None

    def _arm(self) -> None:
        delay_s = min(self._due_s) - self._scheduler.now_s()
        self._timer = self._scheduler.call_later(max(delay_s, 0.0), self._renew)

    def _renew(self) -> None:
        slot = self._due_s.index(min(self._due_s))
        self._leaving = self._endpoint(slot)
        self._generations[slot] += 1
        self._due_s[slot] = self._scheduler.now_s() + self._age_s()
        self._timer = self._scheduler.call_later(self._overlap_s, self._settle)
        self._on_change()

    def _settle(self) -> None:
        self._leaving = None
        self._arm()
        self._on_change()

    def _age_s(self) -> float:
        return self._max_age_s * (1 - JITTER_RATIO + 2 * JITTER_RATIO * self._rng.random())

    def _endpoint(self, slot: int) -> Endpoint:
        generation = self._generations[slot]
        return Endpoint(host=self.host, port=self.port, uid=f"clusterip/{slot}.{generation}", name=f"ClusterIP #{slot}")

    def __repr__(self) -> str:
        state = "paused" if self._timer is None else "renewing" if self._leaving is not None else "in use"
        return f"<VirtualIp {self._endpoint(0).address} x{len(self._generations)} {state}>"
