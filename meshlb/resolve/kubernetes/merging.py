"""``slices.merge`` for a Service that changes a little at a time: what did not change is not looked at again.

One pod that changes in a Service of 10,000 resends one slice of a hundred. Merging all slices anew takes 30 ms; here the last result
is patched where the slices differ, in a fraction of one. And every endpoint that did not change is the same object as before, which
makes each comparison of two sets, down to the pool, a matter of pointers.

Patched is only what is simple: each address listed once, all of one family. Copies in several slices and pods of two families need the
whole picture, and get it: any doubt leads to ``merge``, so the result is always the one that ``merge`` gives.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from operator import attrgetter

from meshlb.core.endpoint import Endpoint, OrderedEndpoints
from meshlb.resolve.kubernetes.slices import located, merge
from meshlb.resolve.kubernetes.wire import SliceRecord
from meshlb.resolve.ports import PortSelector

_Place = tuple[str, int]
_identity = attrgetter("identity")


class Merger:
    """Of one target; remembers its last result. Belongs to the discovery thread."""

    __slots__ = ("_asked", "_records", "_result", "_simple")

    def __init__(self) -> None:
        self._asked: tuple[PortSelector, str] | None = None
        self._records: dict[str, SliceRecord] = {}
        self._result = OrderedEndpoints()
        self._simple = False  # each address is listed once, and all are of one family

    def merge(self, slices: Iterable[SliceRecord], port: PortSelector, family: str = "") -> OrderedEndpoints:
        """See ``slices.merge``."""
        listed = tuple(slices)
        records = {record.name: record for record in listed}
        named = len(records) == len(listed)
        result = self._patched(records, port) if named and self._simple and self._asked == (port, family) else None
        if result is None:
            result = OrderedEndpoints(merge(listed, port, family))
            used = sum(1 for record in listed for _ in _used(record, port))
            places = {(endpoint.host, endpoint.port) for endpoint in result}
            self._simple = named and used == len(places) == len(result) and len({":" in host for host, _ in places}) == 1
        self._asked, self._records, self._result = (port, family), records, result
        return result

    def _patched(self, records: dict[str, SliceRecord], port: PortSelector) -> OrderedEndpoints | None:
        """The last result with the differences put in; None if they are not simple."""
        before: dict[_Place, Endpoint] = {}
        now: list[tuple[_Place, Endpoint]] = []
        for name in records.keys() | self._records.keys():
            old, new = self._records.get(name), records.get(name)
            if old is not new:
                before.update(_unshared(old, new, port))
                now += _unshared(new, old, port)
        after = dict(now)
        if len(after) < len(now):
            return None
        gone = [place for place, endpoint in before.items() if after.get(place) != endpoint]
        come = [pair for pair in now if before.get(pair[0]) != pair[1]]
        if not gone and not come:
            return self._result
        six = ":" in self._result[0].host
        result = list(self._result)
        for place in gone:
            del result[_index(result, place)]
        for place, endpoint in come:
            at = _index(result, place)
            if (at < len(result) and (result[at].host, result[at].port) == place) or (":" in endpoint.host) != six:
                return None
            result.insert(at, located(endpoint, place[1]))
        return OrderedEndpoints(result) if result else None


def _used(record: SliceRecord | None, port: PortSelector) -> Iterator[tuple[_Place, Endpoint]]:
    """What a slice lists for this port, and where."""
    number = port.number_in(record.ports) if record is not None else 0
    if record is not None and number:
        for endpoint in record.endpoints:
            yield (endpoint.host, number), endpoint


def _unshared(record: SliceRecord | None, other: SliceRecord | None, port: PortSelector) -> list[tuple[_Place, Endpoint]]:
    """``_used`` without the very objects that ``other`` lists at the same places, which are most."""
    number = port.number_in(record.ports) if record is not None else 0
    if record is None or not number:
        return []
    same = other is not None and port.number_in(other.ports) == number
    shared = set(map(id, other.endpoints)) if other is not None and same else set()
    return [((endpoint.host, number), endpoint) for endpoint in record.endpoints if id(endpoint) not in shared]


def _index(result: list[Endpoint], place: _Place) -> int:
    return bisect_left(result, (*place, ""), key=_identity)
