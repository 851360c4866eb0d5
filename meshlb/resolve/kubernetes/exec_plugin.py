"""A kubeconfig's credentials plug-in (``users[].user.exec``), run within bounds.

The ``kubernetes`` package runs it too, and waits for it for ever: each request that needs a token would leave a thread and a process
behind one that hangs. So it is run here, and the loader is given what came of it.

- It has ``LIMIT_S``; then it is killed, with all that it started (a session of its own, so one signal reaches them). It is killed as
  well when this process exits; not when this process is killed itself.
- It has no terminal: one that wants a login must be run by hand first, and is killed if it asks all the same.
- What it prints may hold secrets. Its standard error goes nowhere; errors say how it ended, never a word of what it said.

Spec: client.authentication.k8s.io/v1 ExecCredential; client-go plugin/pkg/client/auth/exec. Deviations: no prompt is passed on;
a certificate is renewed only after the server refused it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

LIMIT_S: Final = 10.0
MAX_OUTPUT: Final = 2**20
_REAP_S: Final = 1.0  # a killed process is gone at once, if the kernel can end it at all
_CLUSTER_FIELDS: Final = ("server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data", "proxy-url")
_EXTENSION: Final = "client.authentication.k8s.io/exec"

_lock = threading.Lock()
_running: set[tuple[int, int]] = set()  # (our pid, the plug-in's): a forked child inherits the set, and none of them are its own


class PluginError(Exception):
    """There are no credentials; the words are for people and quote nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecCredential:
    """What it gave: a token, or a certificate and its key as PEM. ``expires_s``: of the system's clock, infinite if it says nothing."""

    token: str = field(default="", repr=False)
    certificate: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    expires_s: float = float("inf")


def run(settings: Mapping[str, Any], cluster: Mapping[str, Any], folder: str, *, limit_s: float = LIMIT_S) -> ExecCredential:
    """Run it once; blocks for ``limit_s`` at most. ``folder``: the kubeconfig's, where it runs. Raises PluginError."""
    version = settings.get("apiVersion")
    command, arguments = settings.get("command"), settings.get("args") or ()
    if not (isinstance(version, str) and isinstance(command, str) and command):
        raise PluginError("exec needs a command and an apiVersion")
    variables = {str(one.get("name")): str(one.get("value", "")) for one in settings.get("env") or () if isinstance(one, Mapping)}
    spec: dict[str, Any] = {"interactive": False}
    if settings.get("provideClusterInfo"):
        spec["cluster"] = _cluster_info(cluster)
    asked = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
    environ = {**os.environ, **variables, "KUBERNETES_EXEC_INFO": json.dumps(asked)}
    return _credential(_output([command, *map(str, arguments)], environ, folder, limit_s), version)


def _cluster_info(cluster: Mapping[str, Any]) -> dict[str, Any]:
    said = {name: cluster[name] for name in _CLUSTER_FIELDS if name in cluster}
    for one in cluster.get("extensions") or ():
        if isinstance(one, Mapping) and one.get("name") == _EXTENSION:
            said["config"] = one.get("extension")
    return said


def _output(command: list[str], environ: Mapping[str, str], folder: str, limit_s: float) -> bytes:
    deadline_s = time.monotonic() + limit_s
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder or None,
            env=environ,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise PluginError(f"it cannot be started: {getattr(error, 'strerror', None) or type(error).__name__}") from None
    mine = (os.getpid(), process.pid)
    _remember(mine)
    try:
        output = _read(process, deadline_s)
        status = process.wait(max(0.0, deadline_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise PluginError(f"it did not answer within {limit_s:g} s and was killed; run it by hand") from None
    finally:
        _end(process)
        with _lock:
            _running.discard(mine)
    if status != 0:
        raise PluginError(f"it ended with status {status}; run it by hand")
    return output


def _read(process: subprocess.Popen[bytes], deadline_s: float) -> bytes:
    """Until its standard output is closed. By hand, as ``communicate`` has no bound for the size."""
    assert process.stdout is not None
    output = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not selector.select(left_s):
                raise subprocess.TimeoutExpired("", 0)
            part = os.read(process.stdout.fileno(), 65536)
            if not part:
                return bytes(output)
            output += part
            if len(output) > MAX_OUTPUT:
                raise PluginError(f"it prints over {MAX_OUTPUT} bytes")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Whatever is left of it, its children included, and the pipe."""
    if process.returncode is None:  # not reaped: its number, which is also its group's, cannot be another's
        _kill(process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_REAP_S)
    if process.stdout is not None:
        process.stdout.close()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _remember(mine: tuple[int, int]) -> None:
    with _lock:
        _running.add(mine)
    atexit.unregister(_kill_all)  # once is enough
    atexit.register(_kill_all)


def _kill_all() -> None:
    """At exit, when the threads that wait for them are about to vanish."""
    for parent, pid in tuple(_running):
        if parent == os.getpid():
            _kill(pid)


def _credential(output: bytes, version: str) -> ExecCredential:
    try:
        said = json.loads(output)
    except ValueError:
        raise PluginError("it printed no JSON") from None
    status = said.get("status") if isinstance(said, dict) else None
    if not isinstance(status, dict) or said.get("kind") != "ExecCredential":
        raise PluginError("it printed no ExecCredential with a status")
    if said.get("apiVersion") != version:
        raise PluginError(f"it printed an ExecCredential of another apiVersion than {version}")
    token, certificate, key = (status.get(name) or "" for name in ("token", "clientCertificateData", "clientKeyData"))
    if not all(isinstance(one, str) for one in (token, certificate, key)) or not (token or (certificate and key)):
        raise PluginError("it printed neither a token nor a certificate with its key")
    return ExecCredential(token=token, certificate=certificate, key=key, expires_s=_moment(status.get("expirationTimestamp")))


def _moment(text: object) -> float:
    if not text:
        return float("inf")
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError):
        raise PluginError("its expirationTimestamp is no time of RFC 3339") from None
