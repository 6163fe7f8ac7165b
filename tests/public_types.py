"""The public surface as a second type checker sees it: `python -m tests.public_types`.

mypy reads the whole repository; users' editors run pyright. basedpyright is pyright with its own
Node.js, from PyPI alone. It reads `tests/typing/api.py`, where each use that must be refused says
so, and tells of every public name whether its type is known all through: no member, parameter or
base is left to be guessed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpush

ROOT = Path(__file__).resolve().parent.parent

ALSO_PUBLIC = (
    "asyncpush.distributed.ray.NodeSource",
    "asyncpush.distributed.ray.on_every_node",
    "asyncpush.distributed.ray.push_distributed",
    "asyncpush.doctor.Finding",
    "asyncpush.events.Record",
    "asyncpush.listeners.logs.JsonFormatter",
    "asyncpush.listeners.otel.OpenTelemetry",
    "asyncpush.localhub.LocalHub",
)
"""What README names beside `asyncpush.__all__`."""


def pyright(*arguments: str) -> subprocess.CompletedProcess[str]:
    # It asks the first `python` on the PATH what is installed: ours.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    return subprocess.run(
        [sys.executable, "-m", "basedpyright", *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def homes() -> Iterator[str]:
    """Each public name where it is defined."""
    for name in asyncpush.__all__:
        value = getattr(asyncpush, name)
        if name != "__version__":
            yield f"{value.__module__}.{name}"
    yield from ALSO_PUBLIC


def incomplete(report: dict[str, Any]) -> Iterator[str]:
    """Public names and their members whose types are not known all through, and why."""
    symbols = {symbol["name"]: symbol for symbol in report["typeCompleteness"]["symbols"]}
    for home in homes():
        if home not in symbols:
            yield f"{home}: not seen"
        for name, symbol in symbols.items():
            known = symbol["isTypeKnown"] and not symbol["isTypeAmbiguous"]
            if not known and (name == home or name.startswith(f"{home}.")):
                why = [each["message"].splitlines()[0] for each in symbol["diagnostics"]]
                yield ": ".join([name, *why])


def main() -> int:
    uses = pyright("--project", "tests/typing")
    if uses.returncode:
        sys.stdout.write(uses.stdout + uses.stderr)
        return 1
    verified = pyright("--verifytypes", "asyncpush", "--ignoreexternal", "--outputjson")
    try:
        report = json.loads(verified.stdout)
    except json.JSONDecodeError:
        sys.stdout.write(verified.stdout + verified.stderr)
        return 1
    found = list(incomplete(report))
    sys.stdout.write("".join(f"{line}\n" for line in found or [_sum(report)]))
    return 1 if found else 0


def _sum(report: dict[str, Any]) -> str:
    score = report["typeCompleteness"]["completenessScore"]
    return (
        f"each use of {sum(1 for _ in homes())} public names is typed; of all symbols {score:.1%}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
