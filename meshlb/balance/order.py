"""A list of endpoints that is each process' own, and stays as it is: for policies that take "the first".

Policies that scan a list from its head, or keep to its first, send all processes to the same endpoint as long as their lists are the
same, and discovery sorts. So each endpoint has a random place here, drawn when the process first hears of it and kept as long as it
is known: updates, reconnects and whoever else comes or goes change nothing for it. A newcomer's place may be anywhere, so that the
newest pods are not everybody's last choice, nor, after a roll-out, everybody's same first.
"""

from __future__ import annotations

from meshlb.core.subchannel import Subchannel
from meshlb.load.in_flight import LiveOnly


class Placed(LiveOnly):
    """An endpoint's place in the list, as its metric: there is one an endpoint, and it lives as long. Nothing is added to the live
    attempts. ``seen``: some picker was made with it."""

    __slots__ = ("born_s", "place", "seen")

    def __init__(self, place: float, born_s: float) -> None:
        self.place = place
        self.born_s = born_s
        self.seen = False


def placed(subchannel: Subchannel) -> Placed:
    """The metric, known to be one of these: a policy is asked only about subchannels whose metrics it made."""
    metric = subchannel.metric
    assert isinstance(metric, Placed)
    return metric


def place_of(subchannel: Subchannel) -> float:
    """For sorting."""
    return placed(subchannel).place
