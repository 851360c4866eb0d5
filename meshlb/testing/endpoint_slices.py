"""The endpointslice controller: from a Service and its endpoints to the slices that must be created, changed and deleted.

What a consumer must cope with comes from here, so it is the real controller's algorithm, not a simpler one: endpoints keep their
place, slices fill up to a limit, endpoints whose target numbers differ live in different slices, a slice that would be deleted
while another is created is reused under its old name, and a Service that has nothing left keeps one empty slice without ports.

Spec: k8s.io/endpointslice ``reconciler.go`` (reconcileByPortMapping, getSliceToFill, recycleSlices, placeholder slices).
Spec of hints: k8s.io/endpointslice trafficdist (a ready endpoint is meant for its own zone, with PreferSameNode for its node too).
Deviations: no proportional hints of topology-mode Auto; ports are ordered by a hash of ours (the real order is by another hash, arbitrary too).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from meshlb.testing.objects import FakeEndpoint, FakePort, revised_slice, slice_object

PortsKey = tuple[tuple[str, int, str | None], ...]
Entry = dict[str, Any]


@dataclass(slots=True)
class Changes:
    """What to write to the API, in this order, as whole objects."""

    create: list[dict[str, Any]] = field(default_factory=list)
    update: list[dict[str, Any]] = field(default_factory=list)
    delete: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class _Draft:
    """One slice in the making: ``current`` is None for a new one."""

    current: dict[str, Any] | None
    entries: list[Entry]
    changed: bool


def reconcile(
    service: dict[str, Any],
    ports: Sequence[FakePort],
    endpoints: Iterable[FakeEndpoint],
    existing: Sequence[dict[str, Any]],
    *,
    max_endpoints_per_slice: int,
    trigger_time: str | None,
    new_name: Callable[[], str],
) -> Changes:
    """Return the changes that make ``existing`` slices say what ``endpoints`` are."""
    namespace = service["metadata"]["namespace"]
    app_protocols = {port.name: port.app_protocol for port in ports}
    distribution = service["spec"].get("trafficDistribution")
    desired: dict[str, dict[PortsKey, list[Entry]]] = {family: {} for family in service["spec"]["ipFamilies"]}
    for endpoint in endpoints:
        key = _ports_key((name, number, app_protocols.get(name)) for name, number in endpoint.ports.items())
        desired.setdefault(endpoint.family, {}).setdefault(key, []).append(endpoint.hinted(distribution).slice_entry(namespace))

    changes = Changes()
    for family, by_ports in desired.items():
        slices = [obj for obj in existing if obj["addressType"] == family]
        blank = partial(_blank, service, family, new_name)
        of_family = _reconcile_family(slices, by_ports, max_endpoints_per_slice, trigger_time, blank)
        changes.create += of_family.create
        changes.update += of_family.update
        changes.delete += of_family.delete
    return changes


def _reconcile_family(
    slices: list[dict[str, Any]],
    desired: dict[PortsKey, list[Entry]],
    limit: int,
    trigger_time: str | None,
    blank: Callable[[], dict[str, Any]],
) -> Changes:
    """The changes for one address family, whose slices have nothing to do with those of the other."""
    drafts: dict[PortsKey, list[_Draft]] = {key: [] for key in desired}
    for obj in slices:
        drafts.setdefault(_slice_ports_key(obj), []).append(_Draft(obj, list(obj["endpoints"] or ()), changed=False))
    changes = Changes()
    for key, of_key in drafts.items():
        _sort_out(_fill(of_key, desired.get(key, []), limit), key, changes, trigger_time, blank)
    _add_placeholder(changes, slices, trigger_time, blank)
    _recycle(changes)
    return changes


def _blank(service: dict[str, Any], family: str, new_name: Callable[[], str]) -> dict[str, Any]:
    return slice_object(service, family, name=new_name())


def _fill(drafts: list[_Draft], desired: list[Entry], limit: int) -> list[_Draft]:
    """Update entries in place, drop those that are gone, then find room for the new ones as the controller does."""
    remaining = {_identity(entry): entry for entry in desired}
    for draft in drafts:
        kept = [entry for old in draft.entries if (entry := remaining.pop(_identity(old), None)) is not None]
        draft.changed = kept != draft.entries
        draft.entries = kept
    new = list(remaining.values())
    for draft in drafts:  # slices that are written anyway take new endpoints first
        if draft.changed and new:
            room = limit - len(draft.entries)
            draft.entries += new[:room]
            new = new[room:]
    while new:
        untouched = [draft for draft in drafts if not draft.changed and len(draft.entries) + len(new) <= limit]
        if untouched and len(new) < limit:
            target = max(untouched, key=lambda draft: len(draft.entries))
        else:
            target = _Draft(None, [], changed=True)
            drafts.append(target)
        room = limit - len(target.entries)
        target.entries += new[:room]
        target.changed = True
        new = new[room:]
    return drafts


def _sort_out(
    drafts: list[_Draft], key: PortsKey, changes: Changes, trigger_time: str | None, blank: Callable[[], dict[str, Any]]
) -> None:
    ports = [slice_port(*port) for port in key]
    for draft in drafts:
        if draft.current is None:
            changes.create.append(revised_slice(blank(), draft.entries, ports, trigger_time))
        elif not draft.entries:
            changes.delete.append(draft.current)
        elif draft.changed:
            changes.update.append(revised_slice(draft.current, draft.entries, ports, trigger_time))


def _add_placeholder(
    changes: Changes, existing: list[dict[str, Any]], trigger_time: str | None, blank: Callable[[], dict[str, Any]]
) -> None:
    """A Service always has at least one slice per family: it tells "no endpoints" from "no such Service"."""
    if len(existing) != len(changes.delete) or changes.create:
        return
    placeholders = [obj for obj in changes.delete if obj["endpoints"] is None]
    if len(changes.delete) == 1 and placeholders:
        changes.delete.clear()
    else:
        changes.create.append(revised_slice(blank(), [], [], trigger_time))


def _recycle(changes: Changes) -> None:
    """Turn each pair of a deletion and a creation into one update: fewer writes, and the name stays."""
    while changes.create and changes.delete:
        old, new = changes.delete.pop(), changes.create.pop()
        annotations = new["metadata"].get("annotations", {})
        trigger_time = next(iter(annotations.values()), None)
        changes.update.append(revised_slice(old, new["endpoints"] or [], new["ports"] or [], trigger_time))


def _identity(entry: Entry) -> tuple[Any, ...]:
    return (entry["addresses"][0], entry.get("targetRef", {}).get("uid"))


def _ports_key(ports: Iterable[tuple[str, int, str | None]]) -> PortsKey:
    return tuple(sorted(ports, key=lambda port: hashlib.md5(repr(port).encode(), usedforsecurity=False).digest()))


def _slice_ports_key(obj: dict[str, Any]) -> PortsKey:
    return _ports_key((port["name"], port["port"], port.get("appProtocol")) for port in obj["ports"] or ())


def slice_port(name: str, number: int, app_protocol: str | None) -> dict[str, Any]:
    port: dict[str, Any] = {"name": name, "protocol": "TCP", "port": number}
    if app_protocol:
        port["appProtocol"] = app_protocol
    return port
