"""The commands as a whole: help, version, and what it costs to start."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from asyncpush import __version__
from asyncpush.cli import app, main, many, output
from asyncpush.cli.plain import _Plain
from asyncpush.listeners import format
from asyncpush.listeners.timeline import captions
from tests.cli.conftest import PATIENCE, Cli

COMMANDS = [
    *("push", "many", "upload", "commit", "audit", "doctor", "timeline", "hub", "demo"),
    *("cache ls", "cache clear"),
]


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"asyncpush {__version__}\n"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("asyncpush pu", "push"),
        ("asyncpush cache ", "ls clear"),
        ("asyncpush push --dry", "--dry-run"),
        ("asyncpush push --transfer ", "auto lfs xet"),
        ("asyncpush push me/model ", ""),  # the shell's own completion of paths
    ],
)
def test_a_shell_completes_commands_options_and_choices(
    typed: str, offered: str, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.setenv("_ASYNCPUSH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(typed.count(" ")))
    assert cli().out.split() == offered.split()


def test_completion_is_shown_and_installed_for_the_shell_that_asks(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    this = f"{sys.executable} -m asyncpush"
    script = f"{this} --show-completion && {this} --install-completion"
    ran = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert "-F _asyncpush_completion asyncpush" in ran.stdout
    assert "asyncpush.sh" in (home / ".bashrc").read_text()


def test_help_lists_the_commands_each_on_a_line(cli: Cli) -> None:
    out = cli("--help").out
    lines = out.partition("Commands:\n")[2].splitlines()
    named = dict.fromkeys(command.split()[0] for command in COMMANDS)
    assert [line.split()[0] for line in lines] == list(named)
    assert not any(line.endswith("...") for line in lines)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_does(command: str, cli: Cli) -> None:
    ran = cli(*command.split(), "-h")
    assert ran.code == 0

    group: Any = typer.main.get_command(app)
    for name in command.split():
        group = group.get_command(None, name)
    assert [param.name for param in group.params if not param.help] == []


def test_the_script_and_the_module_are_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["asyncpush", "--version"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0

    command = [sys.executable, "-m", "asyncpush", "--version"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert ran.stdout == capsys.readouterr().out


def test_what_takes_long_to_import_is_not_imported(tmp_path: Path) -> None:
    """Not by a push as far as its options have been read, and typer would."""
    program = """
import sys
from asyncpush.cli import main
sys.argv = ["asyncpush", "push", "me/model", ".", "--include", "a", "--max-parts", "0"]
try:
    main()
except SystemExit as exit:
    others = {f"asyncpush.cli.{name}" for name in ("many", "receipts", "audit", "doctor", "demo")}
    print(exit.code, *({"pydantic", "rich", "pygit2", "boto3", *others} & set(sys.modules)))
"""
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert ran.stdout == "2\n"


@pytest.mark.parametrize(
    "module", [output, many, format, captions], ids=lambda module: module.__name__
)
def test_examples_in_docstrings_are_true(module: ModuleType) -> None:
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed


def test_options_given_by_no_text_are_left_alone() -> None:
    assert _Plain(str).coerce(None, None, None) is None
    assert _Plain(list[Path]).coerce(None, None, None) == []
    assert _Plain(list[Path]).coerce(["a"], None, None) == [Path("a")]
    assert _Plain(int).coerce("12", None, None) == 12
