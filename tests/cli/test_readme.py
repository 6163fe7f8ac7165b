"""The README's tables of `--json` against what the command prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import asyncpush
from tests.cli.conftest import Cli

README = Path(__file__).resolve().parents[2] / "README.md"
ROW = re.compile(r"\| `(?P<key>\w+)` \| (?P<type>[\w ]+) \| (?P<what>.*) \|")
TYPES: dict[str, type | tuple[type, ...]] = {
    "boolean": bool,
    "text": str,
    "number": (int, float),
    "list": list,
    "object": dict,
    "null": type(None),
}

pytestmark = pytest.mark.usefixtures("environment")


def tables() -> list[dict[str, re.Match[str]]]:
    """The two tables of the section: rows by key."""
    section = README.read_text("utf-8").partition("### `asyncpush push --json`")[2]
    section = section.partition("\n## ")[0]
    found = re.split(r"^\| key \|.*$", section, flags=re.MULTILINE)[1:]
    return [{row["key"]: row for row in ROW.finditer(part)} for part in found]


def check(document: dict[str, Any], table: dict[str, re.Match[str]]) -> None:
    assert set(document) == set(table)
    for key, value in document.items():
        kinds = [TYPES[name] for name in table[key]["type"].split(" or ")]
        assert any(isinstance(value, kind) for kind in kinds), key


def named_within(row: re.Match[str]) -> set[str]:
    """Keys of the objects that a list holds."""
    return set(re.findall(r"`(\w+)`", row["what"].partition(":")[2]))


def test_the_object_of_a_success(cli: Cli, folder: Path) -> None:
    pushed = cli("push", "me/readme", folder, "--json").document
    planned = cli("push", "me/readme", folder, "--dry-run", "--json").document
    table, _ = tables()
    for document in (pushed, planned):
        check(document, table)
    assert all(set(receipt) == named_within(table["receipts"]) for receipt in pushed["receipts"])
    assert all(set(planned) == named_within(table["plan"]) for planned in planned["plan"])
    assert pushed["receipts"]
    assert planned["plan"]


def test_the_object_of_a_failure(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    answered = cli("push", "me/readme", folder, "--json").document
    missing = cli("push", "me/readme", "nowhere", "--json").document
    _, table = tables()
    for document in (answered, missing):
        assert set(document) == {"ok", "error"}
        check(document["error"], table)


def section(title: str) -> str:
    text = README.read_text("utf-8").partition(f"\n## {title}\n")[2]
    return text.partition("\n## ")[0]


def test_troubleshooting_names_every_error_with_what_to_do() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", section("Troubleshooting"), re.MULTILINE)
    public = [getattr(asyncpush, name) for name in asyncpush.__all__]
    errors = [each for each in public if isinstance(each, type) and issubclass(each, Exception)]
    assert sorted(rows) == [error.__name__ for error in errors]


def test_the_map_shows_everything_in_the_package_that_is_there() -> None:
    named = set(
        re.findall(r"[a-z_]+(?:\.py|/)", section("Where things are").partition("```\n\n")[0])
    )
    package = Path(asyncpush.__file__).parent
    folders = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()}
    assert folders <= named
    assert all(
        (package / name).exists() or (package.parent / name).exists()
        for name in named - {"asyncpush/"}
    )
