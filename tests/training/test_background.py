"""Pushes from blocking code: tickets, the ways out, forks, signals, the end of the process."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from asyncpush import (
    AuthError,
    BackgroundUploader,
    CheckpointPusher,
    CheckpointReport,
    HubError,
    InvalidRepoIdError,
    PushHandle,
    PushOptions,
    PushTicket,
    SourceError,
    UploadConfig,
    Uploader,
    UploadProgress,
    UploadResult,
)
from asyncpush.localhub import LocalHub
from asyncpush.training import background
from asyncpush.training.background import _wait_at_exit
from asyncpush.training.checkpoints import OnError
from asyncpush.training.tickets import Job
from tests.conftest import TOKEN
from tests.faults import FaultLayer
from tests.reading import download, exists, files_of
from tests.request_blocker import RequestBlocker

Write = Callable[..., Path]

LARGE = {"model.bin": b"\0" * 1000, "config.json": b"{}"}


@pytest.fixture
def hub(hub_in_thread: LocalHub) -> LocalHub:
    return hub_in_thread


@pytest.fixture
def bg(hub: LocalHub, config: UploadConfig) -> Iterator[BackgroundUploader]:
    uploader = BackgroundUploader(TOKEN, hub.url, config)
    yield uploader
    uploader.close(cancel=True)


def committed(hub: LocalHub, repo_id: str = "me/m") -> set[str]:
    return asyncio.run(files_of(hub, repo_id)) - {".gitattributes"}


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "asyncpush.background" and record.levelno >= logging.ERROR
    ]


def test_a_push_returns_a_ticket_at_once(
    bg: BackgroundUploader, hub: LocalHub, write: Write, blocker: RequestBlocker
) -> None:
    blocker.hold("part")
    ticket = bg.push("me/m", write(LARGE))
    blocker.wait()
    assert not ticket.done()
    assert repr(ticket) == "<PushTicket me/m running>"
    assert ticket.progress is not None
    assert ticket.progress.total_bytes == 1002
    blocker.release()

    result = ticket.result(timeout=30)
    assert result.verified
    assert ticket.done()
    assert ticket.exception() is None
    assert ticket.progress.bytes_sent == 1002
    assert repr(ticket) == "<PushTicket me/m done>"
    assert asyncio.run(download(hub, "me/m")) == LARGE


def test_pushes_run_side_by_side(
    bg: BackgroundUploader, hub: LocalHub, blocker: RequestBlocker
) -> None:
    blocker.hold("part")
    slow = bg.push("me/slow", {"model.bin": b"\0"})
    blocker.wait()
    assert bg.push("me/quick", {"config.json": b"{}"}).result(timeout=30).verified
    assert not slow.done()


def test_a_failure_is_raised_where_it_is_asked_for(
    bg: BackgroundUploader, faults: FaultLayer, caplog: pytest.LogCaptureFixture
) -> None:
    faults.add("commit", "422", times=9)
    ticket = bg.push("me/m", {"a.txt": b"a"})
    with pytest.raises(HubError, match="422"):
        ticket.result(timeout=30)
    assert isinstance(ticket.exception(), HubError)
    assert repr(ticket) == "<PushTicket me/m failed>"
    bg.close()
    assert errors(caplog) == []


def test_an_unrequested_cancellation_fails_its_ticket(
    bg: BackgroundUploader,
) -> None:
    async def cancelled_within() -> AsyncIterator[bytes]:
        yield b"begun"
        helper = asyncio.create_task(asyncio.sleep(60))
        helper.cancel()
        await helper

    ticket = bg.push("me/m", {"b.txt": cancelled_within()})
    with pytest.raises(SourceError, match=r"b\.txt.*CancelledError"):
        ticket.result(timeout=30)


def test_an_unseen_failure_is_logged_at_close(
    bg: BackgroundUploader, faults: FaultLayer, caplog: pytest.LogCaptureFixture
) -> None:
    faults.add("commit", "422")
    failed = bg.push("me/m", {"a.txt": b"a"})
    concurrent.futures.wait([failed._job.future])
    assert bg.push("me/m", {"b.txt": b"b"}).result(timeout=30).verified  # prunes what has ended
    assert failed.done()
    bg.close()
    (output,) = errors(caplog)
    assert output.startswith("the push to me/m failed, HubError: ")
    assert "422" in output


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


def test_each_ticket_has_its_own_outcome(bg: BackgroundUploader, hub: LocalHub) -> None:
    async def broken(number: int) -> AsyncIterator[bytes]:
        yield b"some"
        raise RuntimeError(f"producer {number} is broken")

    def push(number: int) -> PushTicket:
        files = {"a.txt": f"{number}".encode(), "b.bin": b"\0" * number}
        if number % 8 == 5:
            return bg.push(f"me/m{number}", {**files, "c.bin": broken(number)})
        return bg.push(f"me/m{number}", files)

    open_at_first = 0
    for start in (0, 24, 48):
        numbers = range(start, start + 24)
        tickets = {number: push(number) for number in numbers}
        for number, ticket in tickets.items():
            if number % 8 == 5:
                with pytest.raises(SourceError, match=f"producer {number} is broken"):
                    ticket.result()
            else:
                assert ticket.result().repo_url.endswith(f"/me/m{number}")
        open_at_first = open_at_first or descriptors()
    # Connections that are kept open, and sockets of the hub, which is in this process, vary.
    assert descriptors() < open_at_first + 20
    push(72).result()
    assert len(bg._jobs) == 1
    assert committed(hub, "me/m49") == {"a.txt", "b.bin"}


def test_an_impossible_repo_is_refused_where_it_is_named(bg: BackgroundUploader) -> None:
    with pytest.raises(InvalidRepoIdError):
        bg.push("not a repo", b"")


def test_options_of_the_wrong_type_are_refused_at_once(bg: BackgroundUploader) -> None:
    with pytest.raises(TypeError, match="options must be SyncOptions, not PushOptions"):
        bg.sync({}, "hf://buckets/me/b", PushOptions())  # type: ignore[arg-type]


def test_a_push_that_cannot_be_started_fails_its_ticket(
    bg: BackgroundUploader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_push(*args: object) -> PushHandle:
        raise RuntimeError("not now")

    monkeypatch.setattr(Uploader, "start_push", start_push)
    ticket = bg.push("me/m", b"")
    with pytest.raises(RuntimeError, match="not now"):
        ticket.result(timeout=30)


def test_no_push_is_accepted_once_the_thread_has_ended(
    bg: BackgroundUploader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would never end. The thread itself may live on for a moment."""
    first = bg.push("me/m", {"a.txt": b"a"})
    first.result(timeout=30)
    over, seen = threading.Event(), threading.Event()
    give_up = Job.give_up

    def pausing(job: Job[UploadResult]) -> None:
        give_up(job)
        over.set()
        assert seen.wait(30)

    monkeypatch.setattr(Job, "give_up", pausing)
    bg._loop.call_soon_threadsafe(bg._stop.set)  # as if it had died
    assert over.wait(30)
    try:
        with pytest.raises(RuntimeError, match="has died"):
            bg.push("me/m", {"b.txt": b"b"})
    finally:
        seen.set()


