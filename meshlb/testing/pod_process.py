"""One child process and what the kubelet knows of it: when it listens, when it has ended, and how to signal it.

Each is a process group of its own: Ctrl-C goes to the test, not to the pods, and a pod that is stopped (SIGSTOP) while its parent
dies becomes an orphaned stopped group, which the kernel ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import meshlb
from meshlb.testing.errors import FakeClusterError

_LOG_TAIL_CHARS = 2000
_REAP_INTERVAL_S = 0.001


class PodProcess:
    """A started process. ``listening`` and ``ended`` are futures of the cluster's loop, to which all of it belongs but `signal`."""

    def __init__(self, arguments: Sequence[str], log: Path, owned_fds: set[int]) -> None:
        loop = asyncio.get_running_loop()
        self.listening: asyncio.Future[list[int]] = loop.create_future()
        self.ended: asyncio.Future[int] = loop.create_future()
        self._log = log
        command = [sys.executable, "-P", "-m", "meshlb.testing.pod_server", *arguments]
        with log.open("wb") as stderr:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": _python_path()},
                process_group=0,
            )
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        # While this pipe is open in a forked child of the test, the pod does not see the end of it when the test dies.
        self._owned_fds = owned_fds
        owned_fds.add(self._popen.stdin.fileno())
        self._watching = loop.create_task(self._watch(self._popen.stdout))

    @property
    def pid(self) -> int:
        return self._popen.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, from any thread; nothing happens if the process has ended. SIGSTOP has stopped it when this returns: a parent
        that died before would leave a group that stops only when it is an orphan, which the kernel does not end."""
        self._popen.send_signal(number)
        if number is signal.SIGSTOP and self._popen.returncode is None and hasattr(os, "waitid"):
            with contextlib.suppress(ChildProcessError):  # it ended, and was reaped
                os.waitid(os.P_PID, self._popen.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-_LOG_TAIL_CHARS:].strip()

    async def _watch(self, stdout: IO[bytes]) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), stdout)
        if line := await reader.readline():
            self.listening.set_result(json.loads(line)["ports"])
        while await reader.read(4096):  # only the end matters now: it comes with the end of the process
            pass
        transport.close()
        # The pipe closes a moment before the process can be reaped, and there is no event for that which every system has.
        while (code := self._popen.poll()) is None:  # noqa: ASYNC110
            await asyncio.sleep(_REAP_INTERVAL_S)
        self._close_stdin()
        if not self.listening.done():
            self.listening.set_exception(FakeClusterError(f"a pod ended with code {code} before it listened: {self.log_tail()}"))
            self.listening.exception()  # whoever waits gets it; if nobody does, that is no mistake
        self.ended.set_result(code)

    def reap(self) -> None:
        """Wait for the end of a process that was killed, which takes a millisecond or two."""
        self._watching.cancel()
        self._popen.wait()
        self._close_stdin()

    def _close_stdin(self) -> None:
        if self._popen.stdin is not None and not self._popen.stdin.closed:
            self._owned_fds.discard(self._popen.stdin.fileno())
            self._popen.stdin.close()


def _python_path() -> str:
    """Where the child finds this very meshlb, installed or not."""
    root = str(Path(next(iter(meshlb.__path__))).resolve().parent)
    return os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
