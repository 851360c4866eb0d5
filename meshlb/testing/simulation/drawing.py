"""A comparison as a picture: an SVG with a row for each scenario and policy, on a logarithmic axis of ratios to the reference.

The bar ends at p99; its thin line goes from p50 to p99.9. Colours are Okabe and Ito's, which the colour-blind can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from meshlb.testing.simulation.compare import Compared

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#555555")
WIDTH, LEFT, RIGHT, ROW, GAP, TOP = 960, 130, 60, 12, 10, 70
MARKS = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 300.0, 1000.0)


def draw(compared: Sequence[Compared], title: str) -> str:
    """The whole file."""
    shown = [one for one in compared if not math.isnan(one.reference_s[0])]
    names = list(compared[0].scores) if compared else []
    ratios = [ratio for one in shown for score in one.scores.values() for ratio in score.latency_ratios if math.isfinite(ratio)]
    axis = _Axis(max([1.5, *ratios]))
    height = TOP + len(shown) * (len(names) * ROW + GAP) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="10" y="20" font-size="14">{escape(title)}</text>',
        *_legend(names),
        *axis.marks(height),
        *_rows(shown, names, axis),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Axis:
    def __init__(self, most: float) -> None:
        self.most = next((mark for mark in MARKS if mark >= most), most)

    def x(self, ratio: float) -> float:
        part = math.log(max(ratio, 1.0)) / math.log(self.most)
        return round(LEFT + part * (WIDTH - LEFT - RIGHT), 1)

    def marks(self, height: int) -> Iterator[str]:
        for mark in MARKS:
            if mark <= self.most:
                x = self.x(mark)
                yield f'<line x1="{x}" y1="{TOP - 8}" x2="{x}" y2="{height - 24}" stroke="#ddd"/>'
                yield f'<text x="{x}" y="{height - 10}" text-anchor="middle" fill="#555">{mark:g}</text>'


def _legend(names: Sequence[str]) -> Iterator[str]:
    x = 10
    for name, colour in zip(names, _colours(len(names)), strict=True):
        yield f'<rect x="{x}" y="34" width="10" height="10" fill="{colour}"/><text x="{x + 14}" y="43">{escape(name)}</text>'
        x += 30 + 7 * len(name)


def _rows(shown: Sequence[Compared], names: Sequence[str], axis: _Axis) -> Iterator[str]:
    y = TOP
    for one in shown:
        yield f'<text x="{LEFT - 6}" y="{y + len(names) * ROW / 2 + 4}" text-anchor="end">{escape(one.scenario.name)}</text>'
        for name, colour in zip(names, _colours(len(names)), strict=True):
            p50, p99, p999 = one.scores[name].latency_ratios
            if math.isfinite(p99):
                width = max(round(axis.x(p99) - LEFT, 1), 0.5)
                middle = y + ROW / 2
                yield f'<rect x="{LEFT}" y="{y + 1}" width="{width}" height="{ROW - 2}" fill="{colour}"/>'
                yield f'<line x1="{axis.x(p50)}" y1="{middle}" x2="{axis.x(p999)}" y2="{middle}" stroke="black"/>'
                yield f'<text x="{max(axis.x(p99), axis.x(p999)) + 4}" y="{y + ROW - 2}" fill="#333">{p99:.2f}</text>'
            y += ROW
        y += GAP


def _colours(count: int) -> list[str]:
    return [COLOURS[at % len(COLOURS)] for at in range(count)]
