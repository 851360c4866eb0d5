"""The recorded exchanges of a real API server, read for replay."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[3] / "recordings" / "kube-apiserver-1.36"


@dataclass(frozen=True)
class Exchange:
    """One request and its plain answer, or its stream: lines with their times, and how it ended."""

    note: str
    path: str
    query: dict[str, str]
    status: int
    headers: dict[str, str]
    body: bytes
    lines: tuple[tuple[float, bytes], ...]
    end: str


def exchanges(name: str) -> list[Exchange]:
    """In the order of the requests."""
    entries: list[dict[str, Any]] = [json.loads(text) for text in (FOLDER / f"{name}.jsonl").read_text().splitlines()]
    found = []
    for entry in entries:
        if "request" not in entry:
            continue
        stream = entry.get("stream")
        own = [other for other in entries if stream is not None and other.get("stream") == stream]
        found.append(
            Exchange(
                entry["note"],
                entry["request"]["path"],
                entry["request"]["query"],
                entry["status"],
                entry["headers"],
                entry.get("body", "").encode(),
                tuple((other["t"], other["line"].encode()) for other in own if "line" in other),
                next((other["end"] for other in own if "end" in other), ""),
            )
        )
    return found


def exchange(name: str, note: str) -> Exchange:
    return next(found for found in exchanges(name) if found.note == note)
