"""Policies by name, side by side, over scenarios of a simulated cluster; what the figures mean stands in the package's head.

::

    python -m meshlb.testing.simulation --policies p2c,round_robin,anchor --scenarios main --seeds 101-105 --jobs 2 --svg table.svg
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from meshlb.config import Config
from meshlb.errors import ConfigError
from meshlb.testing.simulation.compare import Compared, compare
from meshlb.testing.simulation.drawing import draw
from meshlb.testing.simulation.scenarios import GROUPS, named, seeds_of
from meshlb.testing.simulation.table import HEADING, block, means, plain

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 (also when the reader of the output is gone), 2 for what cannot be run, 130 after Ctrl-C."""
    asked = _parser().parse_args(arguments)
    log = logging.getLogger("meshlb")
    level = log.level
    log.setLevel(logging.ERROR)  # not of ejections, which are what a scenario is about
    try:
        return _main(asked)
    finally:
        log.setLevel(level)


def _main(asked: argparse.Namespace) -> int:
    try:
        policies = {name: Config(policy=name, outlier=asked.outlier) for name in asked.policies}
        if asked.svg:
            _try(asked.svg)  # now, not after an hour
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    try:
        _run(asked, policies)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:  # `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still in the buffer goes nowhere, silently
    return 0


def _run(asked: argparse.Namespace, policies: Mapping[str, Config]) -> None:
    compared: list[Compared] = []
    title = f"policies on {len(asked.scenarios)} scenarios, seeds {', '.join(map(str, asked.seeds))}, outlier={asked.outlier}"
    if not asked.json:
        _say(f"{title}: ratios to the reference, median over the seeds\n{HEADING}")
    for one in compare(asked.scenarios, policies, asked.seeds, jobs=asked.jobs):
        compared.append(one)
        if not asked.json:
            _say(block(one))
    _say(json.dumps(plain(compared, asked.seeds), indent=2) if asked.json else means(compared))
    if asked.svg:
        asked.svg.write_text(draw(compared, title), encoding="utf-8")


def _try(file: Path) -> None:
    """Raises OSError if it could not be written; what is there stays as it is."""
    is_new = not file.exists()
    with file.open("a", encoding="utf-8"):
        pass
    if is_new:
        file.unlink()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m meshlb.testing.simulation",
        description="Plays scenarios of a simulated cluster with meshlb's real pools and pickers, and prints p50, p99 and p99.9 as ratios to "
        "what is possible at all, the share of calls that failed, and how much more than its share the busiest server got: of the whole "
        "run, and of the worst thousand calls.",
    )
    parser.add_argument(
        "--policies",
        metavar="P,...",
        type=_policies,
        default="p2c,round_robin",
        help='names, or JSON such as \'{"name": "least_request", "choice_count": 3}\' (default p2c,round_robin)',
    )
    parser.add_argument(
        "--scenarios",
        metavar="S,...",
        type=_or_usage(named),
        default="main",
        help=f"names, or groups: all, {', '.join(f'{name} ({len(members)})' for name, members in GROUPS.items())} (default main)",
    )
    parser.add_argument("--seeds", metavar="N,...", type=_or_usage(seeds_of), default="1", help="such as 101-105,7 (default 1)")
    parser.add_argument("--jobs", metavar="N", type=_or_usage(_positive), default=1, help="processes (default 1)")
    parser.add_argument("--outlier", metavar="WORD", default="on", help="ejection, for all: on (default), off, envoy or grpc")
    parser.add_argument("--json", action="store_true", help="print plain data instead of text")
    parser.add_argument("--svg", metavar="FILE", type=Path, help="draw it, too")
    return parser


def _policies(text: str) -> list[str]:
    """Commas within braces are JSON's."""
    return [word.strip() for word in re.split(r",(?![^{]*})", text)]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} must be a whole number above 0")
    return int(text)


def _or_usage(read: Callable[[str], T]) -> Callable[[str], T]:
    """What ``read`` says of a bad word, said by argparse."""

    def reading(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return reading


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
