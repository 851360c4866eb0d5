"""Where a call begins that needs no ``Call`` unless something goes wrong: at its view, or, where calls are limited, past the gates first.

Nobody waits here. A call gets its places if every gate has one free that nobody waits for; else it leaves with none, and gets into the
queues as a ``Call`` (see ``admission``). So the queues stay first come, first served, and whoever finds room pays for a lock at each gate
and no more. The places belong to the attempt: they are given back when it ends, or kept by the ``Call`` that goes on after it.

Whatever interrupts a thread in here (a signal's handler may raise anywhere) is made up for by ``leave``, which is idempotent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from meshlb.call.call import Call
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt
from meshlb.limit.gate import Gate, Place
from meshlb.limit.gates import Gates
from meshlb.pool.limited_view import LimitedView
from meshlb.pool.view import View

SUCCESS: Final = Outcome.SUCCESS


class Entrance:
    """One view's, with limits. Any thread, as ``View``; only ``leave`` and ``end`` not in a finalizer."""

    __slots__ = ("_gates", "_held", "_line", "_of", "_view")

    def __init__(self, view: View, gates: Gates) -> None:
        self._view = view
        self._gates = gates
        self._line = view.line if isinstance(view, LimitedView) else None
        self._of: dict[str, tuple[Gate, ...]] = {}  # of each method, looked up once
        self._held: dict[Attempt, list[Place]] = {}

    def begin(self, info: PickInfo, stream: bool = False) -> Attempt | None:
        """``View.begin``; None also if a place is not to be had at once."""
        view, line = self._view, self._line
        if line is not None and not line.open:
            return None
        gates = self._of.get(info.method)
        if gates is None:
            gates = self._of[info.method] = tuple(gate for _, gate in self._gates.of(info.method))
        places: list[Place] = []
        attempt = None
        try:
            for gate in gates:
                place = Place(gate, _nobody)
                places.append(place)
                if not gate.enter_now(place):
                    break
            else:
                attempt = view.begin(info, stream)
                if attempt is not None:
                    self._held[attempt] = places
                    return attempt
        except BaseException:
            if attempt is not None:
                self._held.pop(attempt, None)
                view.end(attempt, Outcome.CANCELLED)
            _leave(places)
            raise
        _leave(places)
        return None

    def end(self, attempt: Attempt, outcome: Outcome = SUCCESS) -> bool:
        """``View.end``, and the places are free again, unless a ``Call`` has them now."""
        try:
            return self._view.end(attempt, outcome)
        finally:
            self.leave(attempt)

    def leave(self, attempt: Attempt) -> None:
        """Give back the attempt's places. Idempotent."""
        places = self._held.get(attempt)
        if places is not None:
            _leave(places)
            self._held.pop(attempt, None)

    def hand_over(self, attempt: Attempt, call: Call) -> None:
        """The call goes on as this one: it keeps the places of its first attempt."""
        places = self._held.get(attempt)
        if places is not None:
            call.keep(places)
            self._held.pop(attempt, None)


def entrance_of(view: View, gates: Gates | None) -> View | Entrance:
    """``gates``: None where nothing is limited."""
    return view if gates is None else Entrance(view, gates)


def _leave(places: Sequence[Place]) -> None:
    for place in places:
        place.gate.leave(place)


def _nobody() -> bool:
    return False
