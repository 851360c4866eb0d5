"""One call's way past the limits: its places at the gates of its method, service and target, and its turn for an endpoint with room.

The places are kept from the first attempt to the call's end; an attempt that follows another needs none. The turn for an endpoint is
each attempt's own, and over as soon as it has one (``pool.limited_view`` has the line).

A call that cannot be served anyway takes no place: nothing is entered before the view is ready. While it waits it may be given up from
another thread (``leave``), in the very moment in which it enters: so it looks again when it has.
"""

from __future__ import annotations

from collections.abc import Sequence

from meshlb.core.connectivity import Connectivity
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt
from meshlb.errors import OverLimitError
from meshlb.limit.gate import Gate, Place, Wake
from meshlb.limit.gates import Gates, Limit
from meshlb.pool.limited_view import LimitedView
from meshlb.pool.view import View

READY = Connectivity.READY


class Admission:
    """Used by one thread or task at a time, but for ``leave``. ``waits_for``: the limit whose turn it waits for, until ``until_s``."""

    __slots__ = ("_gates", "_left", "_limit", "_line", "_places", "_view", "until_s", "waits_for", "wake")

    def __init__(self, view: View, gates: Gates, method: str) -> None:
        self._view = view
        self._gates = gates.of(method)
        self._limit = gates.per_endpoint
        self.wake: Wake = _nobody
        self._places: list[Place] = []
        self._line: Place | None = None
        self._left = False
        self.waits_for: Limit | None = None
        self.until_s = 0.0

    def begin(self, info: PickInfo, stream: bool, now_s: float) -> Attempt | None:
        """An attempt; None if nothing is ready, or if it has to wait (``waits_for``). Raises OverLimitError."""
        self.waits_for = None
        view = self._view
        if view.state is not READY:
            self._leave_line()
            return None
        if not self._has_places(now_s):
            return None
        if self._limit is None or not isinstance(view, LimitedView):
            return view.begin(info, stream)
        return self._begin_in_turn(view, self._limit, info, stream, now_s)

    def keep(self, attempt: Attempt, gates: Sequence[Gate]) -> None:
        """Before it began: this attempt, its first, has a place at each of these, which are all; they are its own from now on."""
        for gate in gates:
            place = Place(gate, self.wake)
            self._places.append(place)
            if not gate.keep(attempt, place):  # it has ended already
                self._places.remove(place)

    def leave(self) -> None:
        """The call is over. Idempotent; anywhere."""
        self._left = True
        self._leave_line()
        for place in tuple(self._places):
            place.leave()

    def explain(self) -> str:
        """One clause for people."""
        limit = self.waits_for
        return "" if limit is None else f"its turn, with {limit.path}={limit.value}"

    def _has_places(self, now_s: float) -> bool:
        places, gates = self._places, self._gates
        while not places or places[-1].held:
            if len(places) == len(gates):
                return True
            limit, gate = gates[len(places)]
            place = Place(gate, self.wake)
            places.append(place)
            self._enter(place, limit, gate, limit.max_waiting, f"{limit.value} calls are in flight", now_s)
        self._wait(*gates[len(places) - 1], now_s)
        return False

    def _begin_in_turn(self, view: LimitedView, limit: Limit, info: PickInfo, stream: bool, now_s: float) -> Attempt | None:
        place = self._line
        if place is None:
            if not view.line.inside:
                attempt = view.begin(info, stream)
                if attempt is not None or view.state is not READY:
                    return attempt
            place = self._line = Place(view.line, self.wake)
            # The first in line is inside, and waits too.
            self._enter(place, limit, view.line, limit.max_waiting - 1, "every endpoint is full", now_s)
        if place.held:
            attempt = view.begin(info, stream)
            if attempt is not None or view.state is not READY:
                try:
                    self._leave_line()
                except BaseException:  # a signal's handler raised: nobody else knows of the attempt
                    if attempt is not None:
                        attempt.live.discard(attempt)
                    raise
                return attempt
        self._wait(limit, view.line, now_s)
        return None

    def _enter(self, place: Place, limit: Limit, gate: Gate, max_waiting: int, busy: str, now_s: float) -> None:
        if max_waiting < 0 or not gate.enter(place, max_waiting):
            gate.rejected += 1
            waits = f"{limit.max_waiting} wait, which is all that may" if limit.max_waiting else "none may wait"
            raise OverLimitError(self._view.pool.target, limit.path, limit.value, f"{busy}, and {waits}")
        self.until_s = now_s + limit.max_wait_s
        if self._left:
            self.leave()

    def _wait(self, limit: Limit, gate: Gate, now_s: float) -> None:
        if now_s >= self.until_s:
            gate.rejected += 1
            raise OverLimitError(self._view.pool.target, limit.path, limit.value, f"no turn within max_wait_s={limit.max_wait_s:g}")
        self.waits_for = limit

    def _leave_line(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.leave()


def _nobody() -> bool:
    return False
