"""Where a call begins that needs no ``Call`` unless something goes wrong: at its view, or, where calls are limited, past the gates first.

Nobody waits here. A call gets a place if every gate has one free that nobody waits for; else it leaves with none, and gets into the
queues as a ``Call`` (see ``admission``). So the queues stay first come, first served, and whoever finds room takes no lock: its attempt is
its key at each gate (``limit.gate``), and nothing else is kept of it. The places belong to the attempt: they are given back when it ends,
or kept by the ``Call`` that goes on after it.

A gate is looked at before an attempt is begun, so that who finds it full troubles no endpoint; and again once the attempt is inside, since
another thread may have been quicker.

Whatever interrupts a thread in here (a signal's handler may raise anywhere) is made up for by ``leave``, which is idempotent.
"""

from __future__ import annotations

from typing import Final

from meshlb.call.call import Call
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Attempt
from meshlb.limit.gate import Gate
from meshlb.limit.gates import Gates
from meshlb.pool.limited_view import LimitedView
from meshlb.pool.view import View

SUCCESS: Final = Outcome.SUCCESS


class Entrance:
    """One view's, with limits. Any thread, as ``View``."""

    __slots__ = ("_gates", "_line", "_of", "_view")

    def __init__(self, view: View, gates: Gates) -> None:
        self._view = view
        self._gates = gates
        self._line = view.line if isinstance(view, LimitedView) else None
        self._of: dict[str, tuple[Gate, ...]] = {}  # of each method, looked up once

    def begin(self, info: PickInfo, stream: bool = False) -> Attempt | None:
        """``View.begin``; None also if a place is not to be had at once."""
        line = self._line
        if line is not None and line.inside:
            return None
        gates = self._of.get(info.method)
        if gates is None:
            gates = self._of[info.method] = tuple([gate for _, gate in self._gates.of(info.method)])
        for gate in gates:
            if gate.queue or len(gate.inside) >= gate.places:
                return None
        attempt = None
        try:
            attempt = self._view.begin(info, stream)
            if attempt is None:
                return None
            for gate in gates:
                inside = gate.inside
                inside.add(attempt)
                if len(inside) > gate.places:
                    break
            else:
                return attempt
        except BaseException:
            if attempt is not None:
                self.end(attempt, Outcome.CANCELLED)
            raise
        self.end(attempt, Outcome.CANCELLED)
        return None

    def end(self, attempt: Attempt, outcome: Outcome = SUCCESS) -> bool:
        """``View.end``, and the places are free again, unless a ``Call`` has them now."""
        try:
            return self._view.end(attempt, outcome)
        finally:
            for gate in self._of.get(attempt.info.method, ()):  # ``leave``, written out
                gate.inside.discard(attempt)
                if gate.queue:
                    gate.settle()

    def leave(self, attempt: Attempt) -> None:
        """Give back the attempt's places, whatever interrupted its end. Idempotent; anywhere."""
        for gate in self._of.get(attempt.info.method, ()):
            gate.leave(attempt)
        self._view.pool.knock()

    def hand_over(self, attempt: Attempt, call: Call) -> None:
        """The call goes on as this one: it keeps the places of its first attempt."""
        call.keep(attempt, self._of.get(attempt.info.method, ()))


def entrance_of(view: View, gates: Gates | None) -> View | Entrance:
    """``gates``: None where nothing is limited."""
    return view if gates is None else Entrance(view, gates)
