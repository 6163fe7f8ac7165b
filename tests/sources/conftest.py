"""What the tests of sources share."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from asyncpush.options import PushOptions
from asyncpush.sources import CollectedSources, collect

Collect: TypeAlias = Callable[..., AbstractAsyncContextManager[CollectedSources]]


def names_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


async def stream(*pieces: Any) -> AsyncIterator[Any]:
    for piece in pieces:
        yield piece


@contextmanager
def pipe() -> Iterator[tuple[FileIO, FileIO]]:
    """Its reading and its writing end."""
    source, sink = os.pipe()
    with FileIO(source, "rb") as reading, FileIO(sink, "wb") as writing:
        yield reading, writing


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def spool_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where streams may go. Whatever a test does, nothing may be left there."""
    folder = tmp_path_factory.mktemp("spools")
    yield folder
    assert names_in(folder) == []


@pytest.fixture
def collecting(spool_dir: Path) -> Collect:
    """`collect` with push options as keywords, and 1 MiB of memory unless told."""

    def collecting(
        source: Any, *, max_memory: int = 1 << 20, **options: Any
    ) -> AbstractAsyncContextManager[CollectedSources]:
        return collect(source, PushOptions(**options), spool_dir=spool_dir, max_memory=max_memory)

    return collecting
