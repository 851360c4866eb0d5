"""Our contract suite for policies as one function, for the policies of others: in any test framework, or at a prompt.

Every policy of meshlb is held to the same rules (policy_rules.py). They are about what the pool and the transports rely on: that a pick is
somebody who is there, elsewhere on a retry, by weight, and cheap; not about which choice is a good one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal

from meshlb.balance.config import PolicyConfig
from meshlb.balance.registry import policy_of
from meshlb.core import validate
from meshlb.testing.policy_rules import RULES
from meshlb.testing.policy_trial import Trial

SHARES = ("weight", "even", "own")


def check_policy(
    policy: str | Mapping[str, object] | PolicyConfig,
    *,
    shares: Literal["weight", "even", "own"] = "weight",
    seed: int | None = None,
) -> None:
    """Try whether a policy keeps every promise that meshlb's own keep; a few seconds.

    ``policy``: as ``Config(policy=…)`` takes it: a registered name, a dict, or a configuration. ``shares``: what an idle pool's endpoints
    get: in proportion to their ``weight``, ``even`` for a policy that ignores weights, or ``own`` for one whose rule is another: a key
    decides, or one endpoint is kept to. ``seed``: of all chance; printed, and said in the message.

    Raises AssertionError that names the first broken rule, what was seen, and the seed; ConfigError for what is no policy.
    """
    config = policy_of(policy)
    validate.one_of("shares", shares, SHARES)
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    print(f"check_policy({str(config)!r}): seed={seed}")  # noqa: T201 - a test framework shows it with what fails
    for rule in RULES:
        try:
            rule(Trial(config=config, rng=random.Random(seed), shares=shares))
        except Exception as error:
            seen = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            promise = " ".join((rule.__doc__ or "").split())
            raise AssertionError(
                f"policy {config.name!r} breaks the rule {rule.__name__}: {promise}. Seen: {seen} (seed={seed})"
            ) from error
