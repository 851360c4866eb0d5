"""Session under any history of members, readiness, time and keys: it never goes outside, never forgets too early, never grows too large."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from meshlb.balance.session import AWAY_S, Session, SessionPolicy
from meshlb.core.policy import PickInfo
from tests.picking import subchannels_of

LEASE_S, MAX_KEYS, FLEET = 60.0, 5, 6
SOME = st.frozensets(st.integers(0, FLEET - 1))


@dataclass(frozen=True)
class Step:
    """Time passes, members and those that are ready among them are these, and a call with this key is to avoid these."""

    passed_s: float
    members: frozenset[int]
    absent: frozenset[int]
    avoid: frozenset[int]
    key: int | None


STEPS = st.builds(
    Step,
    passed_s=st.sampled_from([0.0, 0.1, AWAY_S / 2, AWAY_S, LEASE_S - 1, LEASE_S]),
    members=SOME.filter(bool),
    absent=SOME,
    avoid=st.one_of(st.just(frozenset()), SOME),
    key=st.one_of(st.none(), st.integers(0, 9)),
)


@settings(deadline=None)
@given(steps=st.lists(STEPS, max_size=60), seed=st.integers(0, 2**32))
def test_a_pick_is_always_of_the_ready_ones_and_stays_while_it_may(steps: list[Step], seed: int) -> None:
    """Never a non-member, never who is to be avoided while another is ready; the same endpoint as at the key's last call if that was
    within the lease, and the endpoint has been ready ever since, and fewer keys came meanwhile than are remembered."""
    rng = random.Random(seed)
    policy = Session(lease_s=LEASE_S, max_keys=MAX_KEYS).build(rng)
    assert isinstance(policy, SessionPolicy)
    subs = subchannels_of(policy, [1.0] * FLEET)
    now_s, last = 0.0, dict[int | None, tuple[int, float]]()  # where each key was, while it cannot have been moved
    order: list[int | None] = []  # keys by their last use
    for step in steps:
        now_s += step.passed_s
        ready = sorted(step.members - step.absent)
        policy.know([subs[at] for at in sorted(step.members)], now_s)
        picker = policy.new_picker([subs[at] for at in ready], rng)
        last = {key: (at, used_s) for key, (at, used_s) in last.items() if at in ready}
        picked = picker.pick(PickInfo("/a.B/C", frozenset([subs[at] for at in step.avoid]), hash=step.key), now_s)
        if not ready:
            assert picked is None
            continue
        assert picked is not None
        at = subs.index(picked)
        assert at in ready
        assert at not in step.avoid or set(ready) <= step.avoid
        assert len(policy.leases) <= MAX_KEYS
        remembered = step.key in order[-MAX_KEYS:]
        kept = last.get(step.key)
        order = [key for key in order if key != step.key] + [step.key]
        if remembered and kept is not None and now_s - kept[1] < LEASE_S:
            assert kept[0] == at or kept[0] in step.avoid
            last[step.key] = (kept[0], now_s)
        else:
            lease = policy.leases.get(step.key)
            last.pop(step.key, None)
            if lease is not None and lease.subchannel is picked:  # else it was for once, or a stand-in
                last[step.key] = (at, now_s)
