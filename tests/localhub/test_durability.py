"""The repos on the disk: real git, safe among several servers and across kill -9."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from asyncpush.localhub import LocalHub
from asyncpush.localhub.store.names import RepoId
from asyncpush.localhub.store.repo_folders import Repos, new_info
from asyncpush.localhub.store.writing import file_lock, write_atomically
from asyncpush.localhub.web import Refusal
from tests.localhub.answers import Answer
from tests.localhub.conftest import HubClient, add, add_lfs, delete, git


def fsck(repo: Path) -> None:
    git("-C", repo, "fsck", "--full", "--strict", "--no-dangling")


async def test_git_sees_the_truth(client: HubClient, hub: LocalHub, tmp_path: Path) -> None:
    oid = await client.store(b"large object")
    await client.commit(
        add("README.md", b"# Hi\n"),
        add_lfs("model.bin", oid),
        summary="First",
        description="With\nwords",
    )
    await client.commit(add("deep/er/x.txt"), delete("README.md"), summary="Second")
    await client.commit(add("y.txt"), query="?create_pr=1")
    await client.post("/api/models/me/net/tag/main", {"tag": "v1", "message": "one"})
    repo = hub.root / "models" / "me" / "net.git"

    git("clone", "-q", repo, tmp_path / "clone")

    assert (tmp_path / "clone" / "model.bin").read_text() == (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 12\n"
    )
    log = git("-C", repo, "log", "--format=%an: %B%x00").split("\0")
    assert [message.strip() for message in log] == [
        "local: Second",
        "local: First\n\nWith\nwords",
        "local: initial commit",
        "",
    ]
    assert git("-C", repo, "ls-tree", "-r", "--name-only", "HEAD").split() == [
        ".gitattributes",
        "deep/er/x.txt",
        "model.bin",
    ]
    assert git("-C", repo, "cat-file", "-t", "v1") == "tag\n"
    assert git("-C", repo, "rev-parse", "refs/pr/1^") == git("-C", repo, "rev-parse", "main")
    fsck(repo)


async def test_what_git_pushes_is_served(client: HubClient, hub: LocalHub, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git("clone", "-q", hub.root / "models/me/net.git", clone)
    (clone / "link").symlink_to("a.txt")
    (clone / "a.txt").write_text("from git\n")
    identity = ("-c", "user.name=Jo", "-c", "user.email=jo@example.org")
    git("-C", clone, "add", ".")
    git(
        *("-C", clone, "update-index", "--add", "--cacheinfo"),
        f"160000,{'ab' * 20},module",
    )
    git("-C", clone, *identity, "commit", "-qm", "by hand")
    git("-C", clone, "push", "-q")
    git("-C", hub.root / "models/me/net.git", "gc", "-q")

    tree = await client.get("/api/models/me/net/tree/main?recursive=true&expand=true")
    assert [item["path"] for item in tree.json] == [".gitattributes", "a.txt", "link"]
    assert tree.json[1]["lastCommit"]["title"] == "by hand"
    assert (await client.get("/me/net/resolve/main/a.txt")).body == b"from git\n"
    assert (await client.get("/me/net/resolve/main/module")).status == 404
    assert (await client.commit(add("b.txt"), add("packed.txt", b"from git\n"))).status == 200
    (newest, by_hand, _) = (await client.get("/api/models/me/net/commits/main")).json
    assert (newest["authors"], by_hand["authors"]) == ([{"user": "local"}], [{"user": "Jo"}])


Two = tuple[Path, tuple[HubClient, HubClient]]


@pytest.fixture
async def two_hubs(tmp_path: Path) -> AsyncIterator[Two]:
    root = tmp_path / "hub"
    async with (
        LocalHub(root, xet=False) as one,
        LocalHub(root, xet=False) as two,
        aiohttp.ClientSession() as session,
    ):
        clients = HubClient(one.url, session), HubClient(two.url, session)
        await clients[0].create()
        yield root, clients


async def test_two_servers_lose_none_of_their_commits(two_hubs: Two) -> None:
    root, clients = two_hubs

    answers = await asyncio.gather(
        *(
            client.commit(add(f"{which}-{number}.txt"))
            for number in range(12)
            for which, client in enumerate(clients)
        )
    )

    assert {answer.status for answer in answers} == {200}
    repo = root / "models/me/net.git"
    made = set(git("-C", repo, "rev-list", "main").split())
    assert {answer.json["commitOid"] for answer in answers} < made
    assert len(made) == 25
    assert len(git("-C", repo, "ls-tree", "--name-only", "main").split()) == 25
    fsck(repo)


async def test_of_commits_on_one_parent_one_wins(two_hubs: Two) -> None:
    _, clients = two_hubs
    head = await clients[0].head()

    answers = await asyncio.gather(
        *(
            client.commit(add(f"{which}-{number}.txt"), parentCommit=head)
            for number in range(8)
            for which, client in enumerate(clients)
        )
    )

    assert sorted(answer.status for answer in answers) == [200] + [412] * 15


async def test_pull_requests_of_two_servers_have_different_numbers(two_hubs: Two) -> None:
    _, clients = two_hubs

    answers = await asyncio.gather(
        *(client.commit(add("a.txt"), query="?create_pr=1") for client in clients * 6)
    )

    urls = {answer.json["pullRequestUrl"].rpartition("/")[2] for answer in answers}
    assert urls == {str(number) for number in range(1, 13)}


async def test_one_of_many_creations_wins(two_hubs: Two) -> None:
    _, clients = two_hubs

    answers = await asyncio.gather(*(client.create("new") for client in clients * 5))

    assert sorted(answer.status for answer in answers) == [200] + [409] * 9


async def test_a_repo_deleted_under_its_readers_is_404(two_hubs: Two) -> None:
    _, (one, two) = two_hubs
    path = "/api/models/me/net/tree/main?expand=true"
    body = {"type": "model", "organization": "me", "name": "net"}

    answers: list[Answer] = await asyncio.gather(
        *(two.get(path) for _ in range(10)),
        one.call("DELETE", "/api/repos/delete", json=body),
        *(two.get(path) for _ in range(10)),
        *(two.commit(add("a.txt")) for _ in range(3)),
    )

    assert {answer.status for answer in answers} <= {200, 404}
    assert (await two.get(path)).error_code == "RepoNotFound"


SERVER = """
import asyncio, sys
from asyncpush.localhub import LocalHub

