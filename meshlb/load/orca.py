"""ORCA reports as text, in the trailer ``endpoint-load-metrics``; and where any form of a report comes in.

gRPC's core keeps the binary trailer from Python, under every policy; the text trailer passes. Its forms:

    TEXT cpu_utilization:0.3,rps_fractional:12.5,named_metrics.queue:4
    JSON {"cpu_utilization": 0.3, "rpsFractional": 12.5}
    BIN  <base64 of the message>

Written by hand they also come with ``=`` for ``:`` and without the word in front; a value that begins with ``{`` is JSON then, one with a
``:`` or a ``=`` before any padding is text, anything else base64.

Nothing in here raises, whatever was sent, and the work is bounded: at most ``MAX_TEXT`` characters (gRPC's own limit of all metadata of a
call) and ``MAX_METRICS`` entries, lists and objects are looked at, a millisecond at worst. A report with anything unsound in it is unsound as a whole: a
number that is NaN, infinite or beyond ``MAX_VALUE``, a negative share or rate, a name said twice, a value of a wrong type. Names that are
not known are passed over, as unknown fields of the message are.

Spec: Envoy's source/common/orca/orca_parser (header, forms, TEXT's separator, duplicates, NaN); gRFC A51; ProtoJSON for the names.
Deviations: ``=`` and values without a word are taken; unknown names spoil nothing; ``utilization.`` and ``request_cost.`` are read.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, TypeVar

from meshlb.core.report import LoadReport
from meshlb.load.orca_wire import MAX_METRICS, MAX_VALUE, Unsound, checked_entry, checked_share, decode, short

TRAILER = "endpoint-load-metrics"
TRAILER_BIN = "endpoint-load-metrics-bin"
MAX_TEXT = 8192
_MEMORABLE = 512  # characters: with a dozen metrics; what is longer is not worth its memory

T = TypeVar("T")

# The message's names, in the order in which they are written, and as JSON has them.
_SINGLE = {
    "application_utilization": "application_utilization",
    "cpu_utilization": "cpu_utilization",
    "mem_utilization": "mem_utilization",
    "rps_fractional": "qps",
    "eps": "eps",
    "rps": "rps",  # deprecated, and only used without the other
}
_MAPS = ("utilization", "request_cost", "named_metrics")
_CAMEL = {"".join([word.title() if at else word for at, word in enumerate(name.split("_"))]): name for name in (*_SINGLE, *_MAPS)}


def parse(value: str | bytes) -> LoadReport:
    """A trailer's value: text in any form, or the bytes of the binary one."""
    if isinstance(value, bytes):
        return _sound(decode, value)
    return _remembered(value) if len(value) <= _MEMORABLE else _sound(_parse_text, value)


def _sound(read: Callable[[T], LoadReport], value: T) -> LoadReport:
    try:
        return read(value)
    except Unsound as unsound:
        return LoadReport(problem=str(unsound))


@lru_cache(maxsize=128)
def _remembered(value: str) -> LoadReport:
    """Servers measure now and then, so many calls bring one and the same text: 0.1 us instead of 3."""
    return _sound(_parse_text, value)


def of_trailers(trailers: Iterable[tuple[str, str | bytes]] | None) -> LoadReport | None:
    """The report among a call's trailers; None without one. The first counts, as with Envoy."""
    for key, value in trailers or ():
        if key in (TRAILER, TRAILER_BIN):
            return parse(value)
    return None


def to_text(report: LoadReport) -> str:
    """The trailer's value in the TEXT form, which Envoy reads too, except for ``utilization.`` and ``request_cost.``, for which it
    has the binary one. Zeros are left out: they say nothing."""
    parts = [f"{name}:{getattr(report, field):.6g}" for name, field in _SINGLE.items() if name != "rps" and getattr(report, field)]
    parts += [f"{name}.{entry}:{number:.6g}" for name in _MAPS for entry, number in getattr(report, name).items()]
    return "TEXT " + ",".join(parts)


