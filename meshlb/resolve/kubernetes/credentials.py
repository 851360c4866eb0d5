"""Who we are to the API server: the pod's service account, or a kubeconfig that the user named. Nothing else is ever tried.

A service account's token lives about an hour and its file is rewritten before; it is read again after 60 s, and at once when the
server refuses it. A file that is missing or empty for a moment, as during that rewrite, changes nothing: the last good token stays.
The loader of the ``kubernetes`` package does none of this (it raises from the next request, and a trailing newline breaks the
header), so of the package only ``Configuration`` and ``KubeConfigLoader`` are used, the latter for what ``kubeconfig`` has read and
``exec_plugin`` has run. Never the process-wide default configuration: ``Configuration()`` copies it in old versions, hence
``type.__call__``.

No token and no password is in any ``repr``, message or log line: no text of the loader's is passed on, a server's URL loses its
user and password, and a token that could not stand in a header is refused here, as ``http.client`` would quote it.

A kubeconfig that says insecure-skip-tls-verify is refused: nothing here ever goes on with a certificate that was not checked.

A kubeconfig is read again whenever new connections are made: after a refused token, and after a certificate that did not fit. Not while
all goes well, as client-go does not either; what has to change by itself there (``tokenFile``, a plug-in) is renewed as it says.

Spec: client-go transport/token_source.go, rest.InClusterConfig. Deviations: client-go looks at a client certificate's file every few
minutes; here it is read for new connections.
"""

from __future__ import annotations

import base64
import logging
import threading
import time
from collections.abc import Callable, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

from meshlb.resolve.kubernetes.auth_provider import ProviderError, provider_token
from meshlb.resolve.kubernetes.exec_plugin import LIMIT_S, ExecCredential, PluginError, run
from meshlb.resolve.kubernetes.kubeconfig import KubeconfigFile, without_userinfo
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

    def __init__(self, file: str, context: str | None, *, plugin_limit_s: float = LIMIT_S) -> None:
        self._file = file
        self._context = context
        self._plugin_limit_s = plugin_limit_s
        self._lock = threading.Lock()
        self._loaded: Any = None
        self._plugin: _Plugin | None = None

    def configuration(self) -> Any:
        """Load it anew, its plug-in included. Raises CredentialsError."""
        file = KubeconfigFile(self._file)
        context = file.context_name(self._context)
        file.check(context)
        _replace_provider(file, context)
        plugin = self._plugin_of(file, context)
        configuration = blank_configuration()
        self._load(file, context, configuration)
        if not configuration.verify_ssl:
            raise file.error(
                "it says insecure-skip-tls-verify, and meshlb leaves no certificate unchecked: give the cluster's "
                "certificate-authority or certificate-authority-data instead"
            )
        configuration.host = without_userinfo(configuration.host)
        with self._lock:
            self._loaded, self._plugin = configuration, plugin
        return configuration

    def authorization(self) -> str:
        """The header's value; empty for client certificates. May run the kubeconfig's plug-in. Raises CredentialsError."""
        with self._lock:
            configuration, plugin = self._loaded, self._plugin
        if plugin is not None and plugin.credential.token:
            return self._checked(f"Bearer {plugin.renewed().token.strip()}")
        refresh = getattr(configuration, "refresh_api_key_hook", None)  # since version 12
        try:
            if refresh is not None:
                refresh(configuration)
        except Exception as error:  # noqa: BLE001 - whatever the loader meets, it is the kubeconfig's
            raise self._unusable(error) from None
        for name in ("BearerToken", "authorization"):  # since version 36, before it
            token = configuration.api_key.get(name)
            if token:
                prefix = configuration.api_key_prefix.get(name)
                return self._checked(f"{prefix} {token}".strip() if prefix else str(token).strip())
        return ""

    def _plugin_of(self, file: KubeconfigFile, context: str) -> _Plugin | None:
        """Run, if the context's user has one and no token of its own."""
        named = file.part("contexts", context)
        user = str(named.get("user") or "")
        details = file.part("users", user)
        settings = details.get("exec")
        if not isinstance(settings, Mapping) or any(details.get(name) for name in ("token", "tokenFile")):
            return None
        cluster = file.part("clusters", str(named.get("cluster") or ""))

        def ask() -> ExecCredential:
            try:
                return run(settings, cluster, file.folder(user), limit_s=self._plugin_limit_s)
            except PluginError as error:
                raise file.error(f"its credentials plugin gave none: {error}") from None

        plugin = _Plugin(ask)
        given = plugin.credential
        del details["exec"]
        if given.token:
            details["token"] = given.token
        for name, text in (("client-certificate-data", given.certificate), ("client-key-data", given.key)):
            if text:
                details[name] = base64.b64encode(text.encode()).decode("ascii")
        return plugin

    def _load(self, file: KubeconfigFile, context: str, configuration: Any) -> None:
        from kubernetes.config.kube_config import KubeConfigLoader

        try:
            loader: Any = KubeConfigLoader(config_dict=file.data, active_context=context, config_base_path="")
            loader.load_and_set(configuration)
        except Exception as error:  # noqa: BLE001 - base64, files: whatever the loader meets, it is the kubeconfig's
            raise self._unusable(error) from None

    def _checked(self, value: str) -> str:
        if not (value.isascii() and value.isprintable()):
            raise CredentialsError(
                f"kubeconfig {self._file} cannot be used: its token or password holds a line break, or another character that no "
                "header may have"
            )
        return value

    def _unusable(self, error: Exception) -> CredentialsError:
        """Of the loader's words only those that cannot quote a value: a file's name, and which key it misses."""
        said = str(error) if isinstance(error, OSError) or type(error).__name__ == "ConfigException" else ""
        why = without_userinfo(said.partition("{")[0]) or f"no kubeconfig ({type(error).__name__})"
        return CredentialsError(f"kubeconfig {self._file} cannot be used: {why}")

    def __repr__(self) -> str:
        return f"<Kubeconfig {self._file} context={self._context or 'current'}>"


def _replace_provider(file: KubeconfigFile, context: str) -> None:
    """The context's user has a token instead of an ``auth-provider``; that is stronger than any other that it has."""
    details = file.part("users", str(file.part("contexts", context).get("user") or ""))
    provider = details.pop("auth-provider", None)
    if provider:
        try:
            details["token"] = provider_token(provider)
        except ProviderError as error:
            raise file.error(str(error)) from None
        details.pop("tokenFile", None)


class _Plugin:
    """A plug-in's last answer, and the next when that has expired: asked by one thread, for all that wait. Raises what ``ask`` does."""

    def __init__(self, ask: Callable[[], ExecCredential]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._failed_s = float("-inf")
        self._error: CredentialsError | None = None
        self.credential = ask()

    def renewed(self) -> ExecCredential:
        wanted_s = time.monotonic()
        with self._lock:
            if time.time() < self.credential.expires_s:
                return self.credential
            if self._error is not None and self._failed_s >= wanted_s:  # who waited for it does not ask a plug-in that hangs again
                raise self._error
            try:
                self.credential, self._error = self._ask(), None
            except CredentialsError as error:
                self._failed_s, self._error = time.monotonic(), error
                raise
            return self.credential
