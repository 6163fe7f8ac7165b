"""Ctrl-C and SIGTERM, in processes of their own. Output and requests order what happens when."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from asyncpush.cli.arguments import append_line
from asyncpush.cli.running import _Bars
from asyncpush.events import PushStarted, Record
from asyncpush.localhub import serve_in_thread
from tests.cancelling import PROMPTLY
from tests.cli.conftest import PATIENCE, TOKEN, Cli, Ran, Start


class Stall:
    """A Hub's middleware that keeps parts (or the calls of another route) waiting until they are
    let go."""

    def __init__(self) -> None:
        self.route = "part"
        self.after = ""  # or a route that must have been asked before
        self._seen = {""}
        self.arrived = threading.Event()
        self._released = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def hold(request: web.Request, handler: Handler) -> web.StreamResponse:
            name = str(request.match_info.route.name)
            self._seen.add(name)
            held = name == self.route and self.after in self._seen
            if held and not self._released.is_set():
                self._loop = asyncio.get_running_loop()
                self.arrived.set()
                await self._released.wait()
            return await handler(request)

        return hold

    def release(self) -> None:
        """Let those go that wait, and hold no more."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._released.set)


@pytest.fixture
def stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stall]:
    """A Hub, named by the environment, that takes no part for now."""
    stall = Stall()
    with serve_in_thread(
        tmp_path / "hub", token=TOKEN, part_size=1 << 20, middlewares=[stall.middleware], xet=False
    ) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield stall
        stall.release()


def interrupt(start: Start, stall: Stall, signum: int, *words: str | Path) -> tuple[Ran, float]:
    """Send a signal when the first part is under way; what came of it, and how soon."""
    process = start(*words)
    assert stall.arrived.wait(PATIENCE)
    sent = time.monotonic()
    process.send(signum)
    ran = process.end()
    return ran, time.monotonic() - sent


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_a_push_ends_promptly_and_says_how_to_go_on(
    signum: int, code: int, start: Start, stall: Stall, folder: Path
) -> None:
    ran, took = interrupt(start, stall, signum, "push", "me/cut", folder, "--json")

    assert ran.code == code
    assert took < PROMPTLY
    assert ran.document["error"]["type"] == "Interrupted"
    name = signal.Signals(signum).name
    assert ran.err.splitlines() == [
        f"✗ interrupted by {name}; nothing was committed",
        "│ next: run the same command again to resume: bytes already stored are not sent again",
    ]


def test_a_push_interrupted_after_its_commit_names_it(
    start: Start, stall: Stall, folder: Path
) -> None:
    stall.route, stall.after = "paths-info", "commit"
    ran, _ = interrupt(start, stall, signal.SIGINT, "push", "me/landed", folder, "--json")

    assert ran.code == 130
    message = ran.document["error"]["message"]
    assert message.startswith("interrupted by SIGINT; the commit ")
    assert f"was made ({os.environ['HF_ENDPOINT']}/me/landed/commit/" in message
    assert "run the same command" not in ran.err
    assert "next: nothing needs to be sent again; `asyncpush audit` compares" in ran.err


@pytest.mark.parametrize("made", [True, False], ids=["after the commit", "before it"])
def test_a_second_signal_reports_what_the_first_would(
    made: bool, start: Start, stall: Stall, folder: Path
) -> None:
    if made:
        stall.route, stall.after = "paths-info", "commit"
    process = start("push", "me/twice", folder, "--json", "--transfer", "lfs")
    assert stall.arrived.wait(PATIENCE)
    process.send(signal.SIGINT)
    process.send(signal.SIGINT)  # the two may arrive as one
    ran = process.end()

    assert ran.code == 130
    message = ran.document["error"]["message"]
    output = "; the commit " if made else "; nothing was committed"
    assert message.startswith(f"interrupted by SIGINT{output}")
    assert ran.err.startswith("✗ interrupted by SIGINT")
    assert "Traceback" not in ran.err


HANGING = """
import os, signal, threading
from asyncpush.cli import main

install = signal.signal

def interrupt_again(signum, handler):
    install(signum, handler)
    if getattr(handler, "__name__", "") == "hurry":  # the first signal is being handled
        os.kill(os.getpid(), signal.SIGINT)

signal.signal = interrupt_again
threading.Thread(target=threading.Event().wait).start()
main()
"""


