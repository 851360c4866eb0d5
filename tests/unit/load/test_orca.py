"""ORCA as text: every form that is seen, and that nothing which a stranger may send raises or costs much."""

from __future__ import annotations

import base64
import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlb.core.report import LoadReport
from meshlb.load.orca import MAX_TEXT, of_trailers, parse, to_text
from meshlb.load.orca_wire import MAX_METRICS, encode

FULL = LoadReport(
    application_utilization=0.5,
    cpu_utilization=0.25,
    mem_utilization=0.125,
    qps=100.0,
    eps=2.0,
    utilization={"queue": 0.75},
    request_cost={"rows": 12.0},
    named_metrics={"tokens": -3.0},
)
NATIVE = "application_utilization:0.5,cpu_utilization:0.25,mem_utilization:0.125,rps_fractional:100,eps:2"
MAPS = "utilization.queue:0.75,request_cost.rows:12,named_metrics.tokens:-3"
PLAIN_JSON = {
    "application_utilization": 0.5,
    "cpu_utilization": 0.25,
    "mem_utilization": 0.125,
    "rps_fractional": 100,
    "eps": 2,
    "utilization": {"queue": 0.75},
    "request_cost": {"rows": 12},
    "named_metrics": {"tokens": -3},
}
CAMEL_JSON = {
    "applicationUtilization": 0.5,
    "cpuUtilization": "0.25",
    "memUtilization": 0.125,
    "rps": "7",
    "rpsFractional": 100,
    "eps": 2,
    "utilization": {"queue": 0.75},
    "requestCost": {"rows": 12},
    "namedMetrics": {"tokens": -3},
    "later": {"a": [1, 2]},
}
BASE64 = base64.b64encode(encode(FULL)).decode()


@pytest.mark.parametrize(
    "value",
    [
        f"TEXT {NATIVE},{MAPS}",
        f"TEXT {NATIVE}, {MAPS} ,".replace(":", ": "),
        f"{NATIVE},{MAPS}",
        f"{NATIVE},{MAPS}".replace(":", "="),
        f"TEXT {NATIVE},{MAPS},of.later:1,rps:7",
        "JSON " + json.dumps(PLAIN_JSON),
        json.dumps(CAMEL_JSON),
        f"BIN {BASE64}",
        BASE64,
        BASE64.rstrip("="),
        encode(FULL),
        to_text(FULL),
    ],
)
def test_every_form_of_a_report_says_the_same(value: str | bytes) -> None:
    """Envoy's three, those without their word, ``=`` for ``:``, both spellings of ProtoJSON, unpadded base64, and the bytes."""
    assert parse(value) == FULL


def test_the_old_rate_counts_where_the_new_one_is_missing() -> None:
    """``rps`` is deprecated, and sent by some."""
    assert parse("TEXT rps:7,cpu_utilization:0.1").qps == 7.0
    assert parse("TEXT rps_fractional:8,rps:7").qps == 8.0


def test_among_trailers_the_first_report_counts() -> None:
    """Text or binary, whichever gRPC lets through; without one there is none."""
    assert of_trailers(None) is None
    assert of_trailers((("a", "b"), ("x-bin", b"\xff"))) is None
    found = of_trailers((("a", "b"), ("endpoint-load-metrics", "TEXT eps:1"), ("endpoint-load-metrics-bin", encode(FULL))))
    assert found == LoadReport(eps=1.0)
    assert of_trailers((("endpoint-load-metrics-bin", encode(FULL)),)) == FULL


DEEP = '{"named_metrics":' * 200 + "1" + "}" * 200
MANY = ",".join(f"named_metrics.m{number}:1" for number in range(MAX_METRICS + 1))
UNSOUND: dict[str, str | bytes] = {
    "nan": "TEXT cpu_utilization:nan",
    "inf": "TEXT cpu_utilization:inf",
    "overflow": "TEXT rps_fractional:1e999",
    "negative": "TEXT cpu_utilization:-0.1",
    "negative share": "TEXT utilization.queue:-0.1",
    "huge": "TEXT rps_fractional:1e13",
    "named nan": "TEXT named_metrics.a:nan",
    "no number": "TEXT cpu_utilization:fast",
    "empty number": "TEXT cpu_utilization:",
    "underscore": "TEXT eps:1_0",
    "other digits": "TEXT eps:\u0661",
    "no separator": "TEXT cpu_utilization",
    "no name": "TEXT :1",
    "no entry": "JSON " + json.dumps({"named_metrics": {"": 1}}),
    "twice": "TEXT eps:1,eps:1",
    "json twice": 'JSON {"eps": 1, "eps": 2}',
    "json twice in two spellings": 'JSON {"rps_fractional": 1, "rpsFractional": 2}',
    "json nan": 'JSON {"eps": NaN}',
    "json infinity": 'JSON {"eps": Infinity}',
    "json bool": 'JSON {"eps": true}',
    "json list": 'JSON {"eps": [1]}',
    "json big": 'JSON {"eps": ' + "9" * 4000 + "}",
    "json bigger": 'JSON {"eps": ' + "9" * 6000 + "}",
    "json map": 'JSON {"named_metrics": 1}',
    "json entry": 'JSON {"named_metrics": {"a": "b"}}',
    "json no object": "JSON [1]",
    "json cut": 'JSON {"eps":',
    "json deep": "JSON " + "[" * 8000,
    "json deep maps": DEEP,
    "many": MANY,
    "many in json": json.dumps({"named_metrics": {f"m{number}": 1 for number in range(2 * MAX_METRICS)}}),
    "long": "TEXT " + "a" * MAX_TEXT,
    "megabytes": "TEXT cpu_utilization:0.1," + " " * 3_000_000,
    "no base64": "BIN ***",
    "empty base64": "BIN ",
    "empty": "",
    "garbage base64": "BIN " + base64.b64encode(b"\xff" * 40).decode(),
    "no text": "TEXT \x00\x01",
    "bytes": b"\xff\xff\xff",
}


