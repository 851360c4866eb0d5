"""Around a policy of somebody else's: whatever it does wrong is reported, and somebody who is there is picked."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshlb.balance.guarded import MIN_TICK_S, GuardedPolicy
from meshlb.balance.p2c import P2C
from meshlb.balance.registry import build_policy
from meshlb.core.endpoint import Endpoint, EndpointSet
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.load.in_flight import LiveOnly
from tests.picking import picks, seeded, subchannels_of
from tests.support.policies import MineConfig, Picker, Policy

STRANGER = Subchannel(Endpoint(host="10.9.9.9", port=1), LiveOnly())


def _guarded(policy: Policy) -> tuple[GuardedPolicy, list[Exception]]:
    errors: list[Exception] = []
    return GuardedPolicy(policy, errors.append), errors


def _raise(*given: object) -> object:
    raise RuntimeError("a bug of the user's")


@pytest.mark.parametrize(
    ("pick", "said"),
    [
        (_raise, "a bug of the user's"),
        (lambda info, now_s: STRANGER, "policy 'mine' picked <Subchannel 10.9.9.9:1 unary=0 streams=0>, which is none of"),
        (lambda info, now_s: "10.0.0.0:80", "policy 'mine' picked '10.0.0.0:80', which is none of"),
        (lambda info, now_s: [], "unhashable"),
        (lambda info, now_s: None, "policy 'mine' picked None, which is none of"),
    ],
)
def test_a_wrong_pick_is_reported_and_replaced(pick: Callable[..., object], said: str) -> None:
    """By any member that is not to be avoided."""
    mine = Policy()
    mine.picker = lambda subs: Picker(subs, pick)
    policy, errors = _guarded(mine)
    subs = subchannels_of(policy, [1.0] * 3)
    picker = policy.new_picker(subs, seeded())
    assert set(picks(picker, 200)) == set(subs)
    assert set(picks(picker, 100, exclude=subs[:2])) == {subs[2]}
    assert len(errors) == 300
    assert said in str(errors[0])


def test_right_picks_are_passed_on_and_nothing_is_reported() -> None:
    """The policy decides as long as it does."""
    policy, errors = _guarded(Policy())
    subs = subchannels_of(policy, [1.0] * 3)
    assert picks(policy.new_picker(subs, seeded()), 5) == [subs[0]] * 5
    assert policy.new_picker([], seeded()).pick(PickInfo(), 0.0) is None
    assert not errors


@pytest.mark.parametrize(
    ("made", "reports"), [(_raise, "a bug"), (lambda subs: None, "new_picker returned None, which has no pick")]
)
def test_a_picker_that_cannot_be_made_is_replaced(made: Callable[..., object], reports: str) -> None:
    """Until the next one that can."""
    mine = Policy()
    policy, errors = _guarded(mine)
    subs = subchannels_of(policy, [1.0] * 3)
    good, mine.picker = mine.picker, made
    assert set(picks(policy.new_picker(subs, seeded()), 200)) == set(subs)
    assert reports in str(errors[0])
    mine.picker = good
    assert set(picks(policy.new_picker(subs, seeded()), 200)) == {subs[0]}


@pytest.mark.parametrize(
    ("made", "reports"),
    [(_raise, "a bug"), (lambda now_s: None, "new_metric returned None, which has no on_start, on_end, load, forgive")],
)
def test_a_metric_that_is_none_is_replaced(made: Callable[..., object], reports: str) -> None:
    """By one that adds nothing to the live attempts."""
    mine = Policy()
    mine.new_metric = made  # type: ignore[method-assign, assignment]
    policy, errors = _guarded(mine)
    assert policy.new_metric(0.0).load(1.0) == 0.0
    assert reports in str(errors[0])


def test_what_a_policy_wants_to_hear_is_passed_on_and_may_raise() -> None:
    """``know``, ``on_endpoints``, ``tick`` and ``due_s``."""

    class Curious(Policy):
        know = on_endpoints = tick = due_s = _raise

    policy, errors = _guarded(Curious())
    policy.know([], 0.0)
    policy.on_endpoints(EndpointSet((), "static"))
    assert policy.tick(0.0) is False
    assert policy.due_s() is None
    assert len(errors) == 4


def test_a_policy_without_optional_parts_has_none_when_guarded() -> None:
    """The pool looks for them by name."""
    policy, _ = _guarded(Policy())
    assert not any(hasattr(policy, part) for part in ("know", "on_endpoints", "tick", "due_s"))
    assert policy.hashes is False
    assert policy.name == "mine"


def test_a_tick_that_is_always_due_comes_only_now_and_then() -> None:
    """Or the discovery thread would do nothing else."""

    class Restless(Policy):
        hashes = True

        def tick(self, now_s: float) -> bool:
            return True

        def due_s(self) -> float:
            return -1.0

    policy, errors = _guarded(Restless())
    assert policy.tick(100.0) is True
    assert policy.due_s() == 100.0 + MIN_TICK_S
    assert policy.hashes
    assert not errors


def test_only_policies_of_others_are_guarded() -> None:
    """Ours take the contract suite, and their picks pay nothing."""
    assert isinstance(build_policy(MineConfig(), seeded(), print), GuardedPolicy)
    assert not isinstance(build_policy(P2C(), seeded(), print), GuardedPolicy)
