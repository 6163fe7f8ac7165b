"""Repos stay small in files: git packs them when nobody is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from asyncpush.localhub import LocalHub, packing
from asyncpush.localhub.packing import count_loose, despite_packing
from asyncpush.localhub.store.gitrepo import start_gc
from tests.localhub.conftest import HubClient, add, git

PATIENCE = 50.0


@pytest.fixture
async def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HubClient]:
    """Of a hub that packs soon, and few objects."""
    monkeypatch.setattr(packing, "MAX_LOOSE", 40)
    monkeypatch.setattr(packing, "QUIET", 0.05)
    async with (
        LocalHub(tmp_path / "hub", xet=False) as hub,
        aiohttp.ClientSession() as session,
    ):
        client = HubClient(hub.url, session)
        await client.create()
        yield client


async def until_packed(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while count_loose(path) > 40 or not list((path / "objects/pack").glob("*.idx")):
        assert time.monotonic() < deadline, count_loose(path)
        await asyncio.sleep(0.02)


async def test_many_commits_are_packed_and_all_is_there(client: HubClient, tmp_path: Path) -> None:
    path = tmp_path / "hub/models/me/net.git"
    for number in range(20):
        await client.commit(add(f"{number}.txt", b"%d" % number))
    await client.post("/api/models/me/net/branch/dev")
    await until_packed(path)

    for number in range(20):
        answer = await client.get(f"/me/net/resolve/main/{number}.txt")
        assert answer.body == b"%d" % number
    assert (await client.commit(add("more.txt"))).status == 200
    refs = (await client.get("/api/models/me/net/refs")).json["branches"]
    assert {ref["name"] for ref in refs} == {"main", "dev"}
    assert (path / "refs/heads/dev").exists()  # the hub alone writes refs
    git("-C", path, "fsck", "--strict")


async def test_commits_and_reads_go_on_while_git_packs(
    client: HubClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs = asyncio.Event()

    async def start(path: Path) -> asyncio.subprocess.Process:
        process = await start_gc(path)
        packs.set()
        return process

    monkeypatch.setattr(packing, "start_gc", start)
    path = tmp_path / "hub/models/me/net.git"
    heads = []
    for number in range(60):
        answer = await client.commit(add(f"{number % 7}.txt", b"%d" % number))
        heads.append(answer.json["commitOid"])
        if count_loose(path) > packing.MAX_LOOSE:
            await packs.wait()
    assert packs.is_set()
    await until_packed(path)
    commits = (await client.get("/api/models/me/net/commits/main?limit=100")).json
    assert [commit["id"] for commit in reversed(commits)][1:] == heads
    git("-C", path, "fsck", "--strict")


async def test_what_a_killed_gc_left_is_in_nobodys_way(client: HubClient, tmp_path: Path) -> None:
    path = tmp_path / "hub/models/me/net.git"
    (path / "gc.pid").write_text("999999999 elsewhere\n")
    (path / "objects/pack").mkdir(exist_ok=True)
    (path / "objects/pack/tmp_pack_left").write_bytes(b"PACK")
    for number in range(20):
        await client.commit(add(f"{number}.txt", b"%d" % number))
    await asyncio.to_thread((path / "gc.pid").unlink)
    await client.commit(add("last.txt"))
    await until_packed(path)
    assert (await client.get("/me/net/resolve/main/7.txt")).body == b"7"


async def test_nothing_is_packed_while_requests_are_under_way(
    client: HubClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "QUIET", 3600.0)
    for number in range(20):
        await client.commit(add(f"{number}.txt", b"%d" % number))
    path = tmp_path / "hub/models/me/net.git"
    assert count_loose(path) > 40
    assert not list((path / "objects/pack").glob("*.idx"))


@pytest.mark.parametrize(("failures", "written"), [(1, True), (5, True), (6, False)])
def test_an_object_whose_folder_git_removed_is_written_again(failures: int, written: bool) -> None:
    """git removes the folders that packing has emptied; libgit2 may be about to write into one."""
    error = OSError(
        "failed to rename lockfile to 'net.git/objects/ac/42': No such file or directory"
    )
    left = [error] * failures

    def write(name: str) -> str:
        if left:
            raise left.pop()
        return name

    if written:
        assert despite_packing(write, "42") == "42"
    else:
        with pytest.raises(OSError, match="rename lockfile"):
            despite_packing(write, "42")


def test_other_errors_of_writing_objects_are_not_repeated() -> None:
    calls = []

    def write() -> None:
        calls.append(1)
        raise OSError(28, "No space left on device", "net.git/objects/ac/42")

    with pytest.raises(OSError, match="No space"):
        despite_packing(write)
    assert len(calls) == 1
