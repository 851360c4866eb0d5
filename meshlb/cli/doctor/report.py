"""The report as text (colour only on a terminal) and as one JSON object."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from meshlb.cli.doctor.check import OK, Check
from meshlb.cli.doctor.verdict import Verdict

_COLOURS: Final = {"ok": "32", "warn": "33", "fail": "31", "skipped": "2"}
_WORDS: Final = {0: "SERVED", 1: "DEGRADED", 2: "NOT SERVED"}
_WIDTH: Final = 120


def as_json(title: dict[str, Any], checks: Sequence[Check], verdict: Verdict, took_s: float) -> str:
    """Keys are stable: they are added to, never renamed."""
    report = {
        **title,
        "verdict": asdict(verdict),
        "checks": [asdict(check) for check in checks],
        "took_ms": round(took_s * 1000, 1),
    }
    return json.dumps(report, indent=2)


def as_text(title: dict[str, Any], checks: Sequence[Check], verdict: Verdict, took_s: float) -> str:
    """A line a check, then the advice below it; no advice is given twice, and no Role printed twice."""
    lines = [f"{title['target']}: {_subject(title)}"] if checks else []
    said: set[str] = set()
    for check in checks:
        lines.append(f"{_coloured(check.status)} {check.what}: {check.detail}{_took(check)}")
        head, _, role = check.advice.partition("\n")
        if role in said:
            head, role = head.replace("apply:", "apply the Role above"), ""
        elif role:
            said.add(role)
        if head and check.status != OK and head not in said:
            lines.append(_indented(head, role))
            said.add(head)
    word = _WORDS[verdict.status]
    why = verdict.why if checks else f"{title['target']}: {verdict.why}"
    lines.append(f"{_paint(word, ('32', '33', '31')[verdict.status])}: {why} ({took_s:.1f} s)")
    return "\n".join(lines)


def _subject(title: dict[str, Any]) -> str:
    if not title["service"]:
        return "an ordinary name or address, for which no cluster is asked"
    where = f" ({title['cluster']})" if title["cluster"] else ""
    return f"Service {title['service']} in namespace {title['namespace']}{where}"


def _took(check: Check) -> str:
    return f" ({check.took_ms:.0f} ms)" if check.took_ms >= 1 else ""


def _indented(head: str, role: str) -> str:
    wrapped = textwrap.wrap(head, _WIDTH - 10, break_long_words=False, break_on_hyphens=False)
    return "\n".join(["        → " + "\n          ".join(wrapped), *("          " + line for line in role.splitlines())])


def _coloured(status: str) -> str:
    return _paint(f"{status:<7}", _COLOURS[status])


def _paint(text: str, colour: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"
