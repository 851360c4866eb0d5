"""What a call of ours raises when meshlb itself could not send it: types that are grpc's and meshlb's at once.

``except grpc.RpcError`` with ``error.code()`` keeps working, and so does ``except meshlb.ServiceNotFoundError``. An error that
comes from the wire is never wrapped: callers get grpc's own object.

=====================  ==================  ===================  ========================
meshlb's               status              threads              asyncio
=====================  ==================  ===================  ========================
NoEndpointError        UNAVAILABLE         UnavailableError     AioUnavailableError
ResolveError           UNAVAILABLE         UnresolvedError      AioUnresolvedError
ServiceNotFoundError   UNAVAILABLE         UnknownServiceError  AioUnknownServiceError
PortNotFoundError      UNAVAILABLE         UnknownPortError     AioUnknownPortError
OverLimitError         RESOURCE_EXHAUSTED  RejectedError        AioRejectedError
DeadlineExceededError  DEADLINE_EXCEEDED   TimedOutError        AioTimedOutError
MeshError (cancelled)  CANCELLED           CancelledError       (asyncio.CancelledError)
=====================  ==================  ===================  ========================

``details()`` and ``str()`` are one line: the target, the sources that were asked and what each said.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, NoReturn

import grpc
from grpc import StatusCode

from meshlb.errors import (
    DeadlineExceededError,
    MeshError,
    NoEndpointError,
    OverLimitError,
    PortNotFoundError,
    ResolveError,
    ServiceNotFoundError,
)

LOCALLY_CANCELLED = "Locally cancelled by application!"  # grpc's own words


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _rebuilt(cls: type[Any], args: tuple[object, ...], state: dict[str, object]) -> Any:
    """What pickle and copy call: the constructors below take a MeshError, not what ends up in ``args``."""
    error: Any = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class _FromMesh:
    """Takes over a MeshError as it is: message, fields and notes."""

    _status: StatusCode

    def __init__(self, error: MeshError) -> None:
        self.__dict__.update(error.__dict__)
        self.args = error.args
        self._line = _one_line(error)

    def code(self) -> StatusCode:
        return self._status

    def details(self) -> str:
        return self._line

    def debug_error_string(self) -> str:
        return self._line

    def __str__(self) -> str:
        return self._line

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._status.name}: {self._line}>"

    def __reduce__(self) -> Any:
        return _rebuilt, (type(self), self.args, self.__dict__)


class _Ended(_FromMesh, grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[misc]
    """A call that ended before it was sent, as stock's ``_InactiveRpcError`` is one that ended on the wire."""

    def initial_metadata(self) -> tuple[()]:
        return ()

    def trailing_metadata(self) -> tuple[()]:
        return ()

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> None:
        return None

    def add_callback(self, callback: object) -> bool:
        return False

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> NoReturn:
        raise self

    def exception(self, timeout: float | None = None) -> BaseException:
        return self

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        trace: TracebackType | None = self.__traceback__
        return trace

    def add_done_callback(self, fn: Any) -> None:
        fn(self)


class UnavailableError(_Ended, NoEndpointError):
    """No endpoint could take the call."""

    _status = StatusCode.UNAVAILABLE


class UnresolvedError(_Ended, ResolveError):
    """No source knows the target's endpoints."""

    _status = StatusCode.UNAVAILABLE


class UnknownServiceError(_Ended, ServiceNotFoundError):
    """There is no such Service."""

    _status = StatusCode.UNAVAILABLE


class UnknownPortError(_Ended, PortNotFoundError):
    """The Service has no such port."""

    _status = StatusCode.UNAVAILABLE


class RejectedError(_Ended, OverLimitError):
    """A limit of the configuration let the call not go."""

    _status = StatusCode.RESOURCE_EXHAUSTED


class TimedOutError(_Ended, DeadlineExceededError):
    """The deadline came before the call could be sent."""

    _status = StatusCode.DEADLINE_EXCEEDED


class CancelledError(_Ended, MeshError):
    """The caller cancelled before the call was sent, or closed the channel."""

    _status = StatusCode.CANCELLED


class _AioEnded(_FromMesh, grpc.aio.AioRpcError):  # type: ignore[misc]
    """As ``_Ended``; ``AioRpcError.__init__`` is not called: it would go on to the MeshError's, which takes other arguments."""

    def initial_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    def trailing_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()


class AioUnavailableError(_AioEnded, NoEndpointError):
    """No endpoint could take the call."""

    _status = StatusCode.UNAVAILABLE


class AioUnresolvedError(_AioEnded, ResolveError):
    """No source knows the target's endpoints."""

    _status = StatusCode.UNAVAILABLE


class AioUnknownServiceError(_AioEnded, ServiceNotFoundError):
    """There is no such Service."""

    _status = StatusCode.UNAVAILABLE


class AioUnknownPortError(_AioEnded, PortNotFoundError):
    """The Service has no such port."""

    _status = StatusCode.UNAVAILABLE


class AioRejectedError(_AioEnded, OverLimitError):
    """A limit of the configuration let the call not go."""

    _status = StatusCode.RESOURCE_EXHAUSTED


class AioTimedOutError(_AioEnded, DeadlineExceededError):
    """The deadline came before the call could be sent."""

    _status = StatusCode.DEADLINE_EXCEEDED


# The nearest kind first; what is not listed is raised as UNAVAILABLE by its nearest ancestor here.
_KINDS: tuple[tuple[type[MeshError], type[_Ended], type[_AioEnded]], ...] = (
    (DeadlineExceededError, TimedOutError, AioTimedOutError),
    (OverLimitError, RejectedError, AioRejectedError),
    (ServiceNotFoundError, UnknownServiceError, AioUnknownServiceError),
    (PortNotFoundError, UnknownPortError, AioUnknownPortError),
    (ResolveError, UnresolvedError, AioUnresolvedError),
    (NoEndpointError, UnavailableError, AioUnavailableError),
)


def rpc_error_of(error: MeshError) -> grpc.RpcError | MeshError:
    """The same error as an ``RpcError``, ``Call`` and ``Future``, as users of grpc expect it; their own mistakes unchanged."""
    for kind, ended, _ in _KINDS:
        if isinstance(error, kind):
            return ended(error)
    return error


def aio_rpc_error_of(error: MeshError) -> grpc.aio.AioRpcError | MeshError:
    """The twin for ``grpc.aio``."""
    for kind, _, ended in _KINDS:
        if isinstance(error, kind):
            return ended(error)
    return error


def cancelled_error(details: str = LOCALLY_CANCELLED) -> CancelledError:
    """A call that its caller cancelled while it waited."""
    return CancelledError(MeshError(details))
