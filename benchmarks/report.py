"""Figures to words: medians and spread, ratios, whether the targets hold; JSON; a chart."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.breakeven import LINKS, Cost, faster_below, in_words
from benchmarks.campaign import Outcome
from benchmarks.chart import chart
from benchmarks.files import FileSet
from benchmarks.lines import Panel, line_chart
from benchmarks.scenarios import IDEAL, OFFICIAL, Target, ours_lfs, ours_xet

RESULTS = Path(__file__).parent / "results"
_STEP = ("step_slowdown", "step_cpu_slowdown", "step_idle", "step_blocked")
_EXTRAS = ("sent_share", "lag_p50", "lag_p99", "lag_worst", *_STEP)
_SHOWN = ("wall", "cpu", "peak_rss", "import_seconds", "server_cpu", "sent", "bytes_sent", *_EXTRAS)


def median(outcome: Outcome, label: str, metric: str) -> float | None:
    values = [run[metric] for run in outcome.runs.get(label, ()) if metric in run]
    return statistics.median(values) if values else None


def table(outcome: Outcome) -> str:
    """For each contender the median, and lowest to highest in brackets; then the targets."""
    scenario = outcome.scenario
    lines = [
        f"{scenario.name}: {scenario.title}",
        f"  {scenario.files.describe()}; {scenario.network.describe()};"
        f" parts of {scenario.part_size / 1e6:.3g} MB; ideal {outcome.ideal:.2f} s",
        f"  {'':28} {'wall s':>20} {'CPU s':>20} {'peak MB':>8} {'÷ official':>15} {'÷ ideal':>8}",
    ]
    for label, runs in outcome.runs.items():
        walls, cpus = ([run[name] for run in runs] for name in ("wall", "cpu"))
        peak = statistics.median(run["peak_rss"] for run in runs) / 1e6
        lines.append(
            f"  {label:28} {_spread(walls):>20} {_spread(cpus):>20} {peak:8.0f}"
            f" {_against(outcome, label, OFFICIAL):>15} {_against_ideal(outcome, label):>8}"
        )
        extras = [
            f"{name} {median(outcome, label, name):.4f}"
            for name in _EXTRAS
            if median(outcome, label, name) is not None
        ]
        if (sent := _share_sent(outcome, label)) is not None:
            extras.append(f"bytes sent {sent:.2%} of the files")
        if extras:
            lines.append(f"  {'':28} {', '.join(extras)}")
    lines += [f"  {label:28} {reason}" for label, reason in outcome.missing.items()]
    lines += [f"  {line}" for line in breakeven(outcome)]
    lines += [f"  {line}" for _, line in judged(outcome)]
    return "\n".join(lines)


def judged(outcome: Outcome) -> list[tuple[bool | None, str]]:
    """Each target: whether it holds (None when it could not be measured), and in words."""
    return [judge(outcome, target) for target in outcome.scenario.targets]


def write(outcomes: list[Outcome], machine: dict[str, object], folder: Path = RESULTS) -> None:
    """One JSON file of everything and one SVG a scenario; scenarios not run keep theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    scenarios: dict[str, Any] = before.get("scenarios", {})
    for outcome in outcomes:
        scenarios[outcome.scenario.name] = _as_json(outcome, machine)
        (folder / f"{outcome.scenario.name}.svg").write_text(drawn(outcome))
    path.write_text(
        json.dumps({"machine": machine, "scenarios": scenarios}, indent=1, ensure_ascii=False)
        + "\n"
    )


def drawn(outcome: Outcome) -> str:
    """Lines where contenders are points of some, else bars."""
    title, caption = outcome.scenario.title, _caption(outcome)
    if any(entry.point for entry in outcome.scenario.entries):
        panels = (
            Panel("CPU seconds", _lines(outcome, lambda label: median(outcome, label, "cpu"))),
            Panel(
                "bytes sent, as a share of the file",
                _lines(outcome, lambda label: _share_sent(outcome, label)),
                percent=True,
            ),
        )
        return line_chart(title, caption, panels)
    bars = []
    for label, runs in outcome.runs.items():
        sent = _share_sent(outcome, label)
        name = label if sent is None else f"{label}: {sent:.1%} sent"
        bars.append((name, [run["wall"] for run in runs], [run["cpu"] for run in runs]))
    return chart(title, caption, bars, outcome.ideal)


def breakeven(outcome: Outcome) -> list[str]:
    """For each share of bytes changed: how fast the link must be for LFS to overtake Xet."""
    output = []
    xet, lfs = (_costs(outcome, entry.label) for entry in (ours_xet, ours_lfs))
    for share in sorted(xet.keys() & lfs.keys()):
        first, second = xet[share], lfs[share]
        walls = ", ".join(
            f"{link} {first.seconds(rate):.2f} against {second.seconds(rate):.2f} s"
            for link, rate in LINKS.items()
        )
        output.append(f"{share:.0%}: Xet is {in_words(faster_below(first, second))}; {walls}")
    return output


