"""The benchmarks run, count rightly and judge rightly; how fast anything is, no test asks."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import campaign, files, report, scale, scenarios
from benchmarks.breakeven import Cost, faster_below, in_words
from benchmarks.campaign import Outcome
from benchmarks.chart import chart
from benchmarks.files import FileSet, StoredFile
from benchmarks.networks import HUB_ROUND_TRIPS, Network, ideal_seconds
from benchmarks.rivals.training import Clocks, slowdown
from benchmarks.scenarios import IDEAL, OURS, Scenario, Target

MB = 1_000_000


@pytest.fixture
def scenario() -> Scenario:
    return Scenario(
        "smoke",
        "two small files",
        FileSet(2, 3 * MB),
        FileSet(2, 3 * MB),
        (scenarios.ours, scenarios.ideal),
        part_size=MB,
        targets=(Target("wall", OURS, (IDEAL,), at_most=1e9),),
    )


def test_two_contenders_push_the_same_files_and_are_distinguished(
    scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "WORK", tmp_path)
    said: list[str] = []

    outcome = campaign.run(scenario, rounds=1, only=[], say=said.append)

    assert not outcome.missing
    for label in (OURS, IDEAL):
        (run,) = outcome.runs[label]
        assert run["received"] == 6 * MB
        assert run["calls"]["commit"] >= 1
        assert run["wall"] > 0
    assert len(said) == 2
    assert "✓" in report.table(outcome)
    report.write([outcome], {"when": "now"}, tmp_path / "results")
    output = json.loads((tmp_path / "results" / "results.json").read_text())
    assert set(output["scenarios"]["smoke"]["contenders"]) == {OURS, IDEAL}
    ET.parse(tmp_path / "results" / "smoke.svg")


def test_a_contender_that_cannot_run_says_why(scenario: Scenario) -> None:
    outcome = Outcome(scenario, 0.0)

    (verdict,) = report.judged(outcome)

    assert verdict == (None, f"?  wall of {OURS} ÷ {IDEAL}: not measured")


def test_targets_are_judged_by_medians(scenario: Scenario) -> None:
    outcome = Outcome(scenario, 0.0)
    outcome.runs[OURS] = [{"wall": seconds} for seconds in (1.0, 2.0, 9.0)]
    outcome.runs[IDEAL] = [{"wall": 1.0}]
    strict = Target("wall", OURS, (IDEAL,), at_most=1.9)
    loose = Target("wall", OURS, (IDEAL,), at_most=2.1)

    assert report.judge(outcome, strict)[0] is False
    assert report.judge(outcome, loose)[0] is True


@pytest.mark.parametrize(
    ("network", "parts", "connections", "seconds"),
    [
        pytest.param(Network(), [MB], 4, 0.0, id="loopback"),
        pytest.param(Network(per_connection=MB), [MB, MB], 2, 1.0, id="side by side"),
        pytest.param(Network(per_connection=MB), [MB, MB, MB], 2, 2.0, id="two waves"),
        pytest.param(Network(aggregate=MB), [MB, MB], 2, 2.0, id="one pipe"),
        pytest.param(
            Network(per_connection=MB, refuse_above=1), [MB, MB], 2, 2.0, id="one admitted"
        ),
        pytest.param(
            Network(latency=0.1), [MB, MB], 1, 0.1 * (HUB_ROUND_TRIPS + 3), id="round trips"
        ),
    ],
)
def test_the_ideal_time(
    network: Network, parts: list[int], connections: int, seconds: float
) -> None:
    assert ideal_seconds(network, parts, connections) == pytest.approx(seconds)


def test_prepared_files_know_their_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WORK", tmp_path)

    first = files.prepare(FileSet(3, 10, 20, "prose"), 8)
    again = files.prepare(FileSet(3, 10, 20, "prose"), 8)

    assert first == again
    assert all(isinstance(file, StoredFile) for file in first.files)
    assert [len(file.md5s) for file in first.files] == [-(-f.size // 8) for f in first.files]


def test_every_scenario_names_its_contenders() -> None:
    for scenario in scenarios.SCENARIOS:
        labels = {entry.label for entry in scenario.entries}
        for target in scenario.targets:
            assert {target.of, *target.to} <= labels | {"ideal", "cpu floor"}, scenario.name


def test_steps_beside_a_push_cost_their_cpu_time() -> None:
    """A push of 3 s of CPU beside 100 steps of 50 ms. Whether other processes had the core for no
    second or for ten changes nothing."""
    quiet = Clocks(wall=9.0, own=5.5, process=8.5, queued=2.0, idle=0.5)
    busy = Clocks(wall=19.0, own=5.5, process=8.5, queued=9.0, idle=0.5)
    for took in (quiet, busy):
        figures = slowdown(took, 100, alone=0.05)
        assert figures["step_slowdown"] == pytest.approx(0.2)
        assert figures["step_cpu_slowdown"] == pytest.approx(0.1)
        assert figures["step_idle"] == pytest.approx(0.1)
    assert slowdown(quiet, 100, alone=0.05)["step_blocked"] == pytest.approx(0.3)


def test_the_clocks_of_a_training_step_only_go_forward() -> None:
    began = Clocks.now(0)
    sum(range(100_000))
    took = Clocks.now(0) - began
    assert min(took.wall, took.own) > 0
    assert min(took.process, took.queued, took.idle) >= 0


def test_a_chart_is_xml_whatever_the_names_hold() -> None:
    ET.fromstring(chart("a < b", "c & d", [("<e>", [1.0, 2.0], [0.5])], ideal=1.0))


def test_costs_by_share_are_drawn_with_their_break_even() -> None:
    [changed] = scenarios.named(["xet-changed"])
    outcome = Outcome(changed, 0.0)
    size = changed.files.smallest
    for entry in changed.entries:
        assert entry.point is not None
        line, share = entry.point
        by_lfs = line == scenarios.ours_lfs.label
        figures = {"wall": 1.0, "cpu": 0.8 if by_lfs else 0.7 + share, "peak_rss": 1e8}
        figures["bytes_sent"] = size if by_lfs else size * share
        outcome.runs[entry.label] = [figures]

    drawn = ET.fromstring(report.drawn(outcome))
    words = {element.text for element in drawn.iter() if element.text}
    assert {"CPU seconds", "bytes sent, as a share of the file", "official Xet", "50%"} <= words

    output = report.table(outcome)
    assert "bytes sent 10.00% of the files" in output
    assert "1%: Xet is faster at any speed" in output
    assert "50%: Xet is faster below 1.8 Gbit/s" in output
    assert "100%: Xet is never faster" in output


def test_the_break_even_is_where_both_take_as_long() -> None:
    xet, lfs = Cost(cpu=2.0, sent=100.0), Cost(cpu=1.0, sent=1000.0)
    rate = faster_below(xet, lfs)

    assert xet.seconds(rate) == lfs.seconds(rate)
    assert xet.seconds(rate * 0.9) < lfs.seconds(rate * 0.9)
    assert xet.seconds(rate * 1.1) > lfs.seconds(rate * 1.1)
    assert in_words(faster_below(lfs, xet)) == "never faster"


def test_bytes_in_the_hubs_own_store_are_counted(
    scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "WORK", tmp_path)
    changed = replace(scenarios.ours_lfs, options={"transfer": "lfs", "changed": 0.1})
    disk = replace(scenario, store="xet", entries=(changed,), targets=())

    outcome = campaign.run(disk, rounds=1, only=[], say=lambda line: None)

    assert [run["bytes_sent"] for run in outcome.runs[changed.label]] == [6 * MB]
    assert "100.0% sent" in report.drawn(outcome)


def test_a_host_is_bound_by_its_wire_or_its_cores() -> None:
    wide = scale.bulk(scale.Host("", 64, 100e9), scale.CHECKED)
    narrow = scale.bulk(scale.Host("", 2, 100e9), scale.CHECKED)

    assert (wide.bound, narrow.bound) == ("wire", "cores")
    assert wide.cores <= 64
    assert wide.processes > narrow.processes


def test_lfs_objects_and_commits_cost_a_call_each() -> None:
    plan = scale.Plan()

    assert scale.calls(1000, lfs=True, commits=10, plan=plan) == 4 + 4 + 1000 + 1 + 10
    assert scale.calls(1000, lfs=False, commits=1, plan=plan) == 4 + 1 + 1


def test_the_readme_shows_what_is_calculated() -> None:
    output = Path(scale.__file__).with_name("README.md").read_text()

    assert all(line in output for line in scale.lines())
