"""The exception tree: every error meshlb raises by itself, split by who is wrong.

::

    MeshError
    ├── ConfigError (ValueError)      the caller: an option, a variable or a dict key
    │   └── TargetError               the caller: a target string; shows the place in it
    ├── ResolveError                  the cluster: nothing is known about where the endpoints are
    │   ├── ServiceNotFoundError      every source that may know says there is no such Service
    │   └── PortNotFoundError         the Service is there, the port is not, or is not unique
    ├── NoEndpointError               the endpoints are known, and none can take the call now
    ├── OverLimitError                the caller's own limit: too many calls at once
    ├── DeadlineExceededError (TimeoutError)   the deadline came while the call waited for an answer or a connection
    ├── ClosedError (RuntimeError)    the caller: a mesh, pool or view used after close
    └── ForkError (RuntimeError)      the caller: an asyncio channel used after os.fork

An error of the transport is never wrapped: callers get grpc's own exception. Where a transport must report one of the above, its
adapter raises a type that is also the transport's (``grpc.RpcError`` with UNAVAILABLE, for instance).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class MeshError(Exception):
    """Root of everything meshlb raises by itself. Every one of them can be copied and pickled, fields included."""

    def __reduce__(self) -> Any:
        # The default calls the constructor with the finished message, which is not what the subclasses take.
        return _restored, (type(self), self.args), self.__dict__


def _restored(kind: type[MeshError], args: tuple[object, ...]) -> MeshError:
    error = kind.__new__(kind)
    error.args = args
    return error


class ConfigError(MeshError, ValueError):
    """A setting is wrong: the message gives field, value and rule."""


class TargetError(ConfigError):
    """A target string is wrong: the message shows the target, the place in it and what was expected.

    ``target`` is the string as given, ``position`` the 0-based offset of the place, ``expected`` the rule.
    """

    def __init__(self, target: str, position: int, expected: str) -> None:
        self.target = target
        self.position = position
        self.expected = expected
        pointer = " " * position + "^"
        super().__init__(f"bad target {target!r} at offset {position}: expected {expected}\n  {target}\n  {pointer}")


class ResolveError(MeshError):
    """Nothing is known about a target's endpoints; ``causes`` says what each source answered."""

    def __init__(self, target: str, causes: Iterable[str] = (), *, summary: str = "no source knows its endpoints") -> None:
        self.target = target
        self.causes = tuple(causes)
        self.summary = summary
        asked = "; ".join(self.causes) if self.causes else "no source was asked"
        super().__init__(f"{target}: {summary} ({asked})")


class ServiceNotFoundError(ResolveError):
    """Every source that may know says that there is no such Service."""


class PortNotFoundError(ResolveError):
    """The Service is known, and the port asked for is not among its ports, or none was named and there are several."""


class NoEndpointError(MeshError):
    """The endpoints of a target are known, and none can take the call now; the message counts them by state."""

    def __init__(self, target: str, reason: str) -> None:
        self.target = target
        self.reason = reason
        super().__init__(f"{target}: {reason}")


class OverLimitError(MeshError):
    """A limit of the configuration let the call not go: its queue was full, or its turn did not come in time.

    ``limit`` is the path of the setting (``limits.max_in_flight``), ``value`` what it is set to, ``reason`` what happened there.
    """

    def __init__(self, target: str, limit: str, value: int, reason: str) -> None:
        self.target = target
        self.limit = limit
        self.value = value
        self.reason = reason
        super().__init__(f"{target}: {limit}={value}: {reason}")


class DeadlineExceededError(MeshError, TimeoutError):
    """The call's deadline came before it could be sent; ``reason`` says what it was waiting for."""

    def __init__(self, target: str, reason: str) -> None:
        self.target = target
        self.reason = reason
        super().__init__(f"{target}: deadline exceeded while waiting: {reason}")


class ClosedError(MeshError, RuntimeError):
    """Used after ``close()``."""


class ForkError(MeshError, RuntimeError):
    """An asyncio channel was used in a forked child whose parent had live ones; gRPC itself hangs there."""
