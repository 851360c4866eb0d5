"""An Echo server in a process of its own, that a test may freeze or kill."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence

from meshlb.core.endpoint import Endpoint


@contextlib.contextmanager
def pod_process(
    name: str, host: str = "127.0.0.1", *, within: Sequence[str] = ()
) -> Iterator[tuple[subprocess.Popen[bytes], Endpoint]]:
    """It listens. ``within``: a command to run it by, such as ``nsenter``."""
    server = [sys.executable, "-m", "meshlb.testing.pod_server", "--name", name, "--version", "v1", "--on-sigterm", "exit"]
    process = subprocess.Popen([*within, *server, "--listen", f"{host}:0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        (port,) = json.loads(process.stdout.readline())["ports"]
        yield process, Endpoint(host=host, port=port, name=name, uid=f"uid-{name}")
    finally:
        process.kill()  # ends a frozen one, too
        process.wait()
        process.stdin.close()
        process.stdout.close()