def test_a_cancelled_push_commits_nothing(
    bg: BackgroundUploader, hub: LocalHub, blocker: RequestBlocker, caplog: pytest.LogCaptureFixture
) -> None:
    blocker.hold("part")
    ticket = bg.push("me/m", LARGE)
    blocker.wait()
    ticket.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        ticket.result(timeout=30)
    with pytest.raises(concurrent.futures.CancelledError):
        ticket.exception()
    ticket.cancel()  # again: nothing
    bg.close()
    ticket.cancel()
    assert errors(caplog) == []
    assert committed(hub) == set()


def test_a_push_cancelled_before_its_start_never_starts(
    bg: BackgroundUploader, hub: LocalHub, faults: FaultLayer
) -> None:
    ticket = bg.push("me/m", LARGE)
    ticket.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        ticket.result(timeout=30)
    assert faults.seen["commit"] == 0


def test_a_wait_that_runs_out_leaves_the_push_going(
    bg: BackgroundUploader, blocker: RequestBlocker
) -> None:
    blocker.hold("part")
    ticket = bg.push("me/m", LARGE)
    blocker.wait()
    for ask in (ticket.result, ticket.exception):
        with pytest.raises(TimeoutError, match="me/m still runs after 0"):
            ask(timeout=0)
    blocker.release()
    assert ticket.result(timeout=30).verified


