"""Ejection's promises for any sequence of outcomes, ticks, claims and changes of membership; and Envoy's and A50's rules against models
that keep every single attempt."""

from __future__ import annotations

from statistics import fmean, pstdev
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from meshlb.core.outcome import Outcome
from meshlb.health.outlier import Outlier
from tests.support.outliers import Drawn, Field

SUCCESS, FAILURE, CANCELLED = Outcome.SUCCESS, Outcome.FAILURE, Outcome.CANCELLED
N = 6
LONGEST_S = 61.0

endpoint = st.integers(0, N - 1)
step = st.one_of(
    st.tuples(
        st.just("end"), endpoint, st.sampled_from(list(Outcome)), st.integers(1, 30), st.sampled_from([0.0, 0.05, 3.0, 100.0])
    ),
    st.tuples(st.just("end"), endpoint, st.just(FAILURE), st.integers(5, 60), st.just(0.0)),
    st.tuples(st.just("work"), st.integers(1, 40)),
    st.tuples(st.just("pass"), st.sampled_from([0.001, 0.1, 0.11, 1.0, 10.0, 11.0, 70.0])),
    st.tuples(st.just("late"), st.sampled_from([0.5, 20.0])),
    st.tuples(st.just("back"), st.sampled_from([0.01, 5.0, 1000.0])),
    st.tuples(st.just("claim"), endpoint),
    st.tuples(st.just("members"), st.sets(endpoint)),
)


def _do(field: Field, one: tuple[Any, ...], members: set[int]) -> None:
    kind = one[0]
    if kind == "end":
        field.end(one[1], one[2], times=one[3], began_s=field.now_s - one[4])
    elif kind == "work":
        field.all_succeed(one[1])
    elif kind == "pass":
        field.run(one[1])
    elif kind == "late":
        field.now_s += one[1]  # and no tick
    elif kind == "back":
        field.now_s -= one[1]
        field.run(0.0)
    elif kind == "claim":
        field.claim(one[1])
    else:
        members.clear()
        members.update(one[1])
        field.members(*sorted(members))


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(step, max_size=60),
    mode=st.sampled_from(["on", "envoy", "grpc"]),
    ratio=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    drawn=st.sampled_from([0.0, 0.5]),
)
def test_whatever_happens_somebody_is_in_and_everybody_comes_back(
    steps: list[tuple[Any, ...]], mode: str, ratio: float, drawn: float
) -> None:
    """Out is never everybody, only members are out, probes are due ones of those out, only those out are watched; what is said to have
    changed did; and once all works everybody is back within his time, after which no tick is wanted."""
    field, members = Field(N, Outlier(mode=mode, max_ejection_ratio=ratio), Drawn(drawn)), set(range(N))
    for one in steps:
        _do(field, one, members)
        assert field.out < members or not field.out
        assert field.probing <= field.out
        assert {i for i, sub in enumerate(field.subs) if sub.watched} == (field.out if mode == "on" else set())
        assert len(field.out) <= max(1, int(ratio * len(members))) or mode == "grpc"
        for i in field.out:
            why = field.ejector.why(field.subs[i], field.now_s)
            assert why is not None
            assert float(str(why["until_s"])) <= (LONGEST_S if mode == "on" else 330.0)
    field.run(10.1)  # a probe that was claimed and never ended gives its place away
    if mode == "on":
        field.run(LONGEST_S)
        for i in sorted(field.probing):
            assert field.claim(i)
            field.end(i)
    else:
        field.run(2 * 300.0 + 20.0)
    assert field.out == set()
    field.run(1000.0)
    assert field.ejector.due_s() is None


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(step, max_size=40))
def test_between_two_probes_is_an_end_or_the_timeout(steps: list[tuple[Any, ...]]) -> None:
    """Of one stay outside, no two claims are granted within ten seconds unless the first was cancelled."""
    field, members = Field(N), set(range(N))
    granted: dict[int, tuple[float, float]] = {}
    for one in steps:
        if one[0] == "end" and one[2] is CANCELLED:
            granted.pop(one[1], None)
        if one[0] == "back":
            granted.clear()
        if one[0] != "claim":
            _do(field, one, members)
            continue
        i = one[1]
        for _ in range(3):
            stay = field.ejector._book.out.get(field.subs[i])
            if not field.claim(i):
                continue
            assert stay is not None
            since_s = stay.since_s + stay.until_s
            if i in granted and granted[i][0] == since_s:
                assert field.now_s >= granted[i][1] + 10.0
            granted[i] = (since_s, field.now_s)


interval = st.lists(st.tuples(st.integers(0, 120), st.integers(0, 120)), min_size=N, max_size=N)


