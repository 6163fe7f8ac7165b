"""Packs loose objects now and then, by git's own `gc`, while no requests come in.

Each commit leaves a few small files behind. git packs them beside readers and writers, and a kill
in the middle loses nothing: objects are removed only once a synced pack has them. Two things are
left alone: refs, which the hub writes without git's locks, and for two weeks objects that no ref
leads to, such as the files of a commit that is being made.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from pathlib import Path

from asyncpush.localhub.state import HubState
from asyncpush.localhub.store.gitrepo import is_installed, start_gc
from asyncpush.localhub.store.names import RepoId

MAX_LOOSE = 500
"""Loose objects that a repo may have: about as many as a hundred commits leave."""

QUIET = 5.0
"""Seconds without a request before anything is packed."""

logger = logging.getLogger("asyncpush.localhub")


async def keep_packed(state: HubState) -> None:
    """Runs beside the hub until it is cancelled; a `gc` that runs at that moment is ended and
    cleans up."""
    if not is_installed():
        return
    while True:
        await state.activity.changed.wait()
        while (rest := QUIET - state.activity.quiet_for()) > 0:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(rest)
        for repo in state.activity.take_changed():
            await _pack(state, repo)


async def _pack(state: HubState, repo: RepoId) -> None:
    path = state.repos.path(repo)
    if await state.run(count_loose, path) <= MAX_LOOSE:
        return
    began = time.monotonic()
    process = await start_gc(path)
    try:
        await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
    if process.returncode:
        logger.warning("git gc of %s failed (%s)", repo.full_name, process.returncode)
    else:
        logger.info("packed %s in %.1f s", repo.full_name, time.monotonic() - began)


def count_loose(path: Path) -> int:
    count = 0
    for digits in (f"{number:02x}" for number in range(256)):
        with contextlib.suppress(FileNotFoundError):
            count += len(os.listdir(path / "objects" / digits))
    return count
