"""The fake cluster's API server: list, get and watch over HTTP, with every way it can fail at hand.

It answers as a kube-apiserver does (``tests/integration/test_recordings_fake_api.py`` holds it against recordings of one); what a
request means is decided in `api_requests`, what the answer is in `watch_cache`, who may ask in `authorization`.

Faults come in three kinds. *The network*: `cut` resets open watches, `stall` keeps all connections and sends nothing, `stop`
closes everything. *The server*: `fail` refuses new requests with a status, `corrupt` sends what is no object, `restart` loses the
watch cache. *Time*: `compact` makes every version seen so far too old.

Deviations: no protobuf, no discovery documents, no writes (the cluster writes directly). ``timeoutSeconds`` defaults to 1800 s.
"""

from __future__ import annotations

import asyncio
import ssl
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Any

from meshlb.testing import http1
from meshlb.testing.api_fault import ApiFault
from meshlb.testing.api_requests import ApiRequest, Route, list_options, route, selection, watch_options
from meshlb.testing.authorization import Authorizer
from meshlb.testing.loop_thread import LoopThread
from meshlb.testing.resources import Resource, compact_json
from meshlb.testing.status import StatusError, bad_request, method_not_allowed, not_found, version_too_large
from meshlb.testing.tcp import reset
from meshlb.testing.watch_cache import Revision, WatchCache
from meshlb.testing.watch_stream import WatchStream

_BACKLOG = 1024  # hundreds of watches may connect at once


