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

Limits (``admission``) stand before the first attempt, and before each one where endpoints are limited. A call that has some must be
closed when it is over, however it ended; only then does it give its places back.

Spec: grpc/doc/wait-for-ready.md; gRFC A6, "transparent retries" for what never left the client.
Deviations: transparent retries are paid for too; gRPC's are free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from meshlb.call.admission import Admission
from meshlb.call.patience import Patience
from meshlb.call.story import NEVER_SENT, PROBE, WAIT_FOR_READY, Story, Tried, why_first
from meshlb.core.clock import Rng
from meshlb.core.connectivity import Connectivity
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt, Subchannel
from meshlb.errors import ClosedError, DeadlineExceededError, NoEndpointError
from meshlb.limit.gate import Gate, Wake
from meshlb.limit.gates import Gates
from meshlb.pool.view import View
from meshlb.retry.budget import RetryBudget
from meshlb.retry.rules import NEVER_SENT_ONLY, Rules
from meshlb.retry.throttle import Throttle, Throttling
from meshlb.retry.tries import Failure, Tries

MAX_ELSEWHERE = 2
AGAIN_S = 0.05  # so that an endpoint which connects and is lost again in a moment is not tried in a loop


class CallLimits:
    """What every call of a channel shares: how long to wait, the budget that pays for further attempts, chance for their delays, the
    counts of gRPC's ``retryThrottling`` (``throttle_of``), where a service config asks for it, and ``gates``, where calls are limited."""

    __slots__ = ("budget", "connect_timeout_s", "first_answer_timeout_s", "gates", "rng", "throttle_of")

    def __init__(
        self,
        budget: RetryBudget,
        *,
        first_answer_timeout_s: float,
        connect_timeout_s: float,
        rng: Rng,
        throttle_of: Callable[[Throttling], Throttle] | None = None,
        gates: Gates | None = None,
    ) -> None:
        self.budget = budget
        self.first_answer_timeout_s = first_answer_timeout_s
        self.connect_timeout_s = connect_timeout_s
        self.rng = rng
        self.throttle_of = throttle_of
        self.gates = gates