def _costs(outcome: Outcome, line: str) -> dict[float, Cost]:
    costs = {}
    for entry in outcome.scenario.entries:
        if entry.point is not None and entry.point[0] == line:
            cpu = median(outcome, entry.label, "cpu")
            sent = median(outcome, entry.label, "bytes_sent")
            if cpu is not None and sent is not None:
                costs[entry.point[1]] = Cost(cpu, sent)
    return costs


def _lines(
    outcome: Outcome, cost: Callable[[str], float | None]
) -> dict[str, list[tuple[float, float]]]:
    lines: dict[str, list[tuple[float, float]]] = {}
    for entry in outcome.scenario.entries:
        if entry.point is not None and (value := cost(entry.label)) is not None:
            name, share = entry.point
            lines.setdefault(name, []).append((share, value))
    return lines


def _share_sent(outcome: Outcome, label: str) -> float | None:
    """Bytes of the last push's bodies, as a share of its files."""
    sent = median(outcome, label, "bytes_sent")
    return None if sent is None else sent / _bytes(outcome.scenario.files)


def _bytes(files: FileSet) -> int:
    """Of a set whose files are all of one size."""
    return files.count * files.smallest


def _as_json(outcome: Outcome, machine: dict[str, object]) -> dict[str, Any]:
    scenario = outcome.scenario
    return {
        "title": scenario.title,
        "when": machine["when"],
        "files": asdict(scenario.files),
        "network": scenario.network.describe(),
        "part_size": scenario.part_size,
        "ideal": round(outcome.ideal, 3),
        "contenders": {
            label: {
                name: [_rounded(run[name]) for run in runs]
                for name in _SHOWN
                if any(name in run for run in runs)
            }
            for label, runs in outcome.runs.items()
        },
        "missing": outcome.missing,
        "targets": [{"met": met, "target": words} for met, words in judged(outcome)],
    }


def judge(outcome: Outcome, target: Target) -> tuple[bool | None, str]:
    """One target, by medians."""
    value = median(outcome, target.of, target.metric)
    against = [_reference(outcome, name, target.metric) for name in target.to]
    known = [reference for reference in against if reference is not None]
    name = f"{target.metric} of {target.of}"
    if target.to:
        name += f" {'minus' if target.minus else '÷'} {_best(target)}"
    if value is None or (target.to and not known):
        return None, f"?  {name}: not measured"
    if known:
        # Of lower bounds the highest counts, of rivals the best.
        reference = max(known) if "ideal" in target.to else min(known)
        value = value - reference if target.minus else value / reference
    holds = (target.at_most is None or value <= target.at_most) and (
        target.at_least is None or value >= target.at_least
    )
    bounds = [f"≤ {_number(target.at_most)}"] if target.at_most is not None else []
    bounds += [f"≥ {_number(target.at_least)}"] if target.at_least is not None else []
    return holds, f"{'✓' if holds else '✗'}  {name}: {_number(value)} ({' and '.join(bounds)})"


def _best(target: Target) -> str:
    if "ideal" in target.to:
        return " or ".join(target.to)
    return target.to[0] if len(target.to) == 1 else "the best fixed"


def _reference(outcome: Outcome, name: str, metric: str) -> float | None:
    if name == "ideal":
        return outcome.ideal or None
    if name == "cpu floor":
        return median(outcome, target_of(outcome), "cpu")
    return median(outcome, name, metric)


def target_of(outcome: Outcome) -> str:
    """The contender whose CPU time bounds its wall time: the first one is always ours."""
    return outcome.scenario.entries[0].label


def _against(outcome: Outcome, label: str, other: str) -> str:
    ratios = []
    for metric in ("wall", "cpu"):
        mine, theirs = median(outcome, label, metric), median(outcome, other, metric)
        if mine is None or not theirs:
            return ""
        ratios.append(f"{mine / theirs:.2f}")
    return f"{ratios[0]} {ratios[1]} CPU"


def _against_ideal(outcome: Outcome, label: str) -> str:
    mine = median(outcome, label, "wall")
    ideal = median(outcome, IDEAL, "wall") or outcome.ideal
    return f"{mine / ideal:.2f}" if mine is not None and ideal else ""


def _caption(outcome: Outcome) -> str:
    scenario = outcome.scenario
    return f"{scenario.files.describe()}; {scenario.network.describe()}"


def _spread(values: list[float]) -> str:
    middle = statistics.median(values)
    if len(values) == 1:
        return f"{middle:.2f}"
    return f"{middle:.2f} ({min(values):.2f}–{max(values):.2f})"


def _number(value: float) -> str:
    if abs(value) >= 1e5:
        return f"{value / 1e6:.1f} M"
    return f"{value:.3g}"


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value
