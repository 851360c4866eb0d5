"""``check_policy``: a good policy passes, a broken one is told which rule it breaks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from meshlb.balance.config import PolicyConfig
from meshlb.balance.random_pick import RandomPolicy
from meshlb.balance.registry import register_policy
from meshlb.core.clock import Rng
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.errors import ConfigError
from meshlb.load.in_flight import LiveOnly
from meshlb.testing import check_policy
from meshlb.testing.policy_rules import RULES
from tests.support.policies import ByMethod, registry_as_before  # noqa: F401 - a fixture


@pytest.mark.usefixtures("registry_as_before")
def test_a_policy_of_thirty_lines_passes() -> None:
    """By its name, once registered; how it shares calls is its own, and it says so."""
    register_policy(ByMethod)
    check_policy("by_method", shares="own")


# --- ours -----------------------------------------------------------------------------------------------------------------------


def test_ours_pass_by_name_and_the_seed_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """A framework shows it with what fails."""
    check_policy("p2c", seed=7)
    assert capsys.readouterr().out == "check_policy('p2c'): seed=7\n"
    check_policy({"name": "least_request", "choice_count": 3})
    assert re.fullmatch(r"check_policy\(.*\): seed=\d+\n", capsys.readouterr().out)


def test_what_is_no_policy_is_a_configuration_error() -> None:
    """Not a broken rule."""
    with pytest.raises(ConfigError, match="did you mean 'p2c'"):
        check_policy("p3c")
    with pytest.raises(ConfigError, match=r"shares='some': must be one of even, own, weight"):
        check_policy("p2c", shares="some")  # type: ignore[arg-type]


# --- broken ones ----------------------------------------------------------------------------------------------------------------


class BrokenMetric(LiveOnly):
    def __init__(self) -> None:
        self.reads = 0
        self.live = 0


class ReadsChange(BrokenMetric):
    def load(self, now_s: float, /) -> float:
        self.reads += 1
        return float(self.reads)


class Negative(BrokenMetric):
    def on_end(self, now_s: float, rtt_s: float, outcome: Outcome, /) -> None:
        self.live -= 1

    def load(self, now_s: float, /) -> float:
        return float(self.live)


class Grows(LiveOnly):
    def load(self, now_s: float, /) -> float:
        return max(now_s, 0.0)


class NeedsItsStart(BrokenMetric):
    def on_start(self, now_s: float, /) -> None:
        self.live += 1

    def on_end(self, now_s: float, rtt_s: float, outcome: Outcome, /) -> None:
        if outcome is Outcome.CANCELLED:
            self.started = [None] * self.live
            self.started.pop()
        self.live -= self.live > 0


class DividesByTime(LiveOnly):
    def __init__(self) -> None:
        self.ended_s = 0.0

    def on_end(self, now_s: float, rtt_s: float, outcome: Outcome, /) -> None:
        self.ended_s = now_s

    def load(self, now_s: float, /) -> float:
        return 1.0 / abs(now_s - self.ended_s + 3.0) if now_s < self.ended_s else 0.0


class BrokenPolicy(RandomPolicy):
    """``random``, but for one thing."""

    def __init__(self, metric: Callable[[], LiveOnly], pick: Callable[..., Any] | None, parts: dict[str, Any]) -> None:
        self.metric, self.pick = metric, pick
        self.turn: float = 0
        self.weights: dict[Subchannel, float] = {}
        self.first: Subchannel | None = None
        for name, part in parts.items():
            setattr(self, name, part)

    def new_metric(self, now_s: float, /) -> LiveOnly:
        return self.metric()

    def new_picker(self, subchannels: Sequence[Subchannel], rng: Rng, /) -> Any:
        good, own = super().new_picker(subchannels, rng), self.pick
        if own is None:
            return good
        scene = SimpleNamespace(good=good, subs=subchannels, policy=self, rng=rng)
        return SimpleNamespace(pick=lambda info, now_s: own(scene, info, now_s))


def broken(pick: Callable[..., Any] | None = None, metric: Callable[[], LiveOnly] = LiveOnly, **parts: Any) -> PolicyConfig:
    class Broken(PolicyConfig):
        name = "broken"

        def build(self, rng: Rng) -> BrokenPolicy:
            return BrokenPolicy(metric, pick, {"name": "broken", **parts})

    return Broken()


def in_turn(scene: Any, info: PickInfo, now_s: float) -> Subchannel | None:
    """Round robin that always begins at the first."""
    scene.policy.turn += 1
    left = allowed(scene, info)
    return left[(scene.policy.turn - 1) % len(left)] if left else None


def least(scene: Any, info: PickInfo, now_s: float) -> Subchannel | None:
    """A scan, however many there are."""
    return min(allowed(scene, info), key=lambda sub: (len(sub.unary), scene.rng.random()), default=None)


def by_old_weights(scene: Any, info: PickInfo, now_s: float) -> Subchannel | None:
    """As they were when it first saw them."""
    weights = scene.policy.weights
    left = allowed(scene, info)
    return scene.rng.choices(left, [weights.setdefault(sub, sub.weight) for sub in left])[0] if left else None


def among_a_hundred(scene: Any, info: PickInfo, now_s: float) -> Subchannel | None:
    left = [sub for sub in scene.subs[:100] if sub not in info.exclude] or scene.subs[:100]
    return scene.rng.choices(left, [sub.weight for sub in left])[0] if left else None


def knows_all_it_avoids(scene: Any, info: PickInfo, now_s: float) -> Subchannel | None:
    for sub in info.exclude:
        scene.subs.index(sub)
    return scene.good.pick(info, now_s)


def begins(scene: Any, info: PickInfo, now_s: float) -> Subchannel | None:
    picked = scene.good.pick(info, now_s)
    if picked is not None:
        picked.started += 1
    return picked


def one_for_all(scene: Any, info: PickInfo, now_s: float) -> Subchannel | None:
    """Where the first picker of the policy's sent the first call, while others are to be avoided or not."""
    scene.policy.first = scene.policy.first or scene.good.pick(info, now_s)
    return scene.policy.first if scene.subs else None


