"""ipvs's lc, sed and nq against the kernel's own loops, written down as they are there."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from meshlb.balance.ipvs import IpvsLc, IpvsNq, IpvsSed
from meshlb.balance.order import place_of
from meshlb.core.subchannel import Subchannel
from tests.picking import hold, picks, seeded, subchannels_of

CONFIGS = [IpvsLc(), IpvsSed(), IpvsNq()]


def kernels_lc(listed: Sequence[Subchannel]) -> Subchannel:
    least, least_overhead = listed[0], 0
    for at, dest in enumerate(listed):
        overhead = (dest.in_flight << 8) + 0
        if at == 0 or overhead < least_overhead:
            least, least_overhead = dest, overhead
    return least


def kernels_sed(listed: Sequence[Subchannel]) -> Subchannel:
    least, overhead = listed[0], listed[0].in_flight + 1
    for dest in listed[1:]:
        its_own = dest.in_flight + 1
        if overhead * dest.weight > its_own * least.weight:
            least, overhead = dest, its_own
    return least


def kernels_nq(listed: Sequence[Subchannel]) -> Subchannel:
    return next((dest for dest in listed if dest.in_flight == 0), None) or kernels_sed(listed)


KERNELS = {"ipvs:lc": kernels_lc, "ipvs:sed": kernels_sed, "ipvs:nq": kernels_nq}


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("n", [2, 3, 10, 64, 65, 200])
@pytest.mark.parametrize("most", [0, 1, 4], ids=["idle", "nearly idle", "busy"])
def test_the_choice_is_the_kernels(config: IpvsLc | IpvsSed | IpvsNq, n: int, most: int) -> None:
    """Random fleets with few different weights, so that ties are many: the same one in each of 30, with nobody, some and all to be avoided."""
    rng = seeded()
    for _ in range(30):
        policy = config.build(rng)
        subs = subchannels_of(policy, [float(rng.randint(1, 4)) for _ in range(n)])
        for sub in subs:
            hold(sub.unary, rng.randint(0, most))
            hold(sub.streams, rng.randint(0, most) // 2)
        listed = sorted(subs, key=place_of)
        picker = policy.new_picker(subs, rng)
        assert picks(picker, 1) == [KERNELS[config.name](listed)]
        avoided = set(rng.sample(subs, n // 2))
        assert picks(picker, 1, exclude=avoided) == [KERNELS[config.name]([sub for sub in listed if sub not in avoided])]
        assert picks(picker, 1, exclude=subs) == [KERNELS[config.name](listed)]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_calls_that_stay_are_spread_as_the_kernel_spreads_connections(config: IpvsLc | IpvsSed | IpvsNq) -> None:
    """60 calls at once over weights 1, 2, 3: lc evenly, sed and nq by weight."""
    policy = config.build(seeded())
    subs = subchannels_of(policy, [1.0, 2.0, 3.0])
    picker = policy.new_picker(subs, seeded())
    for _ in range(60):
        hold(picks(picker, 1)[0].unary)
    expected = [20, 20, 20] if config.name == "ipvs:lc" else [10, 20, 30]
    assert [sub.in_flight for sub in subs] == pytest.approx(expected, abs=1)


def test_sed_fills_the_heavy_one_first_and_nq_the_idle_one() -> None:
    """Weights 1, 1, 4: four calls of sed all go to the heavy one, of nq one to each first."""
    taken: dict[str, list[int]] = {}
    for config in (IpvsSed(), IpvsNq()):
        policy = config.build(seeded())
        subs = subchannels_of(policy, [1.0, 1.0, 4.0])
        picker = policy.new_picker(subs, seeded())
        for _ in range(3):
            hold(picks(picker, 1)[0].unary)
        taken[config.name] = [sub.in_flight for sub in subs]
    assert taken == {"ipvs:sed": [0, 0, 3], "ipvs:nq": [1, 1, 1]}


def test_a_tie_between_two_weights_goes_to_the_first_in_the_list() -> None:
    """Eight of weight 2 with a call each, and eight idle ones of weight 1: the delay is 1 everywhere, though the heavy are looked at first."""
    rng, light = seeded(), 0
    for _ in range(50):
        policy = IpvsSed().build(rng)
        subs = subchannels_of(policy, [2.0] * 8 + [1.0] * 8)
        for sub in subs[:8]:
            hold(sub.unary)
        (picked,) = picks(policy.new_picker(subs, rng), 1)
        assert picked is min(subs, key=place_of)
        light += picked.weight == 1.0
    assert 10 < light < 40


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_one_call_at_a_time_stays_at_the_head_of_the_list(config: IpvsLc | IpvsSed | IpvsNq) -> None:
    """The kernel's rule, and why this is not what most calls want; other processes have other heads."""
    rng, heads = seeded(), []
    for _ in range(300):
        policy = config.build(rng)
        subs = subchannels_of(policy, [1.0] * 3)
        picked = set(picks(policy.new_picker(subs, rng), 20))
        assert len(picked) == 1
        heads.append(subs.index(*picked))
    assert [heads.count(at) for at in range(3)] == pytest.approx([100] * 3, abs=40)


def test_weights_may_be_fractions() -> None:
    """The kernel's are whole numbers."""
    policy = IpvsSed().build(seeded())
    subs = subchannels_of(policy, [0.001, 0.002])
    assert set(picks(policy.new_picker(subs, seeded()), 10)) == {subs[1]}
