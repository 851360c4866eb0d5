"""Policies choose among real pods: the rows of tests/benchmarks/bench_policies.py in small, counts instead of times.

Without Envoy, which is the benchmark's: what is promised here is meshlb's alone, beside stock round_robin where a share needs a measure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from tests.benchmarks.bench_policies_turns import ANCHOR, P2C, ROWS, STOCK, Arm, Turns, arms_of, new_pods, rate_of
from tests.support.faulty_pods import Pod, pods
from tests.support.steady_load import endpoints_of

PODS = 4
LOAD_RATIO = 0.4
TURN_S = 1.0
DEADLINE_S = 15.0  # nobody waits so long: a busy machine is no fault


@pytest.fixture(scope="module")
def running() -> Iterator[Sequence[Pod]]:
    with pods(new_pods(PODS)) as made:
        yield made


def played(name: str, running: Sequence[Pod], *arms: str, turn_s: float = TURN_S) -> list[Arm]:
    """After one turn of each arm, and a short one before. Nothing is left behind: no call counted as in flight, no bug that was hidden."""
    turns = Turns(rounds=1, turn_s=turn_s, warm_up_s=0.4, rate=rate_of(PODS, LOAD_RATIO), deadline_s=DEADLINE_S)

    async def play() -> list[Arm]:
        async with arms_of(ROWS[name], running, arms) as made:
            await turns.play(ROWS[name], made, running)
            for arm in made:
                if arm.mesh is not None:
                    assert [one["in_flight"] for one in endpoints_of(arm.mesh)] == [0] * PODS
                    assert arm.mesh.status()["internal_errors"] == {}
                assert arm.seen.total() == len(arm.calls)
                print(arm.name, arm.seen)
        return made

    return asyncio.run(play())


def errors(arm: Arm) -> list[str]:
    return [call.error for call in arm.calls if call.error]


@pytest.mark.parametrize("name", ["equal pods", "one pausing"])
def test_pods_that_are_well_or_pause_answer_every_call(name: str, running: Sequence[Pod]) -> None:
    """By p2c and by anchor; a pod that stands still for half a second has not failed. None is left out for good."""
    for arm in played(name, running, P2C, ANCHOR):
        assert errors(arm) == []
        assert set(arm.seen) == {pod.name for pod in running}


def test_a_slow_pod_gets_less_than_by_turns(running: Sequence[Pod]) -> None:
    """Four times as slow: p2c and anchor give it clearly less than stock round_robin does, and fail no call."""
    p2c, anchor, stock = played("one slow", running, P2C, ANCHOR, STOCK, turn_s=2.0)
    assert errors(p2c) == errors(anchor) == []
    assert p2c.odd_ratio < 0.9 * stock.odd_ratio
    assert anchor.odd_ratio < 0.9 * stock.odd_ratio


def test_a_pod_that_fails_at_once_attracts_no_calls(running: Sequence[Pod]) -> None:
    """It looks idle, and nobody ejects it: anchor still sends it less than an even share while it fails, and nothing else fails."""
    (anchor,) = played("one failing fast", running, ANCHOR, turn_s=3.0)
    begun_s, ended_s = anchor.calls[0].due_s + 1.0, anchor.calls[0].due_s + 2.0
    during = [call for call in anchor.calls if begun_s < call.due_s < ended_s]
    print(len(errors(anchor)), len(during))
    assert {error.partition(":")[0] for error in errors(anchor)} <= {"UNAVAILABLE"}
    assert len(errors(anchor)) < len(during) / PODS
