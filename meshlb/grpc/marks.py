"""What users may ask of a call or an error of grpc's: where it went, and which attempts were made of it.

The answers are attributes on grpc's own objects, which take them, and properties of ours: gRPC's calls have no ``peer()`` on the client's
side in Python. A call that went well at once has the endpoint alone; all else is written when something failed.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import grpc

from meshlb.call.call import Call
from meshlb.call.story import FIRST, Tried
from meshlb.core.endpoint import Endpoint

_ENDPOINT = "_meshlb_endpoint"
_ATTEMPTS = "_meshlb_attempts"
_WHY = "_meshlb_why"
_DEPTH = 16  # as deep as interceptors may wrap


def mark(call_or_error: Any, endpoint: Endpoint, attempts: tuple[Tried, ...] = (), why: str = FIRST) -> None:
    """Have ``endpoint_of`` and ``attempts_of`` find these. ``why``: of the only attempt, where there are no ``attempts``."""
    setattr(call_or_error, _ENDPOINT, endpoint)
    if why is not FIRST:
        setattr(call_or_error, _WHY, why)
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
    told: tuple[Tried, ...] = tuple(_found(call_or_error, _ATTEMPTS) or ())
    if not told:
        endpoint = endpoint_of(call_or_error)
        if endpoint is None:
            return ()
        told = (Tried(endpoint, "", _found(call_or_error, _WHY) or FIRST),)
    if told[-1].ended:
        return told
    return (*told[:-1], told[-1]._replace(ended=_ended(call_or_error)))  # it was under way when it was told of


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


def _ended(call_or_error: Any) -> str:
    """The status' name; empty while it runs, and when it went well. Waits for nothing: a stream of grpc's is an error too, from the start,
    and asyncio's answer questions by coroutines, which have nothing to wait for once the call is done."""
    done = getattr(call_or_error, "done", None)
    if not (isinstance(call_or_error, grpc.RpcError) if done is None else done()):
        return ""
    code = call_or_error.code()
    if isinstance(code, Coroutine):
        try:
            code.send(None)
        except StopIteration as stop:
            code = stop.value
        except Exception:  # noqa: BLE001 - an interceptor of the user raised something of its own
            return ""
        else:
            code.close()
            return ""
    return "" if code is None or code is grpc.StatusCode.OK else str(code.name)
