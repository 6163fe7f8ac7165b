"""A Hub to push to, and the command line: in this process for breadth, in its own for signals."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from click.testing import CliRunner

from asyncpush.cli import app
from asyncpush.cli.output import Output
from asyncpush.listeners.logs import ENV
from asyncpush.localhub import LocalHub, serve_in_thread

TOKEN = "hf_" + "c" * 30
PATIENCE = 30.0
"""Seconds after which a process that should have ended has not."""


@dataclass(frozen=True)
class Ran:
    """What came of a command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON object on stdout."""
        (line,) = self.out.splitlines()
        return json.loads(line)


Cli = Callable[..., Ran]


@dataclass(frozen=True)
class Site:
    """A Hub in a thread, and what a stranger sees of it."""

    hub: LocalHub

    @property
    def url(self) -> str:
        return self.hub.url

    def read(self, path: str) -> bytes:
        request = Request(self.url + path, headers={"Authorization": f"Bearer {TOKEN}"})
        with urlopen(request, timeout=PATIENCE) as answer:
            content: bytes = answer.read()
        return content

    def json(self, path: str) -> Any:
        return json.loads(self.read(path))

    def files(self, api_path: str, revision: str = "main") -> set[str]:
        """All files but .gitattributes; `api_path` is like `models/me/net`."""
        quoted = quote(revision, safe="")
        rows = self.json(f"/api/{api_path}/tree/{quoted}?recursive=true")
        return {row["path"] for row in rows if row["type"] == "file"} - {".gitattributes"}

    def commits(self, api_path: str) -> list[dict[str, Any]]:
        """The newest first; the last is the Hub's own."""
        rows: list[dict[str, Any]] = self.json(f"/api/{api_path}/commits/main")
        return rows


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One Hub for the tests of a module; each uses repos of its own."""
    with serve_in_thread(
        tmp_path_factory.mktemp("hub"), token=TOKEN, part_size=1 << 20, xet=False
    ) as hub:
        yield Site(hub)


@pytest.fixture(autouse=True)
def surroundings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_environment: None
) -> Iterator[None]:
    """Nothing of the machine, and nothing left of `--verbose`."""
    for name in ("XDG_CACHE_HOME", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(ENV, "")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger("asyncpush")
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture
def environment(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a user of the site."""
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def cli() -> Cli:
    """Run a command in this process."""

    def run(*words: str | Path) -> Ran:
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file of each route."""
    root = tmp_path / "model"
    root.mkdir()
    (root / "config.json").write_text('{"hidden_size": 8}\n')
    (root / "weights.bin").write_bytes(os.urandom(2_500_000))
    return root


class Process:
    """A command in a process of its own, so that it can be sent signals."""

    def __init__(self, words: Sequence[str | Path], script: Path | None = None) -> None:
        program = ["-m", "asyncpush"] if script is None else [str(script)]
        self.running = subprocess.Popen(
            [sys.executable, *program, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """The next line on stdout, as soon as it is there."""
        assert self.running.stdout is not None
        return self.running.stdout.readline()

    def send(self, signum: int) -> None:
        self.running.send_signal(signum)

    def end(self) -> Ran:
        out, err = self.running.communicate(timeout=PATIENCE)
        return Ran(self.running.returncode, out, err)


Start = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Start]:
    """Begin a command in its own process; none outlives the test."""
    begun: list[Process] = []

    def start(*words: str | Path, script: Path | None = None) -> Process:
        begun.append(Process(words, script))
        return begun[-1]

    yield start
    for process in begun:
        if process.running.poll() is None:
            process.running.kill()
        process.running.communicate()


@pytest.fixture
def stop_when_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in this process, as soon as the hub has said how to use it."""
    note = Output.note

    def then_stop(self: Output, *lines: str) -> None:
        note(self, *lines)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Output, "note", then_stop)
