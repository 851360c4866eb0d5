"""EndpointSlices and Services of one cluster, shared by everything in the process: one list and watch per namespace.

Nothing happens before the first ``watch`` or ``get_service``. Then a helper thread imports ``kubernetes`` and tenacity and reads
the credentials (``connect``); where no cluster is configured, everybody is told so once and nothing is ever tried.

Services are read one after the other in a single helper thread: they are wanted at start and rarely later, and when the API server
is away, the first failure answers for all who wait. A record is told again for ``SERVICE_LINGER_S``, and everybody who waits for
the same Service hears the same answer; still, no more than ``SERVICES_PER_S`` are read a second.

A Service that nobody wants any more is kept for ``linger_s``: programs that make a channel for each call would otherwise cause a
list and a watch for each.

Threads: every public method belongs to the discovery thread, except ``describe``.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from meshlb.core.clock import Rng
from meshlb.core.scheduler import Scheduler, Timer
from meshlb.errors import ClosedError
from meshlb.resolve.fork_gate import fork_gate
from meshlb.resolve.kubernetes.backoff import Backoff, Waits
from meshlb.resolve.kubernetes.feed import Feed, ServiceSlices, SlicesListener
from meshlb.resolve.kubernetes.requests import service_path
from meshlb.resolve.kubernetes.stream import ANSWER_S, NamespaceStream
from meshlb.resolve.kubernetes.transport import ApiError, ApiTransport, Interrupt, SourceError, as_api_error
from meshlb.resolve.kubernetes.watch import SILENCE_S, ListWatch
from meshlb.resolve.kubernetes.wire import ServiceRecord, parse_service

__all__ = ["KubernetesSource", "ServiceDone", "ServiceSlices", "SlicesListener", "SourceError", "Subscription"]

LINGER_S: Final = 5.0
CONNECT_S: Final = 10.0  # a kubeconfig's plugin may ask the network, or a person
SERVICE_LINGER_S: Final = 10.0
SERVICES_PER_S: Final = 5
SILENT_PLUGIN: Final = SourceError("config", "the credentials plugin does not answer")
ABSENT: Final = SourceError("absent", "no Kubernetes API is configured")

ServiceDone = Callable[[ServiceRecord | None, SourceError | None], None]

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


class KubernetesSource:
    """See the module's head. ``connect`` gives the way to the cluster or None, and may raise ``ApiError``; it runs in a helper
    thread."""

    def __init__(
        self,
        connect: Callable[[], ApiTransport | None],
        scheduler: Scheduler,
        rng: Rng,
        *,
        linger_s: float = LINGER_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._connect = connect
        self._scheduler = scheduler
        self._rng = rng
        self._linger_s = linger_s
        self._silence_s = silence_s
        self._feeds: dict[tuple[str, str], Feed] = {}
        self._streams: dict[str, NamespaceStream] = {}
        self._wanted: deque[tuple[str, str, ServiceDone]] = deque()
        self._reading: Interrupt | None = None
        self._records: dict[tuple[str, str], tuple[float, ServiceRecord]] = {}  # until when it is told without a request
        self._reads_s: deque[float] = deque(maxlen=SERVICES_PER_S)
        self._paced: Timer | None = None
        self._reading_deadline: Timer | None = None
        self._connecting_deadline: Timer | None = None
        self._transport: ApiTransport | None = None
        self._waits: Waits | None = None
        self._connecting = False
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
            feed = self._feeds[key] = Feed(namespace, service, self._scheduler)
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
        until_s, record = self._records.get((namespace, name), (0.0, None))
        if record is not None and self._scheduler.now_s() < until_s:
            self._scheduler.call_soon(partial(done, record, None))
            return
        self._wanted.append((namespace, name, done))
        if self._trouble is not None:
            self._answer_all(self._trouble)
        elif self._transport is None:
            self._prepare()
        elif self._reading is None:
            self._read_next()

    def close(self) -> None:
        """Forget everybody and end all requests, without waiting for them."""
        self._closed = True
        for stream in self._streams.values():
            stream.close()
        for feed in self._feeds.values():
            feed.close()
        if self._reading is not None:
            self._reading.fire()
        for timer in (self._paced, self._reading_deadline, self._connecting_deadline):
            if timer is not None:
                timer.cancel()
        self._streams.clear()
        self._feeds.clear()
        self._wanted.clear()
        if self._transport is not None:
            self._transport.close()

    def describe(self) -> dict[str, Any]:
        """Plain data for ``status()``; any thread."""
        return {
            "server": self._transport.server if self._transport is not None else None,
            "error": str(self._trouble) if self._trouble is not None else None,
            "namespaces": {namespace: stream.describe() for namespace, stream in sorted(self._streams.copy().items())},
        }

    # -- the way to the cluster

    def _begin(self, feed: Feed) -> None:
        if self._transport is not None and self._waits is not None:
            stream = self._streams.get(feed.namespace)
            if stream is None:
                list_watch = ListWatch(feed.namespace, self._waits, self._rng, self._silence_s)
                stream = self._streams[feed.namespace] = NamespaceStream(list_watch, self._transport, self._scheduler)
            stream.add(feed)
        elif self._trouble is not None:
            feed.fail(self._trouble)
        else:
            self._prepare()

    def _prepare(self) -> None:
        if not self._connecting and not self._closed:
            self._connecting = True
            self._scheduler.start_thread("connect", self._load)
            self._connecting_deadline = self._scheduler.call_later(CONNECT_S, self._overdue_connect)

    def _overdue_connect(self) -> None:
        """Only the credentials can take so long. It goes on; who waits has other sources to turn to meanwhile."""
        if not self._connecting or self._closed:
            return
        self._trouble = SILENT_PLUGIN
        for feed in self._feeds.values():
            feed.fail(SILENT_PLUGIN)
        self._answer_all(SILENT_PLUGIN)

    def _load(self) -> None:
        """In a helper thread: what takes time to import and to read."""
        waits, transport, error = self._waits, None, None
        try:
            with fork_gate:
                waits = Waits.load()
            transport = self._connect()
        except ApiError as raised:
            error = raised.told
        except Exception as raised:  # noqa: BLE001 - a broken installation: everybody waits for an answer
            _log.exception("the Kubernetes client cannot be used")
            error = SourceError("config", f"{type(raised).__name__}: {raised}")
        self._scheduler.call_soon(partial(self._loaded, waits, transport, error or (None if transport else ABSENT)))

    def _loaded(self, waits: Waits | None, transport: ApiTransport | None, trouble: SourceError | None) -> None:
        self._connecting = False
        if self._connecting_deadline is not None:
            self._connecting_deadline.cancel()
        if self._closed:
            if transport is not None:
                transport.close()
            return
        self._waits, self._transport, self._trouble = waits, transport, trouble
        if trouble is None:
            for feed in list(self._feeds.values()):
                self._begin(feed)
            self._read_next()
            return
        for feed in self._feeds.values():
            feed.fail(trouble)
        self._answer_all(trouble)
        if trouble is not ABSENT and waits is not None:
            _log.warning("no Kubernetes API: %s", trouble)
            self._connect_backoff = self._connect_backoff or Backoff(waits.refusal, self._rng)
            self._scheduler.call_later(self._connect_backoff.next_s(self._scheduler.now_s()), self._prepare)

    def _drop_if_unwanted(self, feed: Feed) -> None:
        key = (feed.namespace, feed.service)
        wanted_lately = self._scheduler.now_s() < feed.unwanted_since_s + self._linger_s
        if self._closed or feed.listeners or wanted_lately or self._feeds.get(key) is not feed:
            return
        del self._feeds[key]
        feed.close()
        stream = self._streams.get(feed.namespace)
        if stream is not None:
            stream.discard(feed)
            if stream.empty:
                stream.close()
                del self._streams[feed.namespace]

    # -- Services, one at a time

    def _read_next(self) -> None:
        if self._wanted and self._transport is not None and not self._closed and self._reading is None and self._paced is None:
            now_s = self._scheduler.now_s()
            free_s = self._reads_s[0] + 1.0 if len(self._reads_s) == SERVICES_PER_S else now_s
            if free_s > now_s:
                self._paced = self._scheduler.call_later(free_s - now_s, self._resume_reading)
                return
            self._reads_s.append(now_s)
            namespace, name, _ = self._wanted[0]
            self._reading = Interrupt()
            self._scheduler.start_thread("services", partial(self._read, self._transport, namespace, name, self._reading))
            self._reading_deadline = self._scheduler.call_later(ANSWER_S, partial(self._overdue_service, self._reading))

    def _resume_reading(self) -> None:
        self._paced = None
        self._read_next()

    def _read(self, transport: ApiTransport, namespace: str, name: str, interrupt: Interrupt) -> None:
        """In a helper thread."""
        path = service_path(namespace, name)
        record, error = None, None
        try:
            try:
                text = transport.get(path, (), interrupt)
            except ApiError as refused:
                if refused.kind != "unauthorized":
                    raise
                transport.renew_credentials()
                text = transport.get(path, (), interrupt)
            record = parse_service(text)
        except Exception as raised:  # noqa: BLE001 - see as_api_error
            error = as_api_error(raised)
        self._scheduler.call_soon(partial(self._read_one, interrupt, record, error))

    def _overdue_service(self, interrupt: Interrupt) -> None:
        interrupt.fire()
        self._read_one(interrupt, None, ApiError(f"no complete answer within {ANSWER_S:g} s"))

    def _read_one(self, interrupt: Interrupt, record: ServiceRecord | None, error: ApiError | None) -> None:
        if interrupt is not self._reading:
            return
        self._reading = None
        if self._reading_deadline is not None:
            self._reading_deadline.cancel()
        if self._closed or not self._wanted:
            return
        if error is not None and error.refusal is None:
            self._answer_all(error.told)
            return
        missing = error is not None and error.kind == "not_served"
        trouble = error.told if error is not None and not missing else None
        namespace, name, _ = self._wanted[0]
        now_s = self._scheduler.now_s()
        if record is not None:
            self._records = {key: kept for key, kept in self._records.items() if now_s < kept[0]}
            self._records[namespace, name] = (now_s + SERVICE_LINGER_S, record)
        waiting, self._wanted = self._wanted, deque()
        for want in waiting:
            if want[:2] == (namespace, name):
                self._scheduler.call_soon(partial(want[2], record, trouble))
            else:
                self._wanted.append(want)
        self._read_next()

    def _answer_all(self, trouble: SourceError) -> None:
        while self._wanted:
            _, _, done = self._wanted.popleft()
            self._scheduler.call_soon(partial(done, None, trouble))
