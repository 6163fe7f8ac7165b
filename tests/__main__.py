"""Everything that has to hold, in one command: `python -m tests`.

Installs the Debian packages that the tests need and the machine lacks, then runs the linters, the
type checker, the tests with coverage (examples included), one after another, and stops at the
first that fails. Nothing is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COVERAGE = "95"

DEBIAN_PACKAGES = {"git": "git", "chromium": "chromium"}
"""Programs that the tests run, and the package that brings each."""

STEPS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "pytest": [
        "pytest",
        "--numprocesses=3",
        "--dist=worksteal",
        "--cov",
        "--cov-report=term-missing:skip-covered",
        f"--cov-fail-under={COVERAGE}",
    ],
}


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def install_missing_programs() -> None:
    missing = [
        package for program, package in DEBIAN_PACKAGES.items() if shutil.which(program) is None
    ]
    if not missing:
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise SystemExit(f"the tests need {', '.join(missing)}: install them, then run this again")
    say(f"installing {', '.join(missing)}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=quiet)
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    subprocess.run(install, check=True, env=quiet, stdout=subprocess.DEVNULL)


def main() -> int:
    install_missing_programs()
    for name, command in STEPS.items():
        say(f"\n── {name}")
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False)
        say(f"── {name}: {time.monotonic() - began:.0f} s")
        if done.returncode:
            say(f"── {name} failed")
            return done.returncode
    say("\nall of it holds")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
