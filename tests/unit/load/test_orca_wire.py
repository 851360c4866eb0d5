"""The message on the wire, held against protobuf's own reading of the published definition."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory
from hypothesis import given
from hypothesis import strategies as st

from meshlb.core.report import LoadReport
from meshlb.load.orca_wire import MAX_FIELDS, MAX_MESSAGE, MAX_METRICS, Unsound, decode, decode_request, encode, encode_request
from tests.unit.load.test_orca import FULL, REPORTS

DOUBLE, UINT64, MESSAGE, STRING = 1, 4, 11, 9
OPTIONAL, REPEATED = 1, 3


def _classes() -> tuple[Any, Any]:
    """``OrcaLoadReport`` and ``OrcaLoadReportRequest``, by their definitions in cncf/xds: names, numbers and types."""
    file = descriptor_pb2.FileDescriptorProto(name="orca_under_test.proto", package="orca.under.test", syntax="proto3")
    file.dependency.append("google/protobuf/duration.proto")
    report = file.message_type.add(name="OrcaLoadReport")
    singles = {"cpu_utilization": 1, "mem_utilization": 2, "rps_fractional": 6, "eps": 7, "application_utilization": 9}
    for name, number in singles.items():
        report.field.add(name=name, number=number, type=DOUBLE, label=OPTIONAL)
    report.field.add(name="rps", number=3, type=UINT64, label=OPTIONAL)
    for name, number in {"request_cost": 4, "utilization": 5, "named_metrics": 8}.items():
        entry = report.nested_type.add(name="".join(word.title() for word in name.split("_")) + "Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=STRING, label=OPTIONAL)
        entry.field.add(name="value", number=2, type=DOUBLE, label=OPTIONAL)
        where = f".orca.under.test.OrcaLoadReport.{entry.name}"
        report.field.add(name=name, number=number, type=MESSAGE, label=REPEATED, type_name=where)
    asked = file.message_type.add(name="OrcaLoadReportRequest")
    asked.field.add(name="report_interval", number=1, type=MESSAGE, label=OPTIONAL, type_name=".google.protobuf.Duration")
    asked.field.add(name="request_cost_names", number=2, type=STRING, label=REPEATED)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(duration_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    found = (pool.FindMessageTypeByName(f"orca.under.test.{name}") for name in ("OrcaLoadReport", "OrcaLoadReportRequest"))
    first, second = (message_factory.GetMessageClass(descriptor) for descriptor in found)
    return first, second


Report, Request = _classes()


def _theirs(report: LoadReport) -> Any:
    same = ("cpu_utilization", "mem_utilization", "eps", "application_utilization", "utilization", "request_cost", "named_metrics")
    return Report(rps_fractional=report.qps, **{name: getattr(report, name) for name in same})


@given(REPORTS)
def test_protobuf_reads_what_we_write_and_we_read_what_it_writes(report: LoadReport) -> None:
    """All fields, exactly."""
    assert Report.FromString(encode(report)) == _theirs(report)
    assert decode(_theirs(report).SerializeToString()) == report


def test_bytes_that_others_wrote() -> None:
    """As xds-protos 1.85 serializes one with everything in it."""
    written = bytes.fromhex(
        "09000000000000d03f11000000000000c03f220f0a04726f77731100000000000028402a100a05717565756511000000000000e83f"
        "31000000000000594039000000000000004042110a06746f6b656e731100000000000008c049000000000000e03f"
    )
    assert decode(written) == FULL
    assert encode(FULL) == written


def test_what_is_unknown_is_passed_over_and_the_last_of_several_counts() -> None:
    """As protobuf has it: unknown numbers, known ones of another type, repeated singles and map keys."""
    unknown = b"\x78\x05" + b"\x7d\x00\x00\x00\x00" + b"\x81\x01" + b"\x00" * 8 + b"\x92\x01\x02hi" + b"\x08\x01"
    twice = encode(LoadReport(eps=1.0, named_metrics={"a": 1.0})) + encode(LoadReport(eps=2.0, named_metrics={"a": 2.0}))
    message = unknown + twice
    theirs = Report.FromString(message)
    ours = decode(message)
    assert (ours.eps, dict(ours.named_metrics)) == (theirs.eps, dict(theirs.named_metrics)) == (2.0, {"a": 2.0})
    assert decode(Report(rps=7).SerializeToString()).qps == 7.0
    assert decode(b"") == LoadReport()


@pytest.mark.parametrize(
    "message",
    [
        b"\x09\x00",
        b"\x09",
        b"\x0b",
        b"\xff" * 12,
        b"\x42\x05\x0a\x01",
        b"\x42\x0d\x0a\x02\xff\xfe\x11" + b"\x00" * 8,
        b"\x42\x09\x11" + b"\x00" * 8,
        b"\x01" + b"\x00" * 8,
        b"\x42\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        Report(cpu_utilization=float("nan")).SerializeToString(),
        Report(cpu_utilization=float("inf")).SerializeToString(),
        Report(eps=-1).SerializeToString(),
        Report(rps=2**64 - 1).SerializeToString(),
        Report(named_metrics={"a": float("nan")}).SerializeToString(),
        Report(utilization={"a": -1.0}).SerializeToString(),
        Report(named_metrics={f"m{number}": 1.0 for number in range(MAX_METRICS + 1)}).SerializeToString(),
        b"\x00" * (MAX_MESSAGE + 1),
    ],
)
def test_what_is_malformed_or_absurd_is_unsound(message: bytes) -> None:
    """And nothing else is raised."""
    with pytest.raises(Unsound):
        decode(message)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"\x78\x01" * (MAX_FIELDS + 1), f"more than {MAX_FIELDS} fields"),
        (b"\x42\x0d" + b"\x0a\x01a" + b"\x78\x01" * 5, "more than 4 fields"),
    ],
    ids=["message", "entry"],
)
def test_the_work_for_a_message_is_bounded_by_its_fields_known_or_not(message: bytes, said: str) -> None:
    """Unknown ones cost as much, and it is an event loop that may read them."""
    with pytest.raises(Unsound, match=said):
        decode(message)
    assert decode(b"\x78\x01" * MAX_FIELDS) == LoadReport()


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(message: bytes) -> None:
    """Nor does a request."""
    with contextlib.suppress(Unsound):
        decode(message)
    assert decode_request(message) >= 0.0


@pytest.mark.parametrize("interval_s", [0.1, 1.0, 10.0, 30.25, 86400.0])
def test_the_interval_that_is_asked_for_is_a_duration(interval_s: float) -> None:
    """Written for others, and read of others."""
    theirs = Request.FromString(encode_request(interval_s))
    assert theirs.report_interval.ToTimedelta().total_seconds() == pytest.approx(interval_s, abs=1e-6)
    assert decode_request(theirs.SerializeToString()) == pytest.approx(interval_s)


def test_no_interval_or_a_negative_one_is_none() -> None:
    """The server's minimum holds then."""
    negative = b"\x0a\x0b\x08\xfb" + b"\xff" * 8 + b"\x01"
    assert Request.FromString(negative).report_interval.ToTimedelta().total_seconds() == -5.0
    assert [decode_request(message) for message in (b"", negative, b"\xff")] == [0.0, 0.0, 0.0]
