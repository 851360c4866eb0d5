"""Policies of a user's own: one of 30 lines, and one with every part to be broken by a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import pytest

from meshlb.balance.config import PolicyConfig
from meshlb.balance.registry import POLICIES
from meshlb.core.clock import Rng
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.load.in_flight import LiveOnly

# --- a policy in 30 lines -----------------------------------------------------------------------------------------------------


class ByMethod(PolicyConfig):
    """Each method has its own endpoint, and another one in each process."""

    name = "by_method"

    def build(self, rng: Rng) -> ByMethodPolicy:
        return ByMethodPolicy(rng.random())


class ByMethodPolicy:
    name = "by_method"

    def __init__(self, salt: float) -> None:
        self.salt = salt

    def new_metric(self, now_s: float, /) -> LiveOnly:
        return LiveOnly()

    def new_picker(self, subchannels: Sequence[Subchannel], rng: Rng, /) -> ByMethodPicker:
        return ByMethodPicker(subchannels, self.salt)


class ByMethodPicker:
    def __init__(self, subchannels: Sequence[Subchannel], salt: float) -> None:
        self.subchannels = sorted(subchannels, key=lambda sub: sub.endpoint.identity)
        self.salt = salt

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        left = [sub for sub in self.subchannels if sub not in info.exclude] if info.exclude else self.subchannels
        left = left or self.subchannels
        return left[hash((info.method, self.salt)) % len(left)] if left else None


# --- one to be broken -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def registry_as_before() -> Iterator[None]:
    """What a test registers is gone after it."""
    before = dict(POLICIES)
    yield
    POLICIES.clear()
    POLICIES.update(before)


class Picker:
    """The first that is not to be avoided, or what ``instead`` says."""

    def __init__(self, subchannels: Sequence[Subchannel], instead: Callable[..., Any] | None = None) -> None:
        self.subchannels = subchannels
        if instead is not None:
            self.pick = instead  # type: ignore[method-assign]

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        subchannels = self.subchannels
        return next((sub for sub in subchannels if sub not in info.exclude), subchannels[0] if subchannels else None)


class Policy:
    """Makes its pickers by ``picker``."""

    name = "mine"

    def __init__(self) -> None:
        self.picker: Callable[[Sequence[Subchannel]], Any] = Picker

    def new_metric(self, now_s: float, /) -> LiveOnly:
        return LiveOnly()

    def new_picker(self, subchannels: Sequence[Subchannel], rng: Rng, /) -> Any:
        return self.picker(subchannels)


class MineConfig(PolicyConfig):
    """Builds a ``Policy``."""

    name: ClassVar[str] = "mine"

    def build(self, rng: Rng) -> Policy:
        return Policy()
