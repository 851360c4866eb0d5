"""One call of a user as a series of decisions, the same for threads and asyncio: try now, wait for a change, or give up and why.

The adapter loops: ``begin_attempt`` gives an attempt to send, or None, in which case it waits until its view changes or
``wait_until_s`` has come, and asks again. ``end_attempt`` says whether the call is over or goes to another endpoint. A call that
goes out at once and succeeds needs no ``Call`` at all: the blocking path of an adapter makes one only when something is not as it
should be.

Rules. The deadline is fixed once and counts resolving, waiting and every attempt. Without one, the first answer is waited for at
most ``first_answer_timeout_s`` and a connection at most ``connect_timeout_s``. When no source can say where the endpoints are,
that is raised at once. When every endpoint failed to connect the call makes one attempt on one of them, so that the caller gets
the transport's own reason, and no second (no amplification). With ``wait_for_ready`` it waits on in all these cases, as gRPC
does, until something is ready, the deadline is there or the view is closed. Only an attempt that certainly never left the client
goes elsewhere: at most ``MAX_ELSEWHERE`` times, paid from the pool's token bucket, to an endpoint not tried before while there is
one. A ``wait_for_ready`` call for which that is used up goes back to waiting, and tries again ``AGAIN_S`` later at the earliest.

Spec: grpc/doc/wait-for-ready.md; gRFC A6 "transparent retries" for what never left the client.
"""

from __future__ import annotations

import copy

from meshlb.core.connectivity import Connectivity
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt
from meshlb.errors import ClosedError, DeadlineExceededError, NoEndpointError, ResolveError
from meshlb.pool.view import View
from meshlb.retry.budget import TokenBucket

MAX_ELSEWHERE = 2
AGAIN_S = 0.05  # so that an endpoint which connects and is lost again in a moment is not tried in a loop


class CallLimits:
    """What every call of a channel shares: how long to wait, and the bucket that pays for tries elsewhere."""

    __slots__ = ("budget", "connect_timeout_s", "first_answer_timeout_s")

    def __init__(self, budget: TokenBucket, *, first_answer_timeout_s: float, connect_timeout_s: float) -> None:
        self.budget = budget
        self.first_answer_timeout_s = first_answer_timeout_s
        self.connect_timeout_s = connect_timeout_s


