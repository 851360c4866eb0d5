"""Around a policy that is not ours: whatever it does wrong, a call goes out all the same.

What it raises, a pick of somebody who is not among the picker's subchannels, a None though somebody is there, a metric that is none: each
is reported, and replaced. A pick by ``random``, which needs nothing of anybody; a metric by one that adds nothing; what it
wanted to be told or to do in time, by nothing. It is asked again the next time: a policy that fails now and then still decides the rest.

Our own policies are not wrapped: they take the contract suite, and a wrapped pick costs 0.2 us more. A metric is not wrapped either: its
methods are called where transports expect anything (a call whose start raises is sent without meshlb, and an end that raises is counted).

A policy that hangs is beyond help.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

from meshlb.balance.random_pick import RandomPolicy
from meshlb.core.clock import Rng
from meshlb.core.policy import LoadMetric, Picker, PickInfo, Policy
from meshlb.core.subchannel import Subchannel
from meshlb.load.in_flight import LiveOnly

MIN_TICK_S = 0.1  # between two ticks: a ``due_s`` that is always in the past must not keep the discovery thread busy

_RAISED: Any = object()
_METHODS = ("on_start", "on_end", "load", "forgive")


class GuardedPolicy:
    """The same policy, and its optional parts; ``on_error`` hears what it does wrong, from any thread."""

    def __init__(self, policy: Policy, on_error: Callable[[Exception], None]) -> None:
        self.name = str(policy.name)
        self.hashes = bool(getattr(policy, "hashes", False))
        self._policy = policy
        self._on_error = on_error
        self._spare = RandomPolicy()
        self._ticked_s = 0.0
        if hasattr(policy, "know"):
            self.know = self._shielded(policy.know)
        if hasattr(policy, "on_endpoints"):
            self.on_endpoints = self._shielded(policy.on_endpoints)
        if hasattr(policy, "tick") and hasattr(policy, "due_s"):
            self._tick = self._shielded(policy.tick)
            self._due_s = self._shielded(policy.due_s)
            self.tick, self.due_s = self._tick_now, self._due_later

    def new_metric(self, now_s: float, /) -> LoadMetric:
        metric: Any = self._shielded(self._policy.new_metric)(now_s)
        return metric if self._has(metric, "new_metric", *_METHODS) else LiveOnly()

    def new_picker(self, subchannels: Sequence[Subchannel], rng: Rng, /) -> Picker:
        spare = self._spare.new_picker(subchannels, rng)
        picker: Any = self._shielded(self._policy.new_picker)(subchannels, rng)
        if not self._has(picker, "new_picker", "pick"):
            return spare
        return _GuardedPicker(self.name, picker, frozenset(subchannels), spare, self._on_error)

    def _shielded(self, call: Callable[..., object]) -> Callable[..., object]:
        def shielded(*given: object) -> object:
            try:
                return call(*given)
            except Exception as error:  # noqa: BLE001 - somebody else's code
                self._on_error(error)
                return _RAISED

        return shielded

    def _has(self, made: object, by: str, *methods: str) -> bool:
        missing = [method for method in methods if not callable(getattr(made, method, None))]
        if missing and made is not _RAISED:
            self._on_error(TypeError(f"policy {self.name!r}: {by} returned {made!r}, which has no {', '.join(missing)}"))
        return not missing

    def _tick_now(self, now_s: float) -> bool:
        self._ticked_s = now_s
        return self._tick(now_s) is True

    def _due_later(self) -> float | None:
        due_s = self._due_s()
        if not isinstance(due_s, (int, float)) or not isfinite(due_s):
            return None
        return max(due_s, self._ticked_s + MIN_TICK_S)


class _GuardedPicker:
    __slots__ = ("_members", "_name", "_on_error", "_pick", "_spare")

    def __init__(
        self,
        name: str,
        picker: Picker,
        members: frozenset[Subchannel],
        spare: Picker,
        on_error: Callable[[Exception], None],
    ) -> None:
        self._name = name
        self._pick = picker.pick
        self._members = members
        self._spare = spare
        self._on_error = on_error

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        try:
            picked = self._pick(info, now_s)
            if picked in self._members:
                return picked
            if self._members:
                raise ValueError(
                    f"policy {self._name!r} picked {picked!r}, which is none of the subchannels that its picker was made with"
                )
        except Exception as error:  # noqa: BLE001 - somebody else's code
            self._on_error(error)
        return self._spare.pick(info, now_s)
