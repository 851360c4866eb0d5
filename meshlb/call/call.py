"""One call of a user as a series of decisions, the same for threads and asyncio: try now, wait for a change, or give up and why.

The adapter loops: ``begin_attempt`` gives an attempt to send, or None, in which case it waits until its view changes or
``wait_until_s`` has come, and asks again. ``end_attempt`` says whether the call is over or goes to another endpoint. A call that
goes out at once and succeeds needs no ``Call`` at all: the blocking path of an adapter makes one only when something is not as it
should be.

Rules. The deadline is fixed once and counts resolving, waiting and every attempt. Without one, the first answer is waited for at
most ``first_answer_timeout_s`` and a connection at most ``connect_timeout_s``. When no source can say where the endpoints are,
that is raised at once. When every endpoint failed to connect the call makes one attempt on one of them, so that the caller gets
the transport's own reason, and no second (no amplification). With ``wait_for_ready`` it waits on in all these cases, as gRPC
does, until something is ready, the deadline is there or the view is closed.

Another attempt, in three tiers. What certainly never left the client goes elsewhere at once, whatever the method: at most
``MAX_ELSEWHERE`` times. What may have been processed is tried again if the call is declared idempotent, and what ended with a code
that was named, if there is such a code: ``retry.tries`` decides, and says when. Each is paid from the target's budget, and goes to an
endpoint not tried before while there is one. A ``wait_for_ready`` call that may not go elsewhere any more goes back to waiting, and
tries again ``AGAIN_S`` later at the earliest.

Spec: grpc/doc/wait-for-ready.md; gRFC A6, "transparent retries" for what never left the client.
Deviations: transparent retries are paid for too; gRPC's are free.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from meshlb.core.clock import Rng
from meshlb.core.connectivity import Connectivity
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt
from meshlb.errors import ClosedError, DeadlineExceededError, NoEndpointError, ResolveError
from meshlb.pool.view import View
from meshlb.retry.budget import RetryBudget
from meshlb.retry.rules import NEVER_SENT_ONLY, Rules
from meshlb.retry.throttle import Throttle, Throttling
from meshlb.retry.tries import Failure, Tries

MAX_ELSEWHERE = 2
MAX_STORY = 8  # a call that waits for ever tells of its last attempts
AGAIN_S = 0.05  # so that an endpoint which connects and is lost again in a moment is not tried in a loop


class CallLimits:
    """What every call of a channel shares: how long to wait, the budget that pays for further attempts, chance for their delays, and
    the counts of gRPC's ``retryThrottling`` (``throttle_of``), where a service config asks for it."""

    __slots__ = ("budget", "connect_timeout_s", "first_answer_timeout_s", "rng", "throttle_of")

    def __init__(
        self,
        budget: RetryBudget,
        *,
        first_answer_timeout_s: float,
        connect_timeout_s: float,
        rng: Rng,
        throttle_of: Callable[[Throttling], Throttle] | None = None,
    ) -> None:
        self.budget = budget
        self.first_answer_timeout_s = first_answer_timeout_s
        self.connect_timeout_s = connect_timeout_s
        self.rng = rng
        self.throttle_of = throttle_of


