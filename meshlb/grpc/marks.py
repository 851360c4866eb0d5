"""What users may ask of a call or an error of grpc's: where it went, and which attempts were made of it.

The answers are attributes on grpc's own objects, which take them, and properties of ours: gRPC's calls have no ``peer()`` on the client's
side in Python. A call that went well at once has the endpoint alone; all else is written when something failed.
"""

from __future__ import annotations

from typing import Any

import grpc

from meshlb.call.call import Call
from meshlb.call.story import FIRST, Tried
from meshlb.core.endpoint import Endpoint

_ENDPOINT = "_meshlb_endpoint"
_ATTEMPTS = "_meshlb_attempts"
_DEPTH = 16  # as deep as interceptors may wrap


def mark(call_or_error: Any, endpoint: Endpoint, attempts: tuple[Tried, ...] = ()) -> None:
    """Have ``endpoint_of`` and ``attempts_of`` find these."""
    setattr(call_or_error, _ENDPOINT, endpoint)
    if attempts:
        setattr(call_or_error, _ATTEMPTS, attempts)


def tell(error: BaseException, call: Call) -> None:
    """Have ``attempts_of`` and the traceback of this error, which ends the call, say what was tried."""
    attempts, story = call.attempts(), call.story()
    if attempts:
        setattr(error, _ATTEMPTS, attempts)
    if story and story not in getattr(error, "__notes__", ()):
        error.add_note(story)


def endpoint_of(call_or_error: object) -> Endpoint | None:
    """The endpoint that a call went to, from what ``with_call``, ``future`` or a stream returned or what a failed call raised.

    None if it went nowhere (yet), or over the fallback. Interceptors that return what they were given do not hide it.
    """
    found = _found(call_or_error, _ENDPOINT)
    return found if isinstance(found, Endpoint) else None


def attempts_of(call_or_error: object) -> tuple[Tried, ...]:
    """The attempts that were made of a call, in order: ``endpoint``, how it ``ended`` (the status' name, ``never sent``, or empty while
    it runs or when it went well), and ``why`` it was made (``meshlb.call.story`` has the words; the first is ``first``).

    From the same objects as ``endpoint_of``; empty if it went nowhere. Blocking ``stub.Get(request)`` that succeeds returns no object to ask.
    """
    found = _found(call_or_error, _ATTEMPTS)
    if found:
        return tuple(found)
    endpoint = endpoint_of(call_or_error)
    return () if endpoint is None else (Tried(endpoint, _ended(call_or_error), FIRST),)


def _found(call_or_error: object, name: str) -> Any:
    seen: Any = call_or_error
    for _ in range(_DEPTH):
        found = getattr(seen, name, None)
        if found:
            return found
        seen = getattr(seen, "_call", None)
        if seen is None:
            break
    return None


def _ended(error: Any) -> str:
    """Without waiting for anything: a stream of grpc's is an error too, from the start."""
    if not isinstance(error, grpc.RpcError) or not getattr(error, "done", lambda: True)():
        return ""
    code = error.code()
    return "" if code is None or code is grpc.StatusCode.OK else str(code.name)