SENT_TWICE = """
import asyncio, signal
from asyncpush.cli import main

loops = asyncio.SelectorEventLoop
remove, sent = loops.remove_signal_handler, []

def remove_and_send_again(loop, signum):
    remove(loop, signum)
    if signum == signal.SIGINT and not sent:
        sent.append(signum)
        signal.raise_signal(signum)

loops.remove_signal_handler = remove_and_send_again
main()
"""


def test_a_second_signal_between_two_handlers_is_no_traceback(
    start: Start, stall: Stall, folder: Path, tmp_path: Path
) -> None:
    script = tmp_path / "twice.py"
    script.write_text(SENT_TWICE)
    process = start("push", "me/between", folder, "--json", "--transfer", "lfs", script=script)
    assert stall.arrived.wait(PATIENCE)
    process.send(signal.SIGINT)
    ran = process.end()

    assert ran.code == 130
    assert ran.document["error"]["message"] == "interrupted by SIGINT; nothing was committed"
    assert ran.err.startswith("✗ interrupted by SIGINT")


def test_a_second_signal_ends_a_hanging_cleanup(
    start: Start, stall: Stall, folder: Path, tmp_path: Path
) -> None:
    # A thread that never ends stands for one that a broken cleanup has left behind.
    script = tmp_path / "hanging.py"
    script.write_text(HANGING)
    process = start("push", "me/hangs", folder, "--json", "--transfer", "lfs", script=script)
    assert stall.arrived.wait(PATIENCE)
    process.send(signal.SIGINT)
    ran = process.end()
    assert (ran.code, ran.document["ok"]) == (130, False)


LIKE_WINDOWS = """
import asyncio, signal

def unsupported(*arguments):
    raise NotImplementedError

loops = asyncio.SelectorEventLoop
loops.add_signal_handler = loops.remove_signal_handler = unsupported
del signal.setitimer
"""


@pytest.mark.parametrize("route", ["batch", "paths-info"])
def test_ctrl_c_without_signal_handlers_of_the_event_loop(
    route: str, start: Start, stall: Stall, folder: Path, tmp_path: Path
) -> None:
    """As on Windows."""
    if route == "paths-info":
        stall.route, stall.after = route, "commit"
    script = tmp_path / "windows.py"
    script.write_text(f"{LIKE_WINDOWS}\nfrom asyncpush.cli import main\nmain()\n")
    words = ("push", f"me/windows-{route}", folder, "--json", "--transfer", "lfs")
    process = start(*words, script=script)
    assert stall.arrived.wait(PATIENCE)
    sent = time.monotonic()
    process.send(signal.SIGINT)
    ran = process.end()
    assert time.monotonic() - sent < PROMPTLY
    assert ran.code == 130
    output = "nothing was committed" if route == "batch" else "the commit "
    assert ran.document["error"]["message"].startswith(f"interrupted by SIGINT; {output}")
    assert "Traceback" not in ran.err


def test_a_second_ctrl_c_without_loop_signal_handlers(
    start: Start, stall: Stall, folder: Path, tmp_path: Path
) -> None:
    script = tmp_path / "windows.py"
    script.write_text(f"{LIKE_WINDOWS}\n{HANGING}")
    process = start("push", "me/hangs-too", folder, "--json", "--transfer", "lfs", script=script)
    assert stall.arrived.wait(PATIENCE)
    process.send(signal.SIGINT)
    ran = process.end()
    assert (ran.code, ran.document["ok"]) == (130, False)


def test_ctrl_c_during_imports_is_no_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("asyncpush.cli.base.import_module", interrupted)
    ran = cli("push", "me/early", ".", "--json")

    assert ran.code == 130
    assert ran.document["error"]["type"] == "Interrupted"
    assert ran.err.lstrip().startswith("✗ interrupted by SIGINT\n")


