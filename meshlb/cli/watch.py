"""``meshlb watch TARGET``: what discovery sees, live, a line a change; the same pool that channels have, without connections.

Every published set is told, also those that follow each other within a millisecond: a set is taken over in the very call that
announces it. (While nobody reads what is printed, as under ``less``, the oldest that wait are merged.) What is not announced (a source that fails while another serves, the age of what is known) is looked at every second.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from meshlb.cli.cluster import ClusterFlags, stock_channel, tell_stock_channel
from meshlb.core import validate
from meshlb.core.target import Target
from meshlb.mesh import Mesh
from meshlb.pool.describe import state_words
from meshlb.pool.snapshot import PoolSnapshot
from meshlb.pool.view import View

LOOK_S: Final = 1.0  # between two looks at what nobody announces
PENDING: Final = 256  # states that wait for a reader who does not read; of older ones only what still differs is told

# What people see in front of a line.
_SIGNS: Final = {"added": "+", "removed": "-", "changed": "~", "state": ">", "error": "!", "recovered": ">"}


@dataclass(frozen=True, slots=True)
class Event:
    """One line: ``kind`` is a key of ``_SIGNS``, ``text`` for people, ``data`` for programs."""

    kind: str
    text: str
    data: dict[str, Any]


def watch(target: str, cluster: ClusterFlags, *, for_s: float | None, as_json: bool) -> int:
    """Print until the time is over or Ctrl-C; 0, 1 if nothing was ever known, 130 after Ctrl-C."""
    deadline_s = None if for_s is None else time.monotonic() + validate.seconds("--for", for_s)
    stock = stock_channel(target)
    if stock:
        tell_stock_channel(target, stock, as_json=as_json)
        return 0
    config, where = cluster.config_for(Target.parse(target))
    if where is not None and not as_json:
        print(where, file=sys.stderr)
    logging.getLogger("meshlb").addHandler(logging.NullHandler())  # it would say on standard error what is a line here
    with Mesh(config) as mesh:
        binding = mesh.bind(target)
        news = News()
        news.view = view = binding.view(news)
        followed = Followed()
        news.on_change()  # what was known before the view was
        look_s = time.monotonic() + LOOK_S
        try:
            while deadline_s is None or time.monotonic() < deadline_s:
                snapshot = news.next(max(0.0, min(look_s, deadline_s or look_s) - time.monotonic()))
                if snapshot is not None:
                    _print(followed.snapshot(snapshot), as_json)
                if time.monotonic() >= look_s:
                    look_s += LOOK_S
                    _print(followed.status(_discovery(mesh)), as_json)
        except KeyboardInterrupt:
            return 130
        finally:
            view.close()
    return 0 if followed.known else 1


def _discovery(mesh: Mesh) -> dict[str, Any]:
    return next((pool["discovery"] or {} for pool in mesh.status()["pools"].values()), {})


class News:
    """A view's listener: every state of the pool, in order, for the main thread; the last ``PENDING`` while that cannot print."""

    def __init__(self) -> None:
        self.view: View | None = None
        self._changed = threading.Condition()
        self._pending: deque[PoolSnapshot] = deque(maxlen=PENDING)

    def on_change(self) -> None:
        if self.view is not None:
            with self._changed:
                self._pending.append(self.view.pool.snapshot)
                self._changed.notify()

    def next(self, timeout_s: float) -> PoolSnapshot | None:
        """None if there is none in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending, timeout_s)
            return self._pending.popleft() if self._pending else None


class Followed:
    """What was told so far, and so what is new in what comes next."""

    def __init__(self) -> None:
        self.known = False
        self._state: dict[str, Any] = {}
        self._endpoints: dict[tuple[str, str], dict[str, Any]] = {}
        self._error = ""
        self._stale = False
        self._failing: dict[str, str] = {}

    def snapshot(self, snapshot: PoolSnapshot) -> Iterator[Event]:
        """What a state of the pool changes."""
        if snapshot.latest is None:
            error = str(snapshot.error) if snapshot.error is not None else ""
            if error and error != self._error:
                yield Event("error", error, {"source": "", "error": error})
            self._error = error
            return
        self.known, self._error = True, ""
        latest = snapshot.latest
        endpoints = _endpoints(snapshot)
        state = {
            "source": latest.source,
            "authoritative": latest.authoritative,
            "service_port": latest.service_port,
            "note": latest.note,
        }
        if state != self._state:
            self._state = state
            yield Event("state", _state_text(state, len(latest)), {**state, "endpoints": len(latest)})
        yield from self._differences(endpoints)

    def _differences(self, endpoints: dict[tuple[str, str], dict[str, Any]]) -> Iterator[Event]:
        old, self._endpoints = self._endpoints, endpoints
        for key, one in old.items():
            if key not in endpoints:
                yield Event("removed", _endpoint_text(one), one)
        for key, one in endpoints.items():
            before = old.get(key)
            if before is None:
                yield Event("added", _endpoint_text(one), one)
            elif before != one:
                changes = {field: before[field] for field in one if one[field] != before[field]}
                said = ", ".join(f"{field} {_word(value)} → {_word(one[field])}" for field, value in changes.items())
                yield Event("changed", "  ".join(filter(None, (one["address"], one["name"], said))), {**one, "before": changes})

    def status(self, discovery: dict[str, Any]) -> Iterator[Event]:
        """What ``describe()`` of the target's resolver says of the sources that are not in use, and of the age of what is known."""
        stale = bool(discovery.get("stale"))
        if stale != self._stale:
            self._stale = stale
            kind, text = ("error", "stale: not confirmed for a while") if stale else ("recovered", "confirmed again")
            yield Event(kind, text, {"stale": stale, "source": "", "error": text if stale else ""})
        for name, source in discovery.get("sources", {}).items():
            failed = str(source["said"]) if source.get("failed") else ""
            before = self._failing.get(name, "")
            if failed == before:
                continue
            self._failing[name] = failed
            if failed:
                yield Event("error", f"{name}: {failed}", {"source": name, "error": failed})
            else:
                yield Event("recovered", f"{name}: {source['said']}", {"source": name, "error": ""})


