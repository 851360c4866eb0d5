"""The seam between deciding and the network: two requests, and the two things that may go wrong with them.

Everything above it is tested with scripted answers; ``api_client`` has the one real implementation. Both calls block and belong to
helper threads; an ``Interrupt`` ends them from any other.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final, Protocol

from meshlb.errors import ClosedError
from meshlb.resolve.kubernetes.fields import WireError
from meshlb.resolve.kubernetes.refusal import Refusal
from meshlb.resolve.kubernetes.requests import Query

MAX_ANSWER: Final = 256 * 2**20  # a list of 100,000 endpoints is about 50 MiB

_log = logging.getLogger("meshlb.resolve.kubernetes")


@dataclass(frozen=True, slots=True)
class SourceError:
    """Why the API server tells us nothing (new); what was known stays, and the source goes on trying by itself.

    ``kind``: ``forbidden`` (403), ``unauthorized`` (401), ``not_served`` (404: no such API group), ``unreachable`` (no usable
    answer: network, 429, 5xx), ``config`` (credentials cannot be read), ``absent`` (no cluster is configured: nothing is tried).
    """

    kind: str
    reason: str

    def __str__(self) -> str:
        return self.reason


class ApiError(Exception):
    """A request failed. ``refusal`` is what the server answered; None: it did not, and ``reason`` says how it ended."""

    def __init__(self, reason: str, refusal: Refusal | None = None) -> None:
        self.reason = reason
        self.refusal = refusal
        super().__init__(reason)

    @property
    def kind(self) -> str:
        """The ``SourceError.kind`` that this is."""
        code = self.refusal.code if self.refusal is not None else 0
        return {401: "unauthorized", 403: "forbidden", 404: "not_served"}.get(code, "unreachable")

    @property
    def told(self) -> SourceError:
        """What listeners hear of it."""
        return SourceError(self.kind, self.reason)


def as_api_error(error: BaseException) -> ApiError:
    """Whatever ends a reader, SystemExit included, is reported as the end of its request: its owner makes the next one with
    back-off. Nothing may die silently, nobody may wait for ever."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, WireError):
        return ApiError(f"unreadable answer: {error}")
    if isinstance(error, ClosedError):
        raise error  # the mesh was closed while an answer arrived: no fault, and nobody listens any more
    _log.error("reading from the API server failed", exc_info=error)
    return ApiError(f"{type(error).__name__}: {error}")


class CredentialsError(ApiError):
    """No request was made: a token, certificate or kubeconfig cannot be read."""

    @property
    def kind(self) -> str:
        return "config"


class Interrupt:
    """Ends one blocking request from another thread; the request then fails, or finds itself interrupted before it began."""

    __slots__ = ("_lock", "_shutdown", "fired")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shutdown: Callable[[], None] | None = None
        self.fired = False

    def arm(self, shutdown: Callable[[], None]) -> None:
        """The reading thread is about to block; ``shutdown`` would end that. It may be called at once."""
        with self._lock:
            self._shutdown = shutdown
            if self.fired:
                shutdown()

    def disarm(self) -> None:
        """The reading thread gives its connection away: from now on it may belong to another request."""
        with self._lock:
            self._shutdown = None

    def fire(self) -> None:
        with self._lock:
            self.fired = True
            if self._shutdown is not None:
                self._shutdown()


class ApiTransport(Protocol):
    """Requests to one API server. Every method may be called from any thread."""

    @property
    def server(self) -> str:
        """For people: scheme, host and port, and a proxy if there is one; never a secret."""
        ...

    def get(self, path: str, query: Query, interrupt: Interrupt) -> bytes:
        """One whole answer with status 200 (a list or an object). Raises ApiError."""
        ...

    def watch(self, path: str, query: Query, interrupt: Interrupt, *, read_timeout_s: float) -> Generator[list[bytes]]:
        """The complete lines of a stream as they come, in batches; the first, empty batch says that the server accepted.

        Ends at a clean end of the stream. Raises ApiError, also when nothing comes for ``read_timeout_s``.
        """
        ...

    def renew_credentials(self) -> None:
        """The server did not accept the credentials: read them again before the next request."""
        ...

    def close(self) -> None:
        """Give idle connections back; requests under way are their owners' to interrupt."""
        ...
