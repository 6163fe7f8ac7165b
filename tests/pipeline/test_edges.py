"""The corners of a push: races with others, Hubs that forget, receipts that lie, limits."""

from __future__ import annotations

import inspect
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from asyncpush import (
    AuthError,
    CheckpointPusher,
    HubError,
    InvalidRepoIdError,
    ProtocolError,
    Push,
    PushOptions,
    Receipt,
    RepoNotFoundError,
    SourceError,
    SyncOptions,
    UploadConfig,
    Uploader,
    push_to_hub,
    receipts_to_json,
)
from asyncpush.events import Emitter
from asyncpush.localhub import LocalHub
from asyncpush.models import BytesSource, FileSource, Source
from asyncpush.options import endpoint_in_use, is_true
from asyncpush.pipeline import changes, preflight, verification
from asyncpush.pipeline import changes as receipts
from asyncpush.pipeline.changes import CommitLimits
from tests.conftest import PART_SIZE, TOKEN
from tests.faults import KINDS, FaultLayer
from tests.reading import commits_of, download, files_of, head_of

Write = Callable[..., Path]


async def _someone_was_faster(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    """The same call by somebody else goes through first."""
    await handler(request)
    return web.json_response({"error": "It exists already"}, status=409)


KINDS["someone was faster"] = _someone_was_faster


async def test_objects_that_the_hub_lost_are_stored_again(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer, write: Write
) -> None:
    """What happens on a repo that was deleted and made anew."""
    source = write({"model.bin": b"\0" * (PART_SIZE + 1), "a.txt": b"a"})
    faults.hooks["commit"] = lambda: shutil.rmtree(hub.root / "lfs" / "objects")
    result = await uploader.push_to_hub("me/m", source)
    assert faults.seen["commit"] == 2
    assert any("uploading them again" in warning for warning in result.warnings)
    assert set(await download(hub, "me/m")) == {"model.bin", "a.txt"}


async def test_a_repo_that_someone_else_creates_meanwhile_is_used(
    uploader: Uploader, faults: FaultLayer
) -> None:
    faults.add("create", "someone was faster")
    assert (await uploader.push_to_hub("me/m", {"a.txt": b"1"})).verified


async def test_a_branch_that_someone_else_creates_meanwhile_is_used(
    uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    faults.add("branch-create", "someone was faster")
    options = PushOptions(revision="dev", create_branch=True)
    result = await uploader.push_to_hub("me/m", {"a.txt": b"2"}, options)
    assert await head_of(hub, "me/m", "dev") == result.commit_sha


async def test_a_branch_that_cannot_be_created_is_an_error(
    uploader: Uploader, faults: FaultLayer
) -> None:
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    faults.add("branch-create", "403")
    with pytest.raises(AuthError):
        await uploader.push_to_hub(
            "me/m", {"a.txt": b"2"}, PushOptions(revision="dev", create_branch=True)
        )


async def test_a_dry_run_on_a_missing_branch_creates_none(
    uploader: Uploader, faults: FaultLayer
) -> None:
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    options = PushOptions(revision="dev", create_branch=True, dry_run=True)
    result = await uploader.push_to_hub("me/m", {"a.txt": b"2"}, options)
    assert [file.path_in_repo for file in result.plan] == ["a.txt"]
    assert not faults.seen["branch-create"]


async def test_a_card_that_is_not_text_is_an_error(uploader: Uploader) -> None:
    with pytest.raises(SourceError, match="not UTF-8"):
        await uploader.push_to_hub("me/m", {"README.md": b"caf\xe9"})


async def test_a_very_long_card_is_left_unchecked(uploader: Uploader, faults: FaultLayer) -> None:
    await uploader.push_to_hub("me/m", {"README.md": b"x" * ((1 << 20) + 1)})
    assert not faults.seen["validate-yaml"]


@pytest.mark.parametrize("kind", ["done, then reset", "done, then 504", "truncated JSON"])
async def test_a_lost_answer_opens_no_second_pull_request(
    kind: str, uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    await uploader.push_to_hub("me/m", {"first.txt": b"1"})
    faults.add("discussion-create", kind)
    files = {f"{number}.txt": b"x" for number in range(4)}
    await uploader.push_to_hub("me/m", files, PushOptions(max_files_per_commit=2))
    assert faults.seen["discussion-create"] == 1
    assert set(await download(hub, "me/m")) == {"first.txt", *files}


@pytest.mark.parametrize("kind", ["done, then reset", "done, then 504", "500", "reset mid-body"])
async def test_a_merge_whose_answer_is_lost_is_looked_at(
    kind: str, uploader: Uploader, hub: LocalHub, faults: FaultLayer
) -> None:
    faults.add("discussion-merge", kind)
    files = {f"{number}.txt": b"x" for number in range(4)}
    result = await uploader.push_to_hub("me/m", files, PushOptions(max_files_per_commit=2))
    assert result.commit_sha == await head_of(hub, "me/m")
    assert set(await download(hub, "me/m")) == set(files)


async def test_a_merge_that_is_refused_says_where_the_files_are(
    uploader: Uploader, faults: FaultLayer
) -> None:
    faults.add("discussion-merge", "422", times=99)
    files = {f"{number}.txt": b"x" for number in range(4)}
    with pytest.raises(HubError) as caught:
        await uploader.push_to_hub("me/m", files, PushOptions(max_files_per_commit=2))
    assert "/discussions/1" in caught.value.suggestion


@pytest.mark.parametrize(
    ("files", "survivable"),
    [
        ({f"{number}.bin": b"\0%d" % number for number in range(5)}, CommitLimits(lfs_files=2)),
        ({f"{number}.txt": b"x" * 10 for number in range(5)}, CommitLimits(inline_bytes=20)),
    ],
    ids=["LFS files", "payload"],
)
async def test_too_large_a_commit_becomes_a_series(
    files: dict[str, bytes],
    survivable: CommitLimits,
    uploader: Uploader,
    hub: LocalHub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(changes, "SERIES_LIMITS", survivable)
    result = await uploader.push_to_hub("me/m", files)
    assert await download(hub, "me/m") == files
    assert result.commit_sha == await head_of(hub, "me/m")
    titles = [commit["title"] for commit in await commits_of(hub, "me/m", "refs/pr/1")]
    assert sum("of 3)" in title for title in titles) == 3


async def test_on_a_pinned_parent_the_push_stays_one_commit(
    uploader: Uploader, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "SERIES_LIMITS", CommitLimits(inline_bytes=1))
    first = await uploader.push_to_hub("me/m", {"0.txt": b"0"})
    files = {f"{number}.txt": b"xx" for number in range(5)}
    await uploader.push_to_hub("me/m", files, PushOptions(parent_commit=first.commit_sha))
    assert len(await commits_of(hub, "me/m")) == 3


async def test_a_chain_that_is_not_needed_is_one_commit(uploader: Uploader, hub: LocalHub) -> None:
    await uploader.push_to_hub("me/m", {"a.txt": b"1"}, PushOptions(max_files_per_commit=2))
    assert len(await commits_of(hub, "me/m")) == 2


GOOD = Receipt("a.txt", 1, "56a6051ca2b02b04ef92d5150c9ef600403cb1de", "inline", b"1")


@pytest.mark.parametrize(
    ("receipts", "problem"),
    [
        ([], "no receipts"),
        ([GOOD, GOOD], "two receipts for one path"),
        ([replace(GOOD, path_in_repo="../a")], r"\.\./a"),
        ([replace(GOOD, content=b"2")], "does not match the oid"),
        ([replace(GOOD, content=None)], "contain its bytes"),
    ],
    ids=["none", "twice", "escape", "other bytes", "no bytes"],
)
async def test_receipts_are_not_taken_for_granted(
    receipts: list[Receipt], problem: str, uploader: Uploader, faults: FaultLayer
) -> None:
    with pytest.raises(SourceError, match=problem):
        await uploader.commit("me/m", receipts)
    assert not faults.seen["commit"]


async def test_a_receipt_of_an_unstored_object_is_refused(
    uploader: Uploader,
) -> None:
    await uploader.push_to_hub("me/m", {"a.txt": b"0"})
    with pytest.raises(HubError, match="LFS pointer") as caught:
        await uploader.commit("me/m", [Receipt("x.bin", 5, "ab" * 32, "lfs")])
    assert "or upload them again" in caught.value.suggestion


async def test_receipts_are_committed_to_a_repo_that_is_there(uploader: Uploader) -> None:
    with pytest.raises(RepoNotFoundError) as caught:
        await uploader.commit("me/misspelled", [GOOD])
    assert "the repo that upload_files" in caught.value.suggestion
    assert "create_repo" not in caught.value.suggestion


async def test_receipts_are_committed_to_a_new_branch(hub: LocalHub, uploader: Uploader) -> None:
    await uploader.push_to_hub("me/m", {"old.txt": b"0"})
    options = PushOptions(revision="dev", create_branch=True)
    planned = await uploader.commit("me/m", [GOOD], replace(options, dry_run=True))
    assert [file.path_in_repo for file in planned.plan] == ["a.txt"]
    await uploader.commit("me/m", [GOOD], options)
    assert await files_of(hub, "me/m", revision="dev") == {".gitattributes", "old.txt", "a.txt"}


async def test_regular_files_too_large_for_receipts_are_refused(
    uploader: Uploader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts, "INLINE_RECEIPT_LIMIT", 10)
    with pytest.raises(SourceError, match=r"too large for receipts.*big\.txt"):
        await uploader.upload_files("me/m", {"big.txt": b"x" * 11, "a.txt": b"x"})
    monkeypatch.setattr(receipts, "INLINE_RECEIPT_LIMIT", 100)
    monkeypatch.setattr(receipts, "INLINE_RECEIPTS_LIMIT", 10)
    with pytest.raises(SourceError, match="2 regular files"):
        await uploader.upload_files("me/m", {"b.txt": b"x" * 8, "a.txt": b"x" * 8})


async def test_an_audit_compares_the_bytes_of_large_files_too(
    uploader: Uploader, write: Write
) -> None:
    source = write({"model.bin": b"\0" * (PART_SIZE + 1), "b.txt": b"b"})
    await uploader.push_to_hub("me/m", source, PushOptions(path_in_repo="sub"))
    options = PushOptions(path_in_repo="sub")
    assert (await uploader.audit("me/m", source, options)).exact
    (source / "model.bin").write_bytes(b"\1" * (PART_SIZE + 1))
    (source / "b.txt").write_bytes(b"bb")
    report = await uploader.audit("me/m", source, options)
    assert sorted(report.different) == ["sub/b.txt", "sub/model.bin"]


def test_files_no_hub_takes_are_refused_before_bytes_move() -> None:
    with pytest.raises(SourceError, match="500,000,000,000"):
        preflight.check_limits([FileSource("huge.bin", 500 * 10**9 + 1, BytesSource(b""))])
    many = [FileSource.of_bytes(f"d/{number}", b"x") for number in range(100_001)]
    warned = preflight.check_limits(many)
    assert ["100,001 files" in warning for warning in warned] == [True, True]


async def test_too_many_lfs_files_for_a_commit_need_an_option(
    uploader: Uploader, hub: LocalHub, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "LFS_FILES_A_COMMIT", 2)
    monkeypatch.setattr(preflight, "SURELY_LFS", 10)
    source = write({f"{number}.bin": b"\0%d" % number * 10 for number in range(3)})
    dev = PushOptions(revision="dev", create_branch=True)
    with pytest.raises(SourceError, match="not on dev") as caught:
        await uploader.push_to_hub("me/m", source, dev)
    assert "max_files_per_commit" in caught.value.suggestion
    assert len(await commits_of(hub, "me/m", "dev")) == 1

    await uploader.push_to_hub("me/m", source, replace(dev, max_files_per_commit=2))
    (source / "0.bin").write_bytes(b"\0changed in one of many")
    result = await uploader.push_to_hub("me/m", source, dev)  # two may well be unchanged
    assert result.files_uploaded == ("0.bin",)


@pytest.mark.no_cover
async def test_a_commit_of_very_many_lfs_files_is_warned_of(uploader: Uploader) -> None:
    files = {f"{number}.bin": b"\0%d" % number for number in range(101)}
    result = await uploader.push_to_hub("me/m", files)
    assert any("101 LFS files" in warning for warning in result.warnings)


async def test_an_uploader_is_used_within_its_block() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await Uploader("hf_x").push_to_hub("me/m", {"a": b"1"})


async def test_failures_nobody_awaited_are_all_raised_at_the_end(
    hub: LocalHub, config: UploadConfig
) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        async with Uploader(TOKEN, hub.url, config) as uploader:
            first = uploader.start_push("me/m", {"../x": b""})
            uploader.start_push("me/m", {"../y": b""})
    assert len(caught.value.exceptions) == 2
    assert repr(first) == "<PushHandle me/m failed>"
    assert first.progress.total_files == 0


async def test_a_handle_says_how_it_stands(uploader: Uploader) -> None:
    handle = uploader.start_push("me/m", {"a.txt": b"1"})
    assert repr(handle) == "<PushHandle me/m running>"
    await handle
    assert repr(handle) == "<PushHandle me/m done>"


async def test_a_session_that_cannot_be_opened_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        async with Uploader("hf_x", "ftp://hub"):
            pass


@pytest.mark.parametrize("endpoint", ["https://user:secret@hub", "hub.example", "https://h/?q=1"])
async def test_an_invalid_endpoint_is_refused_without_secrets(endpoint: str) -> None:
    with pytest.raises(ValueError, match="endpoint") as caught:
        async with Uploader("hf_x", endpoint):
            pass
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
@pytest.mark.parametrize("value", ["1", "true", "YES"])
async def test_offline_nothing_is_sent(
    name: str, value: str, hub: LocalHub, faults: FaultLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    for endpoint in (None, hub.url):
        with pytest.raises(HubError, match=f"{name} is set") as caught:
            await push_to_hub("me/m", {"a.txt": b"1"}, token=TOKEN, endpoint=endpoint)
        assert f"unset {name}" in caught.value.suggestion
    assert not faults.seen


async def test_the_embedded_hub_is_there_offline_too(
    config: UploadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = await push_to_hub(
        "me/m", {"a.txt": b"1"}, token=TOKEN, endpoint="local", config=config
    )
    assert result.verified


@pytest.mark.parametrize("value", ["0", "", "no"])
def test_what_does_not_say_offline_is_online(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert not is_true("HF_HUB_OFFLINE")


@pytest.mark.parametrize("value", ["", "  ", "\n"], ids=repr)
def test_an_empty_endpoint_is_unset(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", value)
    assert endpoint_in_use() == endpoint_in_use("") == "https://huggingface.co"


async def test_anybody_may_audit_a_public_repo(
    uploader: Uploader, hub: LocalHub, config: UploadConfig
) -> None:
    """REQ-009: no token is needed to look."""
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    async with Uploader(endpoint=hub.url, config=config) as anybody:
        assert (await anybody.audit("me/m", {"a.txt": b"1"})).exact


async def test_the_embedded_hub_keeps_its_port_and_needs_no_proxy(
    config: UploadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its URLs lie in the journal: an interrupted push finds them again. A second session at the
    same time gets another port."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with Uploader(endpoint="local", config=config) as first:
        await first.push_to_hub("me/m", {"a.txt": b"1"})
        async with Uploader(endpoint="local", config=config) as second:
            assert second.endpoint != first.endpoint
            await second.push_to_hub("me/m", {"b.txt": b"2"})
        endpoint = first.endpoint
    async with Uploader(endpoint="local", config=config) as again:
        assert again.endpoint == endpoint


async def _yet_another_page(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    answer = await handler(request)
    following = f"{request.url.origin()}{request.path}?n={layer.seen['tree']}"
    answer.headers["Link"] = f'<{following}>; rel="next"'
    return answer


async def _the_same_page_next(
    layer: FaultLayer, request: web.Request, handler: Handler
) -> web.StreamResponse:
    answer = await handler(request)
    answer.headers["Link"] = f'<{request.path_qs}>; rel="next"'
    return answer


KINDS["yet another page"] = _yet_another_page
KINDS["the same page next"] = _the_same_page_next


@pytest.mark.parametrize(
    ("limit", "kind", "calls"),
    [
        ("PAGES_LIMIT", "yet another page", 5),
        ("FILES_LIMIT", "yet another page", 3),
        ("none", "the same page next", 1),
    ],
)
async def test_pages_of_files_that_have_no_end_are_not_followed(
    uploader: Uploader,
    faults: FaultLayer,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    kind: str,
    calls: int,
) -> None:
    folder = write({"a.txt": b"a"})
    await uploader.push_to_hub("me/m", folder)
    monkeypatch.setattr(verification, limit, 5, raising=limit != "none")
    faults.add("tree", kind, times=10_000)
    with pytest.raises(ProtocolError, match="does not end") as caught:
        await uploader.audit("me/m", folder)
    assert faults.seen["tree"] == calls
    assert f"{calls} pages" in caught.value.message


@pytest.mark.parametrize("verb", ["push", "upload_files", "push_many", "audit", "sync"])
async def test_no_source_is_an_error_and_deletes_nothing(
    verb: str, hub: LocalHub, uploader: Uploader
) -> None:
    # What a variable holds that was never set. Taken for an empty source, it emptied buckets.
    nothing = cast("Source", None)
    bucket = "hf://buckets/me/b"
    delete_all = PushOptions(delete_patterns="*")
    await uploader.push_to_hub("me/m", {"a.txt": b"a"})
    head = await head_of(hub, "me/m")
    with pytest.raises(SourceError, match="source is of type NoneType"):
        match verb:
            case "push":
                await uploader.push_to_hub("me/m", nothing, delete_all)
            case "upload_files":
                await uploader.upload_files("me/m", nothing)
            case "push_many":
                pushes = [Push("me/m", nothing, delete_all)]
                [result] = await uploader.push_many(pushes, return_exceptions=True)
                assert isinstance(result, BaseException)
                raise result
            case "audit":
                await uploader.audit("me/m", nothing)
            case _:
                await uploader.sync(nothing, bucket, SyncOptions(delete=True))
    assert await head_of(hub, "me/m") == head


async def test_options_of_another_kind_are_named(uploader: Uploader) -> None:
    for_buckets = cast("PushOptions", SyncOptions())
    with pytest.raises(TypeError, match="options must be PushOptions, not SyncOptions"):
        await uploader.push_to_hub("me/m", b"", for_buckets)
    for_repos = cast("SyncOptions", PushOptions())
    with pytest.raises(TypeError, match="options must be SyncOptions, not PushOptions"):
        await uploader.sync({"a": b"a"}, "hf://buckets/me/b", for_repos)


@pytest.mark.parametrize("message", ["", " \n\n"], ids=["empty", "blank"])
async def test_a_message_that_says_nothing_is_replaced(
    message: str, hub: LocalHub, uploader: Uploader
) -> None:
    await uploader.push_to_hub("me/m", {"a.txt": b"a"}, PushOptions(commit_message=message))
    assert (await commits_of(hub, "me/m"))[0]["title"] == "Upload a.txt with asyncpush"


@pytest.mark.skipif(sys.platform == "win32", reason="a current folder cannot be deleted there")
async def test_a_current_folder_that_was_deleted_is_named(
    uploader: Uploader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for source in (".", "out", "../out", {"a.txt": "a.txt"}, Path("out")):
        with pytest.raises(SourceError, match="the current folder has been deleted"):
            await uploader.push_to_hub("me/m", source)
        with pytest.raises(SourceError, match="the current folder has been deleted"):
            await uploader.audit("me/m", source)
    with pytest.raises(SourceError, match="the current folder has been deleted"):
        uploader.watch(".", "me/m")
    async with CheckpointPusher(uploader, "me/m", snapshot=True) as pusher:
        await pusher.push("out")
        (failed,) = (await pusher.flush()).outcomes
    assert "the current folder has been deleted" in str(failed.error)

    held = tmp_path / "a.txt"
    held.write_bytes(b"2")
    result = await uploader.push_to_hub(
        "me/m", {"a.txt": held, "b.txt": b"1"}, PushOptions(model_card="# One line")
    )
    assert result.files_uploaded == ("README.md", "a.txt", "b.txt")


async def test_values_of_a_wrong_type_are_named(uploader: Uploader, tmp_path: Path) -> None:
    """Of arguments that no class of settings checks."""
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    wrong: Any = None
    up: Any = uploader
    pusher: Any = CheckpointPusher
    session: Any = Uploader
    to_json: Any = receipts_to_json

    async def gather(events: Emitter) -> Any:
        return None

    cases: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: up.push_many([("me/m", {"a": b"1"})]), TypeError, "takes Push objects"),
        (lambda: up.commit("me/m", "[]"), TypeError, "not of type str"),
        (lambda: up.commit("me/m", [{"path_in_repo": "a"}]), TypeError, "not of type dict"),
        (lambda: up.commit("me/m", wrong), TypeError, "not of type NoneType"),
        (lambda: up.commit_gathered("me/m", gather), TypeError, "not of type NoneType"),
        (lambda: up.copy(wrong, wrong), InvalidRepoIdError, "not namespace/name"),
        (lambda: up.doctor(5), InvalidRepoIdError, "not namespace/name"),
        (lambda: up.watch(wrong, "me/m"), ValueError, "folder must be a path"),
        (lambda: up.watch(tmp_path, "me/m", {"a": 1}), ValueError, "takes PushOptions"),
        (lambda: up.watch(tmp_path, "me/m", on_outcome=5), ValueError, "must be callable"),
        (lambda: pusher(up, "me/m", on_outcome=5), ValueError, "callable"),
        (lambda: pusher(up, "me/m", max_waiting=1.5), ValueError, "max_waiting"),
        (lambda: pusher(up, "me/m", {"a": 1}), ValueError, "takes PushOptions"),
        (lambda: session(TOKEN, uploader.endpoint, {"a": 1}), TypeError, "an UploadConfig"),
        (lambda: to_json([1]), TypeError, "receipt was expected"),
    ]
    for work, error, complaint in cases:
        with pytest.raises(error, match=complaint):
            if inspect.isawaitable(made := work()):
                await made


@pytest.mark.parametrize(("path", "size"), [(None, 1), (b"a", 1), ("a", "1"), ("a", 1 << 70)])
async def test_receipts_without_a_path_or_size_are_named(
    path: Any, size: Any, uploader: Uploader
) -> None:
    await uploader.push_to_hub("me/m", {"a.txt": b"1"})
    with pytest.raises(SourceError, match="not a path and a size"):
        await uploader.commit("me/m", [Receipt(path, size, "0" * 64, "lfs")])


async def test_receipts_may_come_from_a_generator(uploader: Uploader) -> None:
    receipts = await uploader.upload_files("me/m", {"a.txt": b"1", "b.txt": b"2"})
    result = await uploader.commit("me/m", (receipt for receipt in receipts))
    assert result.files_uploaded == ("a.txt", "b.txt")


async def test_a_folder_is_no_card(uploader: Uploader, tmp_path: Path) -> None:
    """Its name would be the text of the card."""
    with pytest.raises(SourceError, match=r"model_card names a folder"):
        await uploader.push_to_hub("me/m", {"a": b"1"}, PushOptions(model_card=str(tmp_path)))
