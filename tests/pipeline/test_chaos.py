"""Chaos: random folders under random schedules of faults.

The end is either exactly one commit with exactly the right bytes, or an error and no commit. Never
anything else. `--chaos N` tries N schedules instead of 120.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from asyncpush import AsyncPushError, UploadConfig, Uploader
from asyncpush.localhub import LocalHub
from tests.conftest import TOKEN
from tests.faults import ROUTES, FaultLayer, Rule
from tests.reading import commits_of, download

PART_SIZE = 16 << 10
SHARES = 4
"""Tests that the schedules are dealt out to, so that several processes may run them."""

ANYWHERE = (
    "408",
    "429 Retry-After seconds",
    "500",
    "502 with HTML",
    "503",
    "504",
    "reset before the body",
    "reset mid-body",
    "reset after the body",
    "done, then reset",
    "done, then 504",
    "truncated JSON",
    "wrong JSON",
    "401",
    "422",
)

STORE_KINDS = {
    "part": ("missing ETag", "wrong ETag", "corrupted part", "expired URL"),
    "complete": ("object already completed", "nothing applied", "expired URL"),
}

SIZES = (0, 1, 100, PART_SIZE - 1, PART_SIZE, PART_SIZE + 1, 3 * PART_SIZE + 7)


@st.composite
def schedules(draw: st.DrawFn) -> list[Rule]:
    rules = []
    for _ in range(draw(st.integers(1, 6))):
        route = draw(st.sampled_from(ROUTES))
        kind = draw(st.sampled_from(ANYWHERE + STORE_KINDS.get(route, ())))
        nth = draw(st.integers(1, 4))
        times = draw(st.sampled_from((1, 1, 1, 2, 3, 8)))
        rules.append(Rule(route, kind, nth, times))
    return rules


@st.composite
def folders(draw: st.DrawFn) -> dict[str, bytes]:
    names = draw(
        st.lists(
            st.sampled_from(("a.txt", "b/c.json", "model.bin", "d/é.bin", "x.safetensors", "e.py")),
            min_size=1,
            max_size=6,
            unique=True,
        )
    )
    return {
        name: bytes([index + 65]) * draw(st.sampled_from(SIZES)) for index, name in enumerate(names)
    }


class World:
    """One hub for all examples, on a loop of its own."""

    def __init__(self, root: Path) -> None:
        self.faults = FaultLayer()
        self._root = root
        self._runner = asyncio.Runner()
        self._numbers = count(1)
        self._hub = LocalHub(
            root / "hub",
            token=TOKEN,
            part_size=PART_SIZE,
            middlewares=[self.faults.middleware],
            xet=False,
        )
        self._runner.run(self._hub.__aenter__())

    def close(self) -> None:
        self._runner.run(self._hub.__aexit__(None, None, None))
        self._runner.close()

    def push(self, files: dict[str, bytes], rules: list[Rule]) -> None:
        self._runner.run(self._push(files, rules))

    async def _push(self, files: dict[str, bytes], rules: list[Rule]) -> None:
        repo_id = f"me/m{next(self._numbers)}"
        config = UploadConfig(
            cache_dir=self._root / "cache",
            progress="none",
            initial_backoff_ms=0,
            max_backoff_ms=1,
            stall_timeout=5,
            response_timeout=5,
        )
        self.faults.seen.clear()
        self.faults.injected.clear()
        self.faults.rules = rules
        error: AsyncPushError | None = None
        try:
            async with Uploader(TOKEN, self._hub.url, config) as uploader:
                result = await uploader.push_to_hub(repo_id, files)
        except AsyncPushError as exc:
            error = exc
        self.faults.rules = []
        if error is None:
            commits = await commits_of(self._hub, repo_id)
            assert len(commits) == 2
            assert commits[0]["id"] == result.commit_sha
            assert await download(self._hub, repo_id) == files
        elif self.faults.seen["commit"]:
            await self._check_failed(repo_id, files)

    async def _check_failed(self, repo_id: str, files: dict[str, bytes]) -> None:
        """An error: no commit, unless it is the look at the commit that failed."""
        commits = await commits_of(self._hub, repo_id)
        if any(rule.route == "paths-info" for rule in self.faults.injected) and len(commits) == 2:
            assert await download(self._hub, repo_id) == files
        else:
            assert len(commits) == 1


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("chaos"))
    yield world
    world.close()


@pytest.mark.parametrize("share", range(1, SHARES + 1))
@pytest.mark.no_cover
@pytest.mark.timeout(3600)
def test_chaos_ends_in_one_commit_or_an_error(
    world: World, pytestconfig: pytest.Config, share: int
) -> None:
    @settings(
        max_examples=-(-int(pytestconfig.getoption("--chaos")) // SHARES),
        deadline=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(files=folders(), rules=schedules())
    def chaos(files: dict[str, bytes], rules: list[Rule]) -> None:
        world.push(files, rules)

    chaos()