def test_leaving_the_block_waits(hub: LocalHub, config: UploadConfig) -> None:
    with BackgroundUploader(TOKEN, hub.url, config) as bg:
        tickets = [bg.push(f"me/m{number}", {"a.txt": b"a"}) for number in range(3)]
    assert all(ticket.result().verified for ticket in tickets)
    names = {thread.name for thread in threading.enumerate()}
    assert not {name for name in names if name.startswith("asyncpush-b")}
    with pytest.raises(RuntimeError, match="closed"):
        bg.push("me/m", b"")


@pytest.mark.parametrize(
    ("error", "on_error", "survives"),
    [
        (RuntimeError("out of memory"), "wait", True),
        (SystemExit(3), "wait", True),
        (RuntimeError("out of memory"), "cancel", False),
        (KeyboardInterrupt(), "wait", False),
    ],
    ids=["error", "exit", "error, on_error=cancel", "Ctrl-C"],
)
def test_on_error_decides_about_running_pushes(
    error: BaseException,
    on_error: OnError,
    survives: bool,
    hub: LocalHub,
    config: UploadConfig,
    blocker: RequestBlocker,
) -> None:
    blocker.hold("part")
    with (
        pytest.raises(type(error)),
        BackgroundUploader(TOKEN, hub.url, config, on_error=on_error) as bg,
    ):
        ticket = bg.push("me/m", LARGE)
        blocker.wait()
        if survives:
            threading.Timer(0.05, blocker.release).start()
        raise error
    assert ticket.done()
    assert ticket._job.future.cancelled() is not survives
    assert committed(hub) == (set(LARGE) if survives else set())


def test_closing_within_a_time_says_what_was_lost(
    bg: BackgroundUploader, hub: LocalHub, blocker: RequestBlocker
) -> None:
    blocker.hold("part")
    ticket = bg.push("me/m", LARGE)
    blocker.wait()
    with pytest.raises(TimeoutError, match=r"cancelled after 0 seconds: me/m \([01].*1\.00 kB\)"):
        bg.close(timeout=0)
    assert ticket.done()
    assert committed(hub) == set()
    bg.close()  # again: nothing


def test_closing_can_cancel(bg: BackgroundUploader, hub: LocalHub, blocker: RequestBlocker) -> None:
    blocker.hold("part")
    ticket = bg.push("me/m", LARGE)
    blocker.wait()
    bg.close(cancel=True)
    assert ticket._job.future.cancelled()
    assert committed(hub) == set()


def test_a_push_that_does_not_even_stop_is_named(
    hub: LocalHub,
    config: UploadConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    called, go_on = threading.Event(), threading.Event()

    def callback(progress: UploadProgress) -> None:
        called.set()
        go_on.wait()

    monkeypatch.setattr(background, "CANCEL_GRACE", 0.1)
    config = replace(config, progress_callback=callback)
    bg = BackgroundUploader(TOKEN, hub.url, config)
    bg.push("me/m", {"a.txt": b"a"})
    called.wait()
    with pytest.raises(TimeoutError, match="me/m"):
        bg.close(cancel=True, timeout=0.1)
    go_on.set()
    assert errors(caplog) == ["the push to me/m was cancelled but has not ended"]
    assert bg._thread is not None
    bg._thread.join()


class Preempted(Exception):
    pass


def _preempted(number: int, frame: FrameType | None) -> None:
    raise Preempted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1], ids=["Ctrl-C", "a handler"])
