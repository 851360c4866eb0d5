"""Where an asyncio channel may be used: in a coroutine or callback of a running loop, and not in a child that gRPC cannot serve.

gRPC answers all asyncio calls of a process from one poller thread. A child that was forked while it ran has no such thread: whatever
it makes with ``grpc.aio`` hangs, or aborts the process. gRPC ends the thread when its last asyncio object is freed, so a parent
whose objects are all gone (closed *and* forgotten), or that never had one, may fork.

After a fork that may not be, every use in the child raises at once, and what it inherited is never freed: that would take locks
whose holders do not exist in the child.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from typing import TYPE_CHECKING, Final

from meshlb.errors import ForkError, MeshError
from meshlb.runtime.fork import on_fork_child

if TYPE_CHECKING:
    import grpc.aio

_POLLER: Final = "(_poll_wrapper)"  # ends the name of gRPC's poller thread; also up for asyncio objects that are not ours


class NoRunningLoopError(MeshError, RuntimeError):
    """The caller: an asyncio channel was used where no event loop runs. Making one there is fine."""


class ForkGuard:
    """Knows whether this process was forked from one that could not be."""

    def __init__(self) -> None:
        self.connections: weakref.WeakSet[grpc.aio.Channel] = weakref.WeakSet()
        self._forking_live = False
        self._broken = False
        if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
            os.register_at_fork(before=self._before)
        on_fork_child(self._after_in_child)  # made at import, so it hears of a fork before any channel does

    def check(self) -> None:
        """Raise ForkError in a child of a process that had asyncio connections when it forked."""
        if self._broken:
            raise ForkError(
                "this process was forked while its parent had asyncio gRPC objects, and gRPC cannot serve asyncio here: "
                "make and use asyncio channels only after the fork, or close and forget all of them before it"
            )

    @property
    def broken(self) -> bool:
        return self._broken

    def keep(self, inherited: object) -> None:
        """Never free this in the child, not even when its interpreter ends: that would hang, too."""
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))

    def _before(self) -> None:
        self._forking_live = len(self.connections) > 0 or any(t.name.endswith(_POLLER) for t in threading.enumerate())

    def _after_in_child(self) -> None:
        self._broken = self._broken or self._forking_live
        if self._broken:
            self.keep(list(self.connections))


fork_guard: Final = ForkGuard()


def running_loop() -> asyncio.AbstractEventLoop:
    """The loop that runs in this thread; raises NoRunningLoopError naming the rule."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise NoRunningLoopError(
            "an asyncio channel is used where no event loop runs: it may be made anywhere, but calls, get_state(try_to_connect=True) "
            "and the waits belong into a coroutine; threads without a loop use meshlb.grpc instead of meshlb.grpc.aio"
        ) from None