@settings(max_examples=150, deadline=None)
@given(
    intervals=st.lists(interval, min_size=1, max_size=8),
    share=st.sampled_from([0.1, 0.2, 0.34, 0.5, 1.0]),
    factor=st.sampled_from([0.5, 1.0, 1.9]),
)
def test_a50_is_what_its_text_says(intervals: list[list[tuple[int, int]]], share: float, factor: float) -> None:
    """Against the text written down once more, on lists of attempts; every interval has a failure, so that the timer runs."""
    field = Field(N, Outlier(mode="grpc", max_ejection_ratio=share, success_rate_stdev_factor=factor, base_ejection_s=14.0))
    ejected: dict[int, float] = {}
    multiplier = [0] * N
    for at, counts in enumerate(intervals):
        attempts = {i: [True] * good + [False] * (bad + (i == 0)) for i, (good, bad) in enumerate(counts)}
        for i, ends in attempts.items():
            field.fail(i, ends.count(False))
        for i, ends in attempts.items():
            field.end(i, times=ends.count(True))
        field.run(10.0)
        sweep_s = 10.0 * (at + 1)
        rates = {i: fmean(ends) for i, ends in attempts.items() if len(ends) >= 100}
        doomed = []
        if len(rates) >= 5:
            threshold = fmean(rates.values()) - factor * pstdev(rates.values())
            doomed += [i for i, rate in rates.items() if rate < threshold - 1e-12]
        doomed += [i for i, ends in attempts.items() if len(ends) >= 50 and 100 * ends.count(False) / len(ends) > 85]
        for i in doomed:
            if i not in ejected and not 100 * len(ejected) / N > 100 * share:
                ejected[i] = sweep_s
                multiplier[i] += 1
        for i in range(N):
            if i not in ejected:
                multiplier[i] = max(multiplier[i] - 1, 0)
            elif sweep_s > ejected[i] + min(14.0 * multiplier[i], 300.0):
                del ejected[i]
        assert field.out == (set(ejected) if len(ejected) < N else set())


event = st.one_of(
    st.tuples(st.just("fail"), endpoint, st.integers(1, 70)),
    st.tuples(st.just("good"), endpoint, st.integers(1, 120)),
    st.tuples(st.just("sweep"), st.just(0), st.just(0)),
)


@settings(max_examples=150, deadline=None)
@given(events=st.lists(event, max_size=60), percent=st.sampled_from([10, 17, 34, 50, 100]), always=st.booleans())
def test_envoy_is_what_its_source_says(events: list[tuple[str, int, int]], percent: int, always: bool) -> None:
    """Against the source's steps written down once more: a counter of failures in a row, lists of attempts, one sweep each 10 s."""
    field = Field(
        N,
        Outlier(
            mode="envoy",
            max_ejection_ratio=percent / 100,
            always_eject_one_host=always,
            enforcing_failure_percentage_ratio=1.0,
            healthy_panic_threshold_ratio=0.0,
            base_ejection_s=15.0,
        ),
    )
    field.fail(N - 1)  # the timer runs from here on
    row, level = [0] * N, [0] * N
    row[N - 1] = 1
    attempts: list[list[bool]] = [[] for _ in range(N)]
    attempts[N - 1].append(False)
    ejected: dict[int, float] = {}
    returned: dict[int, float] = {}
    now_s = 0.0

    def eject(i: int) -> None:
        if 100.0 * (len(ejected) + 1) / N <= percent or (always and not ejected):
            ejected[i] = now_s
            if level[i] * 15.0 < 300.0 + 15.0:
                level[i] += 1

    for kind, i, times in events:
        if kind == "sweep":
            field.run(10.0)
            now_s += 10.0
            for sub in [sub for sub, since_s in ejected.items() if min(15.0 * level[sub], 300.0) <= now_s - since_s]:
                del ejected[sub]
                row[sub], returned[sub] = 0, now_s
            inside = [sub for sub in range(N) if sub not in ejected]
            rates = {sub: 100.0 * fmean(attempts[sub]) for sub in inside if attempts[sub]}
            busy = {sub: rate for sub, rate in rates.items() if len(attempts[sub]) >= 100}
            if len(busy) >= 5:
                threshold = fmean(busy.values()) - 1.9 * pstdev(busy.values())
                for sub in [sub for sub, rate in busy.items() if rate < threshold - 1e-9]:
                    eject(sub)
            busy = {sub: rate for sub, rate in rates.items() if len(attempts[sub]) >= 50}
            if len(busy) >= 5:
                for sub in [sub for sub, rate in busy.items() if 100.0 - rate >= 85.0 and sub not in ejected]:
                    eject(sub)
            for sub in range(N):
                if sub not in ejected and sub in returned and now_s - returned[sub] >= 10.0:
                    level[sub] = max(level[sub] - 1, 0)
            attempts = [[] for _ in range(N)]
            field.fail(N - 1)  # and it goes on running
            kind, i, times = "model", N - 1, 1
        for _ in range(times):
            if kind == "good":
                field.end(i)
                row[i] = 0
                attempts[i].append(True)
                continue
            if kind == "fail":
                field.fail(i)
            attempts[i].append(False)
            row[i] += 1
            if row[i] == 5 and i not in ejected:
                eject(i)
                row[i] = 0
        assert field.out == (set(ejected) if len(ejected) < N else set()), (kind, i, times)
