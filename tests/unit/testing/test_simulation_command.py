"""Comparing policies, in one process and in several, and the command that does it: text, JSON, a drawing, mistakes and Ctrl-C."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from meshlb.config import Config
from meshlb.testing.simulation import SCENARIOS, Compared, Scenario, Score, compare, geo_mean, play, reference_s
from meshlb.testing.simulation.__main__ import main
from meshlb.testing.simulation.compare import score
from meshlb.testing.simulation.drawing import draw
from meshlb.testing.simulation.table import bar, block, means, plain
from tests.support.channels import eventually

SMALL = Scenario(name="small", load_ratio=0.6, clients=2, servers=3, length_s=20.0, warm_up_s=2.0)
CLOSED = replace(SMALL, name="closed", load_ratio=0.0, concurrency=1)
POLICIES = {"p2c": Config(), "by turns": Config(policy="round_robin")}
FEW = "few-1x5"  # the smallest of those with a name and a stored reference


@pytest.fixture(scope="module")
def compared() -> list[Compared]:
    print("seeds=1,2,3")
    return list(compare([SMALL, CLOSED], POLICIES, [1, 2, 3]))


def test_a_score_is_a_run_by_its_own_reference() -> None:
    """Each percentile by that of the same seed."""
    one, played, least_s = score(SMALL, Config(), 1), play(SMALL, Config(), 1), reference_s(SMALL, 1)
    assert one.latency_ratios == tuple(
        played.latency_s(ratio) / by_s for ratio, by_s in zip((0.5, 0.99, 0.999), least_s, strict=True)
    )
    assert (one.failed_ratio, one.busiest_to_mean) == (played.failed_ratio, played.busiest_to_mean())
    assert one.busiest_in_1000 == max(played.busiest_in_windows(1000))


def test_a_comparison_has_the_median_of_the_seeds(compared: list[Compared]) -> None:
    """Of the paired ratios, figure by figure."""
    ratios = [sorted(score(SMALL, Config(), seed).latency_ratios[at] for seed in (1, 2, 3))[1] for at in range(3)]
    assert list(compared[0].scores["p2c"].latency_ratios) == ratios
    assert compared[0].reference_s[1] == sorted(reference_s(SMALL, seed)[1] for seed in (1, 2, 3))[1]


def test_processes_find_the_same(compared: list[Compared]) -> None:
    """Two of them, scenario by scenario in their order."""
    assert repr(list(compare([SMALL, CLOSED], POLICIES, [1, 2, 3], jobs=2))) == repr(compared)


def test_a_closed_loop_has_no_ratios_but_all_else(compared: list[Compared]) -> None:
    """A dash in the table, and it is in no mean."""
    closed = compared[1].scores["p2c"]
    assert all(math.isnan(ratio) for ratio in closed.latency_ratios)
    assert closed.busiest_in_1000 >= 1.0
    assert block(compared[1]).splitlines()[1].split()[:4] == ["p2c", "-", "-", "-"]
    assert geo_mean(compared, "p2c") == pytest.approx(geo_mean(compared[:1], "p2c"))
    assert "geo-mean of 1 of others" in means(compared)
    assert plain(compared, [1])["scenarios"]["closed"]["reference_s"] == [None] * 3


def test_a_scenario_without_a_counted_call_has_no_figures() -> None:
    """Dashes in the table, None for machines, and no error."""
    quiet = Scenario(name="quiet", load_ratio=0.001, servers=1, workers=1, clients=1, length_s=2.0, warm_up_s=1.9)
    compared = list(compare([quiet], {"p2c": Config()}, [1]))
    found = compared[0].scores["p2c"]
    assert all(math.isnan(one) for one in (*found.latency_ratios, found.busiest_to_mean, found.busiest_in_1000))
    assert block(compared[0]).splitlines()[1].split() == ["p2c", "-", "-", "-", "0.00%", "-", "-"]
    assert (
        json.loads(json.dumps(plain(compared, [1]), allow_nan=False))["scenarios"]["quiet"]["policies"]["p2c"]["busiest_to_mean"]
        is None
    )
    assert means(compared) == ""


def test_the_geometric_mean_is_one() -> None:
    """Of 1, 2 and 4: 2."""
    made = [Compared(SMALL, (1.0,) * 3, {"a": Score((ratio,) * 3, 0.0, 1.0, 1.0)}) for ratio in (1.0, 2.0, 4.0)]
    assert geo_mean(made, "a") == pytest.approx((2.0, 2.0, 2.0))


def test_a_bar_is_as_long_as_the_ratio_is_large() -> None:
    """A block for each tenth more, eighths of one, and an arrow at the end of the line."""
    assert [bar(ratio) for ratio in (float("nan"), 0.9, 1.0, 1.1**2 + 1e-9, 1.1**2.55, 1000.0)] == [
        "",
        "",
        "",
        "██",
        "██▌",
        "█" * 29 + "▶",
    ]


def test_the_drawing_is_a_picture(compared: list[Compared]) -> None:
    """Well-formed, with a bar for each scenario and policy that have a figure, names made safe."""
    one = compared[0]
    named = Compared(one.scenario, one.reference_s, {"<p2c> & co": one.scores["p2c"], "by turns": one.scores["by turns"]})
    root = ET.fromstring(draw([named, compared[1]], "a < b"))
    space = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in root.iter(f"{space}text")]
    assert {"a < b", "<p2c> & co", "by turns", "small", f"{one.scores['p2c'].latency_ratios[1]:.2f}"} <= set(texts)
    assert "closed" not in texts
    assert len(list(root.iter(f"{space}rect"))) == 1 + 2 + 2  # ground, legend, bars


def test_the_command_prints_a_table_and_draws_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line a policy, under its scenario and the reference; JSON text may be a policy."""
    file = tmp_path / "table.svg"
    policies = 'p2c,{"name": "least_request", "choice_count": 3}'
    assert main(["--policies", policies, "--scenarios", FEW, "--seeds", "101-102", "--svg", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "seeds 101, 102, outlier=on" in lines[0]
    assert [line.split()[0] for line in lines[2:5]] == [FEW, "p2c", '{"name":']
    assert ET.parse(file).getroot().tag.endswith("svg")


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing else, and every figure of the table."""
    assert main(["--policies", "round_robin", "--scenarios", FEW, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["scenarios"][FEW]["policies"]["round_robin"]["latency_ratios"] == pytest.approx([1.0, 1.0, 1.0], abs=0.02)
    assert said["geo_mean"].keys() == {"1 of few"}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--policies", "p3c"], "error: policy='p3c': did you mean 'p2c'"),
        (["--policies", "{"], "error: policy='{': must be a name or a JSON object"),
        (["--outlier", "of"], "error: outlier.mode='of': must be one of"),
        (["--scenarios", "homog71"], "scenario='homog71': did you mean 'homog70'"),
        (["--seeds", "x"], "seeds='x'"),
        (["--svg", "/no/such/folder/x.svg"], "error: [Errno 2] No such file or directory: '/no/such/folder/x.svg'"),
        (["--jobs", "0"], "'0' must be a whole number above 0"),
    ],
)
def test_the_command_says_what_it_does_not_know(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, and no traceback."""
    try:
        status: object = main(arguments)
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_ends_the_command_and_its_processes_at_once(jobs: str) -> None:
    """Status 130 and one word; nobody of its group is left."""
    command = [sys.executable, "-m", "meshlb.testing.simulation", "--scenarios", f"{FEW},wide80", "--seeds", "1-5", "--jobs", jobs]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        while FEW not in running.stdout.readline():
            pass
        os.killpg(running.pid, signal.SIGINT)
        began_s = time.monotonic()
        assert running.wait(20.0) == 130
        assert time.monotonic() - began_s < 10.0
        assert running.stderr.read() == "interrupted\n"
    eventually(
        lambda: not is_there(running.pid), "the end of all its processes"
    )  # the tracker of multiprocessing's resources is the last


def test_a_reader_that_is_gone_ends_the_command_quietly() -> None:
    """As with ``| head -1``: status 0, and nothing is said."""
    command = [sys.executable, "-m", "meshlb.testing.simulation", "--scenarios", f"{FEW},few-3x5", "--policies", "p2c"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.wait(60.0) == 0
        assert running.stderr.read() == ""


@pytest.mark.parametrize("before", [None, "an older drawing"])
def test_ctrl_c_leaves_no_empty_drawing(before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And an older one as it was."""
    file = tmp_path / "table.svg"
    if before is not None:
        file.write_text(before, encoding="utf-8")

    def interrupted(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("meshlb.testing.simulation.__main__.compare", interrupted)
    assert main(["--scenarios", FEW, "--svg", str(file)]) == 130
    assert [one.read_text(encoding="utf-8") for one in tmp_path.iterdir()] == ([] if before is None else [before])


def is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_named_scenario_runs() -> None:
    """Each for a few seconds, with what happens in them: no call is lost."""
    print("seed=1")
    for scenario in SCENARIOS.values():
        short = replace(scenario, length_s=scenario.warm_up_s * 0.1 + 1.5, warm_up_s=scenario.warm_up_s * 0.1)
        played = play(short, Config(), 1)
        expected = (
            sum(not arrival.stream and arrival.at_s >= short.warm_up_s for arrival in short.arrivals(1))
            if scenario.load_ratio
            else None
        )
        assert played.calls
        assert expected in (None, len(played.calls))
