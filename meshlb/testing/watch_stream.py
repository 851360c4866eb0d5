"""One watch on the wire: events as they come, bookmarks in between, a clean end after its time.

Spec: apiserver ``endpoints/handlers/watch.go`` and ``storage/cacher/cache_watcher.go`` (when bookmarks are due).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from meshlb.testing import http1
from meshlb.testing.api_requests import WatchOptions
from meshlb.testing.resources import event_line
from meshlb.testing.status import StatusError
from meshlb.testing.watch_cache import WatchCache, Watcher

_DEFAULT_TIMEOUT_S = 1800.0  # kube-apiserver draws from 1800..3600
_LAST_BOOKMARK_S = 2.0  # before the end, so that a resumed watch replays little


class WatchStream:
    """Begins when the head of the answer has been sent. ``wake`` is to be set when the watcher has something new; ``said`` gives
    what is sent for a line."""

    def __init__(
        self,
        cache: WatchCache,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        flowing: asyncio.Event,
        said: Callable[[bytes], bytes],
    ) -> None:
        self.wake = asyncio.Event()
        self._cache = cache
        self._writer = writer
        self._flowing = flowing
        self._said = said
        # A watching client sends nothing more; a byte or an end of file means that it is gone.
        self._gone = asyncio.ensure_future(reader.read(1))
        self._gone.add_done_callback(self._on_gone)

    async def refuse(self, error: StatusError) -> bool:
        """Send an ERROR event and end cleanly."""
        await self._send([event_line("ERROR", error.status)])
        return await self._end()

    async def run(self, watcher: Watcher, options: WatchOptions, bookmark_interval_s: float) -> bool:
        """Serve until the time is over (True: a clean end, the connection goes on) or the client is gone (False)."""
        end_s = time.monotonic() + (options.timeout_s or _DEFAULT_TIMEOUT_S)
        bookmark_s = _next_bookmark_s(options.bookmarks, end_s, bookmark_interval_s)
        while not self._gone.done():
            self.wake.clear()
            if watcher.pending:
                lines = list(watcher.pending)
                watcher.pending.clear()
                await self._send(lines)
                continue
            now_s = time.monotonic()
            if now_s >= end_s:
                return await self._end()
            if now_s >= bookmark_s:
                bookmark_s = _next_bookmark_s(options.bookmarks, end_s, bookmark_interval_s)
                await self._send([self._cache.resource.bookmark(self._cache.revision.current, initial_events_end=False)])
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(end_s, bookmark_s) - now_s):
                    await self.wake.wait()
        return False

    def close(self) -> None:
        """Give the reader back."""
        self._gone.cancel()

    def _on_gone(self, reading: asyncio.Future[bytes]) -> None:
        if not reading.cancelled():
            reading.exception()  # a reset is as good as an end of file, and no error of ours
        self.wake.set()

    async def _send(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            await self._flowing.wait()
            said = self._said(line)
            self._writer.write(http1.chunk(said))
            if not said.endswith(b"\n"):
                await self._writer.drain()
                raise ConnectionAbortedError("in the middle of a line")
        await self._writer.drain()

    async def _end(self) -> bool:
        await self._flowing.wait()
        self.close()
        await asyncio.wait([self._gone])  # the reader must be free before the client, told the end, sends its next request
        self._writer.write(http1.LAST_CHUNK)
        await self._writer.drain()
        return True


def _next_bookmark_s(wanted: bool, end_s: float, interval_s: float) -> float:
    """When the next bookmark is due: after the interval, or shortly before the end, whichever comes first."""
    if not wanted:
        return float("inf")
    now_s = time.monotonic()
    last_s = end_s - _LAST_BOOKMARK_S
    return min(now_s + interval_s, last_s) if now_s < last_s else now_s + interval_s
