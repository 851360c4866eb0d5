"""Timers with names: setting one again replaces it, and all of them can be ended together."""

from __future__ import annotations

from collections.abc import Callable

from meshlb.core.scheduler import Scheduler, Timer


class Timers:
    """``name in timers``: it is set and did not run yet. Lives on the discovery thread."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._set: dict[str, Timer] = {}

    def after(self, name: str, delay_s: float, callback: Callable[[], None]) -> None:
        def fire() -> None:
            del self._set[name]
            callback()

        self.cancel(name)
        self._set[name] = self._scheduler.call_later(delay_s, fire)

    def cancel(self, name: str) -> None:
        timer = self._set.pop(name, None)
        if timer is not None:
            timer.cancel()

    def cancel_all(self) -> None:
        while self._set:
            self._set.popitem()[1].cancel()

    def __contains__(self, name: str) -> bool:
        return name in self._set