def _parse_text(value: str) -> LoadReport:
    if len(value) > MAX_TEXT:
        raise Unsound(f"{len(value)} characters, more than {MAX_TEXT}")
    form, space, rest = value.partition(" ")
    if space and form == "TEXT":
        return _parse_native(rest)
    if space and form == "JSON":
        return _parse_json(rest)
    if space and form == "BIN":
        return _parse_base64(rest)
    bare = value.strip()
    if bare.startswith("{"):
        return _parse_json(bare)
    if ":" in bare or "=" in bare.rstrip("="):
        return _parse_native(bare)
    return _parse_base64(bare)


def _parse_native(text: str) -> LoadReport:
    if text.count(",") >= MAX_METRICS:
        raise Unsound(f"more than {MAX_METRICS} metrics")
    said: dict[str, float] = {}
    for item in text.split(","):
        name, separator, written = item.partition(":")
        if not separator:
            name, separator, written = item.partition("=")
        name = name.strip()
        if not name or not separator:
            if item.strip():
                raise Unsound(f"{short(item)}: not a name and a number")
            continue  # an empty element of a list is none (RFC 9110, 5.6.1)
        if name in said:
            raise Unsound(f"{short(name)} twice")
        said[name] = _number(name, written)
    fields: dict[str, Any] = {}
    for name, number in said.items():
        if name in _SINGLE:
            fields[_SINGLE[name]] = checked_share(name, number)
            continue
        where, _, entry = name.partition(".")
        if entry and where in _MAPS:
            fields.setdefault(where, {})[entry] = checked_entry(where, entry, number)
    return _report(fields)


def _parse_json(text: str) -> LoadReport:
    if text.count(":") > 2 * MAX_METRICS:  # one of a name may stand in a string
        raise Unsound(f"more than {MAX_METRICS} metrics")
    if text.count("{") + text.count("[") > MAX_METRICS:  # each costs as much as a metric
        raise Unsound(f"more than {MAX_METRICS} lists and objects")
    try:
        said = json.loads(text, object_pairs_hook=_unique)
    except Unsound:
        raise
    except (ValueError, RecursionError) as error:
        raise Unsound(f"not JSON: {short(str(error))}") from None
    if not isinstance(said, dict):
        raise Unsound("not a JSON object")
    fields: dict[str, Any] = {}
    for written, value in said.items():
        name = _CAMEL.get(written, written)
        if value is None:  # ProtoJSON: the default
            continue
        if name in _SINGLE:
            if _SINGLE[name] in fields:
                raise Unsound(f"{name} twice")
            fields[_SINGLE[name]] = checked_share(name, _number(name, value))
        elif name in _MAPS:
            if not isinstance(value, dict):
                raise Unsound(f"{name}: not a JSON object")
            fields[name] = {entry: checked_entry(name, entry, _number(entry, number)) for entry, number in value.items()}
    return _report(fields)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    said = dict(pairs)
    if len(said) < len(pairs):
        raise Unsound("a name twice")
    return said


def _parse_base64(text: str) -> LoadReport:
    try:
        message = base64.b64decode(text.strip() + "==", validate=False)
    except (ValueError, binascii.Error):
        raise Unsound(f"{short(text)}: neither text, nor JSON, nor base64") from None
    if not message:
        raise Unsound("empty")
    return decode(message)


def _report(fields: dict[str, Any]) -> LoadReport:
    rps = fields.pop("rps", 0.0)
    if not fields.get("qps"):
        fields["qps"] = rps
    return LoadReport(**fields)


def _number(name: str, value: object) -> float:
    if isinstance(value, str):
        if not value.isascii() or "_" in value:  # Python's float takes both
            raise Unsound(f"{short(name)}={short(value)}: not a number")
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unsound(f"{short(name)}: not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise Unsound(f"{short(name)}={short(str(value)[:64])}: not a number") from None
    if not math.isfinite(number) or abs(number) > MAX_VALUE:
        raise Unsound(f"{short(name)}={number:g}: beyond all reason")
    return number