@pytest.mark.parametrize("value", UNSOUND.values(), ids=UNSOUND)
def test_what_is_unsound_is_unsound_as_a_whole_and_says_why(value: str | bytes) -> None:
    """No exception and no half of a report; the reason is short, whatever was sent."""
    report = parse(value)
    assert report.problem
    assert len(report.problem) < 160
    assert report == LoadReport(problem=report.problem)


def test_the_work_for_a_report_is_bounded() -> None:
    """The worst that gets by the bounds takes a few milliseconds on a slow machine, and megabytes take no longer."""
    worst = "TEXT " + ",".join(f"named_metrics.{number}:{'1' * 10}" for number in range(MAX_METRICS - 1))
    assert not parse(worst).problem
    began = time.perf_counter()
    parse(worst)
    for value in UNSOUND.values():
        parse(value)
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize(
    "value", ['{"a":[' + "{}," * 2600 + "{}]}", '{"a":' + "[" * 300 + "]" * 300 + "}"], ids=["objects", "lists"]
)
def test_json_of_many_lists_or_objects_is_refused_unread(value: str) -> None:
    """Each costs as much as a metric."""
    assert parse(value).problem == f"more than {MAX_METRICS} lists and objects"


@pytest.mark.parametrize("form", ["text", "json", "message"])
def test_a_strangers_text_is_plain_ascii_in_what_is_said_of_it(form: str) -> None:
    """No escape sequence for a terminal, no lone surrogate, nothing that an encoder refuses."""
    name = "\x1b[31m\u202e\n" + ("\ud800" if form == "json" else "")
    values: dict[str, str | bytes] = {
        "text": f"TEXT utilization.{name}:-1",
        "json": json.dumps({"utilization": {name: -1}}),
        "message": encode(LoadReport(utilization={name: -1.0})) if form == "message" else b"",
    }
    problem = parse(values[form]).problem
    assert "beyond all reason" in problem
    assert problem.isascii()
    assert problem.isprintable()


NAMES = st.text(alphabet="abcXYZ019_-/.", min_size=1, max_size=12).filter(lambda name: name.strip())
SHARES = st.floats(min_value=0.0, max_value=1e12)
ANY = st.floats(min_value=-1e12, max_value=1e12)
REPORTS = st.builds(
    LoadReport,
    application_utilization=SHARES,
    cpu_utilization=SHARES,
    mem_utilization=SHARES,
    qps=SHARES,
    eps=SHARES,
    utilization=st.dictionaries(NAMES, SHARES, max_size=4),
    request_cost=st.dictionaries(NAMES, ANY, max_size=4),
    named_metrics=st.dictionaries(NAMES, ANY, max_size=4),
)


@given(REPORTS)
def test_what_is_written_as_text_is_read_again(report: LoadReport) -> None:
    """To six digits."""
    read = parse(to_text(report))
    assert not read.problem
    for name in ("application_utilization", "cpu_utilization", "mem_utilization", "qps", "eps"):
        assert math.isclose(getattr(read, name), getattr(report, name), rel_tol=1e-5, abs_tol=1e-300)
    for name in ("utilization", "request_cost", "named_metrics"):
        assert dict(getattr(read, name)) == pytest.approx(dict(getattr(report, name)), rel=1e-5)


@given(
    st.one_of(st.text(), st.binary(), st.text().map("TEXT ".__add__), st.text().map("JSON ".__add__), st.text().map("BIN ".__add__))
)
def test_nothing_that_is_sent_raises(value: str | bytes) -> None:
    """Whatever it is, it is a report."""
    assert isinstance(parse(value), LoadReport)