@pytest.mark.parametrize("route", ["preupload", "batch", "complete", "verify"])
def test_before_the_commit_it_says_that_nothing_was_committed(
    route: str, start: Start, stall: Stall, folder: Path
) -> None:
    stall.route = route
    ran, _ = interrupt(start, stall, signal.SIGINT, "push", f"me/cut-{route}", folder)
    assert ran.err.splitlines()[0] == "✗ interrupted by SIGINT; nothing was committed"
    assert "next: run the same command again to resume" in ran.err


def test_a_signal_during_the_commit_says_it_may_exist(
    start: Start, stall: Stall, folder: Path
) -> None:
    stall.route = "commit"
    ran, _ = interrupt(start, stall, signal.SIGINT, "push", "me/unclear", folder)
    assert ran.code == 130
    assert "nothing was committed" not in ran.err
    assert "the commit was started and not confirmed: it may have been made" in ran.err
    assert "next: run the same command again to resume" in ran.err


def test_an_upload_that_is_interrupted_has_written_no_receipts(
    start: Start, stall: Stall, folder: Path, tmp_path: Path
) -> None:
    words = ("upload", "me/cut-store", folder, "--receipts", tmp_path / "receipts.json")
    ran, _ = interrupt(start, stall, signal.SIGINT, *words)
    assert ran.err.splitlines()[0] == "✗ interrupted by SIGINT; no receipts were written"
    assert not (tmp_path / "receipts.json").exists()


def test_the_same_command_again_goes_on(start: Start, stall: Stall, folder: Path) -> None:
    interrupt(start, stall, signal.SIGINT, "push", "me/resumed", folder)
    stall.release()
    ran = start("push", "me/resumed", folder, "--json").end()

    assert ran.code == 0
    assert ran.document["ok"] is True


def test_many_says_how_far_it_came(
    start: Start, stall: Stall, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "many.toml").write_text(
        f"""
        [[push]]
        repo_id = "me/small"
        source = {json.dumps(str(folder / "config.json"))}
        [[push]]
        repo_id = "me/large"
        source = {json.dumps(str(folder))}
        """
    )
    state = tmp_path / "many.toml.state.jsonl"
    process = start("many", tmp_path / "many.toml")
    assert stall.arrived.wait(PATIENCE)
    wait_for_a_row(state)
    process.send(signal.SIGINT)
    ran = process.end()

    assert ran.code == 130
    assert "1 of 2 pushes have ended" in ran.err
    assert "--continue" in ran.err

    stall.release()
    again = start("many", tmp_path / "many.toml", "--continue", "--json").end()
    assert again.code == 0
    statuses = [push["status"] for push in again.document["pushes"]]
    assert statuses == ["done before", "done"]


def wait_for_a_row(path: Path) -> None:
    """A push is over for `many` when its row is on the disk, which no output tells."""
    deadline = time.monotonic() + PATIENCE
    while not (path.exists() and b"\n" in path.read_bytes()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_signal_beside_a_finished_push_does_not_lose_it(
    cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, at the one moment that no other can hit."""

    def interrupted(path: Path, line: bytes) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        append_line(path, line)

    monkeypatch.setattr("asyncpush.cli.many.append_line", interrupted)
    manifest = tmp_path / "many.jsonl"
    manifest.write_text('{"repo_id": "me/done", "source": "model"}\n')
    ran = cli("many", manifest, "--endpoint", "local")

    assert ran.code == 130
    assert "1 of 1 pushes have ended" in ran.err
    again = cli("many", manifest, "--endpoint", "local", "--continue", "--json")
    assert [push["status"] for push in again.document["pushes"]] == ["done before"]


def test_bars_whose_push_did_not_end_are_taken_away(capsys: pytest.CaptureFixture[str]) -> None:
    """A second Ctrl-C leaves no time for anything else."""
    bars = _Bars(())
    bars.on_event(Record(PushStarted("me/cut", "model", "main"), 0.0, "id", "span", None))
    bars.close()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_the_hub_says_its_url_first_and_ends_well(
    signum: int, start: Start, tmp_path: Path
) -> None:
    process = start("hub", "--root", tmp_path / "root", "--port", "0")
    url = process.line()
    process.send(signum)
    ran = process.end()

    assert url.startswith("http://127.0.0.1:")
    assert ran.code == 0
    assert ran.out == ""
