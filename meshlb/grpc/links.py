"""The links of one channel in all their states: in use, about to take over, replaced, let go; and the multicallables that hold some.

Dropping the last reference frees a connection gently: gRPC lets the calls on it finish. So each is kept here for as long as it carries
any, since ``close()``, which alone closes, must find it, and its endpoint may come back.

Threads: ``lock`` guards the links in use and the holders' entries, so that a call which finds a link's multicallable had its attempt
counted before the link was taken away. Everything but ``add_holder`` and ``take_all`` runs on the discovery thread.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import Protocol

from meshlb.core.subchannel import Subchannel
from meshlb.grpc.link import Link
from meshlb.pool.renewal import Renewals


class HoldsInner(Protocol):
    """A multicallable: it keeps one inner multicallable a link, and lets it go when told."""

    def forget(self, subchannels: Iterable[Subchannel]) -> None: ...


class Links:
    """See the module head."""

    def __init__(self, renewals: Renewals[Link], holders: weakref.WeakSet[HoldsInner]) -> None:
        self.used: dict[Subchannel, Link] = {}
        self.lock = threading.RLock()  # re-entrant: freeing things may run code of ours
        self.renewals = renewals
        self._holders = holders
        self.draining: list[tuple[Subchannel, Link]] = []

    def add_holder(self, holder: HoldsInner) -> None:
        with self.lock:
            self._holders.add(holder)

    def drop(self, subchannel: Subchannel) -> None:
        """Its endpoint is not wanted any more."""
        successor = None
        with self.lock:
            link = self.used.pop(subchannel, None)
            self._forget((subchannel,))
            if link is not None:
                self.draining.append((subchannel, link))
                successor = self.renewals.went_down(subchannel, link)
        del successor  # outside the lock

    def take_up(self, subchannel: Subchannel) -> Link | None:
        """The link of an endpoint that was let go and is wanted again before its calls have ended."""
        with self.lock:
            link = next((link for draining, link in self.draining if draining is subchannel), None)
            self.draining = [entry for entry in self.draining if entry[1] is not link]
        return link

    def add_successor(self, subchannel: Subchannel, link: Link) -> None:
        with self.lock:
            if subchannel in self.used:
                self.renewals.successors[subchannel] = link

    def swap(self, subchannel: Subchannel, successor: Link, now_s: float) -> None:
        """Calls from here on go over the successor. An attempt that is on the old link was counted before its multicallable was
        forgotten, so those that are counted now are all that can be."""
        with self.lock:
            old = self.used.get(subchannel)
            if old is None:  # closed, in another thread
                return
            self.used[subchannel] = successor
            self._forget((subchannel,))
            self.renewals.swapped(subchannel, old, subchannel.unary | subchannel.streams, now_s)

    def let_go(self, now_s: float) -> list[Link]:
        """Forget those that carry no call any more; returns those to close."""
        with self.lock:
            self.draining = [entry for entry in self.draining if entry[0].in_flight]
            done, close = self.renewals.let_go(now_s)
        del done  # outside the lock
        return close

    def take_all(self) -> list[Link]:
        """All there are, to be closed; none is left."""
        with self.lock:
            links = [*self.used.values(), *(link for _, link in self.draining), *self.renewals.all()]
            self._forget(list(self.used))
            self.used.clear()
            self.draining = []
            self.renewals.forget_all()
        return links

    def _forget(self, subchannels: Iterable[Subchannel]) -> None:
        for holder in list(self._holders):
            holder.forget(subchannels)