@pytest.mark.parametrize("where", ["result", "exception", "close"])
def test_a_signal_in_a_wait_cancels_cleanly(
    where: str, number: int, hub: LocalHub, config: UploadConfig, blocker: RequestBlocker
) -> None:
    """Ctrl-C, or what handlers such as torch's raise when a worker dies or a node is taken away."""
    blocker.hold("part", then=lambda: os.kill(os.getpid(), number))
    before = signal.signal(signal.SIGUSR1, _preempted)
    bg = BackgroundUploader(TOKEN, hub.url, config)
    try:
        ticket = bg.push("me/m", LARGE)
        wait: dict[str, Callable[[], object]] = {
            "result": ticket.result,
            "exception": ticket.exception,
            "close": bg.close,
        }
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else Preempted):
            wait[where]()
        assert ticket.done()
        assert committed(hub) == set()
        blocker.release()
        if where != "close":
            assert bg.push("me/m", LARGE).result(timeout=30).verified
    finally:
        signal.signal(signal.SIGUSR1, before)
        bg.close()


def test_signal_handlers_are_left_alone(hub: LocalHub, config: UploadConfig) -> None:
    signals = [signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1]
    before = [signal.getsignal(number) for number in signals]
    wakeup = signal.set_wakeup_fd(-1)
    with BackgroundUploader(TOKEN, hub.url, config) as bg:
        bg.push("me/m", {"a.txt": b"a"})
        assert [signal.getsignal(number) for number in signals] == before
        assert signal.set_wakeup_fd(wakeup) == -1