async def main():
    async with LocalHub(sys.argv[1], xet=False) as hub:
        print(hub.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def server_process(root: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(root)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


async def commit_until_killed(
    client: HubClient, process: subprocess.Popen[str], name: str, acknowledged: list[str]
) -> None:
    """Commit, open pull requests, make and delete branches; kill the server after a dozen."""
    number = 0
    while True:
        number += 1
        query = "?create_pr=1" if number % 3 == 0 else ""
        branch = f"/api/models/me/net/branch/{name}{number}"
        try:
            answer = await client.commit(add(f"{name}/{number}.txt"), query=query)
            await client.post(branch)
            await client.call("DELETE", branch)
        except (aiohttp.ClientError, ConnectionError):
            return
        assert answer.status == 200
        if not query:
            acknowledged.append(answer.json["commitOid"])
        if len(acknowledged) >= 12:
            process.kill()


@pytest.mark.parametrize("round_number", range(2))
async def test_a_killed_server_keeps_every_commit_it_reported(
    tmp_path: Path, round_number: int
) -> None:
    root, acknowledged = tmp_path / "hub", list[str]()
    async with aiohttp.ClientSession() as session:
        with server_process(root) as (url, process):
            client = HubClient(url, session)
            await client.create()
            workers = (
                commit_until_killed(client, process, f"{round_number}-{worker}-", acknowledged)
                for worker in range(4)
            )
            await asyncio.gather(*workers)

        repo = root / "models/me/net.git"
        fsck(repo)
        assert set(acknowledged) < set(git("-C", repo, "rev-list", "main").split())

        async with LocalHub(root, xet=False) as hub:
            client = HubClient(hub.url, session)
            assert (await client.commit(add("after.txt"))).status == 200
            assert (await client.commit(add("a.txt"), query="?create_pr=1")).status == 200
            assert (await client.post("/api/models/me/net/branch/after")).status == 201
            answer = await client.call("DELETE", "/api/models/me/net/branch/after")
            assert answer.status == 200
            listed = (await client.get("/api/models/me/net/discussions")).json["discussions"]
            for item in listed:
                assert (await client.head(f"refs%2Fpr%2F{item['num']}")) is not None
        fsck(repo)


def test_a_broken_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    order: list[str] = []
    entered = threading.Event()

    def other() -> None:
        entered.set()
        with file_lock(tmp_path / "lock"):
            order.append("other")

    with file_lock(tmp_path / "lock"):
        thread = threading.Thread(target=other)
        thread.start()
        entered.wait()
        order.append("first")
    thread.join()

    assert order == ["first", "other"]


async def test_empty_folders_of_a_killed_server_are_no_branches(
    client: HubClient, hub: LocalHub
) -> None:
    (hub.root / "models/me/net.git/refs/heads/dev/one/two").mkdir(parents=True)

    assert (await client.post("/api/models/me/net/branch/dev%2Fone")).status == 201
    assert (await client.call("DELETE", "/api/models/me/net/branch/dev%2Fone")).status == 200
    assert (await client.post("/api/models/me/net/branch/dev")).status == 201


def test_a_repo_that_vanishes_is_not_found(tmp_path: Path) -> None:
    repos, repo = Repos(tmp_path), RepoId("model", "me", "net")
    with pytest.raises(Refusal, match="Repository not found"), repos.open(repo):
        pass

    repos.create(repo, new_info("me", private=False, sdk=None))
    with pytest.raises(Refusal, match="Repository not found"), repos.open(repo) as opened:
        head = opened.resolve("main")
        repos.delete(repo)
        opened.history(head)


def test_a_broken_repo_is_not_taken_for_a_missing_one(tmp_path: Path) -> None:
    repos, repo = Repos(tmp_path), RepoId("model", "me", "net")
    repos.create(repo, new_info("me", private=False, sdk=None))

    with pytest.raises(KeyError), repos.open(repo) as opened:
        opened.content("ab" * 20)


async def test_old_leftovers_are_swept_and_fresh_ones_are_not(tmp_path: Path) -> None:
    for name in ("old.git", "fresh.git"):
        (tmp_path / "tmp" / name).mkdir(parents=True)
    os.utime(tmp_path / "tmp" / "old.git", (0, 0))

    async with LocalHub(tmp_path, xet=False):
        pass

    assert [path.name for path in (tmp_path / "tmp").iterdir()] == ["fresh.git"]
