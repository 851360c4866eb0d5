"""From a slice's ``endpoints`` to ``Endpoint``s; those that say what they said before are the very same objects.

The API server resends a whole slice for one pod that changed. Reading an endpoint means a dozen checked fields, an address brought
into its one form and a frozen object: 4.5 µs, of which JSON itself is one. Whether an entry still says what is known of its address
is found out in a fifth of that. It also keeps one copy of each string, and makes every comparison after it, down to the pool's
picker, one of pointers.

What is not certainly the same (an empty string where a field could be absent, a wrong type) is read in full: the result is always
equal to that of reading.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from meshlb.core.endpoint import NO_HINTS, NO_LOCALITY, Endpoint, Hints, Locality
from meshlb.resolve.kubernetes.fields import WireError, read

BAD_ADDRESS: Final = "endpoints without a valid address"
_NOTHING: Final[dict[str, Any]] = {}


def read_endpoints(entries: list[Any], family: str, flaws: list[str], known: Mapping[str, Endpoint]) -> Iterator[Endpoint]:
    """With port 0. ``known``: endpoints by host, as they were read before. What has no address is added to ``flaws``. Raises
    WireError."""
    for entry in entries:
        addresses = read(entry, "addresses", list, ()) if entry is not None else ()
        first = addresses[0] if addresses else ""
        before = known.get(first) if type(first) is str else None
        if before is not None and _says(entry, before):
            yield before
            continue
        host = read_address(first, family) if addresses else ""
        if host:
            yield _endpoint(entry, host)
        else:
            flaws.append(BAD_ADDRESS)


def read_address(text: object, family: str) -> str:
    """IPv6 in its one canonical form: the same address must be the same endpoint to every source. Empty if it is none."""
    if not isinstance(text, str):
        raise WireError(f"addresses[0]: {text!r:.80} is no {family} address")
    try:
        return str(ipaddress.IPv4Address(text) if family == "IPv4" else ipaddress.IPv6Address(text))
    except ValueError:
        return ""


def _endpoint(entry: dict[str, Any], host: str) -> Endpoint:
    conditions = read(entry, "conditions", dict, {})
    target = read(entry, "targetRef", dict, {})
    zone = read(entry, "zone", str, "")
    return Endpoint(
        host=host,
        port=0,
        uid=read(target, "uid", str, ""),
        name=read(target, "name", str, ""),
        locality=_locality(zone) if zone else NO_LOCALITY,
        node=sys.intern(read(entry, "nodeName", str, "")),
        hostname=read(entry, "hostname", str, ""),
        hints=_hints_of(entry),
        ready=read(conditions, "ready", bool, True),
        serving=read(conditions, "serving", bool, True),
        terminating=read(conditions, "terminating", bool, False),
    )


def _says(entry: dict[str, Any], known: Endpoint) -> bool:
    """Would ``_endpoint`` make an equal one of this? False also where that is not certain."""
    said = entry.get
    target, conditions = said("targetRef", _NOTHING), said("conditions", _NOTHING)
    if type(target) is not dict or type(conditions) is not dict:
        return False
    ready, serving, terminating = conditions.get("ready"), conditions.get("serving"), conditions.get("terminating")
    return (
        (ready is known.ready or (ready is None and known.ready))  # not ==, to which 1 is True
        and (serving is known.serving or (serving is None and known.serving))
        and (terminating is known.terminating or (terminating is None and not known.terminating))
        and target.get("uid") == (known.uid or None)
        and target.get("name") == (known.name or None)
        and said("nodeName") == (known.node or None)
        and said("zone") == (known.locality.zone or None)
        and said("hostname") == (known.hostname or None)
        and (said("hints") is None if known.hints is NO_HINTS else _hints_of(entry) == known.hints)
    )


def _hints_of(entry: dict[str, Any]) -> Hints:
    hints = read(entry, "hints", dict, {})
    return _hints(_names(hints, "forZones"), _names(hints, "forNodes")) if hints else NO_HINTS


def _names(hints: dict[str, Any], key: str) -> tuple[str, ...]:
    return tuple(read(hint, "name", str, "") for hint in read(hints, key, list, ()))


@lru_cache(maxsize=1024)
def _locality(zone: str) -> Locality:
    return Locality(zone=zone)


@lru_cache(maxsize=1024)
def _hints(zones: tuple[str, ...], nodes: tuple[str, ...]) -> Hints:
    return Hints(zones, nodes)
