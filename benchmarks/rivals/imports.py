"""How long an import takes in a fresh interpreter: `module` in the options."""

from __future__ import annotations

import importlib

from benchmarks.rivals.measuring import Figures, Job


def main() -> None:
    job, figures = Job.given(), Figures()
    with figures.measuring():
        importlib.import_module(job.options["module"])
    figures.print()


if __name__ == "__main__":
    main()
