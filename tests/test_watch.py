"""A watched folder is pushed once it stops changing, and its last changes when the block ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncpush import (
    AuthError,
    FolderWatch,
    HubError,
    InvalidRepoIdError,
    PullRequestClosedError,
    PushOptions,
    SourceError,
    SyncOptions,
    Uploader,
    WatchOutcome,
)
from asyncpush.localhub import LocalHub
from asyncpush.sources import walk as walk_module
from asyncpush.watch import Pusher
from tests.conftest import TOKEN
from tests.faults import FaultLayer
from tests.reading import (
    change_pull_request,
    commits_of,
    download,
    exists,
    pull_requests_of,
)

Write = Callable[..., Path]
Step = Callable[[], object]


class Script:
    """The clock of a watch: at each of its pauses the next step is taken, and the seconds pass that
    it pauses for. At the end of the script it pauses until it is left."""

    def __init__(self, *steps: Step | None) -> None:
        self.now = 1000.0
        self.steps = list(steps)
        self.done = asyncio.Event()
        self.pushed_at: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        if not self.steps:
            self.done.set()
            await anyio.sleep_forever()
        step = self.steps.pop(0)
        self.now += seconds
        if step is not None:
            step()

    def on_outcome(self, outcome: WatchOutcome) -> None:
        self.pushed_at.append(self.now)

    def watch(
        self, up: Pusher, folder: Path, options: PushOptions | None = None, **settings: Any
    ) -> FolderWatch:
        usual: dict[str, Any] = {"every": 60.0, "quiet_for": 5.0, "on_outcome": self.on_outcome}
        return FolderWatch(
            up,
            folder,
            "me/m",
            options,
            clock=self,
            sleep=self.sleep,
            use_watchfiles=False,
            **usual | settings,
        )


def append(path: Path, text: str) -> Callable[[], None]:
    def step() -> None:
        with path.open("a") as file:
            file.write(text)

    return step


async def test_a_folder_is_pushed_once_it_has_been_at_rest(
    uploader: Uploader, hub: LocalHub, write: Write
) -> None:
    source = write({"log": b"0"})
    script = Script(*[append(source / "log", "x")] * 3, *[None] * 20)
    async with script.watch(uploader, source) as watch:
        await script.done.wait()
        assert watch.pushes == 1
        assert script.pushed_at == [1000 + 3 + 5]
        assert await download(hub, "me/m") == {"log": b"0xxx"}
    assert watch.pushes == 1, "nothing was left"
    assert len(await commits_of(hub, "me/m")) == 2


def pull_request_watch(
    uploader: Uploader, source: Path, target: str, results: asyncio.Queue[Any]
) -> FolderWatch:
    return FolderWatch(
        uploader,
        source,
        target,
        PushOptions(create_pr=True),
        every=0,
        quiet_for=0,
        on_outcome=lambda outcome: results.put_nowait(outcome.error or outcome.result),
    )


@pytest.mark.parametrize("target", ["me/m", "hf://me/m@main/logs"], ids=["id", "address"])
async def test_one_pull_request_takes_all_pushes(
    target: str, uploader: Uploader, hub: LocalHub, write: Write
) -> None:
    await uploader.push_to_hub("me/m", {"there": b"0"})
    source = write({"log": b"0"})
    results: asyncio.Queue[Any] = asyncio.Queue()
    watch = pull_request_watch(uploader, source, target, results)
    async with watch:
        first = await results.get()
        append(source / "log", "1")()
        second = await results.get()
        append(source / "log", "2")()
    assert first.pr_url.endswith("/discussions/1")
    assert second.pr_url is None
    below = "logs/log" if "logs" in target else "log"
    assert await download(hub, "me/m") == {"there": b"0"}
    assert await download(hub, "me/m", revision="refs/pr/1") == {"there": b"0", below: b"012"}


@pytest.mark.parametrize("target", ["me/m", "hf://me/m@main/logs"], ids=["id", "address"])
async def test_after_a_merge_changes_open_another_pull_request(
    target: str, uploader: Uploader, hub: LocalHub, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    await uploader.push_to_hub("me/m", {"there": b"0"})
    source = write({"log": b"0"})
    results: asyncio.Queue[Any] = asyncio.Queue()
    watch = pull_request_watch(uploader, source, target, results)
    async with watch:
        first = await results.get()
        await change_pull_request(hub, "me/m", 1, "merge")
        append(source / "log", "1")()
        second = await results.get()
        append(source / "log", "2")()
    assert first.pr_url.endswith("/discussions/1")
    assert second.pr_url.endswith("/discussions/2")
    assert "pull request #1 has been merged" in caplog.text
    below = "logs/log" if "logs" in target else "log"
    assert await download(hub, "me/m") == {"there": b"0", below: b"0"}
    assert await download(hub, "me/m", revision="refs/pr/2") == {"there": b"0", below: b"012"}
    assert await pull_requests_of(hub, "me/m") == {1: "merged", 2: "open"}


async def test_a_pull_request_that_is_closed_ends_the_watch(
    uploader: Uploader, hub: LocalHub, write: Write
) -> None:
    await uploader.push_to_hub("me/m", {"there": b"0"})
    source = write({"log": b"0"})
    results: asyncio.Queue[Any] = asyncio.Queue()
    watch = pull_request_watch(uploader, source, "me/m", results)
    with pytest.raises(PullRequestClosedError, match="#1 has been closed: nothing was sent"):
        async with watch:
            await results.get()
            await change_pull_request(hub, "me/m", 1, "close")
            append(source / "log", "1")()
            await watch.wait()
    assert await download(hub, "me/m", revision="refs/pr/1") == {"there": b"0", "log": b"0"}
    assert await pull_requests_of(hub, "me/m") == {1: "closed"}


async def test_a_log_that_never_rests_is_pushed_all_the_same(
    uploader: Uploader, hub: LocalHub, write: Write
) -> None:
    source = write({"log": b"0"})
    script = Script(*[append(source / "log", "x")] * 200)
    async with script.watch(uploader, source):
        await script.done.wait()
        assert script.pushed_at[:3] == [1060, 1180, 1300]
    assert (await download(hub, "me/m"))["log"] == (source / "log").read_bytes()


async def test_what_is_left_is_pushed_when_the_block_ends(
    uploader: Uploader, hub: LocalHub, write: Write
) -> None:
    source = write({"log": b"0"})
    async with uploader.watch(source, "me/m"):
        append(source / "log", "1")()
    assert await download(hub, "me/m") == {"log": b"01"}


async def test_cancellation_pushes_what_is_left_too(
    uploader: Uploader, hub: LocalHub, write: Write
) -> None:
    source, inside = write({"log": b"0"}), asyncio.Event()

    async def train() -> None:
        async with uploader.watch(source, "me/m") as watch:
            inside.set()
            await watch.wait()

    task = asyncio.create_task(train())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await download(hub, "me/m") == {"log": b"0"}


async def test_a_second_cancellation_gives_the_last_push_up(
    uploader: Uploader, hub: LocalHub, write: Write, faults: FaultLayer
) -> None:
    source, inside = write({"model.bin": b"\0" * 1000}), asyncio.Event()
    faults.add("part", "stall before reading")

    async def train() -> None:
        async with uploader.watch(source, "me/m") as watch:
            inside.set()
            await watch.wait()

    task = asyncio.create_task(train())
    await inside.wait()
    task.cancel()
    await faults.stalled.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await commits_of(hub, "me/m")) == 1


async def test_changes_during_a_push_go_with_the_next(
    uploader: Uploader, hub: LocalHub, write: Write, faults: FaultLayer
) -> None:
    source = write({"log": b"0"})
    faults.hooks["commit"] = append(source / "log", "1")
    script = Script(*[None] * 80)
    async with script.watch(uploader, source) as watch:
        await script.done.wait()
        assert watch.pushes == 2
        assert script.pushed_at[1] - script.pushed_at[0] >= 60
    assert await download(hub, "me/m") == {"log": b"01"}
    assert watch.pushes == 2


async def test_a_push_that_fails_is_reported_and_tried_again(
    uploader: Uploader,
    hub: LocalHub,
    write: Write,
    faults: FaultLayer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = write({"log": b"0"})
    faults.add("commit", "413")
    script = Script(*[None] * 80)
    reported: list[WatchOutcome] = []
    async with script.watch(uploader, source, on_outcome=reported.append) as watch:
        await script.done.wait()
        assert watch.pushes == 1
    assert [type(outcome.error) for outcome in reported] == [HubError, type(None)]
    assert list(watch.failures) == [reported[0].error]
    errors = [r for r in caplog.records if r.name == "asyncpush.watch"]
    assert [record.levelno for record in errors] == [logging.ERROR]
    assert await download(hub, "me/m") == {"log": b"0"}


async def test_a_failure_of_the_last_push_is_raised(
    uploader: Uploader, write: Write, faults: FaultLayer
) -> None:
    source = write({"log": b"0"})
    faults.add("commit", "413", times=9)
    with pytest.raises(HubError):
        async with uploader.watch(source, "me/m"):
            pass
    with pytest.raises(ZeroDivisionError) as caught:
        async with uploader.watch(source, "me/m"):
            raise ZeroDivisionError
    assert "the last push" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("repo_id", "token", "expected"),
    [("no good/id/at all", TOKEN, InvalidRepoIdError), ("me/m", "hf_wrong", AuthError)],
)
async def test_an_error_that_would_come_again_ends_the_watch(
    repo_id: str,
    token: str,
    expected: type[Exception],
    hub: LocalHub,
    config: Any,
    write: Write,
) -> None:
    source = write({"log": b"0"})
    async with Uploader(token, hub.url, config) as up:
        with pytest.raises(expected):
            async with up.watch(source, repo_id, quiet_for=0) as watch:
                await watch.wait()
        assert len(watch.failures) == 1, "it was not tried again"


async def test_a_folder_that_does_not_exist_yet_is_awaited(
    uploader: Uploader, hub: LocalHub, write: Write, tmp_path: Path
) -> None:
    script = Script(None, None, lambda: write({"log": b"0"}), *[None] * 9)
    async with script.watch(uploader, tmp_path / "out") as watch:
        await script.done.wait()
        assert watch.pushes == 1
    async with uploader.watch(tmp_path / "never", "me/other"):
        pass
    assert not await exists(hub, "me/other")


async def test_a_file_is_no_folder_to_watch(uploader: Uploader, write: Write) -> None:
    with pytest.raises(ValueError, match="is a file"):
        uploader.watch(write({"log": b"0"}) / "log", "me/m")


async def test_an_empty_path_is_no_folder_to_watch(uploader: Uploader) -> None:
    with pytest.raises(ValueError, match="an empty path"):
        uploader.watch("", "me/m")


async def test_a_folder_that_never_came_is_warned_of(
    uploader: Uploader, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with uploader.watch(tmp_path / "never", "me/m"):
        assert "does not exist yet: nothing is pushed until it does" in caplog.text
    assert "does not exist: nothing more was pushed" in caplog.text


async def test_a_folder_that_cannot_be_listed_is_a_failure(
    uploader: Uploader, hub: LocalHub, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write({"a/log": b"0", "b/log": b"0"})
    entries = walk_module._entries

    def refuse(path: str, **how: bool) -> Any:
        if path.endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return entries(path, **how)

    async with uploader.watch(source, "me/m"):
        pass
    with monkeypatch.context() as patch:
        patch.setattr(walk_module, "_entries", refuse)
        with pytest.raises(SourceError, match="cannot be listed: Permission denied"):
            async with uploader.watch(source, "me/m"):
                pass


async def test_a_failing_listener_ends_the_watch_after_a_push(
    uploader: Uploader, hub: LocalHub, write: Write
) -> None:
    source = write({"log": b"0"})

    def fail(outcome: WatchOutcome) -> None:
        raise ZeroDivisionError("of the listener")

    with pytest.raises(ZeroDivisionError) as caught:
        async with uploader.watch(source, "me/m", quiet_for=0, on_outcome=fail) as watch:
            with contextlib.suppress(ZeroDivisionError):
                await watch.wait()
            append(source / "log", "1")()
    assert await download(hub, "me/m") == {"log": b"01"}
    assert not hasattr(caught.value, "__notes__"), "no push has failed"


async def test_only_files_that_would_be_pushed_count(uploader: Uploader, write: Write) -> None:
    source = write({"log": b"0", "scratch.tmp": b""})
    options = PushOptions(ignore_patterns="*.tmp")
    script = Script(*[None] * 9, *[append(source / "scratch.tmp", "x")] * 90, *[None] * 9)
    async with script.watch(uploader, source, options):
        await script.done.wait()
    assert len(script.pushed_at) == 1


async def test_a_real_change_is_noticed_with_and_without_watchfiles(
    uploader: Uploader, hub: LocalHub, write: Write
) -> None:
    pytest.importorskip("watchfiles")
    for name, reported in (("polled", False), ("reported", True)):
        source = write({"log": b"0"}, name)
        pushed = asyncio.Event()

        def on_outcome(outcome: WatchOutcome, pushed: asyncio.Event = pushed) -> None:
            pushed.set()

        watch = FolderWatch(
            uploader,
            source,
            f"me/{name}",
            every=0,
            quiet_for=0.05,
            on_outcome=on_outcome,
            use_watchfiles=reported,
        )
        async with watch:
            await pushed.wait()
            pushed.clear()
            append(source / "log", "1")()
            with anyio.fail_after(10):
                await pushed.wait()
        assert await download(hub, f"me/{name}") == {"log": b"01"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": -1}, "every must be"),
        ({"quiet_for": "5"}, "quiet_for must be"),
        ({"options": SyncOptions()}, "takes PushOptions"),
        ({"options": PushOptions(dry_run=True)}, "dry_run"),
        ({"options": PushOptions(parent_commit="a" * 40)}, "only the first push"),
    ],
)
async def test_settings_that_do_not_fit_are_refused(
    settings: dict[str, Any], message: str, uploader: Uploader, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        uploader.watch(tmp_path, "me/m", **settings)


async def test_an_address_in_place_of_the_folder_is_refused(uploader: Uploader) -> None:
    with pytest.raises(ValueError, match="'hf://me/m' is an address"):
        uploader.watch("hf://me/m", "me/m")
