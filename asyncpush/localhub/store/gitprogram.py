"""git as a program: the one door to it, and the only processes that asyncpush starts.

Nothing of what comes from outside is ever an argument; settings and requests go in by the
environment and by pipes, and nobody's own configuration counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from asyncpush.localhub.errors import Refusal

SETTINGS = {
    "safe.directory": "*",  # whoever runs the hub trusts its folder
    "core.fsync": "committed",
    "gc.auto": "0",
    "http.uploadpack": "true",
    "uploadpack.allowAnySHA1InWant": "true",
    "uploadpack.allowFilter": "true",
    "receive.fsckObjects": "true",
    "receive.autogc": "false",
    "receive.denyDeletes": "false",
    "receive.denyNonFastForwards": "false",
}
"""git's configuration, in place of what the machine or the repo may say."""


_GC_SETTINGS = {
    "core.bigFileThreshold": "2m",  # what is larger is seldom worth a delta
    "gc.packRefs": "false",
    "gc.autoDetach": "false",
    "pack.threads": "1",
    "pack.windowMemory": "64m",
}


def is_installed() -> bool:
    return shutil.which("git") is not None


def check_installed() -> None:
    if not is_installed():
        raise Refusal(501, "The hub's machine has no git: install it to clone, fetch and push")


def start_backend(
    variables: Mapping[str, str],
    settings: Mapping[str, str],
    *,
    stdin: IO[bytes],
    stdout: IO[bytes],
    descriptors: Sequence[int],
) -> subprocess.Popen[bytes]:
    """`git http-backend` on files, for a thread that waits for it; it inherits `descriptors`."""
    return subprocess.Popen(
        ["git", "http-backend"],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        pass_fds=descriptors,
        env=_environment({**SETTINGS, **settings}, variables),
    )


async def stream_backend(variables: Mapping[str, str]) -> asyncio.subprocess.Process:
    """`git http-backend` on pipes, for the event loop."""
    pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    return await asyncio.create_subprocess_exec(
        *("git", "http-backend"),
        stdin=pipe,
        stdout=pipe,
        stderr=nowhere,
        env=_environment(SETTINGS, variables),
    )


async def start_gc(path: Path) -> asyncio.subprocess.Process:
    """`git gc` of a repo, behind everything else that the machine has to do."""
    nowhere = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *("git", "gc", "--quiet", "--prune=2.weeks.ago"),
        stdin=nowhere,
        stdout=nowhere,
        stderr=nowhere,
        env=_environment({**SETTINGS, **_GC_SETTINGS}, {"GIT_DIR": str(path)}),
    )
    with contextlib.suppress(OSError):  # it may have ended
        os.setpriority(os.PRIO_PROCESS, process.pid, 10)
    return process


def _environment(settings: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    numbered = {}
    for number, (key, value) in enumerate(settings.items()):
        numbered[f"GIT_CONFIG_KEY_{number}"] = key
        numbered[f"GIT_CONFIG_VALUE_{number}"] = value
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_COUNT": str(len(settings)),
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
        **numbered,
        **variables,
    }