class Call:
    """One logical call; used by one thread or task at a time. Times are points on the pool's clock."""

    __slots__ = (
        "_again_s",
        "_connecting_until_s",
        "_elsewhere",
        "_limits",
        "_pauses",
        "_resolving_until_s",
        "_stream",
        "_view",
        "deadline_s",
        "info",
        "wait_for_ready",
        "wait_until_s",
    )

    def __init__(
        self,
        view: View,
        limits: CallLimits,
        info: PickInfo,
        *,
        deadline_s: float | None,
        wait_for_ready: bool = False,
        stream: bool = False,
    ) -> None:
        self._view = view
        self._limits = limits
        self._stream = stream
        self.wait_for_ready = wait_for_ready
        self._resolving_until_s: float | None = None
        self._connecting_until_s: float | None = None
        self._elsewhere = 0
        self._pauses = False
        self._again_s: float | None = None
        self.info = info
        self.deadline_s = deadline_s
        self.wait_until_s: float | None = None

    def begin_attempt(self, now_s: float) -> Attempt | None:
        """An attempt to send now, or None: wait for the view to change, at most until ``wait_until_s`` (None: without limit).

        Raises DeadlineExceededError when the deadline has come, NoEndpointError or ResolveError when waiting is pointless or
        over, ClosedError when the view is closed.
        """
        if self.deadline_s is not None and now_s >= self.deadline_s:
            raise DeadlineExceededError(self._view.pool.target, self._view.explain())
        if self._pauses and self._pausing(now_s):
            return None
        attempt = self._view.begin(self.info, self._stream)
        if attempt is not None:
            return attempt
        if self._view.closed:
            raise ClosedError(f"{self._view.pool.target}: closed")
        if not self._view.known:
            self._wait_for_first_answer(now_s)
            return None
        over = self._view.pool.over
        if self.wait_for_ready and not over:
            self.wait_until_s = self.deadline_s
            return None
        if self._view.state is Connectivity.TRANSIENT_FAILURE:
            return self._try_unready()
        if over:  # nobody watches the connections any more
            raise NoEndpointError(self._view.pool.target, f"the mesh was closed: {self._view.explain()}")
        self._wait_for_connection(now_s)
        return None

    def end_attempt(self, attempt: Attempt, outcome: Outcome, pushback_s: float | None = None) -> float | None:
        """End the attempt. None: the call is over with what it got; else seconds to wait before ``begin_attempt`` (0: at once).

        ``UNREACHABLE`` is the adapter's word for "certainly never left the client". ``pushback_s`` is what the server asked for;
        a never-sent attempt has none, so only its refusal (negative) matters.
        """
        self._view.end(attempt, outcome)
        self._pauses = False
        if outcome is not Outcome.UNREACHABLE or (pushback_s is not None and pushback_s < 0):
            return None
        if self._elsewhere >= MAX_ELSEWHERE or (not self.wait_for_ready and self._view.state is Connectivity.TRANSIENT_FAILURE):
            return self._wait_again()
        if not self._limits.budget.withdraw():
            return self._wait_again()
        self._elsewhere += 1
        self.info = PickInfo(self.info.method, self.info.exclude | {attempt.subchannel})
        return 0.0

    def _wait_again(self) -> float | None:
        if not self.wait_for_ready or self._view.pool.over:
            return None
        self._pauses, self._again_s = True, None
        return AGAIN_S

    def _pausing(self, now_s: float) -> bool:
        if self._again_s is None:  # the first question since: the pause begins
            self._again_s = now_s + AGAIN_S
        self._pauses = now_s < self._again_s and not self._view.closed
        self.wait_until_s = self._again_s if self.deadline_s is None else min(self._again_s, self.deadline_s)
        return self._pauses

    def remaining_s(self, now_s: float) -> float | None:
        """What is left of the deadline for the next attempt; None without one."""
        return None if self.deadline_s is None else max(self.deadline_s - now_s, 0.0)

    def _wait_for_first_answer(self, now_s: float) -> None:
        error = self._view.error
        if error is not None:
            self._view.pool.resolve_now()
        if error is not None and (not self.wait_for_ready or self._view.pool.over):
            raise copy.copy(error)  # raised itself, one object would collect the frames of every call that it fails
        if self.deadline_s is not None or self.wait_for_ready:
            self.wait_until_s = self.deadline_s
            return
        if self._resolving_until_s is None:
            self._resolving_until_s = now_s + self._limits.first_answer_timeout_s
        if now_s >= self._resolving_until_s:
            waited = f"no answer within first_answer_timeout_s={self._limits.first_answer_timeout_s:g}"
            raise ResolveError(self._view.pool.target, (self._view.explain(),), summary=waited)
        self.wait_until_s = self._resolving_until_s

    def _wait_for_connection(self, now_s: float) -> None:
        if self.deadline_s is not None:
            self.wait_until_s = self.deadline_s
            return
        if self._connecting_until_s is None:
            self._connecting_until_s = now_s + self._limits.connect_timeout_s
        if now_s >= self._connecting_until_s:
            waited = f"no connection within connect_timeout_s={self._limits.connect_timeout_s:g}"
            raise NoEndpointError(self._view.pool.target, f"{waited}: {self._view.explain()}")
        self.wait_until_s = self._connecting_until_s

    def _try_unready(self) -> Attempt:
        attempt = self._view.begin_unready(self.info, self._stream)
        if attempt is None:
            raise NoEndpointError(self._view.pool.target, self._view.explain())
        return attempt
