"""Packs repos with git while no requests come in.

Each commit leaves a few small files behind. git's own `gc` packs them beside readers and writers,
and a kill in the middle loses nothing: objects are removed only once a synced pack has them. Two
things are left alone: refs, which the hub writes without git's locks, and for two weeks objects
that no ref leads to, such as the files of a commit that is being made."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from asyncpush.localhub.store.gitrepo import is_installed, start_gc
from asyncpush.localhub.store.names import RepoId
from asyncpush.localhub.store.repo_folders import Repos

T = TypeVar("T")

logger = logging.getLogger("asyncpush.localhub")

MAX_LOOSE = 500
"""Loose objects that a repo may have: about as many as a hundred commits leave."""

QUIET = 5.0
"""Seconds without a request before anything is packed."""


@dataclass
class Activity:
    """Whether requests are coming in, and which repos have changed."""

    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _repos: dict[RepoId, None] = field(default_factory=dict)
    _requests: int = 0
    _last: float = field(default_factory=time.monotonic)

    @contextmanager
    def request(self) -> Iterator[None]:
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1
            self._last = time.monotonic()

    def quiet_for(self) -> float:
        """Seconds since the last request ended; 0 while one is running."""
        return 0.0 if self._requests else time.monotonic() - self._last

    def note_change(self, repo: RepoId) -> None:
        self._repos[repo] = None
        self.changed.set()

    def take_changed(self) -> list[RepoId]:
        repos = list(self._repos)
        self._repos.clear()
        self.changed.clear()
        return repos


async def keep_packed(
    activity: Activity,
    repos: Repos,
    in_thread: Callable[[Callable[[Path], int], Path], Awaitable[int]],
) -> None:
    """Runs beside the hub until it is cancelled; a `gc` that runs at that moment is ended and
    cleans up."""
    if not is_installed():
        return
    while True:
        await activity.changed.wait()
        while (rest := QUIET - activity.quiet_for()) > 0:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(rest)
        for repo in activity.take_changed():
            path = repos.path(repo)
            if await in_thread(count_loose, path) > MAX_LOOSE:
                await _pack(repo, path)


def despite_packing(work: Callable[..., T], *args: object) -> T:
    """Call `work`, which writes objects before any ref, and again when git has removed the folder
    of an object that was being written: it removes those that packing has emptied."""
    for _ in range(5):
        try:
            return work(*args)
        except OSError as exc:
            # Raised by libgit2, which sets no errno.
            if exc.errno is not None or "/objects/" not in str(exc):
                raise
    return work(*args)


async def _pack(repo: RepoId, path: Path) -> None:
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
