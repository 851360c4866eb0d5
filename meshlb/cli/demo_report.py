"""What the demo found, as rows: computed here, printed as a table on a terminal, as plain lines elsewhere, or as JSON."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from meshlb.cli.demo_load import Sample


@dataclass(slots=True)
class Row:
    """One scene of one kind of client. ``first_call_ms``: from a new pod's endpoint event to its first call, the slowest of them;
    None where no pod was new. ``broken``: the promises that did not hold, in words."""

    scene: str
    client: str
    calls: int
    failed: int
    shares: dict[str, int]
    p50_ms: float
    p99_ms: float
    first_call_ms: float | None = None
    note: str = ""
    broken: list[str] = field(default_factory=list)


def row(scene: str, client: str, samples: Sequence[Sample], pods: Iterable[str] = ()) -> Row:
    """Sum up; ``pods`` are listed even if they got nothing."""
    answered = Counter(dict.fromkeys(pods, 0))
    answered.update(sample.pod for sample in samples if not sample.error)
    times = sorted((sample.end_s - sample.start_s) * 1000 for sample in samples if not sample.error)
    total = sum(answered.values()) or 1
    return Row(
        scene,
        client,
        len(samples),
        sum(1 for sample in samples if sample.error),
        {pod: round(100 * count / total) for pod, count in sorted(answered.items())},
        _quantile(times, 0.5),
        _quantile(times, 0.99),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else 0.0


COLUMNS = ("scene", "client", "calls", "failed", "share per pod, %", "p50 ms", "p99 ms", "first call ms", "")


def cells(one: Row) -> tuple[str, ...]:
    shares = " ".join(str(share) for share in one.shares.values())
    first = "" if one.first_call_ms is None else f"{one.first_call_ms:.0f}"
    verdict = "BROKEN" if one.broken else one.note
    return (
        one.scene,
        one.client,
        str(one.calls),
        str(one.failed),
        shares,
        f"{one.p50_ms:.1f}",
        f"{one.p99_ms:.1f}",
        first,
        verdict,
    )


class Report:
    """Collects rows, tells progress, prints the end. Progress goes to standard error with ``as_json``, to standard output else."""

    def __init__(self, *, as_json: bool) -> None:
        self.rows: list[Row] = []
        self._as_json = as_json
        self._live: Any = None if as_json else _live_console()
        self._status: Any = None

    def say(self, text: str) -> None:
        """What happens now: a live line on a terminal, a plain one elsewhere."""
        if self._live is None:
            print(f"… {text}", file=sys.stderr if self._as_json else sys.stdout, flush=True)
            return
        if self._status is None:
            self._status = self._live.status(text)
            self._status.start()
        self._status.update(text)

    def add(self, one: Row) -> None:
        self.rows.append(one)
        line = "  ".join(cell for cell in cells(one) if cell)
        if self._live is not None:
            self._live.print(f"[red]✗[/] {line}" if one.broken else f"[green]✓[/] {line}", highlight=False)
        elif not self._as_json:
            print(f"{'BROKEN' if one.broken else 'ok'}: {line}", flush=True)

    def close(self) -> None:
        """End the live line, whatever happened."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def print(self) -> int:
        """The table, then what was broken; the exit code."""
        self.close()
        broken = [f"{one.scene}, {one.client}: {words}" for one in self.rows for words in one.broken]
        if self._as_json:
            print(json.dumps({"rows": [asdict(one) for one in self.rows], "broken": broken}, indent=2))
        else:
            self._print_table()
            print("\n".join(f"BROKEN PROMISE: {words}" for words in broken) or "Every promise held.")
        return 1 if broken else 0

    def _print_table(self) -> None:
        if self._live is not None:
            from rich.table import Table

            table = Table(*COLUMNS)
            for one in self.rows:
                table.add_row(*cells(one), style="red" if one.broken else None)
            self._live.print(table)
            return
        lines = [COLUMNS, *(cells(one) for one in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
        print()
        for line in lines:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _live_console() -> Any:
    """rich's console on a terminal, None elsewhere or without rich."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console()
