"""Everything that has to hold, in one command: `python -m tests`.

Installs the Debian packages that the tests need and the machine lacks, then runs the linters, the
type checkers, the tests with coverage (examples included), one after another, and stops at the
first that fails. Nothing is skipped but what needs a client (npm's, an old official one, git-lfs)
that cannot be installed here: each such skip tells its reason. While mypy has one core, another
compiles the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COVERAGE = "95"

DEBIAN_PACKAGES = {"git": "git", "chromium": "chromium"}
"""Programs that the tests run, and the package that brings each."""

STEPS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "mypy for Windows": ["mypy", "--platform=win32", "--cache-dir=.mypy_cache/win32", "asyncpush"],
    "mypy for macOS": ["mypy", "--platform=darwin", "--cache-dir=.mypy_cache/darwin", "asyncpush"],
    "pyright": ["tests.public_types"],
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
    return run_steps()


@contextmanager
def compiled_meanwhile(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Collect the tests once beside what runs first, only for the bytecode that this leaves.

    Else each of pytest's processes compiles them for itself, all at the same time: 14 seconds of
    CPU each, and 8 where the bytecode is there. What is wrong with them is told when they are run.
    """
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    silent = subprocess.DEVNULL
    collecting = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=silent, stderr=silent)
    try:
        yield collecting
    finally:
        collecting.terminate()
        collecting.wait()


def run_steps() -> int:
    # Tests start hundreds of interpreters: none of them compiles anew what another one has.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with compiled_meanwhile(environment) as compiling:
        return run_each(compiling, environment)


def run_each(compiling: subprocess.Popen[bytes], environment: dict[str, str]) -> int:
    for name, command in STEPS.items():
        say(f"\n── {name}")
        began = time.monotonic()
        if name == "pytest":
            compiling.wait()
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, env=environment, check=False
        )
        say(f"── {name}: {time.monotonic() - began:.0f} s")
        if done.returncode:
            say(f"── {name} failed")
            return done.returncode
    say("\nall of it holds")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
