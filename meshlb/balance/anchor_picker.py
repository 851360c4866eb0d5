"""How ``anchor`` picks: a search for the least cost, or whose turn it is. Why: anchor.py.

The order is by ``draw / weight``, a draw an endpoint and process (exponential, so that each stands first as often as it is worth) and
discovery's weight: what slow start and load reports make of that changes all the time. So the order is the same after every update, but
for who is new or gone. Two hands point into it, the home and the turn; they belong to the policy, as
keys, so that a new picker finds them where they were, or at who follows.

Weights: an idle pool is shared by turns in proportion to weight. Several at once are compared per weight, and an endpoint lighter than
the home is handicapped by what one more call would load it more than that (see sample.py).

Streams take part with ``stream_weight``, and end the turn of where they begin: opened one after the other they go round, past who
has more than its neighbours.

Costs are kept up to date by whoever begins or ends a call; what time changes (idle memories, warming, homes, width) is looked at every
``REFRESH_S``, by the pick that comes next: no timer, and no work while nobody calls.

Threads: everything here is a single store of something derived anew from the metrics and the hands. Two that refresh at once do it
twice; two that take a turn at once may both take the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from math import inf
from operator import itemgetter

from meshlb.balance.draw import relative_weights
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.load.anchored import Anchored, Costs

RANKS = 0.3  # from the first to the last; 0 to 2 is a plateau, and 0 costs a tenth with a hundred endpoints
REFRESH_S = 0.25  # what is forgotten within 20 s changes by 1 % meanwhile
HOME_S = 10.0
TURN = 20.0  # picks
ROUND = 200.0  # picks
ALONE_RATIO = 0.15
_FORGET = 0.02  # of the share of picks that met another call, with each
_NEIGHBOURS = 8

Getter = Callable[[list[float]], tuple[float, ...]]


class Hands:
    """What survives a picker: where the two hands point (as places in the order, by key), how wide the scan is, and how often a pick met
    another call."""

    __slots__ = ("aperture", "company_ratio", "full_scan_limit", "home", "home_until_s", "start", "turn", "turns_left", "width")

    def __init__(self, full_scan_limit: int, aperture: int, start: float) -> None:
        self.full_scan_limit = full_scan_limit
        self.aperture = aperture
        self.start = start
        self.home = -1.0
        self.home_until_s: float | None = None
        self.turn = -1.0
        self.turns_left = 1.0 + start * TURN  # processes that begin together do not move on together
        self.width = aperture
        self.company_ratio = 0.0


class AnchorPicker:
    """n >= 2 subchannels. Immutable but for where the hands point; any thread."""

    __slots__ = (
        "_busy",
        "_costs",
        "_due_s",
        "_hands",
        "_home",
        "_keys",
        "_list",
        "_metrics",
        "_order",
        "_scan",
        "_streams_then",
        "_tenure",
        "_turn",
        "_weights",
        "_width",
    )

    def __init__(self, subchannels: Sequence[Subchannel], costs: Costs, hands: Hands) -> None:
        relative = relative_weights(subchannels)
        weights = relative if relative is not None else (1.0,) * len(subchannels)
        keys = [_metric(sub).draw / sub.endpoint.weight for sub in subchannels]
        ordered = sorted(range(len(keys)), key=keys.__getitem__)
        self._keys = [keys[at] for at in ordered]
        self._order = tuple([subchannels[at] for at in ordered])
        self._weights = [weights[at] for at in ordered]
        self._metrics = [_metric(sub) for sub in self._order]
        self._costs = costs
        self._list = costs.of
        self._busy = costs.busy
        self._hands = hands
        self._tenure = min(TURN, max(1.0, ROUND / len(ordered)))
        self._turn = bisect_left(self._keys, hands.turn) % len(ordered)
        self._streams_then = len(self._order[self._turn].streams)
        self._due_s = -inf
        self._seat(bisect_left(self._keys, hands.home) % len(ordered), self._wanted_width(()))

    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        if now_s >= self._due_s:
            self._refresh(now_s)
        hands = self._hands
        company = hands.company_ratio
        if self._busy:
            hands.company_ratio = company + _FORGET * (1.0 - company)
        else:
            hands.company_ratio = company - _FORGET * company
            if company < ALONE_RATIO:
                subchannel = self._in_turn(info.exclude, now_s)
                if subchannel is not None:
                    return subchannel
        if info.exclude:
            return self._cheapest_outside(info.exclude)
        getter, scanned = self._scan
        costs = getter(self._list)
        return scanned[costs.index(min(costs))]

    # --- one call at a time -----------------------------------------------------------------------------------------------

    def _in_turn(self, exclude: frozenset[Subchannel], now_s: float) -> Subchannel | None:
        """Whose turn it is; None if all are to be avoided or shunned."""
        at, hands = self._turn, self._hands
        left = hands.turns_left
        subchannel = self._order[at]
        stays = subchannel not in exclude and len(subchannel.streams) <= self._streams_then and not self._metrics[at].shunned(now_s)
        if stays and left >= 1.0:
            hands.turns_left = left - 1.0
            return subchannel
        n = len(self._order)
        left %= 1.0
        for step in range(1, n + 1):
            other = (at + step) % n
            subchannel, metric = self._order[other], self._metrics[other]
            if subchannel in exclude or metric.shunned(now_s) or self._crowded(other):
                continue
            left += self._tenure * self._weights[other] * metric.warmth(now_s)
            if left >= 1.0:
                self._turn = other
                self._streams_then = len(subchannel.streams)
                hands.turn = self._keys[other]
                hands.turns_left = left - 1.0
                return subchannel
        return None

    def _crowded(self, at: int) -> bool:
        """Has it clearly more streams than some of those that follow?"""
        streams = len(self._order[at].streams)
        if streams < 2:
            return False
        order, n = self._order, len(self._order)
        return streams > 1 + min([len(order[(at + step) % n].streams) for step in range(1, _NEIGHBOURS + 1)])

    # --- several at once --------------------------------------------------------------------------------------------------

    def _cheapest_outside(self, exclude: frozenset[Subchannel]) -> Subchannel:
        getter, scanned = self._scan
        costs = getter(self._list)
        usable = [(cost, at) for at, cost in enumerate(costs) if scanned[at] not in exclude]
        if usable:
            return scanned[min(usable)[1]]
        elsewhere = next((sub for sub in self._order if sub not in exclude), None)
        return elsewhere if elsewhere is not None else scanned[costs.index(min(costs))]

    def _refresh(self, now_s: float) -> None:
        """Let time pass for those that are looked at: memories fade, the home moves on, the scan widens."""
        for metric in self._busy.copy():
            if metric.idle:
                self._busy.discard(metric)
        home, width = self._home_at(now_s), self._wanted_width(self._scan[1])
        if (home, width) != (self._home, self._width):
            self._seat(home, width)
        for at in range(home, home + width):
            self._metrics[at % len(self._metrics)].refresh(now_s)
        self._due_s = now_s + REFRESH_S  # at the end: whoever reads it finds costs

    def _home_at(self, now_s: float) -> int:
        """Who comes first, now."""
        hands, n = self._hands, len(self._keys)
        at = bisect_left(self._keys, hands.home) % n
        if hands.home_until_s is None:
            hands.home_until_s = now_s + HOME_S * hands.start * self._weights[at]
        elif now_s >= hands.home_until_s:
            at = (at + 1) % n
            hands.home_until_s = now_s + HOME_S * self._weights[at]
        hands.home = self._keys[at]
        return at

    def _wanted_width(self, scanned: Sequence[Subchannel]) -> int:
        """How many are looked at: all, or as many as keep it at one call each on those that were."""
        hands, n = self._hands, len(self._order)
        if n <= hands.full_scan_limit:
            return n
        width = min(n, hands.width)
        if scanned:
            live = sum([len(sub.unary) for sub in scanned])
            if live > width:
                width = min(n, 2 * width)
            elif live < width / 4:
                width = max(hands.aperture, width // 2)
            hands.width = width
        return width

    def _seat(self, home: int, width: int) -> None:
        """Rank those that are looked at, from the home on."""
        n = len(self._order)
        lightest = self._weights[home]
        places: list[int] = []
        scanned: list[Subchannel] = []
        for position in range(width):
            at = (home + position) % n
            metric, per_attempt = self._metrics[at], 1.0 / self._weights[at]
            metric.seat(self._order[at], 1.0 + RANKS * position / width, max(0.0, per_attempt - 1.0 / lightest), per_attempt)
            places.append(metric.place)
            scanned.append(self._order[at])
        self._scan: tuple[Getter, Sequence[Subchannel]] = (itemgetter(*places), tuple(scanned))
        self._home, self._width = home, width


def _metric(subchannel: Subchannel) -> Anchored:
    metric = subchannel.metric
    assert isinstance(metric, Anchored), f"{subchannel} has another policy's metric: {metric!r}"
    return metric
