"""The commands as a whole: help, version, and what it costs to start."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

from asyncpush import __version__
from asyncpush.cli import app, main, many, output
from asyncpush.cli.app import COMMANDS as COMMAND_TABLE
from asyncpush.cli.app import EXIT_CODES
from asyncpush.listeners import format
from asyncpush.listeners.timeline import layout as captions
from tests.cli.conftest import PATIENCE, Cli

README = Path(__file__).resolve().parents[2] / "README.md"

COMMANDS = [
    *("push", "many", "watch", "upload", "commit", "sync", "copy", "audit", "doctor", "timeline"),
    *("hub", "demo", "schema", "cache ls", "cache clear"),
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
        ("asyncpush push me/model ", "file"),  # the shell's own completion of paths
    ],
)
def test_a_shell_completes_commands_options_and_choices(
    typed: str, offered: str, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.setenv("_ASYNCPUSH_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(typed.count(" ")))
    rows = [line.split(",") for line in cli().out.splitlines()]
    assert [value or kind for kind, value in rows] == offered.split()


def test_the_line_in_the_help_turns_on_completion(tmp_path: Path) -> None:
    program = tmp_path / "asyncpush"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m asyncpush "$@"\n')
    program.chmod(0o755)
    script = 'eval "$(asyncpush --help | grep _COMPLETE)" && complete -p asyncpush'
    path = f"{tmp_path}:{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert "-F _asyncpush_completion asyncpush" in ran.stdout


def test_help_lists_the_commands_each_on_a_line(cli: Cli) -> None:
    out = cli("--help").out
    lines = out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    named = dict.fromkeys(command.split()[0] for command in COMMANDS)
    assert [line.split()[0] for line in lines] == list(named)
    assert not any(line.endswith("...") for line in lines)


@pytest.mark.parametrize("command", ["", "push", "cache", "cache ls", "hub"])
def test_help_is_no_wider_than_the_terminal(
    command: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = cli(*command.split(), "--help").out.splitlines()
    verbatim = ("eval", "hf://", "ROUTE=ACTION")  # to be copied whole
    wide = [line for line in lines if len(line) > 40]
    assert [line for line in wide if not line.split()[0].startswith(verbatim)] == []


def test_the_help_and_the_readme_list_the_exit_codes(cli: Cli) -> None:
    shown = " ".join(cli("--help").out.partition("Exit codes:\n")[2].split())
    readme = README.read_text(encoding="utf-8").partition("Exit codes: ")[2].partition("\n\n")[0]
    for code, meaning in EXIT_CODES.items():
        assert f"{code} {meaning}" in shown
        assert re.search(rf"\b{code} \w", readme)


def command_of(words: str) -> click.Command:
    """The command of these words, such as `cache ls`."""
    found: click.Command = app
    for name in words.split():
        assert isinstance(found, click.Group)
        under = found.get_command(click.Context(found), name)
        assert under is not None
        found = under
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_json_quiet_and_verbose(command: str) -> None:
    options = {name for param in command_of(command).params for name in param.opts}
    assert options >= {"--json", "--quiet", "--verbose"}


def test_the_command_list_matches_each_help(cli: Cli) -> None:
    """The list is written apart, so that showing it imports no command."""
    for name, (_, summary) in COMMAND_TABLE.items():
        printed = " ".join((command_of(name).help or "").split())
        assert printed.startswith(summary), name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_does(command: str, cli: Cli) -> None:
    ran = cli(*command.split(), "-h")
    assert ran.code == 0

    assert [
        param.name for param in command_of(command).params if not getattr(param, "help", "")
    ] == []


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
    """Not by a push before its options have been read."""
    program = """
import sys
from asyncpush.cli import main
sys.argv = ["asyncpush", "push", "me/model", ".", "--include", "a", "--max-parts", "0"]
try:
    main()
except SystemExit as exit:
    others = {f"asyncpush.cli.{name}" for name in ("many", "receipts", "audit", "doctor", "demo")}
    others |= {"pydantic", "rich", "pygit2", "boto3", "aiohttp", "tqdm", "sqlite3", "difflib"}
    print(exit.code, *(others & set(sys.modules)))
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
