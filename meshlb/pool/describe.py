"""What a pool and a view know, for people: plain data for ``status()``, and one clause for the errors of calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from meshlb.core.connectivity import Connectivity
from meshlb.core.subchannel import Subchannel
from meshlb.load.in_flight import InFlight, LiveOnly
from meshlb.pool.snapshot import PoolSnapshot

if TYPE_CHECKING:
    from meshlb.pool.view import View


def describe(
    snapshot: PoolSnapshot, views: Sequence[View], more_of: Callable[[Subchannel, float], dict[str, Any]], now_s: float
) -> dict[str, Any]:
    """Where it is from and how old, every endpoint with its state and why. A spare that is listed yet stands in two lists.
    ``more_of``: what else there is to say of one."""
    latest = snapshot.latest
    stepped_back = {sub for view in views for sub in view.candidates if sub in snapshot.ejected}
    word_of = state_words(snapshot, stepped_back)

    def described(subchannels: Iterable[Subchannel]) -> list[dict[str, Any]]:
        return [_described(sub) for sub in subchannels]

    def _described(sub: Subchannel) -> dict[str, Any]:
        more = more_of(sub, now_s)
        if sub in stepped_back and "ejected" in more:
            more = {**more, "ejected": {**more["ejected"], "state": "used nevertheless: no other is ready"}}
        return {**_describe_one(sub, now_s, word_of(sub), views), **more}

    return {
        "source": snapshot.source,
        "authoritative": latest.authoritative if latest is not None else False,
        "age_s": round(now_s - snapshot.updated_s, 3) if latest is not None else None,
        "note": latest.note if latest is not None else "",
        "error": str(snapshot.error) if snapshot.error is not None else None,
        "views": [view.describe() for view in views],
        "endpoints": described(snapshot.listed),
        "fallback": described(snapshot.fallback),
        "spare": described(snapshot.spare),
    }


def explain(snapshot: PoolSnapshot, picking_from: int, on_spare: bool, wanted: Iterable[Connectivity]) -> str:
    """Why a call can go out now, or not; ``wanted`` are the states of the connections that should be there."""
    latest = snapshot.latest
    if latest is None:
        return str(snapshot.error) if snapshot.error is not None else "no source has answered yet"
    count = len(snapshot.listed)
    known = f"{count} endpoint{'' if count == 1 else 's'} known from {snapshot.source}"
    note = f" ({latest.note})" if latest.note else ""
    if picking_from:
        of_a_spare = " (of a spare)" if on_spare else ""
        return f"{known}, {picking_from} connection{'' if picking_from == 1 else 's'} ready{of_a_spare}{note}"
    if not snapshot.eligible:
        return f"{known}, none ready{note}"
    counts = Counter(state.value.replace("_", " ") for state in wanted)
    said = ", ".join(f"{n} {word}" for word, n in sorted(counts.items()))
    return f"{known}, none connected: {said}{note}"


def state_words(snapshot: PoolSnapshot, stepped_back: Collection[Subchannel] = ()) -> Callable[[Subchannel], str]:
    """What becomes of an endpoint's calls, in a word or a few: ``status()`` and ``meshlb watch`` say the same. ``stepped_back``: ejected ones
    that take traffic all the same, since no other is ready."""
    usable, spare, ejected = set(snapshot.eligible), set(snapshot.spare), snapshot.ejected

    def word_of(sub: Subchannel) -> str:
        endpoint = sub.endpoint
        if sub.fallback:
            return "fallback"
        if sub in ejected:
            return "usable, though ejected" if sub in stepped_back else "ejected"
        if sub in usable:
            return "usable, though terminating" if endpoint.terminating else "usable"
        if sub in spare:
            return "spare"
        return "terminating" if endpoint.terminating else "for callers elsewhere" if endpoint.ready else "not ready"

    return word_of


def _describe_one(sub: Subchannel, now_s: float, state: str, views: Sequence[View]) -> dict[str, Any]:
    endpoint = sub.endpoint
    return {
        "address": endpoint.address,
        "name": endpoint.name,
        "uid": endpoint.uid,
        "zone": endpoint.locality.zone,
        "weight": endpoint.weight,
        "state": state,
        "age_s": round(now_s - sub.created_s, 3),
        "connections": [view.state_of(sub).value for view in views],
        "links": [view.describe_connection(sub) for view in views],
        "in_flight": len(sub.unary),
        "streams": len(sub.streams),
        "load": _load(sub, now_s),
        "started": sub.started,
        "succeeded": sub.succeeded,
        "failed": sub.failed,
    }


def _load(sub: Subchannel, now_s: float) -> float | None:
    """What it is compared by, in its policy's unit: calls in flight and a penalty, or what a metric of another kind says (``peak_ewma``:
    seconds, ``anchor``: a factor). None where a metric of the user's own gives none."""
    try:
        in_calls = len(sub.unary) if isinstance(sub.metric, (InFlight, LiveOnly)) else 0
        return round(in_calls + sub.metric.load(now_s), 6)
    except Exception:  # noqa: BLE001 - whatever it raises, the rest shall be shown
        return None
