"""``python -m meshlb.testing.simulation.reckon --scenarios main --seeds 101-105``: fills ``references.json`` with what it does not have.

After a change of a scenario, of what chance draws or of a bound: take the lines of what changed out of the file, and run this.
"""

from __future__ import annotations

import argparse
import json

from meshlb.testing.simulation.references import FILE, Bounds, reckoned_s, stored
from meshlb.testing.simulation.scenarios import named, seeds_of


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m meshlb.testing.simulation.reckon", description="Reckon and store references.")
    parser.add_argument("--scenarios", default="main", help="names or groups, as for the comparison (default main)")
    parser.add_argument("--seeds", default="101-105", help="default 101-105")
    asked = parser.parse_args()
    known = stored()
    for scenario in named(asked.scenarios):
        for seed in seeds_of(asked.seeds):
            if not scenario.concurrency and str(seed) not in known.setdefault(scenario.name, {}):
                known[scenario.name][str(seed)] = reckoned_s(scenario, seed)
                _store(known)


def _store(known: dict[str, dict[str, Bounds]]) -> None:
    """A line for each scenario and seed."""
    blocks = []
    for name in sorted(known):
        seeds = [f'    "{seed}": {json.dumps(known[name][seed])}' for seed in sorted(known[name], key=int)]
        blocks.append(f'  "{name}": {{\n' + ",\n".join(seeds) + "\n  }")
    whole = FILE.with_suffix(".new")  # somebody may be reading
    whole.write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")
    whole.replace(FILE)


if __name__ == "__main__":
    main()
