"""What tests of policies share: a seeded rng that says its seed, and the fleet that ``check_policy`` tries policies on."""

from __future__ import annotations

import os
import random

from meshlb.testing.policy_trial import hold, know, picks, shares, subchannels_of

__all__ = ["hold", "know", "picks", "seed_of_run", "seeded", "shares", "subchannels_of"]


def seed_of_run() -> int:
    """The same on each run, another one with TEST_SEED=<n>; pytest shows the seed of what fails."""
    seed = int(os.environ.get("TEST_SEED", "12345"))
    print(f"TEST_SEED={seed}")
    return seed


def seeded() -> random.Random:
    """Numbers by that seed."""
    return random.Random(seed_of_run())
