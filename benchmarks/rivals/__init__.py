"""One small program per rival. Each gets one job as JSON and prints one JSON line of figures."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.files import WORK
from benchmarks.tools import tool

NPM = WORK / "npm"
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Rival:
    """How to run it, and why it cannot be run (None when it can)."""

    name: str
    command: tuple[str, ...]
    missing: Callable[[], str | None] = lambda: None


def _python(module: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"benchmarks.rivals.{module}")


def _node_missing() -> str | None:
    if tool("node") is None:
        return "node is not installed"
    if not (NPM / "node_modules" / "@huggingface" / "hub").exists():
        return f"run: npm install --prefix {os.path.relpath(NPM)} @huggingface/hub"
    return None


def _needs(program: str) -> Callable[[], str | None]:
    return lambda: None if tool(program) else f"{program} is not installed"


def _xet_missing() -> str | None:
    return None if find_spec("hf_xet") else "hf_xet is not installed"


RIVALS = {
    rival.name: rival
    for rival in (
        Rival("asyncpush", _python("ours")),
        Rival("asyncpush-xet", _python("ours"), _xet_missing),
        Rival("official", _python("official")),
        Rival("official-xet", _python("official"), _xet_missing),
        Rival("npm", ("node", str(_HERE / "npm.mjs")), _node_missing),
        Rival("ideal", _python("ideal")),
        Rival("bare", _python("bare")),
        Rival("boto3", _python("s3transfer")),
        Rival("s5cmd", _python("program"), _needs("s5cmd")),
        Rival("rclone", _python("program"), _needs("rclone")),
        Rival("program", _python("program")),
        Rival("import", _python("imports")),
        Rival("buckets", _python("buckets"), _xet_missing),
        Rival("killed", _python("killed")),
        Rival("training", _python("training")),
        Rival("bulk", _python("bulk")),
    )
}
