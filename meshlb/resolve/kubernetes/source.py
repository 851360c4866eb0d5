"""EndpointSlices and Services of one cluster, shared by everything in the process: one list and watch per namespace.

Nothing happens before the first ``watch`` or ``get_service``. Then a helper thread imports ``kubernetes`` and tenacity and reads
the credentials (``connect``); where no cluster is configured, everybody is told so once and nothing is ever tried.

Clients that start together (a roll-out, a scale-up, the workers of one server) do not list together: the first requests are made at a
random moment within ``start_within_s`` of the first question, whatever the import took of that. Whoever has no other answer meanwhile
says so (``Subscription.hurry``), and then nobody waits. With 0.8 s all have their slices within a second, as promised, and of 2,000
that start in one instant about 100 list in the same 20 ms. A longer time would be kinder to the server and break that promise.

A Service that nobody wants any more is kept for ``linger_s``: programs that make a channel for each call would otherwise cause a
list and a watch for each.

Where slices are refused, each Service's Endpoints object is watched meanwhile (``feed``, ``endpoints``).

Threads: every public method belongs to the discovery thread, except ``describe``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from meshlb.core.clock import Rng
from meshlb.core.scheduler import Scheduler, Timer
from meshlb.errors import ClosedError
from meshlb.resolve.fork_gate import fork_gate
from meshlb.resolve.kubernetes.backoff import Backoff, Waits
from meshlb.resolve.kubernetes.feed import Feed, ServiceSlices, SlicesListener
from meshlb.resolve.kubernetes.liveness import SILENCE_S
from meshlb.resolve.kubernetes.requests import Resource
from meshlb.resolve.kubernetes.services import ServiceDone, Services
from meshlb.resolve.kubernetes.stream import NamespaceStream
from meshlb.resolve.kubernetes.streaming_lists import StreamingLists
from meshlb.resolve.kubernetes.streams import Streams
from meshlb.resolve.kubernetes.transport import ApiError, ApiTransport, SourceError
from meshlb.resolve.kubernetes.watch import ListWatch

__all__ = ["KubernetesSource", "ServiceDone", "ServiceSlices", "SlicesListener", "SourceError", "Subscription"]

LINGER_S: Final = 5.0
CONNECT_S: Final = 10.0  # a kubeconfig's plugin may ask the network
ABANDON_S: Final = 60.0  # whatever still blocks then (a file on a dead mount) is left to its thread, once
SILENT: Final = SourceError("config", f"the credentials cannot be read within {CONNECT_S:g} s")
ABSENT: Final = SourceError("absent", "no Kubernetes API is configured")

_log = logging.getLogger("meshlb.resolve.kubernetes")


class Subscription:
    """One listener's interest in one Service. ``close`` may be called twice."""

    __slots__ = ("_feed", "_listener", "_source")

    def __init__(self, source: KubernetesSource, feed: Feed, listener: SlicesListener) -> None:
        self._source: KubernetesSource | None = source
        self._feed = feed
        self._listener = listener

    def close(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.unsubscribe(self._feed, self._listener)

    def hurry(self) -> None:
        """Nobody else can say anything: ask at once."""
        if self._source is not None:
            self._source.hurry()


class KubernetesSource:
    """See the module's head. ``connect`` gives the way to the cluster or None, and may raise ``ApiError``; it runs in a helper
    thread. ``streaming_lists``: ask for them until the server refuses. ``head_start_s``: how long somebody else, who is quicker, has
    the interpreter to himself before the client is imported, which takes a fifth of a second of CPU. ``start_within_s``: see there."""

    def __init__(
        self,
        connect: Callable[[], ApiTransport | None],
        scheduler: Scheduler,
        rng: Rng,
        *,
        linger_s: float = LINGER_S,
        silence_s: float = SILENCE_S,
        streaming_lists: bool = True,
        head_start_s: float = 0.0,
        start_within_s: float = 0.0,
    ) -> None:
        self._connect = connect
        self._scheduler = scheduler
        self._rng = rng
        self._linger_s = linger_s
        self._silence_s = silence_s
        self._streaming = StreamingLists(streaming_lists)
        self._head_start_s = head_start_s
        self._start_within_s = start_within_s
        self._started_s: float | None = None  # when somebody asked first
        self._start: Timer | None = None  # of the streams, until they are there
        self._feeds: dict[tuple[str, str], Feed] = {}
        self._streams = Streams(self._new_stream)
        self._services = Services(scheduler)
        self._connecting_deadline: Timer | None = None
        self._transport: ApiTransport | None = None
        self._waits: Waits | None = None
        self._connecting = False
        self._abandoned = False  # an attempt to connect that hung
        self._connect_backoff: Backoff | None = None
        self._trouble: SourceError | None = None
        self._closed = False

    # -- what is wanted

    def watch(self, namespace: str, service: str, listener: SlicesListener) -> Subscription:
        """Tell ``listener`` all slices of the Service, now and whenever they change, until the subscription is closed."""
        if self._closed:
            raise ClosedError("the Kubernetes source is closed")
        key = (namespace, service)
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = Feed(namespace, service, self._scheduler, self._want_endpoints)
            self._begin(feed)
        feed.add(listener)
        return Subscription(self, feed, listener)

    def unsubscribe(self, feed: Feed, listener: SlicesListener) -> None:
        """``Subscription.close``."""
        feed.remove(listener)
        if not feed.listeners and not self._closed:
            feed.unwanted_since_s = self._scheduler.now_s()
            self._scheduler.call_later(self._linger_s, partial(self._drop_if_unwanted, feed))

    def get_service(self, namespace: str, name: str, done: ServiceDone) -> None:
        """Read a Service once: ``done`` hears its record, or an error, or neither if there is no such Service.

        The record may be ``SERVICE_LINGER_S`` old.
        """
        if self._closed:
            raise ClosedError("the Kubernetes source is closed")
        self._services.want(namespace, name, done)
        if self._trouble is not None:
            self._services.answer_all(self._trouble)
        elif self._transport is None:
            self._prepare()

    def hurry(self) -> None:
        """``Subscription.hurry``."""
        self._start_within_s = 0.0
        if self._start is not None:
            self._start_streams()

    def close(self) -> None:
        """Forget everybody and end all requests, without waiting for them."""
        self._closed = True
        self._streams.close()
        self._services.close()
        for feed in self._feeds.values():
            feed.close()
        for timer in (self._connecting_deadline, self._start):
            if timer is not None:
                timer.cancel()
        self._feeds.clear()
        if self._transport is not None:
            self._transport.close()

    def describe(self) -> dict[str, Any]:
        """Plain data for ``status()``; any thread."""
        return {
            "server": self._transport.server if self._transport is not None else None,
            "error": str(self._trouble) if self._trouble is not None else None,
            "streaming_lists": self._streaming.available(self._scheduler.now_s()),
            "namespaces": self._streams.describe(),
            "services": {f"{name}.{namespace}": feed.describe() for (namespace, name), feed in sorted(self._feeds.copy().items())},
        }

    # -- the way to the cluster

    def _begin(self, feed: Feed) -> None:
        if self._transport is not None:
            if self._start is None:
                self._streams.add(feed.namespace, feed.slices)
        elif self._trouble is not None:
            feed.fail(self._trouble)
        else:
            self._prepare()

    def _new_stream(self, namespace: str, resource: Resource) -> NamespaceStream:
        assert self._transport is not None
        assert self._waits is not None
        list_watch = ListWatch(namespace, self._waits, self._rng, self._silence_s, resource=resource, streaming=self._streaming)
        return NamespaceStream(list_watch, self._transport, self._scheduler)

    def _want_endpoints(self, feed: Feed, wanted: bool) -> None:
        """``Feed``: whether the Endpoints object is to be watched instead of slices."""
        if self._closed or self._feeds.get((feed.namespace, feed.service)) is not feed:
            return
        if wanted and feed.endpoints is None:
            self._streams.add(feed.namespace, feed.add_endpoints())
        elif not wanted and feed.endpoints is not None:
            self._streams.discard(feed.namespace, feed.endpoints)
            feed.drop_endpoints()

    def _prepare(self) -> None:
        if not self._connecting and not self._closed:
            self._connecting = True
            self._started_s = self._scheduler.now_s() if self._started_s is None else self._started_s
            head_start_s, self._head_start_s = self._head_start_s, 0.0
            if head_start_s:
                self._connecting_deadline = self._scheduler.call_later(head_start_s, self._start_loading)
            else:
                self._start_loading()

    def _start_loading(self) -> None:
        self._scheduler.start_thread("connect", self._load)
        self._connecting_deadline = self._scheduler.call_later(CONNECT_S, self._overdue_connect)

    def _overdue_connect(self) -> None:
        """Only the credentials can take so long. It goes on; who waits has other sources to turn to meanwhile."""
        if not self._connecting or self._closed:
            return
        self._fail(SILENT)
        _log.warning("no Kubernetes API: %s", SILENT)
        if not self._abandoned:
            self._connecting_deadline = self._scheduler.call_later(ABANDON_S - CONNECT_S, self._abandon_connect)

    def _abandon_connect(self) -> None:
        """Try again beside a thread that hangs. Once: if the second one hangs as well, whichever ends first is used."""
        if self._connecting and not self._closed:
            self._abandoned = True
            self._start_loading()

    def _load(self) -> None:
        """In a helper thread: what takes time to import and to read."""
        waits, transport, error = self._waits, None, None
        try:
            with fork_gate:
                waits = Waits.load()
            transport = self._connect()
        except ApiError as raised:
            error = raised.told
        except BaseException as raised:  # noqa: BLE001 - a broken installation: everybody waits for an answer
            _log.exception("the Kubernetes client cannot be used")
            error = SourceError("config", f"{type(raised).__name__}: {raised}")
        self._scheduler.call_soon(partial(self._loaded, waits, transport, error or (None if transport else ABSENT)))

    def _loaded(self, waits: Waits | None, transport: ApiTransport | None, trouble: SourceError | None) -> None:
        if not self._connecting:  # of two attempts the other ended first
            if transport is not None:
                transport.close()
            return
        self._connecting = False
        if self._connecting_deadline is not None:
            self._connecting_deadline.cancel()
        if self._closed:
            if transport is not None:
                transport.close()
            return
        self._waits, self._transport = waits, transport
        known, self._trouble = self._trouble, trouble
        if trouble is None and transport is not None:
            self._start = self._scheduler.call_later(self._spread_s(), self._start_streams)
            self._services.start(transport)
        elif trouble is not None:
            self._fail(trouble)
            if trouble is not ABSENT and waits is not None:
                _log.log(logging.DEBUG if trouble == known else logging.WARNING, "no Kubernetes API: %s", trouble)
                self._connect_backoff = self._connect_backoff or Backoff(waits.refusal, self._rng)
                self._scheduler.call_later(self._connect_backoff.next_s(self._scheduler.now_s()), self._prepare)

    def _spread_s(self) -> float:
        """Until the moment of our own in which to begin."""
        if self._started_s is None:
            return 0.0
        return max(0.0, self._started_s + self._start_within_s - self._scheduler.now_s()) * self._rng.random()

    def _start_streams(self) -> None:
        if self._start is not None:
            self._start.cancel()
            self._start = None
            for feed in self._feeds.values():
                self._streams.add(feed.namespace, feed.slices)

    def _fail(self, trouble: SourceError) -> None:
        self._trouble = trouble
        for feed in self._feeds.values():
            feed.fail(trouble)
        self._services.answer_all(trouble)

    def _drop_if_unwanted(self, feed: Feed) -> None:
        key = (feed.namespace, feed.service)
        wanted_lately = self._scheduler.now_s() < feed.unwanted_since_s + self._linger_s
        if self._closed or feed.listeners or wanted_lately or self._feeds.get(key) is not feed:
            return
        del self._feeds[key]
        feed.close()
        self._streams.discard(feed.namespace, feed.slices)
        if feed.endpoints is not None:
            self._streams.discard(feed.namespace, feed.endpoints)
