"""The attempts of one call that were sent, and whether another one follows.

Made when the first of them failed; calls that succeed never have one. In order: is this end worth another attempt (a code that was
named, or a loss that may have been processed and a call that is idempotent); does gRPC's throttle allow it; may there be so many;
does the server forbid it, or ask for a time; and is there time left for it. Who asks then pays from the budget.

The deadline: an attempt is begun only if at least ``MIN_LEFT_S`` would be left for it when its delay is over. What it will need
nobody knows: the one that failed may have been slow because its pod was dying.

Spec: gRFC A6 (push-back: a time replaces the back-off, which then starts over; negative or unreadable: no more attempts).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from meshlb.core.clock import Rng
from meshlb.retry.rules import Rules
from meshlb.retry.throttle import Throttle

MIN_LEFT_S: Final = 0.001  # less than any network takes there and back with a reply


class Failure:
    """How an attempt that was sent ended, in the transport's words.

    ``code``: gRPC's name of the status. ``lost``: no word from the application, which may or may not have processed it.
    ``answered``: the server's initial metadata had arrived. ``pushback_s``: what it asked for, None: nothing, negative: no more.
    ``error()``: what the caller would get, made for those of tenacity's objects that look at it.
    """

    __slots__ = ("answered", "code", "error", "lost", "pushback_s")

    def __init__(
        self,
        code: str,
        *,
        lost: bool = False,
        answered: bool = False,
        pushback_s: float | None = None,
        error: Callable[[], Any] = lambda: None,
    ) -> None:
        self.code = code
        self.lost = lost
        self.answered = answered
        self.pushback_s = pushback_s
        self.error = error


class Tries:
    """One call's; used by one thread or task at a time. ``sent``: attempts that left the client. ``why``: none follows, in words;
    ``because``: one follows (``pushback``, ``code``, ``idempotent``)."""

    __slots__ = ("_backoffs", "_idempotent", "_rules", "_started_s", "_waited_s", "because", "sent", "why")

    def __init__(self, rules: Rules, *, idempotent: bool, started_s: float) -> None:
        self._rules = rules
        self._idempotent = idempotent
        self._started_s = started_s
        self._backoffs = 0
        self._waited_s = 0.0
        self.sent = 0
        self.why = ""
        self.because = ""

    def delay_s(
        self, failure: Failure, now_s: float, deadline_s: float | None, rng: Rng, throttle: Throttle | None
    ) -> float | None:
        """Seconds until the next attempt, or None: this was the last one."""
        self.sent += 1
        rules, pushback_s = self._rules, failure.pushback_s
        refused = pushback_s is not None and pushback_s < 0
        listed = failure.code in rules.codes
        throttled = throttle is not None and (listed or refused) and not throttle.failed()
        if not (listed and not failure.answered) and not (self._idempotent and failure.lost):
            self.why = ""
            return None
        if refused or throttled:
            self.why = "the server's grpc-retry-pushback-ms refuses" if refused else "retryThrottling"
            return None
        if rules.stop is None and self.sent >= rules.max_attempts:
            self.why = f"max_attempts={rules.max_attempts}"
            return None
        delay_s = self._next_s(failure, now_s, rng)
        if delay_s is None:
            self.why = "the configured stop"
        elif deadline_s is not None and now_s + delay_s > deadline_s - MIN_LEFT_S:
            self.why = "the deadline"
        else:
            self._waited_s += delay_s
            self.because = "pushback" if pushback_s is not None else "code" if listed and not failure.answered else "idempotent"
            return delay_s
        return None

    def _next_s(self, failure: Failure, now_s: float, rng: Rng) -> float | None:
        rules = self._rules
        if rules.stop is None and rules.wait is None:
            return self._own_s(failure, rng)
        state = State(self.sent, now_s, self._started_s, self._waited_s, failure.error)
        if failure.pushback_s is not None or rules.wait is None:
            delay_s = self._own_s(failure, rng)
        else:
            delay_s = float(rules.wait(state))
            if not math.isfinite(delay_s):
                return None
        state.upcoming_sleep = delay_s = max(delay_s, 0.0)
        return None if rules.stop is not None and rules.stop(state) else delay_s

    def _own_s(self, failure: Failure, rng: Rng) -> float:
        if failure.pushback_s is not None:
            self._backoffs = 0
            return failure.pushback_s
        self._backoffs += 1
        return self._rules.backoff.delay_s(self._backoffs, rng)


class _Outcome:
    """What tenacity calls a future: one attempt that failed."""

    failed = True

    def __init__(self, attempt_number: int, error: Callable[[], Any]) -> None:
        self.attempt_number = attempt_number
        self._error = error

    def exception(self) -> Any:
        return self._error()

    def result(self) -> Any:
        raise self._error()


class State:
    """What tenacity's stop and wait objects read of a ``RetryCallState``, on our clock; made without tenacity."""

    fn = None
    args = ()
    kwargs: Any = {}  # noqa: RUF012 - read only
    retry_object = None
    next_action = None

    def __init__(self, attempt_number: int, now_s: float, started_s: float, waited_s: float, error: Callable[[], Any]) -> None:
        self.attempt_number = attempt_number
        self.start_time = started_s
        self.outcome_timestamp = now_s
        self.seconds_since_start = now_s - started_s
        self.idle_for = waited_s
        self.upcoming_sleep = 0.0
        self.outcome = _Outcome(attempt_number, error)
