"""``per_try_timeout_s`` of a stream of answers: how long a caller waits for the first message of one attempt.

It is no deadline of grpc's, since the stream may last. Who asks for the first message sets a timer, and one that comes too late ends the
attempt as a deadline would, whatever is on its way by then. Nobody is hurried who does not ask: only then does gRPC look for messages.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

from meshlb.call.call import Call
from meshlb.core.outcome import Outcome
from meshlb.core.scheduler import Timer
from meshlb.core.subchannel import Attempt
from meshlb.errors import ClosedError, DeadlineExceededError
from meshlb.grpc.errors import TimedOutError
from meshlb.grpc.link import weakly
from meshlb.grpc.marks import mark, tell
from meshlb.grpc.multicallable import Multicallable
from meshlb.grpc.status import heard_late


class GivesUp(Protocol):
    """Whose message it is: ``pending_attempts.PendingAttempts``."""

    def give_up(self, call: Any) -> Attempt | None: ...


class FirstMessage:
    """One pending call's; ``limit_s`` is 0 where there is no limit. ``settle`` runs something on the worker."""

    def __init__(self, owner: GivesUp, multicallable: Multicallable, settle: Callable[[Callable[[], None]], None]) -> None:
        self._owner = weakref.ref(owner)
        self._multicallable = multicallable
        self._settle = settle
        self.limit_s = multicallable.rules.per_try_timeout_s if multicallable.stream and multicallable.replays else 0.0

    def timer(self, call: Any) -> Timer | None:
        """For somebody who is about to wait for it; None without a limit."""
        if not self.limit_s:
            return None
        binding = self._multicallable.connections.binding
        try:
            return binding.scheduler.call_later(self.limit_s, weakly(self._expired, weakref.ref(call), binding.clock.now_s()))
        except ClosedError:  # the mesh was closed: nobody keeps times any more
            return None

    def _expired(self, ref: Callable[[], Any], from_s: float) -> None:
        self._settle(weakly(self._give_up, ref, from_s))

    def _give_up(self, ref: Callable[[], Any], from_s: float) -> None:
        """The worker."""
        call, owner = ref(), self._owner()
        attempt = owner.give_up(call) if call is not None and owner is not None else None
        if attempt is None:
            return
        stalled = heard_late(self._multicallable.connections.binding.clock.now_s() - from_s, self.limit_s)
        self._multicallable.end(attempt, Outcome.CANCELLED if stalled else Outcome.FAILURE)
        call.cancel()

    def error(self, attempt: Attempt, decisions: Call) -> TimedOutError:
        """What the call ends with if no other attempt follows."""
        endpoint = attempt.subchannel.endpoint
        said = f"no answer of {endpoint.name or endpoint.address} within per_try_timeout_s={self.limit_s:g}"
        error = TimedOutError(DeadlineExceededError(str(self._multicallable.connections.binding.target), said))
        mark(error, endpoint)
        tell(error, decisions)
        return error