class Call:
    """One logical call; used by one thread or task at a time. Times are points on the pool's clock.

    ``last`` is the adapter's: what its last attempt ended with.
    """

    __slots__ = (
        "_connecting_until_s",
        "_elsewhere",
        "_idempotent",
        "_limits",
        "_not_before_s",
        "_resolving_until_s",
        "_rules",
        "_story",
        "_stream",
        "_throttle",
        "_tries",
        "_view",
        "deadline_s",
        "info",
        "last",
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
        rules: Rules = NEVER_SENT_ONLY,
        idempotent: bool = False,
    ) -> None:
        """``idempotent``: declared, for its method or by itself."""
        self._view = view
        self._limits = limits
        self._stream = stream
        self._rules = rules
        self._idempotent = idempotent
        self._tries: Tries | None = None
        self._throttle: Throttle | None = None
        if rules.throttling is not None and limits.throttle_of is not None:
            self._throttle = limits.throttle_of(rules.throttling)
        self._story: list[str] = []
        self._resolving_until_s: float | None = None
        self._connecting_until_s: float | None = None
        self._elsewhere = 0
        self._not_before_s: float | None = None
        self.wait_for_ready = wait_for_ready
        self.last: Any = None
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
        if self._not_before_s is not None and self._pausing(self._not_before_s, now_s):
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

    def end_attempt(self, attempt: Attempt, outcome: Outcome, now_s: float, failure: Failure | None = None) -> float | None:
        """End the attempt. None: the call is over with what it got; else seconds to wait before ``begin_attempt`` (0: at once).

        ``UNREACHABLE`` is the adapter's word for "certainly never left the client". ``failure``: how one ended that was sent; None if
        there was no failure, or if the answers that reached the caller, or the requests that are lost, allow no second attempt.
        """
        self._view.end(attempt, outcome)
        self._not_before_s = None
        if outcome is Outcome.UNREACHABLE:
            why = self._why_not_elsewhere()
            self._tell(attempt, "never sent", why)
            if why:
                return self._wait_again_s(now_s)
            self._elsewhere += 1
            self._avoid(attempt)
            return 0.0
        if failure is None:
            if outcome is Outcome.SUCCESS:
                self.succeeded()
            return None
        tries = self._tries
        if tries is None:
            tries = self._tries = Tries(self._rules, idempotent=self._idempotent, started_s=attempt.started_s)
        delay_s = None
        if self._rules.enabled:
            delay_s = tries.delay_s(failure, now_s, self.deadline_s, self._limits.rng, self._throttle)
            if delay_s is not None and not self._limits.budget.withdraw():
                delay_s, tries.why = None, "the target's retry budget"
        self._tell(attempt, failure.code, "" if delay_s is not None else tries.why)
        if delay_s is None:
            return None
        self._avoid(attempt)
        self._not_before_s = now_s + delay_s if delay_s else None
        return delay_s

    def succeeded(self) -> None:
        """For gRPC's throttle, which counts successes too."""
        if self._throttle is not None:
            self._throttle.succeeded()

    @property
    def previous_attempts(self) -> int:
        """How many attempts left the client so far: A6's ``grpc-previous-rpc-attempts`` for the next one."""
        return 0 if self._tries is None else self._tries.sent

    def attempt_timeout_s(self, now_s: float) -> float | None:
        """How long the next attempt may take: what is left of the deadline, or less; None without a limit."""
        left_s, per_try_s = self.remaining_s(now_s), self._rules.per_try_timeout_s
        if not per_try_s:
            return left_s
        return per_try_s if left_s is None else min(per_try_s, left_s)

    def timed_out(self, attempt: Attempt, now_s: float) -> bool:
        """This attempt had a limit of its own, and that is over."""
        per_try_s = self._rules.per_try_timeout_s
        return per_try_s > 0.0 and now_s - attempt.started_s >= 0.9 * per_try_s

    def story(self) -> str:
        """For the error that ends the call: what was tried, and why no more was; empty where that is plain."""
        story = self._story
        return f"meshlb: {'; '.join(story)}" if len(story) > 1 or (story and " (no more: " in story[-1]) else ""

    def _tell(self, attempt: Attempt, what: str, why: str) -> None:
        endpoint = attempt.subchannel.endpoint
        del self._story[:-MAX_STORY]
        self._story.append(f"{endpoint.name or endpoint.address} {what}{f' (no more: {why})' if why else ''}")

    def _why_not_elsewhere(self) -> str:
        """Empty: it is paid for, and may go."""
        if not self._rules.enabled:
            return "retry is off"
        if self._elsewhere >= MAX_ELSEWHERE:
            return f"{MAX_ELSEWHERE} others were tried"
        if not self.wait_for_ready and self._view.state is Connectivity.TRANSIENT_FAILURE:
            return "no endpoint can be connected"
        return "" if self._limits.budget.withdraw() else "the target's retry budget"

    def _avoid(self, attempt: Attempt) -> None:
        self.info = PickInfo(self.info.method, self.info.exclude | {attempt.subchannel})

    def _wait_again_s(self, now_s: float) -> float | None:
        if not self.wait_for_ready or self._view.pool.over:
            return None
        self._not_before_s = now_s + AGAIN_S
        return AGAIN_S

    def _pausing(self, until_s: float, now_s: float) -> bool:
        if now_s >= until_s or self._view.closed:
            self._not_before_s = None
            return False
        self.wait_until_s = until_s if self.deadline_s is None else min(until_s, self.deadline_s)
        return True

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
