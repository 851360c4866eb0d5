"""Who we are to the API server: the pod's service account, or a kubeconfig that the user named. Nothing else is ever tried.

A service account's token lives about an hour and its file is rewritten before; it is read again after 60 s, and at once when the
server refuses it. A file that is missing or empty for a moment, as during that rewrite, changes nothing: the last good token stays.
The loader of the ``kubernetes`` package does none of this (it raises from the next request, and a trailing newline breaks the
header), so of the package only ``Configuration`` and the kubeconfig loader are used. Never the process-wide default configuration:
``Configuration()`` copies it in old versions, hence ``type.__call__``.

No token is in any ``repr``, message or log line.

Spec: client-go transport/token_source.go, rest.InClusterConfig.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

from meshlb.resolve.kubernetes.transport import CredentialsError

TOKEN_MAX_AGE_S: Final = 60.0


def blank_configuration() -> Any:
    """A ``kubernetes.client.Configuration`` that knows nothing of the process-wide default."""
    from kubernetes.client import Configuration

    loggers = [logging.getLogger(name) for name in ("client", "urllib3")]
    levels, debug = [logger.level for logger in loggers], HTTPConnection.debuglevel
    configuration = type.__call__(Configuration)
    # Up to version 36 its constructor sets these, and they are the program's, not ours.
    HTTPConnection.debuglevel = debug
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    configuration.retries = False  # urllib3 would sleep through a Retry-After of an hour; all retrying is done above
    return configuration


class ServiceAccount:
    """The credentials in a pod. Any thread."""

    def __init__(self, host: str, port: str, directory: str, now_s: Callable[[], float]) -> None:
        self._server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self._directory = Path(directory)
        self._now_s = now_s
        self._lock = threading.Lock()
        self._token = ""
        self._read_s = float("-inf")

    def configuration(self) -> Any:
        """For a new set of connections; the token's file is read again for their first request."""
        configuration = blank_configuration()
        configuration.host = self._server
        configuration.ssl_ca_cert = str(self._directory / "ca.crt")
        with self._lock:
            self._read_s = float("-inf")
        return configuration

    def authorization(self) -> str:
        """The header's value. Raises CredentialsError if there never was a good token."""
        with self._lock:
            now_s = self._now_s()
            if now_s - self._read_s >= TOKEN_MAX_AGE_S or not self._token:
                self._read_s = now_s
                self._token = self._read() or self._token
            if not self._token:
                raise CredentialsError(f"{self._directory / 'token'}: no token in it")
            return f"Bearer {self._token}"

    def _read(self) -> str:
        try:
            text = (self._directory / "token").read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return ""
        return text if text.isprintable() and " " not in text else ""

    def __repr__(self) -> str:
        return f"<ServiceAccount {self._directory} at {self._server}>"


class Kubeconfig:
    """The credentials of a user's kubeconfig (several files, as ``KUBECONFIG`` has them, are joined by ``:``). Any thread."""

    def __init__(self, file: str, context: str | None) -> None:
        self._file = file
        self._context = context
        self._lock = threading.Lock()
        self._loaded: Any = None

    def configuration(self) -> Any:
        """Load it anew. Raises CredentialsError."""
        from kubernetes import config

        configuration = blank_configuration()
        load: Any = config.load_kube_config
        try:
            load(
                config_file=os.pathsep.join(str(Path(part).expanduser()) for part in self._file.split(os.pathsep)),
                context=self._context,
                client_configuration=configuration,
                persist_config=False,
            )
        except Exception as error:  # noqa: BLE001 - YAML, files, plug-ins: whatever the loader meets, it is the kubeconfig's
            raise self._unusable(error) from None
        with self._lock:
            self._loaded = configuration
        return configuration

    def authorization(self) -> str:
        """The header's value; empty for client certificates. May run the kubeconfig's plug-in. Raises CredentialsError."""
        with self._lock:
            configuration = self._loaded
        refresh = getattr(configuration, "refresh_api_key_hook", None)  # since version 12
        try:
            if refresh is not None:
                refresh(configuration)
        except Exception as error:  # noqa: BLE001 - as above
            raise self._unusable(error) from None
        for name in ("BearerToken", "authorization"):  # since version 36, before it
            token = configuration.api_key.get(name)
            if token:
                prefix = configuration.api_key_prefix.get(name)
                return f"{prefix} {token}".strip() if prefix else str(token).strip()
        return ""

    def _unusable(self, error: Exception) -> CredentialsError:
        # Only messages that cannot quote the file: a YAML error shows the line, which may hold a token.
        harmless = isinstance(error, OSError) or type(error).__name__ == "ConfigException"
        detail = f"{type(error).__name__}: {error}" if harmless else type(error).__name__
        return CredentialsError(f"kubeconfig {self._file} cannot be used ({detail})")

    def __repr__(self) -> str:
        return f"<Kubeconfig {self._file} context={self._context or 'current'}>"