class ApiServer:
    """Made by `FakeCluster`, which owns it. Every public method may be called from any thread."""

    def __init__(
        self,
        thread: LoopThread,
        *,
        host: str,
        caches: Mapping[Resource, WatchCache],
        revision: Revision,
        authorizer: Authorizer,
        tls: ssl.SSLContext | None = None,
        bookmark_interval_s: float = 60.0,
        future_version_wait_s: float = 3.0,
        watch_list: bool = True,
    ) -> None:
        self.watch_list = watch_list
        self.host = host
        self.port = 0
        self._thread = thread
        self._caches = caches
        self._revision = revision
        self._authorizer = authorizer
        self._tls = tls
        self._bookmark_interval_s = bookmark_interval_s
        self._future_version_wait_s = future_version_wait_s
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._streams: set[asyncio.StreamWriter] = set()
        self._flowing = thread.call(asyncio.Event)
        self._flowing.set()
        self._fault: ApiFault | None = None
        self._garbage = b""
        self._log: list[ApiRequest] = []
        self.start()

    # -- what tests look at

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    @property
    def requests(self) -> list[ApiRequest]:
        """Every request so far, in order of arrival, unanswered ones included (their ``status`` is None)."""
        return list(self._log)

    @property
    def open_watches(self) -> int:
        return len(self._streams)

    def clear_requests(self) -> None:
        self._thread.call(self._log.clear)

    # -- what tests break

    def cut(self) -> None:
        """Reset every open watch, in the middle of whatever it was doing. New ones are accepted."""
        self._thread.call(self._reset, self._streams)

    def stall(self) -> None:
        """Go silent: connections are accepted, requests read, nothing is sent; open watches stay open. Until `resume`."""
        self._thread.call(self._flowing.clear)

    def resume(self) -> None:
        """End a `stall`: what was held back is sent."""
        self._thread.call(self._flowing.set)

    def fail(
        self,
        status: int,
        *,
        retry_after_s: int | None = None,
        verbs: Collection[str] = ("list", "watch", "get"),
        resources: Collection[str] | None = None,
        times: int | None = None,
        in_stream: bool | None = None,
    ) -> None:
        """Refuse the next ``times`` requests (None: all until `recover`) of these verbs, and resources, with an HTTP status.

        Open watches are left alone; `cut` them to see them refused. ``in_stream`` sends the refusal of a watch as an ERROR event
        on a stream that began with 200, as a real server does for 410; None does that for 410 alone. Replaces an earlier fault.
        """
        fault = ApiFault(status, retry_after_s=retry_after_s, verbs=verbs, resources=resources, times=times, in_stream=in_stream)
        self._thread.call(setattr, self, "_fault", fault)

    def corrupt(self, data: bytes) -> None:
        """Until `recover` every answer is 200 with these bytes as its body, and every watch has them in place of each event.

        A watch that was sent the beginning of a line ends there.
        """
        self._thread.call(setattr, self, "_garbage", data)

    def recover(self) -> None:
        """End `fail`, `stall` and `corrupt`."""
        self._thread.call(setattr, self, "_fault", None)
        self._thread.call(setattr, self, "_garbage", b"")
        self.resume()

    def compact(self) -> None:
        """Make every version that any client can have seen too old: resumed watches get 410. Open watches go on."""
        self._thread.call(self._forget, WatchCache.compact)

    def stop(self) -> None:
        """Stop listening and reset all connections: from now on connections are refused."""
        self._thread.call(self.stop_in_loop)

    def start(self) -> None:
        """Listen again, on the same port as before."""
        self._thread.run(self._listen(), timeout_s=10.0)

    def restart(self) -> None:
        """`stop`, lose the watch cache as a restarted process does (old versions get 410), `start`."""
        self.stop()
        self._thread.call(self._forget, WatchCache.restart)
        self.start()

    # -- inside the loop

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._serve, self.host, self.port, ssl=self._tls, limit=http1.MAX_HEAD_BYTES, backlog=_BACKLOG
            )
            self.port = self._server.sockets[0].getsockname()[1]

    def stop_in_loop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._reset(self._connections)

    def _reset(self, writers: set[asyncio.StreamWriter]) -> None:
        for writer in list(writers):
            reset(writer.transport)

    def _forget(self, how: Callable[[WatchCache], None]) -> None:
        self._revision.next()  # so that even the newest version a client can hold is older than the server's memory
        for cache in self._caches.values():
            how(cache)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:  # a handshake that was under way when the server stopped
            reset(writer.transport)
            return
        self._connections.add(writer)
        try:
            while (head := await http1.read_head(reader)) is not None:
                request = ApiRequest(head.method, head.path, head.query, head.headers, time.monotonic())
                self._log.append(request)
                if not await self._respond(request, reader, writer) or not head.keep_alive:
                    break
        except http1.CONNECTION_ENDED:
            pass  # the client or a fault did it; there is nobody left to tell
        except asyncio.CancelledError:
            pass  # the cluster closes; asyncio's streams would print a traceback for a connection that ends cancelled
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _respond(self, request: ApiRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False if the connection cannot carry another."""
        await self._flowing.wait()
        headers = {"Audit-Id": str(uuid.uuid4()), "Cache-Control": "no-cache, private", "Content-Type": "application/json"}
        try:
            try:
                where = self._admit(request)
                if where.resource.warning:
                    headers["Warning"] = where.resource.warning
                if where.verb == "watch":
                    return await self._watch(request, where, headers, reader, writer)
                body = self._garbage or compact_json(await self._list_or_get(request, where)) + b"\n"
            except ValueError as error:  # a number in the query that is none
                raise bad_request(str(error)) from None
            code = 200
        except StatusError as error:
            code, body = error.code, compact_json(error.status) + b"\n"
            if error.retry_after_s is not None:
                headers["Retry-After"] = str(error.retry_after_s)
        request.status = code
        gzip_accepted = "gzip" in request.headers.get("accept-encoding", "")
        writer.write(http1.answer(code, body, headers, gzip_accepted=gzip_accepted))
        await writer.drain()
        return True

    def _admit(self, request: ApiRequest) -> Route:
        """Authentication, routing, authorisation, injected faults. Raises `StatusError`."""
        user = self._authorizer.authenticate(request.headers.get("authorization"))
        where = route(request)
        request.verb, request.resource, request.namespace = where.verb, where.resource.plural, where.namespace
        if request.method != "GET":
            raise method_not_allowed()
        if self._fault is not None and not (where.verb == "watch" and self._fault.in_stream):
            self._fault.check(where)
        self._authorizer.authorize(user, verb=where.verb, resource=where.resource, namespace=where.namespace, name=where.name)
        return where

    async def _list_or_get(self, request: ApiRequest, where: Route) -> dict[str, Any]:
        cache = self._caches[where.resource]
        if where.name is not None:
            assert where.namespace is not None
            stored = cache.get(where.namespace, where.name)
            if stored is None:
                raise not_found(resource=where.resource.plural, group=where.resource.group, name=where.name)
            return where.resource.typed(stored)
        options = list_options(request.query)
        await self._reach(options.version)
        return cache.list(
            selection(request, where),
            version=options.version,
            exact=options.exact,
            limit=options.limit,
            continue_token=options.continue_token,
        )

    async def _reach(self, version: int) -> None:
        """Wait a little for a version from the future, as a server does that lags behind another one."""
        deadline_s = time.monotonic() + self._future_version_wait_s
        while version > self._revision.current:
            if time.monotonic() >= deadline_s:
                raise version_too_large(version, self._revision.current)
            await asyncio.sleep(0.01)

    async def _watch(
        self,
        request: ApiRequest,
        where: Route,
        headers: dict[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        options = watch_options(request.query, watch_list=self.watch_list)
        chosen = selection(request, where)
        await self._reach(options.at_least)
        cache = self._caches[where.resource]
        stream = WatchStream(cache, reader, writer, self._flowing, lambda line: self._garbage or line)
        request.status = 200
        self._streams.add(writer)
        writer.write(http1.stream_head(200, {**headers, "Transfer-Encoding": "chunked"}))
        try:
            try:
                if self._fault is not None and self._fault.in_stream:
                    self._fault.check(where)
                watcher = cache.watch(chosen, stream.wake.set, version=options.version, bookmark=options.initial_bookmark)
            except StatusError as error:
                return await stream.refuse(error)
            try:
                return await stream.run(watcher, options, self._bookmark_interval_s)
            finally:
                watcher.close()
        finally:
            self._streams.discard(writer)
            stream.close()