def _in_child(check: Callable[[], None]) -> int:
    """The exit code of a forked child: 0 when the check passed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12 and later
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        check()
        os._exit(0)
    finally:
        os._exit(1)


def test_a_forked_child_is_reported_and_does_no_harm(
    bg: BackgroundUploader, hub: LocalHub, config: UploadConfig, blocker: RequestBlocker
) -> None:
    blocker.hold("part")
    ticket = bg.push("me/m", LARGE)
    blocker.wait()

    def check() -> None:
        with pytest.raises(RuntimeError, match="does not survive a fork"):
            bg.__enter__()
        bg.__exit__(SystemExit, SystemExit(), None)
        bg.__exit__(None, None, None)
        for use in (ticket.result, ticket.cancel, lambda: bg.push("me/x", b"")):
            with pytest.raises(RuntimeError, match="does not survive a fork"):
                use()

    assert _in_child(check) == 0
    blocker.release()
    assert ticket.result(timeout=30).verified


def test_one_made_before_a_fork_serves_the_child(hub: LocalHub, config: UploadConfig) -> None:
    bg = BackgroundUploader(TOKEN, hub.url, config)

    def push() -> None:
        assert bg.push("me/m", {"a.txt": b"a"}).result(timeout=30).verified
        bg.close()

    assert _in_child(push) == 0
    assert committed(hub) == {"a.txt"}


def test_the_background_thread_does_not_wait_for_itself(
    hub: LocalHub, config: UploadConfig
) -> None:
    tickets: list[PushTicket] = []
    output: list[str] = []
    given = threading.Event()

    def callback(progress: UploadProgress) -> None:
        given.wait()
        try:
            tickets[0].result()
        except RuntimeError as exc:
            output.append(str(exc))

    config = replace(config, progress_callback=callback)
    with BackgroundUploader(TOKEN, hub.url, config) as bg:
        tickets.append(bg.push("me/m", {"a.txt": b"a"}))
        given.set()
    assert set(output) == {"the background thread cannot wait for itself"}


def test_a_start_that_fails_is_reported_at_once(config: UploadConfig) -> None:
    bg = BackgroundUploader(TOKEN, "ftp://hub.example", config)
    for _ in range(2):
        with pytest.raises(ValueError, match="ftp"):
            bg.push("me/m", b"")
    bg.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_leaves_nobody_waiting(
    bg: BackgroundUploader, caplog: pytest.LogCaptureFixture
) -> None:
    async def waits() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def exits() -> AsyncIterator[bytes]:
        yield b"a"
        raise SystemExit(1)

    bg.push("me/n", {"b.bin": waits()})
    ticket = bg.push("me/m", {"a.bin": exits()})
    with pytest.raises((concurrent.futures.CancelledError, SystemExit)):
        ticket.result(timeout=30)
    assert bg._thread is not None
    bg._thread.join()
    with pytest.raises(RuntimeError, match="has died"):
        bg.push("me/m", b"")
    bg.close()
    assert errors(caplog) == [
        "the background thread has died",
        "the push to me/n failed, it was interrupted",
    ]


@pytest.mark.parametrize(
    "wrong", [{"exit_timeout": -1}, {"on_error": "pray"}], ids=["exit_timeout", "on_error"]
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BackgroundUploader(**wrong)  # type: ignore[arg-type]


def test_open_uploaders_are_closed_at_exit(
    hub: LocalHub, config: UploadConfig, blocker: RequestBlocker, caplog: pytest.LogCaptureFixture
) -> None:
    blocker.hold("part")
    bg = BackgroundUploader(TOKEN, hub.url, config, exit_timeout=0)
    ticket = bg.push("me/m", LARGE)
    blocker.wait()
    _wait_at_exit()
    assert ticket.done()
    (output,) = errors(caplog)
    assert output.startswith("the process ends: not uploaded in time, cancelled: me/m")
    _wait_at_exit()  # nothing is left to wait for


def test_ctrl_c_at_exit_shows_no_traceback(
    hub: LocalHub, config: UploadConfig, blocker: RequestBlocker, caplog: pytest.LogCaptureFixture
) -> None:
    blocker.hold("part", then=lambda: os.kill(os.getpid(), signal.SIGINT))
    bg = BackgroundUploader(TOKEN, hub.url, config, exit_timeout=None)
    try:
        ticket = bg.push("me/m", LARGE)
        _wait_at_exit()
    except KeyboardInterrupt:  # it came before the wait
        _wait_at_exit()
    assert ticket.done()
    assert errors(caplog)[-1] == "interrupted: pushes that have not ended are cancelled"


SCRIPT = """
import os, sys
from asyncpush import BackgroundUploader, UploadConfig
bg = BackgroundUploader(exit_timeout=eval(sys.argv[1]), config=UploadConfig(progress="bar"))
bg.push("me/m", {"model.bin": bytes(1000)})
"""


def ending_process(hub: LocalHub, exit_timeout: float | None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, repr(exit_timeout)],
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_end_of_the_process_waits_and_shows_it(hub: LocalHub, blocker: RequestBlocker) -> None:
    blocker.hold("part")
    with ending_process(hub, 600) as process:
        blocker.wait()
        threading.Timer(0.2, blocker.release).start()
        _, output = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "the process ends: waiting up to 10:00 for me/m" in output
    assert "Upload complete" in output
    assert committed(hub) == {"model.bin"}


def test_exit_waits_up_to_its_limit_and_reports_losses(
    hub: LocalHub, blocker: RequestBlocker
) -> None:
    blocker.hold("part")
    with ending_process(hub, 0.5) as process:
        _, output = process.communicate(timeout=30)
    assert "the process ends: not uploaded in time, cancelled: me/m" in output
    assert "Traceback" not in output
    # On a busy machine the limit may be over before there is a repo.
    assert not asyncio.run(exists(hub, "me/m")) or committed(hub) == set()


def test_ctrl_c_ends_the_wait_at_exit(hub: LocalHub, blocker: RequestBlocker) -> None:
    blocker.hold("part")
    with ending_process(hub, None) as process:
        assert process.stderr is not None
        head = process.stderr.readline()  # it waits now
        blocker.wait()
        process.send_signal(signal.SIGINT)
        _, output = process.communicate(timeout=30)
    assert "waiting for me/m" in head
    assert "interrupted: pushes that have not ended are cancelled" in output
    assert "Traceback" not in output
    assert committed(hub) == set()


def test_checkpoints_are_pushed_beside_a_blocking_loop(
    bg: BackgroundUploader, hub: LocalHub, blocker: RequestBlocker, write: Write
) -> None:
    blocker.hold("part")
    folder = write({"model.bin": b"\0" * 8})
    with bg.checkpoints("me/m", snapshot=True) as pusher:
        assert pusher.flush() == CheckpointReport()
        for step in range(3):
            (folder / "model.bin").write_bytes(b"\0%d" % step)
            pusher.push(folder, PushOptions(commit_message=f"step {step}"))
        blocker.wait()
        assert pusher.progress is not None
        with pytest.raises(TimeoutError):
            pusher.flush(timeout=0)
        blocker.release()
    assert str(pusher.report) == "2 pushed, 1 skipped"
    assert asyncio.run(download(hub, "me/m")) == {"model.bin": b"\0" + b"2"}
    bg.close()
    with pytest.raises(RuntimeError, match="closed"):
        pusher.push(folder)


def test_a_failed_checkpoint_is_raised_unless_reported(
    bg: BackgroundUploader, faults: FaultLayer
) -> None:
    faults.add("commit", "422", times=2)
    with bg.checkpoints("me/m") as pusher:
        pusher.push({"a.txt": b"a"})
        assert str(pusher.flush()) == "1 failed"
    with pytest.raises(HubError), bg.checkpoints("me/m") as pusher:
        pusher.push({"a.txt": b"a"})


@pytest.mark.parametrize("how", ["cancel", "close", "error"])
def test_checkpoints_that_wait_are_cancelled_with_the_rest(
    how: str, hub: LocalHub, config: UploadConfig, blocker: RequestBlocker
) -> None:
    blocker.hold("part")
    bg = BackgroundUploader(TOKEN, hub.url, config, on_error="cancel")
    with contextlib.suppress(LookupError), bg, bg.checkpoints("me/m") as pusher:
        pusher.cancel()  # nothing yet
        pusher.push(LARGE)
        pusher.push({"b.txt": b"b"})
        blocker.wait()
        match how:
            case "cancel":
                pusher.cancel()
            case "close":
                bg.close(cancel=True)
            case _:
                raise LookupError
    assert [outcome.status for outcome in pusher.report.outcomes] == ["cancelled"] * 2
    assert committed(hub) == set()


@pytest.mark.parametrize("cancel", [False, True])
def test_closing_waits_for_a_checkpoint_of_another_thread(
    cancel: bool, bg: BackgroundUploader, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its snapshot is taken, no push of it runs yet."""
    taking, go_on = threading.Event(), threading.Event()
    take = CheckpointPusher._take_snapshot

    async def slowly(pusher: CheckpointPusher, item: Any) -> None:
        taking.set()
        await asyncio.to_thread(go_on.wait, 30)
        await take(pusher, item)

    monkeypatch.setattr(CheckpointPusher, "_take_snapshot", slowly)
    pusher = bg.checkpoints("me/m", snapshot=True)
    with ThreadPoolExecutor(2) as threads:
        pushing = threads.submit(pusher.push, {"a.txt": b"a"})
        assert taking.wait(30)
        closing = threads.submit(bg.close, cancel=cancel)
        while not bg._closed:
            time.sleep(0.001)
        go_on.set()
        closing.result(timeout=30)
        if cancel:
            with pytest.raises(concurrent.futures.CancelledError):
                pushing.result(timeout=30)
        else:
            pushing.result(timeout=30)
    assert str(pusher.report) == ("none" if cancel else "1 pushed")
    if not cancel:
        assert committed(hub) == {"a.txt"}


