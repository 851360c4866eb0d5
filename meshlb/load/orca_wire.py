"""The message ``OrcaLoadReport`` and the request for it, on the wire: protobuf without protobuf.

A few doubles and three maps, read on a path that must never fail and that few programs need: a page of code costs less than a dependency
whose versions clash. Unknown fields are passed over, and so are known ones of another wire type, as protobuf does it; the last of
several counts. What is malformed, too large or unsound is ``Unsound``, and only that is raised by ``decode``. Its work is bounded by the number
of fields, known or not, about a millisecond at worst.

Spec: protobuf's encoding; xds/data/orca/v3/orca_load_report.proto, xds/service/orca/v3/orca.proto; google.protobuf.Duration.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any

from meshlb.core.report import LoadReport

MAX_MESSAGE = 16384  # more than ``meshlb.server`` can send; others send a dozen metrics
MAX_METRICS = 256
MAX_FIELDS = 2 * MAX_METRICS  # of a message
MAX_ENTRY_FIELDS = 4  # of a map's entry, which has two
MAX_VALUE = 1e12  # calls a second, or times what there is: no server has more

_DOUBLES = {1: "cpu_utilization", 2: "mem_utilization", 6: "qps", 7: "eps", 9: "application_utilization"}
_MAPS = {4: "request_cost", 5: "utilization", 8: "named_metrics"}
_RPS = 3  # deprecated
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DOUBLE = struct.Struct("<d")


class Unsound(ValueError):
    """A report, or what should be one, that must not be used; says why."""


def decode(message: bytes) -> LoadReport:
    """Raises Unsound."""
    if len(message) > MAX_MESSAGE:
        raise Unsound(f"{len(message)} bytes, more than {MAX_MESSAGE}")
    fields: dict[str, Any] = {}
    metrics, rps = 0, 0.0
    for number, wire_type, value in _fields(message):
        if wire_type == _FIXED64 and number in _DOUBLES:
            fields[_DOUBLES[number]] = checked_share(_DOUBLES[number], _DOUBLE.unpack(value)[0])
        elif wire_type == _BYTES and number in _MAPS:
            metrics += 1
            if metrics > MAX_METRICS:
                raise Unsound(f"more than {MAX_METRICS} metrics")
            entry, metric = _entry(value)
            fields.setdefault(_MAPS[number], {})[entry] = checked_entry(_MAPS[number], entry, metric)
        elif wire_type == _VARINT and number == _RPS:
            rps = checked_share("rps", float(value))
    if not fields.get("qps"):
        fields["qps"] = rps
    return LoadReport(**fields)


def encode(report: LoadReport) -> bytes:
    """Fields in the order of their numbers, zeros left out, as protobuf writes them."""
    parts = []
    for number in sorted((*_DOUBLES, *_MAPS)):
        if number in _DOUBLES:
            value = getattr(report, _DOUBLES[number])
            if value:
                parts.append(bytes((number << 3 | _FIXED64,)) + _DOUBLE.pack(value))
        else:
            for entry, metric in getattr(report, _MAPS[number]).items():
                key = entry.encode()
                inner = b"\x0a" + _varint(len(key)) + key + b"\x11" + _DOUBLE.pack(metric)
                parts.append(bytes((number << 3 | _BYTES,)) + _varint(len(inner)) + inner)
    return b"".join(parts)


def encode_request(interval_s: float) -> bytes:
    """``OrcaLoadReportRequest`` for a report every so often; ``interval_s`` > 0."""
    seconds = int(interval_s)
    nanos = int((interval_s - seconds) * 1e9)
    inner = (b"\x08" + _varint(seconds) if seconds else b"") + (b"\x10" + _varint(nanos) if nanos else b"")
    return b"\x0a" + _varint(len(inner)) + inner


def decode_request(message: bytes) -> float:
    """The interval that was asked for, in seconds; 0 if none was, or if nothing sensible was."""
    interval_s = 0.0
    try:
        for number, wire_type, value in _fields(message[:MAX_MESSAGE]):
            if number == 1 and wire_type == _BYTES:
                said = {inner: value for inner, wire_type, value in _fields(value) if wire_type == _VARINT}
                interval_s = said.get(1, 0) + said.get(2, 0) / 1e9
    except Unsound:
        return 0.0
    return interval_s if interval_s < 2**40 else 0.0  # a negative number is a very large one on the wire


def checked_share(name: str, value: float) -> float:
    """A share or a rate: from 0 to ``MAX_VALUE``."""
    if not 0.0 <= value <= MAX_VALUE:  # NaN neither
        raise Unsound(f"{name}={value:g}: must be from 0 to {MAX_VALUE:g}")
    return value


def checked_entry(where: str, entry: str, value: float) -> float:
    """A server's own metric: ``utilization`` is a share, of the others only reason is asked."""
    if not entry:
        raise Unsound(f"{where}: a metric without a name")
    if not math.isfinite(value) or abs(value) > MAX_VALUE or (where == "utilization" and value < 0.0):
        raise Unsound(f"{where}.{short(entry)}={value:g}: beyond all reason")
    return value


def short(text: str) -> str:
    """For messages: what a stranger wrote, not too much of it, and nothing that a terminal or an encoder could stumble over."""
    return ascii(text if len(text) <= 32 else text[:32] + "...")


def _fields(message: bytes, at_most: int = MAX_FIELDS) -> Iterator[tuple[int, int, Any]]:
    """Number, wire type and value: an int, or the bytes."""
    at, end, left = 0, len(message), at_most
    while at < end:
        left -= 1
        if left < 0:
            raise Unsound(f"more than {at_most} fields")
        tag, at = _read_varint(message, at)
        wire_type = tag & 7
        if wire_type == _VARINT:
            value, at = _read_varint(message, at)
            yield tag >> 3, wire_type, value
            continue
        size = 8 if wire_type == _FIXED64 else 4 if wire_type == _FIXED32 else -1
        if wire_type == _BYTES:
            size, at = _read_varint(message, at)
        if size < 0:
            raise Unsound(f"wire type {wire_type} in the message")
        if at + size > end or not tag >> 3:
            raise Unsound("the message is cut off, or is none")
        yield tag >> 3, wire_type, message[at : at + size]
        at += size


def _entry(message: bytes) -> tuple[str, float]:
    key, value = b"", 0.0
    for number, wire_type, said in _fields(message, MAX_ENTRY_FIELDS):
        if number == 1 and wire_type == _BYTES:
            key = said
        elif number == 2 and wire_type == _FIXED64:
            value = _DOUBLE.unpack(said)[0]
    try:
        return key.decode(), value
    except UnicodeDecodeError:
        raise Unsound("a metric's name is not UTF-8") from None


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    for index in range(at, min(at + 10, len(message))):
        byte = message[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, index + 1
        shift += 7
    raise Unsound("the message is cut off, or is none")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
