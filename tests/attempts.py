"""Attempts without a pool: counted on a subchannel and told to its metric, as a view does it."""

from __future__ import annotations

from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt, Subchannel

INFO = PickInfo("/shop.Orders/Get")


def begin_on(sub: Subchannel, now_s: float = 0.0, *, stream: bool = False) -> Attempt:
    """One more is in flight."""
    attempt = Attempt()
    attempt.subchannel, attempt.started_s, attempt.info = sub, now_s, INFO
    attempt.live = sub.streams if stream else sub.unary
    attempt.live.add(attempt)
    sub.metric.on_start(now_s)
    return attempt


def end(attempt: Attempt, now_s: float, outcome: Outcome = Outcome.SUCCESS) -> None:
    """It is over."""
    attempt.live.remove(attempt)
    metric = attempt.subchannel.metric
    if attempt.subchannel.by_attempt:
        metric.on_attempt_end(attempt, now_s, outcome)  # type: ignore[attr-defined]
    else:
        metric.on_end(now_s, now_s - attempt.started_s, outcome)