def test_ctrl_c_while_a_checkpoint_waits_for_room(
    bg: BackgroundUploader, blocker: RequestBlocker
) -> None:
    blocker.hold("part")
    pusher = bg.checkpoints("me/m", policy="all", max_waiting=1)
    pusher.push(LARGE)
    blocker.wait()
    pusher.push({"b.txt": b"b"})
    with pytest.raises(KeyboardInterrupt):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        pusher.push({"c.txt": b"c"})
    blocker.release()
    assert str(pusher.flush(timeout=30)) == "2 pushed"


def test_a_folder_is_watched_beside_a_blocking_loop(
    bg: BackgroundUploader, hub: LocalHub, tmp_path: Path
) -> None:
    pushed = threading.Event()
    folder = tmp_path / "out"
    folder.mkdir()
    with bg.watch(
        folder, "me/m", every=0, quiet_for=0, on_outcome=lambda outcome: pushed.set()
    ) as watch:
        (folder / "first.txt").write_text("1")
        assert pushed.wait(30)
        (folder / "last.txt").write_text("2")
    assert committed(hub) == {"first.txt", "last.txt"}
    assert (watch.failures, watch.last_error) == ((), None)
    assert watch.pushes >= 1
    assert watch.last_result is not None
    watch.stop()  # again: nothing is left


