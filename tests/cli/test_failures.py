"""Failures: the exit code, the red block, the JSON object; a traceback only when asked for."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from click.exceptions import Exit

from asyncpush import (
    AsyncPushError,
    AuthError,
    CommitConflictError,
    HubError,
    IntegrityError,
    InvalidRepoIdError,
    MissingTokenError,
    SourceError,
    VerificationError,
)
from asyncpush.cli.app import EXIT_CODES
from asyncpush.cli.output import (
    NOT_AUTHORISED,
    UNWRITTEN,
    USAGE,
    CommandFailedError,
    InterruptedBySignal,
    Output,
    UsageError,
    exit_code,
    failure_document,
    failure_lines,
)
from asyncpush.localhub import serve_in_thread
from tests.cli.conftest import PATIENCE, TOKEN, Cli, Site, Start

REFUSED = HubError(
    "commit failed: no",
    status=418,
    body='{"error":\n  "no"}',
    method="POST",
    url="http://hub/api",
    attempt=2,
    elapsed_seconds=1.25,
    request_id="Root=1",
    error_code="Teapot",
    headers={"server": "pot"},
    suggestion="ask for coffee",
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AsyncPushError("x"), 1),
        (IntegrityError("x"), 1),
        (HubError("x", status=500), 1),
        (CommandFailedError("x"), 1),
        (OSError("x"), 1),
        (UsageError("x"), 2),
        (InvalidRepoIdError("x"), 2),
        (MissingTokenError(), 3),
        (AuthError("x", status=403), 3),
        (CommitConflictError("x", status=412), 4),
        (InterruptedBySignal(), 130),
        (InterruptedBySignal(signal.SIGTERM), 143),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_exit_codes(error: Exception, code: int) -> None:
    assert exit_code(error) == code
    assert code in EXIT_CODES or code == 128 + signal.SIGTERM
    assert failure_document(error)["exit_code"] == code


def test_a_refusal_is_reported_with_request_and_answer() -> None:
    assert failure_lines(REFUSED) == [
        "HubError: commit failed: no",
        "request: POST http://hub/api (HTTP 418, attempt 2, after 1.2 s)",
        "request id: Root=1",
        'answer: {"error": "no"}',
        "next: ask for coffee",
    ]
    document = failure_document(REFUSED)
    assert document["type"] == "HubError"
    assert document["status"] == 418
    assert document["error_code"] == "Teapot"
    assert document["headers"] == {"server": "pot"}


def test_a_request_without_an_answer_is_reported_as_that() -> None:
    assert failure_lines(HubError("away", method="GET", url="http://hub")) == [
        "HubError: away",
        "request: GET http://hub (no answer, attempt 1, after 0.0 s)",
    ]


def test_every_failure_has_the_same_keys_in_json() -> None:
    errors = [REFUSED, SourceError("x", problems=["y"]), OSError("x"), InterruptedBySignal()]
    documents = [failure_document(error) for error in errors]
    assert len({tuple(document) for document in documents}) == 1
    assert [document["problems"] for document in documents] == [[], ["y"], [], []]


def test_problems_are_listed_unless_the_message_names_them() -> None:
    many = [f"problem {number}" for number in range(25)]
    lines = failure_lines(VerificationError("not as pushed", problems=many))
    assert lines[1] == "- problem 0"
    assert lines[-1] == "- and 5 more"
    assert len(lines) == 22

    assert failure_lines(SourceError("two:\n  - a\n  - b", problems=["a", "b"])) == [
        "SourceError: two:",
        "  - a",
        "  - b",
        "next: fix these files or exclude them, then try again",
    ]


def test_what_the_system_says_is_reported_with_its_file() -> None:
    assert failure_lines(FileNotFoundError(2, "No such file", "a.json")) == [
        "FileNotFoundError: No such file: a.json"
    ]
    assert failure_lines(OSError(18, "Cross-device link", "a", None, "b")) == [
        "OSError: Cross-device link: a and b"
    ]
    assert failure_lines(OSError(5, "Input/output error")) == ["OSError: Input/output error"]
    assert failure_lines(OSError(28, "No space left")) == [
        "OSError: No space left",
        "next: free some disk space or use another folder, then run the command again",
    ]
    assert failure_lines(TimeoutError()) == ["TimeoutError: the timeout was exceeded"]
    assert failure_lines(ImportError("the embedded Hub needs pygit2")) == [
        "ImportError: the embedded Hub needs pygit2"
    ]


def test_what_nobody_expected_is_owned_as_a_bug() -> None:
    lines = failure_lines(KeyError())
    assert lines[0] == "KeyError: no further explanation"
    assert "bug in asyncpush" in lines[1]


def test_notes_are_reported() -> None:
    error = AsyncPushError("no")
    error.add_note("(2 more failed at the same time)")
    assert failure_lines(error) == ["AsyncPushError: no", "(2 more failed at the same time)"]


class Terminal(io.TextIOWrapper):
    """A terminal's stream of this encoding."""

    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> str:
        self.flush()
        content: bytes = self.buffer.getvalue()  # type: ignore[attr-defined]
        return content.decode(self.encoding)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Terminal]:
    """Have stderr be a terminal from here on. (pytest changes it between setup and call.)"""

    def use(encoding: str = "utf-8") -> Terminal:
        terminal = Terminal(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr("sys.stderr", terminal)
        return terminal

    monkeypatch.setenv("TERM", "xterm")
    return use


def test_the_block_is_red_and_wrapped_on_a_terminal(
    terminal: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stderr = terminal()
    Output().failure(
        AsyncPushError("a message of more words than one line of forty can hold", suggestion="go")
    )
    assert stderr.shown.splitlines() == [
        "\x1b[1;31m✗ AsyncPushError: a message of more\x1b[0m",
        "\x1b[31m│ \x1b[1;31m  words than one line of forty can\x1b[0m",
        "\x1b[31m│ \x1b[1;31m  hold\x1b[0m",
        "\x1b[31m│ \x1b[0mnext: go",
    ]


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_where_none_is_wanted(
    name: str, value: str, terminal: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    stderr = terminal()
    Output().failure(AsyncPushError("no", suggestion="go"))
    assert stderr.shown == "✗ AsyncPushError: no\n│ next: go\n"


def test_colour_in_a_pipe_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in CI logs, which show colours though they are no terminals."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    Output().failure(AsyncPushError("no"))
    assert capsys.readouterr().err.startswith("\x1b[1;31m")

    monkeypatch.setenv("NO_COLOR", "1")
    Output().failure(AsyncPushError("no"))
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_any_terminal_can_show_the_block(
    encoding: str, terminal: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stderr = terminal(encoding)
    Output().failure(AsyncPushError("not “so”"))
    assert stderr.shown == "x AsyncPushError: not \\u201cso\\u201d\n"


def test_a_servers_words_cannot_move_the_cursor(terminal: Callable[..., Terminal]) -> None:
    stderr = terminal()
    Output().failure(AsyncPushError("wiped\x1b[2Jout"))
    assert "\x1b[2J" not in stderr.shown
    assert "wiped?[2Jout" in stderr.shown


def test_a_name_that_is_no_text_still_makes_json(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).failure(SourceError("'caf\udce9' is not UTF-8", problems=["caf\udce9"]))
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["problems"] == ["caf\udce9"]


def test_ctrl_c_before_anything_runs_is_an_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exit) as caught, Output().failures():
        raise KeyboardInterrupt
    assert caught.value.exit_code == 130
    assert "interrupted by SIGINT" in capsys.readouterr().err


def test_a_reader_who_has_gone_is_not_talked_to(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BrokenPipeError), Output().failures():
        raise BrokenPipeError
    assert capsys.readouterr() == ("", "")


class TestCommands:
    """The same, through the command line."""

    pytestmark = pytest.mark.usefixtures("environment")

    def test_a_wrong_token(
        self, cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, site: Site
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        ran = cli("push", "me/refused", folder)

        assert (ran.code, ran.out) == (3, "")
        assert ran.err.startswith("✗ AuthError: ")
        assert f"request: GET {site.url}/api/models/me/refused" in ran.err
        assert "HTTP 401" in ran.err
        assert "request id: " in ran.err
        assert "next: the token is missing, expired or wrong" in ran.err
        assert "Traceback" not in ran.err
        assert "Upload failed" not in ran.err  # once is enough

    @pytest.mark.parametrize("quiet", [[], ["--quiet"]], ids=["bars", "quiet"])
    def test_the_failure_is_reported_once(
        self, quiet: list[str], cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        ran = cli("push", "me/refused", folder, *quiet)
        assert ran.err.count("Invalid credentials") == 2  # the message, and the answer's body

    def test_without_any_log_handler_it_is_told_once_too(
        self, start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # In this process pytest handles log records; in another one, Python prints the warnings.
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        ran = start("push", "me/refused", folder).end()
        assert ran.err.startswith("✗ AuthError: ")
        assert ran.err.count("Invalid credentials") == 2

    def test_verbose_has_both_the_traceback_and_the_block(
        self, cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        ran = cli("push", "me/refused", folder, "--verbose")

        assert ran.code == 3
        assert "Traceback (most recent call last):" in ran.err
        assert "✗ AuthError: " in ran.err
        assert "hf_wrong" not in ran.err

    def test_json(self, cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        ran = cli("push", "me/refused", folder, "--json")

        assert ran.code == 3
        assert ran.document["ok"] is False
        error = ran.document["error"]
        assert (error["type"], error["status"]) == ("AuthError", 401)
        assert error["url"].endswith("/api/models/me/refused/revision/main")
        assert error["request_id"]
        assert "✗ AuthError" in ran.err

    def test_no_token_at_all(self, cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HF_TOKEN")
        ran = cli("push", "me/refused", folder)

        assert ran.code == 3
        assert "MissingTokenError" in ran.err
        assert "HF_TOKEN" in ran.err

    def test_a_source_that_is_not_there(self, cli: Cli) -> None:
        ran = cli("push", "me/refused", "nowhere", "--json")
        assert ran.code == 1
        assert ran.document["error"]["type"] == "SourceError"
        assert "nowhere" in ran.document["error"]["problems"][0]

    @pytest.mark.parametrize(
        ("words", "complaint"),
        [
            (["me/x", ".", "--max-parts", "0"], "--max-parts must be a whole number"),
            (["me/x", ".", "--max-parts", "few"], "'few' is not a valid int"),
            (["me/x", ".", "--revision", ""], "--revision must be the name of a branch"),
            (
                ["me/x", ".", "--repo-type", "zoo"],
                "'zoo' is not one of 'model', 'dataset', 'space', 'kernel'.",
            ),
            (["me/x", ".", "--transfer", "pigeon"], "'pigeon' is not one of 'auto', 'lfs', 'xet'."),
            (["me/x", ".", "--endpoint", "ftp://x"], "--endpoint: endpoint must be an http"),
            (["nobody", "."], "'nobody' is not namespace/name"),
            (["me/x", ".", "--nonsense"], "No such option"),
            (["me/x"], "Missing argument 'SOURCE'"),
        ],
    )
    def test_usage(self, words: list[str], complaint: str, cli: Cli) -> None:
        ran = cli("push", *words)
        assert (ran.code, ran.out) == (2, "")
        assert complaint in ran.err

    def test_a_bad_value_is_json_too(self, cli: Cli) -> None:
        ran = cli("push", "me/x", ".", "--max-parts", "0", "--json")
        assert ran.code == 2
        assert ran.document["error"]["type"] == "UsageError"

    def test_a_bad_endpoint_of_the_environment_is_named(
        self, cli: Cli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_ENDPOINT", "nonsense")
        ran = cli("push", "me/x", ".")
        assert ran.code == 2
        assert "HF_ENDPOINT: endpoint must be" in ran.err


@pytest.fixture
def contested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Hub where someone else's commit always comes first."""

    @web.middleware
    async def conflict(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.match_info.route.name == "commit":
            await request.read()
            return web.json_response({"error": "a commit has happened since"}, status=412)
        return await handler(request)

    with serve_in_thread(tmp_path / "contested", middlewares=[conflict], xet=False) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield


def test_a_conflict_has_its_own_exit_code(cli: Cli, folder: Path, contested: None) -> None:
    ran = cli("push", "me/contested", folder, "--json")
    assert ran.code == 4
    assert ran.document["error"]["type"] == "CommitConflictError"
    assert ran.document["error"]["status"] == 412


def unread(*words: str | Path, descriptor: int = 1) -> tuple[int, str]:
    """Exit code and stderr of a command whose output nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    streams: dict[int, int] = {1: subprocess.DEVNULL, 2: subprocess.PIPE, descriptor: writing}
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "asyncpush", *map(str, words)],
            stdout=streams[1],
            stderr=streams[2],
            timeout=PATIENCE,
        )
    finally:
        os.close(writing)
    return ran.returncode, (ran.stderr or b"").decode()


@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--json"], 128 + signal.SIGPIPE)])
def test_a_closed_stdout_does_not_undo_a_push(
    environment: None, folder: Path, site: Site, flags: list[str], code: int
) -> None:
    name = f"unread{len(flags)}"
    ended, output = unread("push", f"me/{name}", folder, *flags)

    assert ended == code
    assert "Error" not in output
    assert "Exception" not in output
    assert site.files(f"models/me/{name}") == {"config.json", "weights.bin"}


def test_a_failure_keeps_its_code_where_nobody_reads_it(environment: None, tmp_path: Path) -> None:
    for descriptor in (1, 2):
        code, _ = unread("push", "not an id", tmp_path, "--json", descriptor=descriptor)
        assert code == USAGE


class Full(io.StringIO):
    """A file on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("as_json", [False, True])
def test_an_unwritable_result_has_its_own_exit_code(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Full())
    output = Output(as_json=as_json)
    with pytest.raises(Exit) as caught, output.failures():
        output.result(["done"], {"commit_url": "http://hub/me/m/commit/ab"})
    assert caught.value.exit_code == UNWRITTEN
    assert capsys.readouterr().err == (
        "warning: the command succeeded (http://hub/me/m/commit/ab), but the result could"
        " not be written to stdout: No space left on device\n"
    )


def test_an_unwritable_failure_keeps_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Full())
    output = Output(as_json=True)
    with pytest.raises(Exit) as caught, output.failures():
        raise MissingTokenError
    assert caught.value.exit_code == NOT_AUTHORISED
    assert "could not be written to stdout: No space left" in capsys.readouterr().err


def test_json_without_a_stdout_is_not_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    for as_json, code in ((True, UNWRITTEN), (False, 0)):
        output = Output(as_json=as_json)
        with suppress_exit() as ended, output.failures():
            output.result(["done"], {})
        assert ended == ([code] if code else [])
    assert "could not be written to stdout: it is closed" in capsys.readouterr().err


@contextmanager
def suppress_exit() -> Iterator[list[int]]:
    """The exit code with which the block ends the program, if it does."""
    codes: list[int] = []
    try:
        yield codes
    except Exit as ended:
        codes.append(ended.exit_code)


class Stuck(io.StringIO):
    """A pipe that nobody reads, until Ctrl-C."""

    def write(self, text: str) -> int:
        raise KeyboardInterrupt


def test_ctrl_c_during_output_says_work_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Stuck())
    output = Output(as_json=True)
    with pytest.raises(Exit) as caught, output.failures():
        output.result(["done"], {"commit_url": "http://hub/me/m/commit/ab"})
    assert caught.value.exit_code == 130
    assert capsys.readouterr().err == (
        "warning: the command succeeded (http://hub/me/m/commit/ab), but printing the"
        " result was interrupted\n"
    )


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
class TestFullDisk:
    def run(self, *words: str | Path) -> tuple[int, str]:
        with FULL.open("wb") as full:
            ran = subprocess.run(
                [sys.executable, "-m", "asyncpush", *map(str, words)],
                stdout=full,
                stderr=subprocess.PIPE,
                timeout=PATIENCE,
            )
        return ran.returncode, ran.stderr.decode()

    @pytest.mark.parametrize("flags", [[], ["--json"]])
    def test_the_push_has_landed(
        self, flags: list[str], environment: None, folder: Path, site: Site
    ) -> None:
        name = f"full{len(flags)}"
        code, errors = self.run("push", f"me/{name}", folder, *flags)
        assert code == UNWRITTEN
        assert f"the command succeeded ({site.url}/me/{name}/commit/" in errors
        assert "Traceback" not in errors
        assert site.files(f"models/me/{name}") == {"config.json", "weights.bin"}

    @pytest.mark.parametrize(
        "words", [["--version"], ["push", "--help"], ["schema"], ["cache", "ls", "--json"]]
    )
    def test_every_other_output(self, words: list[str], environment: None) -> None:
        code, errors = self.run(*words)
        assert code == UNWRITTEN
        assert "could not be written to stdout: No space left on device" in errors
        assert "Traceback" not in errors

    def test_events(self, cli: Cli, environment: None, folder: Path) -> None:
        ran = cli("push", "me/full-events", folder, "--json", "--events", FULL)
        assert ran.code == UNWRITTEN
        assert ran.document["ok"] is True
        assert "/dev/full does not have all events of this run: " in ran.err

    def test_receipts(self, cli: Cli, environment: None, folder: Path) -> None:
        ran = cli("upload", "me/full-receipts", folder, "--json", "--receipts", FULL)
        assert ran.code == 1
        assert "receipts could not be written to /dev/full" in ran.document["error"]["message"]


@pytest.mark.parametrize("stream", [None, "closed", "full"])
def test_a_closed_stderr_changes_no_exit_code(
    stream: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = None if stream is None else Full()
    if stderr is not None and stream == "closed":
        stderr.close()
    monkeypatch.setattr(sys, "stderr", stderr)
    with pytest.raises(Exit) as caught, Output(verbose=True).failures():
        raise MissingTokenError
    assert caught.value.exit_code == NOT_AUTHORISED
