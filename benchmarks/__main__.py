"""`python -m benchmarks`: run the scenarios, print the tables, write `benchmarks/results/`."""

from __future__ import annotations

import argparse
import compileall
import sys
from pathlib import Path

from benchmarks import machine, report
from benchmarks.campaign import ROOT, Outcome, run
from benchmarks.scenarios import SCENARIOS, named


def main(arguments: list[str] | None = None) -> int:
    """Exit status 1 when a target was missed, 2 for a scenario that there is not."""
    options = _parser().parse_args(arguments)
    if options.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:20} {scenario.title}")
        return 0
    try:
        scenarios = named(options.only or [])
    except KeyError as exc:
        print(f"there is no scenario {exc}; --list names them", file=sys.stderr)
        return 2
    for package in ("asyncpush", "benchmarks"):
        compileall.compile_dir(ROOT / package, quiet=2)  # else the first round would do it
    described = machine.describe()
    print(machine.in_words(described))
    outcomes: list[Outcome] = []
    for scenario in scenarios:
        print(f"\n{scenario.name}: {scenario.title}", flush=True)
        outcome = run(
            scenario.sized(quick=options.quick),
            rounds=options.rounds,
            only=options.contender or [],
            say=lambda line: print(line, flush=True),
        )
        outcomes.append(outcome)
        print(report.table(outcome), flush=True)
        if not options.quick or options.results:
            report.write(outcomes, described, options.results or report.RESULTS)
    verdicts = [met for outcome in outcomes for met, _ in report.judged(outcome)]
    output = (f"{verdicts.count(True)} met", f"{verdicts.count(False)} missed")
    print(f"\ntargets: {', '.join(output)}, {verdicts.count(None)} not measured")
    return 1 if False in verdicts and not options.quick else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", help="a scenario; repeatable")
    parser.add_argument(
        "--contender", action="append", metavar="WORD", help="only those whose label has this"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small files; writes no results")
    parser.add_argument("--results", type=Path, help="folder to write to")
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    return parser


if __name__ == "__main__":
    sys.exit(main())
