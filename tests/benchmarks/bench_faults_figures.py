"""From calls to figures: an arm's in one row, the same of several runs, and what is worse than in another arm."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tests.benchmarks import common
from tests.support.steady_load import Ended

WINDOW_S = 0.5  # how long a share is looked at; less than that is chance
MOST_SHARE, MOST_AFTER_PROBE_S = 0.01, 1.0
BUDGET_RATIO, BUDGET_MIN_PER_S = 0.2, 10.0  # meshlb's defaults


@dataclass(frozen=True)
class Figures:
    """One arm's in one row; the head of bench_faults.py says what they mean. None: there is none in this row, inf: not within the run.

    ``late_ms``: how long after it was due a call began, at most: what the machine had no time for. ``near``: how much of what was
    answered during the fault the own zone did.
    """

    arm: str
    calls: int
    reads: int
    writes: int
    extra: float
    share: float | None
    probe_s: float | None
    back_s: float | None
    p50_ms: float
    p99_ms: float
    late_ms: float
    near: float | None
    errors: dict[str, int]


@dataclass(frozen=True)
class Span:
    """When the fault began and ended, and which pods' return is waited for: ``fair`` is their share in a world that is well."""

    began_s: float
    over_s: float
    awaited: Collection[str]
    fair: float


def figures(
    arm: str, calls: Sequence[Ended], span: Span, *, extra_attempts: int, share: float | None, near: Collection[str]
) -> Figures:
    since = [call for call in calls if call.due_s >= span.began_s]
    during = [call for call in since if call.due_s <= span.over_s]
    probe_s, back_s = recovery(since, span)
    answered = [call.pod for call in during if call.pod]
    took_ms = [call.took_s * 1e3 for call in during]
    return Figures(
        arm=arm,
        calls=len(since),
        reads=sum(call.read for call in since if call.error),
        writes=sum(not call.read for call in since if call.error),
        extra=extra_attempts / max(1, len(during)),
        share=share,
        probe_s=probe_s,
        back_s=back_s,
        p50_ms=common.quantile(took_ms, 0.5),
        p99_ms=common.quantile(took_ms, 0.99),
        late_ms=max((call.late_s * 1e3 for call in since), default=0.0),
        near=sum(pod in near for pod in answered) / max(1, len(answered)) if near else None,
        errors=dict(Counter(call.error for call in since if call.error).most_common(4)),
    )


def recovery(calls: Sequence[Ended], span: Span) -> tuple[float | None, float | None]:
    """Until the first answer of those that are awaited, and until they had half their share again and no call failed any more."""
    if not span.awaited:
        return None, None
    answers = sorted((call.due_s, call.took_s, call.pod in span.awaited) for call in calls if call.pod and call.due_s > span.over_s)
    first = [due_s + took_s for due_s, took_s, awaited in answers if awaited]
    probe_s = min(first) - span.over_s if first else math.inf
    failed_s = max((call.due_s - span.over_s for call in calls if call.error and call.due_s > span.over_s), default=0.0)
    for start, (due_s, _, awaited) in enumerate(answers):
        if not awaited or answers[-1][0] < due_s + WINDOW_S:
            continue
        within = [one for at_s, _, one in answers[start:] if at_s <= due_s + WINDOW_S]
        if sum(within) >= span.fair / 2 * len(within):
            return probe_s, max(failed_s, due_s - span.over_s)
    return probe_s, math.inf


def merged(runs: Sequence[Figures]) -> Figures:
    """Calls and failures of all together, the median of the rest."""
    first, errors = runs[0], Counter[str]()
    for run in runs:
        errors.update(run.errors)

    def middle(values: Sequence[float | None]) -> float | None:
        return common.median([value for value in values if value is not None]) if None not in values else None

    return Figures(
        arm=first.arm,
        calls=sum(run.calls for run in runs),
        reads=sum(run.reads for run in runs),
        writes=sum(run.writes for run in runs),
        extra=common.median([run.extra for run in runs]),
        share=middle([run.share for run in runs]),
        probe_s=middle([run.probe_s for run in runs]),
        back_s=middle([run.back_s for run in runs]),
        p50_ms=common.median([run.p50_ms for run in runs]),
        p99_ms=common.median([run.p99_ms for run in runs]),
        late_ms=max(run.late_ms for run in runs),
        near=middle([run.near for run in runs]),
        errors=dict(errors.most_common(4)),
    )


def missed(ours: Figures, *, survivors: bool, fast: bool, rate: float) -> list[str]:
    """Which of the wanted figures it does not reach."""
    most_extra = BUDGET_RATIO + BUDGET_MIN_PER_S / rate + 0.02  # of which the last is for calls that end a little later
    said = {
        "reads": survivors and ours.reads > 0,
        "extra": ours.extra > most_extra,
        "share": fast and ours.share is not None and ours.share > MOST_SHARE,
        "back": ours.back_s is not None and ours.probe_s is not None and not ours.back_s - ours.probe_s <= MOST_AFTER_PROBE_S,
    }
    return [name for name, is_so in said.items() if is_so]


def worse(ours: Figures, theirs: Figures) -> list[str]:
    """In what; chance is allowed for: writes that fail are few and drawn by lot, and times are those of a busy machine."""
    said = {
        "reads": ours.reads > theirs.reads + 2 * math.sqrt(theirs.reads),
        "writes": ours.writes > theirs.writes + 2 + 2 * math.sqrt(theirs.writes),
        "extra": ours.extra > theirs.extra + 0.02,
        "share": (ours.share or 0.0) > (theirs.share or 0.0) + 0.01,
        "back": (ours.back_s or 0.0) > (theirs.back_s or 0.0) + WINDOW_S,
        "p50": ours.p50_ms > 1.2 * theirs.p50_ms + 1.0,
        "p99": ours.p99_ms > 1.2 * theirs.p99_ms + 5.0,
    }
    return [name for name, is_so in said.items() if is_so]