def _endpoints(snapshot: PoolSnapshot) -> dict[tuple[str, str], dict[str, Any]]:
    """By address and pod; the connections to the ClusterIP, which are renewed all the time, are one."""
    word_of = state_words(snapshot)
    described: dict[tuple[str, str], dict[str, Any]] = {}
    for sub in (*snapshot.listed, *snapshot.spare, *snapshot.fallback):
        one = sub.endpoint
        is_pod = not one.uid.startswith("clusterip/")
        described[one.address, one.uid if is_pod else ""] = {
            "address": one.address,
            "name": one.name if is_pod else "ClusterIP",
            "uid": one.uid if is_pod else "",
            "node": one.node,
            "zone": one.locality.zone,
            "weight": one.weight,
            "state": word_of(sub),
        }
    return described


def _state_text(state: dict[str, Any], count: int) -> str:
    words = [f"{count} endpoint{'' if count == 1 else 's'} by {state['source']}"]
    if state["service_port"]:
        words.append(f"Service port {state['service_port']}")
    if state["note"]:
        words.append(state["note"])
    return ", ".join(words)


def _endpoint_text(one: dict[str, Any]) -> str:
    weight = "" if one["weight"] == 1 else f"weight {one['weight']:g}"
    return "  ".join(word for word in (one["address"], one["name"], one["zone"], weight, one["state"]) if word)


def _word(value: object) -> str:
    return str(value) if value != "" else "none"


def _print(events: Iterable[Event], as_json: bool) -> None:
    now = datetime.now().astimezone()
    for event in events:
        if as_json:
            print(json.dumps({"time": now.isoformat(timespec="milliseconds"), "event": event.kind, **event.data}), flush=True)
        else:
            print(f"{now.strftime('%H:%M:%S')}.{now.microsecond // 1000:03} {_SIGNS[event.kind]} {event.text}", flush=True)