class Call:
    """One logical call; used by one thread or task at a time. Times are points on the pool's clock.

    ``last`` is the adapter's: what its last attempt ended with.
    """

    __slots__ = (
        "__weakref__",
        "_admission",
        "_elsewhere",
        "_idempotent",
        "_limits",
        "_not_before_s",
        "_patience",
        "_rules",
        "_story",
        "_stream",
        "_throttle",
        "_tried",
        "_tries",
        "_view",
        "deadline_s",
        "info",
        "last",
        "under_way",
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
        self._story: Story | None = None
        self._admission = None if limits.gates is None else Admission(view, limits.gates, info.method)
        self._patience = Patience(view, limits.first_answer_timeout_s, limits.connect_timeout_s)
        self._elsewhere = 0
        self._not_before_s: float | None = None
        self.wait_for_ready = wait_for_ready
        self.last: Any = None
        self.under_way: Attempt | None = None  # begun last
        self.info = info
        self._tried: frozenset[Subchannel] = frozenset()
        self.deadline_s = deadline_s
        self.wait_until_s: float | None = None

    def begin_attempt(self, now_s: float) -> Attempt | None:
        """An attempt to send now, or None: wait for the view to change, at most until ``wait_until_s`` (None: without limit).

        Raises DeadlineExceededError when the deadline has come, OverLimitError when a limit lets it not go, NoEndpointError or
        ResolveError when waiting is pointless or over, ClosedError when the view is closed.
        """
        admission = self._admission
        if self.deadline_s is not None and now_s >= self.deadline_s:
            waited_for = admission.explain() if admission is not None else ""
            raise DeadlineExceededError(self._view.pool.target, waited_for or self._view.explain())
        if self._not_before_s is not None and self._pausing(self._not_before_s, now_s):
            return None
        if admission is None:
            attempt = self._view.begin(self.info, self._stream)
        else:
            attempt = admission.begin(self.info, self._stream, now_s)
        if attempt is not None:
            self.under_way = attempt
            return attempt
        if self._view.closed:
            raise ClosedError(f"{self._view.pool.target}: closed")
        if admission is not None and admission.waits_for is not None and not self._view.pool.over:
            self.wait_until_s = admission.until_s if self.deadline_s is None else min(admission.until_s, self.deadline_s)
            return None
        if not self._view.known:
            self.wait_until_s = self._patience.for_first_answer_s(now_s, self.deadline_s, self.wait_for_ready)
            return None
        over = self._view.pool.over
        if self.wait_for_ready and not over:
            self.wait_until_s = self.deadline_s
            return None
        if self._view.state is Connectivity.TRANSIENT_FAILURE:
            return self._try_unready()
        if over:  # nobody watches the connections any more
            raise NoEndpointError(self._view.pool.target, f"the mesh was closed: {self._view.explain()}")
        self.wait_until_s = self._patience.for_connection_s(now_s, self.deadline_s)
        return None

    def end_attempt(self, attempt: Attempt, outcome: Outcome, now_s: float, failure: Failure | None = None) -> float | None:
        """End the attempt. None: the call is over with what it got; else seconds to wait before ``begin_attempt`` (0: at once).

        ``UNREACHABLE`` is the adapter's word for "certainly never left the client". ``failure``: how one ended that was sent; None if
        there was no failure, or if the answers that reached the caller, or the requests that are lost, allow no second attempt.
        """
        self._view.end(attempt, outcome)
        self._not_before_s = None
        if outcome is Outcome.UNREACHABLE:
            return self._after_unsent(attempt, now_s)
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
        story = self._tell(attempt, failure.code, "" if delay_s is not None else tries.why)
        if delay_s is None:
            return None
        story.why = tries.because
        self._avoid(attempt)
        self._not_before_s = now_s + delay_s if delay_s else None
        return delay_s

    def abandon(self) -> None:
        """``close``, for a caller that an exception may have taken out between any two lines: the attempt that it began ends, too."""
        if self.under_way is not None:
            self._view.end(self.under_way, Outcome.CANCELLED)
            self._view.pool.knock()  # it may have been interrupted just before it did
        self.close()

    def close(self) -> None:
        """The call is over, whatever ended it: give its places back. Idempotent; anywhere."""
        if self._admission is not None:
            self._admission.leave()

    def keep(self, attempt: Attempt, gates: Sequence[Gate]) -> None:
        """Its first attempt took a place at each gate (see ``entrance``): they are its own from now on."""
        if self._admission is not None:
            self._admission.keep(attempt, gates)

    @property
    def limited(self) -> bool:
        """It has to be closed, and to be told how to wake who waits for its turn."""
        return self._admission is not None

    def wake_with(self, wake: Wake) -> None:
        """Before it begins. ``wake``: its turn may have come, ask again; called from any thread, and False: nobody is there any more."""
        if self._admission is not None:
            self._admission.wake = wake

    def succeeded(self) -> None:
        """For gRPC's throttle, which counts successes too."""
        if self._throttle is not None:
            self._throttle.succeeded()

    @property
    def previous_attempts(self) -> int:
        """How many attempts left the client so far: A6's ``grpc-previous-rpc-attempts`` for the next one."""
        return 0 if self._tries is None else self._tries.sent

    def attempt_timeout_s(self, now_s: float) -> float | None:
        """How long the next attempt may take: what is left of the deadline, or less; None without a limit. A stream may last."""
        left_s, per_try_s = self.remaining_s(now_s), self._rules.per_try_timeout_s
        if not per_try_s or self._stream:
            return left_s
        return per_try_s if left_s is None else min(per_try_s, left_s)

    def timed_out(self, attempt: Attempt, now_s: float) -> bool:
        """This attempt had a limit of its own, and that is over."""
        per_try_s = self._rules.per_try_timeout_s
        return per_try_s > 0.0 and not self._stream and now_s - attempt.started_s >= 0.9 * per_try_s

    def story(self) -> str:
        """For the error that ends the call: what was tried, and why no more was; empty where that is plain."""
        return "" if self._story is None else str(self._story)

    def attempts(self, attempt: Attempt | None = None, ended: str = "") -> tuple[Tried, ...]:
        """Those that failed; and this one, which is under way, or has ended so. Empty for a call that has no more to tell."""
        story = self._story
        if story is None and attempt is not None and self._view.pool.was_probe(attempt):
            story = Story(PROBE)
        return () if story is None else story.attempts(None if attempt is None else attempt.subchannel.endpoint, ended)

    def _tell(self, attempt: Attempt, what: str, no_more: str) -> Story:
        story = self._story
        if story is None:
            story = self._story = Story(why_first(self._view.pool, attempt))
        story.tell(attempt.subchannel.endpoint, what, no_more)
        return story

    def _after_unsent(self, attempt: Attempt, now_s: float) -> float | None:
        why_not = self._why_not_elsewhere()
        story = self._tell(attempt, NEVER_SENT, why_not)
        if why_not:
            story.why = WAIT_FOR_READY
            return self._wait_again_s(now_s)
        story.why = NEVER_SENT
        self._elsewhere += 1
        self._avoid(attempt)
        return 0.0

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
        """It goes elsewhere: not where it was tried, and, while there is somebody else, not where its caller wishes it away from."""
        self._tried |= {attempt.subchannel}
        avoided = self.info.exclude | self._tried
        if avoided.issuperset(self._view.candidates):
            avoided = self._tried
        self.info = self.info.avoiding(avoided)

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

    def _try_unready(self) -> Attempt:
        attempt = self._view.begin_unready(self.info, self._stream)
        if attempt is None:
            raise NoEndpointError(self._view.pool.target, self._view.explain())
        return attempt