def uneven(scene: Any, info: PickInfo, now_s: float) -> Subchannel | None:
    left = allowed(scene, info)
    return left[int(scene.rng.random() ** 1.1 * len(left))] if left else None


def allowed(scene: Any, info: PickInfo) -> list[Subchannel]:
    return [sub for sub in scene.subs if sub not in info.exclude] or list(scene.subs)


def raises_alone(scene: Any, info: PickInfo, now_s: float) -> Subchannel | None:
    return scene.good.pick(info, now_s) or scene.subs[0]


def gives_up(scene: Any, info: PickInfo, now_s: float) -> Subchannel | None:
    left = [sub for sub in scene.subs if sub not in info.exclude]
    return left[int(scene.rng.random() * len(left))] if left else None


def keeps_to_its_key(scene: Any, info: PickInfo, now_s: float) -> Subchannel | None:
    """Avoids nobody where a key decides."""
    return scene.good.pick(info, now_s) if info.hash is None else scene.subs[info.hash % len(scene.subs)]


def gives_up_a_key(scene: Any, info: PickInfo, now_s: float) -> Subchannel | None:
    left = [sub for sub in scene.subs if sub not in info.exclude]
    if info.hash is None:
        return scene.good.pick(info, now_s)
    return left[info.hash % len(left)] if left else None


def needs_time_to_pass(scene: Any, info: PickInfo, now_s: float) -> Subchannel | None:
    if now_s < scene.policy.turn:
        raise RuntimeError("the clock went back")
    scene.policy.turn = now_s
    return scene.good.pick(info, now_s)


BROKEN: dict[str, tuple[str, PolicyConfig, str]] = {
    "has another name": ("it_has_the_name_it_is_known_by", broken(name="other"), "weight"),
    "raises where nobody is": ("nobody_gives_none", broken(raises_alone), "weight"),
    "gives up where all are avoided": ("the_only_one_is_picked", broken(gives_up), "even"),
    "keeps to whom it first saw": ("picks_are_members", broken(one_for_all), "own"),
    "ignores weights": ("an_idle_pool_is_shared", broken(in_turn), "weight"),
    "is uneven": ("an_idle_pool_is_shared", broken(uneven), "even"),
    "keeps old weights": ("weights_are_read_when_a_picker_is_made", broken(by_old_weights), "weight"),
    "never avoids": (
        "the_avoided_are_not_picked",
        broken(lambda scene, info, now_s: scene.good.pick(PickInfo(), now_s)),
        "weight",
    ),
    "never avoids with a key": ("the_avoided_are_not_picked", broken(keeps_to_its_key, hashes=True), "weight"),
    "gives up a key where all are avoided": (
        "if_all_are_avoided_somebody_is_picked",
        broken(gives_up_a_key, hashes=True),
        "weight",
    ),
    "does not know strangers": ("avoiding_a_stranger_changes_nothing", broken(knows_all_it_avoids), "weight"),
    "leaves out the last": ("all_of_many_are_reached", broken(among_a_hundred), "weight"),
    "begins at the first": ("processes_begin_at_different_endpoints", broken(in_turn), "even"),
    "sends a key anywhere": ("equal_keys_go_to_one_endpoint", broken(hashes=True), "weight"),
    "needs time to pass": ("threads_may_pick_and_report_at_once", broken(needs_time_to_pass), "weight"),
    "counts reads": ("load_is_a_pure_read", broken(metric=ReadsChange), "weight"),
    "is below zero": ("load_is_a_pure_read", broken(metric=Negative), "weight"),
    "grows": ("loads_fall_as_time_passes", broken(metric=Grows), "weight"),
    "needs its starts": ("a_metric_takes_any_order_and_any_time", broken(metric=NeedsItsStart), "weight"),
    "divides by a time": ("a_metric_takes_any_order_and_any_time", broken(metric=DividesByTime), "weight"),
    "ticks, but never": ("time_is_taken_note_of", broken(tick=lambda now_s: False), "weight"),
    "is always due": ("time_is_taken_note_of", broken(tick=lambda now_s: False, due_s=lambda: 0.0), "weight"),
    "counts a pick": ("a_pick_changes_no_counts", broken(begins), "weight"),
    "looks at all": ("a_pick_does_not_grow_with_the_pool", broken(least), "even"),
}


@pytest.mark.parametrize(("rule", "config", "shares"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_broken_is_told_by_the_rule(rule: str, config: PolicyConfig, shares: Any) -> None:
    """The rule's name and promise, what was seen, and the seed to see it again."""
    with pytest.raises(AssertionError) as caught:
        check_policy(config, shares=shares, seed=3)
    assert str(caught.value).startswith(f"policy 'broken' breaks the rule {rule}: ")
    assert "Seen: " in str(caught.value)
    assert str(caught.value).endswith("(seed=3)")


def test_every_rule_catches_something() -> None:
    """But for one that others come before: what breaks it breaks a stronger one."""
    caught = {rule for rule, _, _ in BROKEN.values()}
    assert {rule.__name__ for rule in RULES} - caught == {"known_is_not_ready"}
