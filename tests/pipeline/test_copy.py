"""Copies on the Hub: one verified commit, and no bytes of large files over the wire."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

import anyio
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from huggingface_hub import CommitOperationAdd, HfApi

from asyncpush import (
    AuthError,
    CommitConflictError,
    HubError,
    InvalidRepoIdError,
    PushOptions,
    RepoNotFoundError,
    SourceError,
    SyncError,
    SyncOptions,
    UploadConfig,
    Uploader,
    UploadProgress,
    VerificationError,
    copy,
)
from asyncpush.events import FileStored, PartProgress
from asyncpush.localhub import LocalHub
from asyncpush.options import MIB
from tests.cancelling import cancel_promptly
from tests.conftest import TOKEN, open_hub
from tests.event_recorder import EventRecorder
from tests.faults import FaultLayer
from tests.reading import commits_of, download, exists, files_of, head_of, pull_requests_of

LARGE = random.Random(21).randbytes(3 * MIB)
FILES = {
    "README.md": b"---\nlicense: mit\n---\n# Card\n",
    "config.json": b"{}",
    "model.safetensors": LARGE,
    "weights/part 1.bin": LARGE[: 2 * MIB],
    "weights/notes.txt": "größer\n".encode(),
}


class Traffic:
    """Bytes of requests and answers, by the method and route of the request."""

    def __init__(self) -> None:
        self.received: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        name = request.match_info.route.name or ""
        self.received[name] += request.content_length or 0
        response = await handler(request)
        self.sent[name] += response.content_length or 0
        return response


class Meanwhile:
    """What others do as the next request of a route comes in, and before it is answered."""

    def __init__(self) -> None:
        self.by_route: dict[str, Callable[[], Awaitable[object]]] = {}

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if (act := self.by_route.pop(request.match_info.route.name or "", None)) is not None:
            await act()
        return await handler(request)


async def commit_as_another(hub: LocalHub, repo_id: str, files: dict[str, bytes]) -> None:
    """By the official client: commits of one `Uploader` to a branch wait for each other."""
    api = HfApi(endpoint=hub.url, token=TOKEN)
    changes = [CommitOperationAdd(path, data) for path, data in files.items()]
    await anyio.to_thread.run_sync(lambda: api.create_commit(repo_id, changes, commit_message="x"))


@pytest.fixture
def traffic() -> Traffic:
    return Traffic()


@pytest.fixture
def meanwhile() -> Meanwhile:
    return Meanwhile()


@pytest.fixture
async def hub(
    tmp_path: Path, faults: FaultLayer, traffic: Traffic, meanwhile: Meanwhile
) -> AsyncIterator[LocalHub]:
    """A hub that keeps large files in Xet."""
    layers = traffic.middleware, meanwhile.middleware
    async with open_hub(tmp_path, faults, *layers, xet=True) as hub:
        yield hub


@pytest.fixture
async def staged(uploader: Uploader, traffic: Traffic, faults: FaultLayer) -> str:
    """The commit of a repo, me/staging, that holds `FILES`."""
    result = await uploader.push_to_hub("me/staging", FILES)
    traffic.received.clear()
    traffic.sent.clear()
    faults.seen.clear()
    return result.commit_sha


async def test_a_repo_is_copied_in_one_verified_commit(
    uploader: Uploader, hub: LocalHub, staged: str, faults: FaultLayer, traffic: Traffic
) -> None:
    options = PushOptions(commit_message="v1.2", repo_type="model")
    result = await uploader.copy(f"hf://me/staging@{staged}", "hf://org/prod", options)

    assert result.verified
    assert sorted(result.files_uploaded) == sorted(FILES)
    assert await download(hub, "org/prod") == FILES
    commits = await commits_of(hub, "org/prod")
    assert [commit["title"] for commit in commits] == ["v1.2", "initial commit"]
    assert commits[0]["id"] == result.commit_sha == await head_of(hub, "org/prod")
    small = sum(len(data) for data in FILES.values() if len(data) < MIB)
    assert result.bytes_transferred == small
    assert result.bytes_deduplicated == sum(map(len, FILES.values())) - small
    assert faults.seen["lfs-files-duplicate"] == 1
    assert faults.seen["batch"] == faults.seen["xorb"] == faults.seen["xet-write-token"] == 0


async def test_a_copy_of_large_files_moves_less_than_100_kb(
    uploader: Uploader, staged: str, traffic: Traffic
) -> None:
    await uploader.copy("hf://me/staging", "hf://org/prod")
    assert sum(traffic.received.values()) < 100_000
    assert sum(traffic.sent.values()) < 100_000


async def test_the_official_client_copies_the_same(
    uploader: Uploader, hub: LocalHub, staged: str
) -> None:
    await uploader.copy("hf://me/staging/", "hf://me/ours/sub")
    await uploader.copy("hf://me/staging/weights/part 1.bin", "hf://me/ours/")
    api = HfApi(endpoint=hub.url, token=TOKEN)

    def official() -> None:
        api.create_repo("me/theirs")
        api.copy_files("hf://me/staging/", "hf://me/theirs/sub/")
        api.copy_files("hf://me/staging/weights/part 1.bin", "hf://me/theirs/")

    await anyio.to_thread.run_sync(official)
    theirs = await download(hub, "me/theirs")
    assert len(theirs) == len(FILES) + 2  # with sub/.gitattributes, and the file alone
    assert await download(hub, "me/ours") == theirs


async def test_patterns_deletions_and_a_card_are_those_of_a_push(
    uploader: Uploader, hub: LocalHub, staged: str
) -> None:
    await uploader.push_to_hub("me/prod", {"old.bin": b"\0old", "kept.txt": b"kept"})
    options = PushOptions(
        ignore_patterns=["config.json"],
        delete_patterns=["old*", "README.md"],
        model_card="---\nlicense: apache-2.0\n---\n# Released\n",
    )
    result = await uploader.copy("me/staging", "me/prod", options)

    assert result.files_deleted == ("old.bin",)
    assert result.warnings == ("model_card replaces the source's README.md",)
    assert await download(hub, "me/prod") == {
        **{path: data for path, data in FILES.items() if path != "config.json"},
        "README.md": b"---\nlicense: apache-2.0\n---\n# Released\n",
        "kept.txt": b"kept",
    }


async def test_a_copy_has_the_paths_of_a_push(
    uploader: Uploader, hub: LocalHub, staged: str
) -> None:
    await uploader.copy("hf://me/staging/weights", "hf://me/prod/v1")
    await uploader.copy("hf://me/staging/model.safetensors", "hf://me/prod/v1/")
    await uploader.copy("hf://me/staging/model.safetensors", "hf://me/prod/named.bin")
    await uploader.copy("hf://me/staging/config.json", "hf://me/prod")
    assert await files_of(hub, "me/prod") - {".gitattributes"} == {
        "v1/part 1.bin",
        "v1/notes.txt",
        "v1/model.safetensors",
        "named.bin",
        "config.json",
    }


async def test_within_a_repo_nothing_is_duplicated(
    uploader: Uploader, hub: LocalHub, staged: str, faults: FaultLayer
) -> None:
    await uploader.push_to_hub("me/staging", {"model.safetensors": b"\0newer"})
    to_branch = PushOptions(create_branch=True)
    await uploader.copy(f"hf://me/staging@{staged}", "hf://me/staging@v1", to_branch)

    assert faults.seen["lfs-files-duplicate"] == 0
    assert await download(hub, "me/staging", revision="v1") == FILES
    assert (await download(hub, "me/staging"))["model.safetensors"] == b"\0newer"


async def test_what_is_there_already_is_not_copied_again(
    uploader: Uploader, hub: LocalHub, staged: str, faults: FaultLayer
) -> None:
    first = await uploader.copy("me/staging", "me/prod", PushOptions())
    faults.seen.clear()
    again = await uploader.copy("me/staging", "me/prod", PushOptions())

    assert again.commit_sha == first.commit_sha
    assert sorted(again.files_unchanged) == sorted(FILES)
    assert faults.seen["lfs-files-duplicate"] == faults.seen["commit"] == 0


async def test_a_dry_run_changes_nothing_and_says_what_would_be(
    uploader: Uploader, hub: LocalHub, staged: str
) -> None:
    plan = await uploader.copy("me/staging", "me/prod", PushOptions(dry_run=True))
    assert not await exists(hub, "me/prod")
    assert {file.path_in_repo: file.action for file in plan.plan} == {
        path: "xet" if len(data) > MIB else "inline" for path, data in FILES.items()
    }
    await uploader.push_to_hub("me/prod", {"config.json": b"{}"})
    plan = await uploader.copy("me/staging", "me/prod", PushOptions(dry_run=True))
    actions = {file.path_in_repo: file.action for file in plan.plan}
    assert actions["config.json"] == "unchanged"
    assert await files_of(hub, "me/prod") == {"config.json", ".gitattributes"}


async def test_a_copy_can_be_a_pull_request(uploader: Uploader, hub: LocalHub, staged: str) -> None:
    await uploader.push_to_hub("me/prod", {"a.txt": b"a"})
    result = await uploader.copy("me/staging", "me/prod", PushOptions(create_pr=True))
    assert await pull_requests_of(hub, "me/prod") == {1: "open"}
    assert result.pr_url is not None
    assert await download(hub, "me/prod", revision="refs/pr/1") == {**FILES, "a.txt": b"a"}


async def test_objects_without_a_xet_hash_are_copied_in_one_store(
    tmp_path: Path, faults: FaultLayer, config: UploadConfig
) -> None:
    async with (
        open_hub(tmp_path, faults) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        await uploader.push_to_hub("me/staging", FILES)
        parts = faults.seen["part"]
        await uploader.copy("me/staging", "me/prod")
        assert await download(hub, "me/prod") == FILES
        assert faults.seen["part"] == parts


async def test_progress_and_events_are_those_of_a_push(
    hub: LocalHub, config: UploadConfig, staged: str
) -> None:
    recorded, seen = EventRecorder(), list[UploadProgress]()
    config = replace(config, events=recorded, progress_callback=seen.append)
    await copy("me/staging", "me/prod", token=TOKEN, endpoint=hub.url, config=config)

    total = sum(map(len, FILES.values()))
    assert (seen[-1].phase, seen[-1].bytes_sent, seen[-1].total_bytes) == ("done", total, total)
    assert [one.bytes_sent for one in seen] == sorted(one.bytes_sent for one in seen)
    stored = {event.path: event.deduplicated for event in recorded.of(FileStored)}
    assert stored["model.safetensors"]
    assert stored["weights/part 1.bin"]
    assert recorded.of(PartProgress) == []


async def test_failed_copies_are_requested_again(
    uploader: Uploader, hub: LocalHub, staged: str, faults: FaultLayer
) -> None:
    faults.add("lfs-files-duplicate", "one failed")
    await uploader.copy("me/staging", "me/prod")
    assert faults.seen["lfs-files-duplicate"] == 2
    assert await download(hub, "me/prod") == FILES


async def test_an_impossible_copy_suggests_a_push(
    uploader: Uploader, hub: LocalHub, staged: str, faults: FaultLayer
) -> None:
    faults.add("lfs-files-duplicate", "one failed", times=9)
    with pytest.raises(HubError, match=r"cannot copy 1 file.*another region") as caught:
        await uploader.copy("me/staging", "me/prod")
    assert "download the source and push it" in caught.value.suggestion
    assert len(await commits_of(hub, "me/prod")) == 1


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("403 gated", AuthError, "me/staging or me/prod is gated"),
        ("401 repo", RepoNotFoundError, "can read me/staging and write to me/prod"),
    ],
)
async def test_missing_rights_for_a_copy_name_both_repos(
    kind: str,
    error: type[HubError],
    words: str,
    uploader: Uploader,
    staged: str,
    faults: FaultLayer,
) -> None:
    faults.add("lfs-files-duplicate", kind, times=9)
    with pytest.raises(error) as caught:
        await uploader.copy("me/staging", "me/prod")
    assert words in caught.value.suggestion


@pytest.mark.parametrize(("kind", "error"), [("403", AuthError), ("404", HubError)])
async def test_a_hub_without_copies_suggests_a_push(
    kind: str, error: type[HubError], uploader: Uploader, staged: str, faults: FaultLayer
) -> None:
    faults.add("lfs-files-duplicate", kind, times=9)
    with pytest.raises(error) as caught:
        await uploader.copy("me/staging", "me/prod")
    assert "download the source and push it" in caught.value.suggestion
    assert faults.seen["lfs-files-duplicate"] == 1


async def test_an_object_lost_after_the_copy_is_copied_again(
    uploader: Uploader, hub: LocalHub, staged: str, faults: FaultLayer
) -> None:
    faults.add("commit", "LFS pointer missing")
    result = await uploader.copy("me/staging", "me/prod", PushOptions())
    assert faults.seen["lfs-files-duplicate"] == 2
    assert ["lost LFS objects" in warning for warning in result.warnings] == [True]
    assert await download(hub, "me/prod") == FILES


@pytest.mark.parametrize("kind", ["done, then 504", "done, then reset"])
async def test_a_lost_answer_to_the_commit_is_no_second_commit(
    kind: str, uploader: Uploader, hub: LocalHub, staged: str, faults: FaultLayer
) -> None:
    faults.add("commit", kind)
    result = await uploader.copy("me/staging", "me/prod", PushOptions())
    commits = await commits_of(hub, "me/prod")
    assert len(commits) == 2
    assert commits[0]["id"] == result.commit_sha


@pytest.mark.parametrize(
    "route", ["tree", "resolve", "create", "paths-info", "lfs-files-duplicate", "commit"]
)
async def test_a_source_that_moves_meanwhile_is_copied_as_it_was(
    route: str,
    uploader: Uploader,
    hub: LocalHub,
    staged: str,
    meanwhile: Meanwhile,
) -> None:
    async def move() -> None:
        await uploader.push_to_hub(
            "me/staging",
            {"config.json": b"newer", "model.safetensors": LARGE[::-1], "added.bin": b"\0"},
            PushOptions(delete_patterns="weights/*"),
        )

    meanwhile.by_route[route] = move
    result = await uploader.copy("me/staging", "me/prod", PushOptions())
    assert meanwhile.by_route == {}
    assert await download(hub, "me/prod") == FILES
    assert staged[:7] in (await commits_of(hub, "me/prod"))[0]["title"]
    assert result.verified


@pytest.mark.parametrize("route", ["resolve", "lfs-files-duplicate", "commit"])
async def test_a_destination_that_moves_meanwhile_keeps_what_came_in(
    route: str, uploader: Uploader, hub: LocalHub, staged: str, meanwhile: Meanwhile
) -> None:
    await uploader.push_to_hub(
        "me/prod", {"old.bin": b"\0old", "model.safetensors": b"\0", "config.json": b"old"}
    )

    async def move() -> None:
        theirs = {"old.bin": b"\0newer", "theirs.txt": b"theirs", "config.json": b"{}"}
        await commit_as_another(hub, "me/prod", theirs)

    meanwhile.by_route[route] = move
    options = PushOptions(delete_patterns=["old*"])
    result = await uploader.copy("me/staging", "me/prod", options)
    assert meanwhile.by_route == {}
    assert await download(hub, "me/prod") == {**FILES, "theirs.txt": b"theirs"}
    assert len(await commits_of(hub, "me/prod")) == 4
    assert result.files_deleted == ("old.bin",)


async def test_a_pinned_destination_that_moves_meanwhile_is_left_alone(
    uploader: Uploader, hub: LocalHub, staged: str, meanwhile: Meanwhile
) -> None:
    first = await uploader.push_to_hub("me/prod", {"a.txt": b"a"})

    async def move() -> None:
        await commit_as_another(hub, "me/prod", {"a.txt": b"theirs"})

    meanwhile.by_route["commit"] = move
    with pytest.raises(CommitConflictError):
        await uploader.copy("me/staging", "me/prod", PushOptions(parent_commit=first.commit_sha))
    assert await download(hub, "me/prod") == {"a.txt": b"theirs"}


async def test_an_object_that_the_source_has_lost_is_named(
    tmp_path: Path, faults: FaultLayer, config: UploadConfig
) -> None:
    async with (
        open_hub(tmp_path, faults) as hub,
        Uploader(TOKEN, hub.url, config) as uploader,
    ):
        await uploader.push_to_hub("me/staging", FILES)
        shutil.rmtree(hub.root / "lfs" / "objects")
        with pytest.raises(HubError, match=r"2 file\(s\) .*: model.safetensors: it is in LFS and"):
            await uploader.copy("me/staging", "me/prod")
        assert len(await commits_of(hub, "me/prod")) == 1


@pytest.mark.parametrize("route", ["revision", "tree", "resolve", "lfs-files-duplicate", "commit"])
async def test_a_copy_is_cancelled_at_once(
    route: str, uploader: Uploader, hub: LocalHub, staged: str, faults: FaultLayer
) -> None:
    faults.add(route, "stall before reading")
    running = asyncio.create_task(uploader.copy("me/staging", "me/prod", PushOptions()))
    await faults.stalled.wait()
    await cancel_promptly(running)
    if await exists(hub, "me/prod"):
        assert len(await commits_of(hub, "me/prod")) == 1


@pytest.mark.parametrize("kind", ["403 gated", "401 repo", "403"])
@pytest.mark.parametrize("route", ["revision", "tree", "resolve"])
async def test_an_unreadable_copy_source_is_named(
    route: str, kind: str, uploader: Uploader, hub: LocalHub, staged: str, faults: FaultLayer
) -> None:
    faults.add(route, kind, times=9)
    with pytest.raises(HubError) as caught:
        await uploader.copy("me/staging", "me/prod")
    assert {
        "403 gated": "me/staging is gated: ask for access on its page",
        "401 repo": "the type of the source, me/staging; if it is private",
        "403": "the token may not read me/staging",
    }[kind] in caught.value.suggestion
    assert not await exists(hub, "me/prod")


async def test_wrong_bytes_are_never_committed(
    uploader: Uploader, hub: LocalHub, staged: str, faults: FaultLayer
) -> None:
    faults.add("resolve", "wrong JSON")
    await uploader.copy("me/staging", "me/prod")
    assert faults.seen["resolve"] == 4
    assert await download(hub, "me/prod") == FILES


async def test_an_unconfirmed_copy_is_no_success(
    uploader: Uploader, hub: LocalHub, staged: str, faults: FaultLayer
) -> None:
    faults.add("commit", "nothing applied")
    with pytest.raises(VerificationError):
        await uploader.copy("me/staging", "me/prod")


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("hf://me/nothing", RepoNotFoundError, "the type of the source, me/nothing;"),
        ("hf://me/staging@nowhere", HubError, "name a branch, tag or commit that me/staging has"),
        ("hf://me/staging/no/such", SourceError, "has no file or folder 'no/such'"),
        ("hf://buckets/me/b", InvalidRepoIdError, "cannot copy from a bucket to a repo"),
        ("./out", InvalidRepoIdError, "take local files"),
    ],
)
async def test_a_source_that_is_not_there_is_reported_as_one(
    source: str,
    error: type[Exception],
    words: str,
    uploader: Uploader,
    hub: LocalHub,
    staged: str,
) -> None:
    with pytest.raises(error) as caught:
        await uploader.copy(source, "me/prod")
    assert words in str(caught.value)
    assert not await exists(hub, "me/prod")


async def test_options_for_local_files_are_refused(uploader: Uploader) -> None:
    with pytest.raises(ValueError, match="max_shard_size is for local files"):
        await uploader.copy("me/a", "me/b", PushOptions(max_shard_size="4GB"))


BUCKET = "hf://buckets/me/runs"


async def in_bucket(hub: LocalHub, bucket: str = "me/runs") -> dict[str, bytes]:
    """Path and bytes of all files, read by the official client."""
    api = HfApi(endpoint=hub.url, token=TOKEN)

    def read() -> dict[str, bytes]:
        found = {}
        for item in api.list_bucket_tree(bucket, recursive=True):
            url = f"{hub.url}/buckets/{bucket}/resolve/{quote(item.path)}"
            asked = Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
            with urlopen(asked) as answer:
                found[item.path] = answer.read()
        return found

    return await anyio.to_thread.run_sync(read)


async def test_a_repo_is_copied_to_a_bucket_and_verified(
    uploader: Uploader, hub: LocalHub, staged: str, traffic: Traffic
) -> None:
    options = SyncOptions(complete_marker=True)
    result = await uploader.copy(f"hf://me/staging@{staged}", f"{BUCKET}/v1/", options)

    assert result.verified
    assert sorted(result.files_uploaded) == sorted(f"v1/{path}" for path in FILES)
    found = await in_bucket(hub)
    assert b'"model.safetensors"' in found.pop("v1/.complete.json")
    assert found == {f"v1/{path}": data for path, data in FILES.items()}
    small = sum(len(data) for data in FILES.values() if len(data) < MIB)
    assert result.bytes_deduplicated >= sum(map(len, FILES.values())) - small
    assert sum(traffic.received.values()) < 100_000
    assert len(await uploader.checkpoints_in(BUCKET)) == 1


async def test_a_bucket_is_copied_to_another_without_bytes(
    uploader: Uploader, hub: LocalHub, traffic: Traffic, faults: FaultLayer
) -> None:
    await uploader.sync(FILES, f"{BUCKET}/run")
    await uploader.sync({"old.bin": b"old"}, "hf://buckets/me/other/kept")
    traffic.received.clear()
    faults.seen.clear()
    options = SyncOptions(delete=True, ignore_patterns="*.md")
    plan = await uploader.copy(
        f"{BUCKET}/run", "hf://buckets/me/other/kept", replace(options, dry_run=True)
    )
    assert {file.path_in_repo: file.action for file in plan.plan} == {
        **{f"kept/{path}": "xet" for path in FILES if path != "README.md"},
        "kept/old.bin": "delete",
    }
    result = await uploader.copy(f"{BUCKET}/run", "hf://buckets/me/other/kept", options)

    assert result.files_deleted == ("kept/old.bin",)
    assert await in_bucket(hub, "me/other") == {
        f"kept/{path}": data for path, data in FILES.items() if path != "README.md"
    }
    assert result.bytes_transferred == faults.seen["xorb"] == faults.seen["resolve"] == 0
    assert sum(traffic.received.values()) < 10_000
    again = await uploader.copy(f"{BUCKET}/run", "hf://buckets/me/other/kept", options)
    assert again.files_uploaded == ()
    assert len(again.files_unchanged) == len(FILES) - 1


async def test_the_official_client_copies_the_same_to_a_bucket(
    uploader: Uploader, hub: LocalHub, staged: str
) -> None:
    await uploader.copy("hf://me/staging", "hf://buckets/me/ours/sub/")
    await uploader.copy("hf://buckets/me/ours/sub/config.json", "hf://buckets/me/ours/")
    api = HfApi(endpoint=hub.url, token=TOKEN)

    def official() -> None:
        api.create_bucket("me/theirs")
        api.copy_files("hf://me/staging/", "hf://buckets/me/theirs/sub/")
        api.copy_files("hf://buckets/me/theirs/sub/config.json", "hf://buckets/me/theirs/")

    await anyio.to_thread.run_sync(official)
    theirs = await in_bucket(hub, "me/theirs")
    assert len(theirs) == len(FILES) + 1
    assert await in_bucket(hub, "me/ours") == theirs


async def test_a_marked_set_is_not_copied_into_itself(uploader: Uploader, hub: LocalHub) -> None:
    whole = SyncOptions(complete_marker=True)
    await uploader.sync({"a": b"a", "sub/b": b"b"}, f"{BUCKET}/run", whole)
    before = await in_bucket(hub)
    with pytest.raises(SourceError, match="run cannot be copied into itself"):
        await uploader.copy(f"{BUCKET}/run", f"{BUCKET}/run/kept")
    assert await in_bucket(hub) == before
    await uploader.copy(f"{BUCKET}/run", f"{BUCKET}/kept/run")  # beside it
    assert [found.name for found in await uploader.checkpoints_in(f"{BUCKET}/kept")] == ["run"]
    assert [found.name for found in await uploader.checkpoints_in(BUCKET)] == ["run"]


async def test_a_copy_that_a_bucket_refuses_suggests_sync(
    uploader: Uploader, hub: LocalHub, staged: str, faults: FaultLayer
) -> None:
    faults.add("bucket-batch", "all operations failed", times=9)
    with pytest.raises(SyncError, match=r"another region") as caught:
        await uploader.copy("hf://me/staging/model.safetensors", BUCKET)
    assert "downloaded and synced" in caught.value.suggestion
    assert await in_bucket(hub) == {}


async def test_a_bucket_takes_no_options_of_a_push(uploader: Uploader) -> None:
    with pytest.raises(ValueError, match="is a bucket: pass SyncOptions, not PushOptions"):
        await uploader.copy("me/a", BUCKET, PushOptions())
    with pytest.raises(ValueError, match="is a repo: pass PushOptions, not SyncOptions"):
        await uploader.copy("me/a", "me/b", SyncOptions())