@pytest.mark.parametrize("how", ["close", "error in the block"])
def test_a_watch_pushes_the_rest_when_its_uploader_ends(
    how: str, hub: LocalHub, config: UploadConfig, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("a")
    with contextlib.suppress(LookupError), BackgroundUploader(TOKEN, hub.url, config) as bg:
        watch = bg.watch(tmp_path, "me/m", every=600, quiet_for=600)
        if how == "close":
            bg.close()
        else:
            with watch:
                raise LookupError
    assert committed(hub) == {"a.txt"}
    with pytest.raises(RuntimeError, match="closed"):
        bg.watch(tmp_path, "me/m")


@pytest.mark.parametrize("how", ["cancel", "close", "during the last push"])
def test_a_watch_that_is_cancelled_pushes_nothing(
    how: str, bg: BackgroundUploader, blocker: RequestBlocker, write: Write
) -> None:
    folder = write(LARGE)
    watch = bg.watch(folder, "me/m", every=600, quiet_for=600)
    match how:
        case "cancel":
            watch.cancel()
        case "close":
            bg.close(cancel=True)
        case _:
            blocker.hold("part")
            with pytest.raises(TimeoutError):
                watch.stop(timeout=0)
            blocker.wait()
            watch.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        watch.stop(timeout=30)
    assert watch.pushes == 0
    blocker.release()
    bg.close()
    assert blocker.seen["commit"] == 0


def test_stop_raises_the_error_that_ended_a_watch(
    hub: LocalHub, config: UploadConfig, write: Write, faults: FaultLayer
) -> None:
    output = threading.Event()
    faults.add("commit", "401", times=9)
    with BackgroundUploader(TOKEN, hub.url, config) as bg:
        watch = bg.watch(
            write(LARGE), "me/m", every=0, quiet_for=0, on_outcome=lambda outcome: output.set()
        )
        assert output.wait(30)
        with pytest.raises(AuthError):
            watch.stop(timeout=30)
        assert isinstance(watch.last_error, AuthError)
        assert len(watch.failures) == 1


def test_a_watch_with_impossible_settings_is_refused_at_once(
    bg: BackgroundUploader, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRepoIdError):
        bg.watch(tmp_path, "nobody")
    with pytest.raises(ValueError, match="every must be a number"):
        bg.watch(tmp_path, "me/m", every=-1)
