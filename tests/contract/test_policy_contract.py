"""What every policy promises, whatever it chooses by; a new policy joins by its line in ``CONFIGS``. The rules themselves are public:
``meshlb.testing.check_policy``."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from meshlb.balance.anchor import Anchor
from meshlb.balance.config import PolicyConfig
from meshlb.balance.ipvs import IpvsLc, IpvsNq, IpvsSed
from meshlb.balance.ipvs_hash import IpvsDh, IpvsSh
from meshlb.balance.least_request import LeastRequest
from meshlb.balance.maglev import Maglev
from meshlb.balance.p2c import P2C
from meshlb.balance.peak_ewma import PeakEwma
from meshlb.balance.pick_first import PickFirst
from meshlb.balance.random_pick import Random
from meshlb.balance.registry import POLICIES
from meshlb.balance.ring_hash import RingHash
from meshlb.balance.round_robin import RoundRobin
from meshlb.balance.session import Session
from meshlb.balance.weighted_round_robin import WeightedRoundRobin
from meshlb.testing.policy_rules import RULES
from meshlb.testing.policy_trial import Trial
from tests.picking import seed_of_run

CONFIGS = [
    Anchor(),
    Anchor(full_scan_limit=4, aperture=2),
    IpvsDh(),
    IpvsLc(),
    IpvsNq(),
    IpvsSed(),
    IpvsSh(),
    LeastRequest(),
    LeastRequest(full_scan_limit=0),
    LeastRequest(full_scan_limit=0, choice_count=3),
    Maglev(),
    Maglev(hash_balance_factor=150),
    P2C(),
    PeakEwma(),
    PickFirst(),
    Random(),
    RingHash(),
    RingHash(hash_function="murmur_hash_2", hash_balance_factor=120),
    RoundRobin(),
    Session(),
    Session(first="maglev", max_keys=3),
    WeightedRoundRobin(),
]
# How an idle pool is shared, where not by weight; see ``check_policy``.
SHARES = dict.fromkeys(("ipvs:dh", "ipvs:lc", "ipvs:nq", "ipvs:sed", "ipvs:sh", "pick_first", "ring_hash", "session"), "own")


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_policy_keeps_every_rule(rule: Callable[[Trial], None], config: PolicyConfig) -> None:
    """One by one, so that a broken one is seen by its name."""
    rule(Trial(config=config, rng=random.Random(seed_of_run()), shares=SHARES.get(config.name, "weight")))


def test_every_registered_policy_takes_this_suite() -> None:
    """No policy escapes its contract."""
    assert set(POLICIES.values()) == {type(config) for config in CONFIGS}
